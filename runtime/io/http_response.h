/*
 * http_response.h - the bytes of a response: head, chunk frames, error envelope.
 *
 * Date, Connection, Content-Length and Transfer-Encoding are written here and nowhere else; a
 * caller's fields of these names are dropped, save "Connection: close". What tells browsers to keep
 * an answer to themselves (Cache-Control, Content-Security-Policy, X-Content-Type-Options and the
 * like) is written with every one, unless the caller has a field of that name. No Server field:
 * which program and version answers is nobody's business. Names and values that could split a
 * response (CR, LF, NUL, a name that isn't a token) are refused.
 */
#ifndef ND_IO_HTTP_RESPONSE_H
#define ND_IO_HTTP_RESPONSE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "io/http_target.h"

struct nd_http_field {
    struct nd_http_text name, value; /* borrowed */
};

struct nd_http_head {
    int status;                         /* 200 to 599; 101 for an upgrade */
    const struct nd_http_field *fields; /* borrowed */
    int count;
    int64_t length; /* of the body; -1: none of that status; -2: chunked; -3: ends with the close */
    int minor;      /* of the request's HTTP/1.x */
    bool close;     /* the connection ends after this response */
};

enum { ND_HTTP_NO_BODY = -1, ND_HTTP_CHUNKED = -2, ND_HTTP_UNTIL_CLOSE = -3 };

struct nd_http_date {
    int64_t second;
    char text[32]; /* "Sun, 06 Nov 1994 08:49:37 GMT" */
};

const char *nd_http_reason(int status); /* "Not Found"; "" for unknown ones */
bool nd_http_has_body(int status);      /* 204 and 304 have none */

/* Appends the head to `out`; where it can't, `out` is as it was. */
int nd_http_head_add(struct nd_buf *out, const struct nd_http_head *head, struct nd_http_date *date,
                     struct nd_err *err);

bool nd_http_field_is_valid(const struct nd_http_field *field); /* a token, and no CR, LF, NUL */

/* Does the caller ask for "Connection: close"? */
bool nd_http_fields_close(const struct nd_http_field *fields, int count);

/* Appends {"code":..,"hint":..,"message":..,"success":false}. */
void nd_http_error_add(struct nd_buf *out, const struct nd_err *err);

#endif
