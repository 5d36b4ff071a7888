/*
 * http_target.h - the request target: its form, its path decoded and normalised, its query.
 *
 * A target comes in one of three forms: "/path?query", "http://host/path?query" (what a proxy is
 * sent; the authority then stands for the Host field, RFC 9112 3.2.2) and "*" for OPTIONS. The path
 * that leaves here is the one to route by: percent-escapes decoded first, "." and ".." segments
 * removed afterwards, so that no spelling of ".." gets through. A path that climbs above the root,
 * an escape that isn't two hexadecimal digits, and %00 are refused.
 */
#ifndef ND_IO_HTTP_TARGET_H
#define ND_IO_HTTP_TARGET_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

struct nd_http_text {
    const char *data; /* borrowed; not NUL-terminated */
    size_t length;
};

struct nd_http_target {
    struct nd_http_text authority; /* of an absolute-form target, else empty */
    struct nd_http_text path;      /* as sent; "*" for the asterisk form */
    struct nd_http_text query;     /* as sent, without the "?" */
};

/* Splits `target` (borrowed by `out`) and checks every escape in it. */
int nd_http_target_split(const char *target, size_t length, struct nd_http_target *out,
                         struct nd_err *err);

/* Replaces what is in `out` by the decoded, normalised path. */
int nd_http_path_decode(struct nd_http_text path, struct nd_buf *out, struct nd_err *err);

/* Takes the next name=value pair off the front of `query`, decoded ("+" is a space); false at the
 * end. An escape that split would have refused is left as it is. */
bool nd_http_query_next(struct nd_http_text *query, struct nd_buf *name, struct nd_buf *value);

#endif
