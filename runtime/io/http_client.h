/*
 * http_client.h - HTTP/1.1 requests over TCP, TLS and unix sockets: libcurl driven by our loop.
 *
 * A *client* owns connections and reuses them, for a POST or PATCH only afterwards, so that neither
 * is ever sent twice; a *transfer* is one request with its answer. Nothing is taken from the
 * environment (no proxies, no netrc), no signals are used, redirects are followed only where asked
 * for, and a connection's descriptor is not inherited by child processes.
 *
 * Contract: nd_http_start never calls back before it has returned; then `on_headers` at most once,
 * `on_data` any number of times, and `on_done` exactly once, after which the transfer is gone.
 * nd_http_cancel may be called at any time before that, also within a callback; `on_done` then
 * comes with the code "cancelled". nd_http_free ends all transfers with the same code, within the
 * call.
 *
 * Error codes: http_connect (nobody there), http_dns, http_tls, http_timeout, http_too_large,
 * http_protocol (the answer is not HTTP), http_closed (the connection broke before the answer was
 * complete), cancelled.
 */
#ifndef ND_IO_HTTP_CLIENT_H
#define ND_IO_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "io/loop.h"
#include "io/tls.h"

struct nd_http;          /* a client */
struct nd_http_transfer; /* a request under way */

enum { ND_HTTP_PAUSE = -1, ND_HTTP_ABORT = -2 }; /* what `next` may return besides a length */
enum { ND_HTTP_HEADER_MAX = 64 * 1024 };         /* bytes of an answer's head */

struct nd_http_response {
    int status;            /* 0 before the head arrived */
    int os_errno;          /* of a failed connect, or 0 */
    struct nd_buf headers; /* "name\0value\0" pairs, names in lower case, in order of arrival */
    struct nd_buf body;    /* filled only where the request has no on_data */
};

struct nd_http_request {
    const char *method;      /* NULL: GET */
    const char *url;         /* http:// or https:// */
    const char *unix_path;   /* connect to this socket instead of the URL's host; may be NULL */
    struct nd_tls_files tls; /* our certificate, and whom we trust; NULLs: none, the system's */
    const char *pin;         /* the key that the server must have, whoever signed it; or NULL */
    const char *const
        *headers;     /* "Name: value" or "Name;" for an empty one; NULL ends; may be NULL */
    const void *body; /* borrowed until on_done; NULL: none */
    size_t body_length;
    /* Streams a body of unknown length instead: writes at most `size` bytes and returns how many;
     * 0 at the end; ND_HTTP_PAUSE until nd_http_resume_body; ND_HTTP_ABORT. May be NULL. */
    long (*next)(void *arg, char *out, size_t size);
    int connect_timeout_ms; /* 0: 10 s */
    int head_timeout_ms;    /* until the answer's head is complete; 0: none */
    int timeout_ms;         /* for the whole transfer; 0: none */
    int idle_timeout_ms;    /* without a byte in either direction, pauses excepted; 0: none */
    size_t max_bytes;       /* of the answer's body; 0: 16 MiB */
    bool follow;            /* up to five redirects */
    bool secret;            /* zero the request's headers when done with them */
    void (*on_headers)(void *arg, const struct nd_http_response *response); /* may be NULL */
    void (*on_data)(void *arg, const char *data, size_t length);            /* may be NULL */
    /* `err` is NULL on success; both are valid during the call. May take response->body. */
    void (*on_done)(void *arg, struct nd_http_response *response, const struct nd_err *err);
    void *arg;
};

struct nd_http *nd_http_new(struct nd_loop *loop); /* returns owned */
void nd_http_free(struct nd_http *http);           /* not within a callback; NULL is fine */

/* Strings are copied, `body` is borrowed. */
struct nd_http_transfer *nd_http_start(struct nd_http *http, const struct nd_http_request *request);
void nd_http_cancel(struct nd_http_transfer *t);
void nd_http_pause(struct nd_http_transfer *t, bool stop); /* on_data, at most one call late */
void nd_http_resume_body(struct nd_http_transfer *t);      /* `next` has something again */

/* A header by its lower-case name; NULL if absent; the first of several. */
const char *nd_http_header(const struct nd_http_response *response, const char *name);

/* Adds a line of a head, "Name: value\r\n"; one without a colon is left out. */
void nd_http_add_header(struct nd_http_response *response, const char *line, size_t length);

/* Appends `text` percent-encoded, all but unreserved characters and those in `also`. */
void nd_http_encode(struct nd_buf *out, const char *text, size_t length, const char *also);

#endif
