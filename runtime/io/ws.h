/*
 * ws.h - one WebSocket (RFC 6455), either role, over any transport.
 *
 * wslay reads and writes the frames; this file adds the limits, the pings, the close handshake and
 * back-pressure. It knows no socket: the transport feeds it bytes and takes bytes from it, so the
 * server's connections, the client and a fuzzer use the same code.
 *
 * For the user: `message` and `drained` are called until `closed`, which is called exactly once and
 * last; after it the pointer is dead. Messages that arrive after nd_ws_close are dropped. Text that
 * isn't UTF-8 ends the connection with 1007, a frame that breaks the protocol (unmasked from a
 * client, reserved bits, fragmented control frames) with 1002, a message above the limit with 1009,
 * a peer that is silent for two pings with 1006. No extension is ever agreed on.
 */
#ifndef ND_IO_WS_H
#define ND_IO_WS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nd_ws;

struct nd_ws_limits {
    size_t message; /* bytes of one message; more closes with 1009 */
    size_t high;    /* bytes waiting to be sent from which `drained` is owed */
    int ping_ms;    /* between pings; two unanswered end it */
    int close_ms;   /* how long the peer has to answer our close */
};

extern const struct nd_ws_limits nd_ws_limits_default; /* 1 MiB, 256 KiB, 30 s, 5 s */

struct nd_ws_events {
    void (*message)(void *arg, bool binary, const void *data, size_t length);
    void (*drained)(void *arg); /* NULL: not wanted. After nd_ws_buffered was above `high`,
                                   it fell below half of that */
    void (*closed)(void *arg, int code, const char *reason, size_t length);
};

/* For the user. */
void nd_ws_listen(struct nd_ws *ws, const struct nd_ws_events *events, void *arg);
int nd_ws_send(struct nd_ws *ws, bool binary, const void *data, size_t length); /* -1: closing */
bool nd_ws_full(const struct nd_ws *ws);       /* `drained` is owed: wait for it */
size_t nd_ws_buffered(const struct nd_ws *ws); /* bytes not yet taken by the kernel */
void nd_ws_pause(struct nd_ws *ws, bool stop); /* stops reading */
/* Starts the close handshake; `closed` comes later. `code` 0 sends no code. */
void nd_ws_close(struct nd_ws *ws, int code, const char *reason, size_t length);

/* For the transport, which owns the nd_ws. */
struct nd_ws_transport {
    void (*send)(void *io, const void *data, size_t length); /* copies what it can't send yet */
    size_t (*queued)(void *io);                              /* bytes it holds */
    void (*pause)(void *io, bool stop);
    void (*finish)(void *io); /* nothing more to send: flush and close, then free the nd_ws */
};

struct nd_ws *nd_ws_new(bool client, const struct nd_ws_limits *limits,
                        const struct nd_ws_transport *transport, void *io);
void nd_ws_free(struct nd_ws *ws); /* calls `closed` if that is still owed */
void nd_ws_feed(struct nd_ws *ws, const void *data, size_t length);
void nd_ws_lost(struct nd_ws *ws);              /* end of file or an error: closed with 1006 */
void nd_ws_flushed(struct nd_ws *ws);           /* something of what was queued got sent */
void nd_ws_tick(struct nd_ws *ws, int64_t now); /* ms, monotonic; every second or so */

/* The handshake. A key is 16 random bytes in base64 (24 characters). */
enum { ND_WS_KEY = 24, ND_WS_ACCEPT = 28 };
bool nd_ws_key_is_valid(const char *key, size_t length);
void nd_ws_key_new(char key[ND_WS_KEY + 1]);
void nd_ws_accept(const char *key, char accept[ND_WS_ACCEPT + 1]); /* of a valid key */

#endif
