/*
 * http_parse.h - bytes of a connection to one request at a time, strictly as RFC 9112 says.
 *
 * llhttp reads the head and the body. Before it, a guard goes over the head line by line and
 * refuses what llhttp lets through and smugglers use: bare LF, folded lines, a request line without
 * a version or with extra spaces. After it, the fields are checked together: one Host, no
 * Content-Length beside Transfer-Encoding, no coding but chunked. Whatever is refused carries the
 * status to answer with; after that the connection can't go on.
 *
 * One parser a connection. The head must lie in one piece: nd_http_parse_feed takes nothing of an
 * incomplete head, and the caller brings the same bytes again with more behind them. Spans and a
 * body that came whole point into the caller's bytes until the call after; where a body is still to
 * come the parser keeps its own copy of the head.
 */
#ifndef ND_IO_HTTP_PARSE_H
#define ND_IO_HTTP_PARSE_H

#include <llhttp.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "io/http_target.h"

enum { ND_HTTP_FIELDS = 100 }; /* fields a request; nginx and Apache allow about as many */

struct nd_http_sizes {
    size_t target;       /* bytes: more is 414 */
    size_t head;         /* bytes, request line and fields, at most 65,000: more is 431 */
    size_t body;         /* bytes, decoded: more is 413 */
    size_t body_unknown; /* of a request without Authorization: the same, where it is less */
    size_t
        bodies; /* bytes held of bodies whose rest is still to come, of all parsers: more is 503 */
};

struct nd_http_span {
    uint16_t at; /* from the start of the head */
    uint16_t length;
};

enum nd_http_parse_state { ND_HTTP_HEAD, ND_HTTP_BODY, ND_HTTP_DONE, ND_HTTP_FAILED };

struct nd_http_parse {
    llhttp_t llhttp;
    const struct nd_http_sizes *sizes; /* borrowed */
    enum nd_http_parse_state state;

    /* the guard */
    uint32_t scanned; /* bytes of the head it has passed */
    uint32_t line;    /* where the current line starts */
    uint32_t skip;    /* 2 when an empty line came before the request line */
    uint32_t version; /* where " HTTP/1.1" starts in the request line */
    bool first_done;  /* the request line is whole */

    /* the head */
    char *base;         /* its first byte: the caller's or held.data */
    uint32_t head;      /* its length */
    struct nd_buf held; /* owned copy while a body is still coming */
    struct nd_http_span target, name[ND_HTTP_FIELDS], value[ND_HTTP_FIELDS];
    int fields;
    int host; /* index of the Host field, -1: none */
    int transfer_encodings;
    bool value_open; /* llhttp has begun the last field's value */
    bool overflow;   /* more than ND_HTTP_FIELDS */
    bool websocket;  /* Upgrade names it and Connection says upgrade */
    bool keep_alive;
    bool expects; /* "Expect: 100-continue" */

    /* the body */
    struct nd_http_text body; /* in the caller's bytes or in body_held */
    struct nd_buf body_held;  /* owned */
    size_t *bodies;           /* borrowed: bytes in body_held, of all parsers together */
    size_t body_most;         /* bytes this request's may have */
    uint64_t content_length;
    uint32_t overhead; /* bytes of chunk extensions and trailers so far */
    const char *fed;   /* where the bytes that llhttp is reading start */
    bool in_trailer;

    /* the refusal */
    int status;
    struct nd_err err;
};

/* `bodies` counts what all parsers that share it hold; it outlives them. */
void nd_http_parse_init(struct nd_http_parse *p, const struct nd_http_sizes *sizes, size_t *bodies);
void nd_http_parse_fini(struct nd_http_parse *p);
void nd_http_parse_next(struct nd_http_parse *p);      /* ready for the next request */
void nd_http_parse_drop_body(struct nd_http_parse *p); /* it was read, or nobody will */

/* Reads on. `*used` bytes are done with; the state after it says what there is. `data` may be
 * written to (field names are lowered in place). */
enum nd_http_parse_state nd_http_parse_feed(struct nd_http_parse *p, char *data, size_t length,
                                            size_t *used);

struct nd_http_text nd_http_parse_text(const struct nd_http_parse *p, struct nd_http_span span);
/* The first field of that lower-case name; empty data NULL where there is none. */
struct nd_http_text nd_http_parse_field(const struct nd_http_parse *p, const char *name);
const char *nd_http_parse_method(const struct nd_http_parse *p);

/* Does the comma-separated list hold `token`, in any case? */
bool nd_http_list_has(struct nd_http_text list, const char *token);

#endif
