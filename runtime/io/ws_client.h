/*
 * ws_client.h - opens a WebSocket to a server, over TCP or a unix socket.
 *
 * Resolves, connects (each address in turn), shakes hands, and hands over an nd_ws in the client's
 * role; the connection then lives until it is closed, as the server's do. A server that answers the
 * handshake with another status than 101 is `ws_refused`, and its answer's body is passed on, since
 * it usually says why. No proxies, no redirects.
 *
 * Errors: ws_dns, ws_connect, ws_tls, ws_timeout, ws_protocol, ws_refused, cancelled.
 */
#ifndef ND_IO_WS_CLIENT_H
#define ND_IO_WS_CLIENT_H

#include "io/http_response.h"
#include "io/loop.h"
#include "io/ws.h"

struct nd_ws_client;

struct nd_ws_where {
    const char *unix_path; /* or NULL: */
    const char *host;      /* a name or a numeric address */
    int port;
    const char *authority;              /* for the Host field */
    const char *target;                 /* "/ws/logs?app=a" */
    const struct nd_http_field *fields; /* more fields of the handshake */
    int count;
    int timeout_ms;         /* for all up to the end of the handshake */
    struct ssl_ctx_st *tls; /* taken; NULL: none (nd_tls_client) */
};

struct nd_ws_client_events { /* exactly one of the two is called, once, never from within open */
    void (*opened)(void *arg, struct nd_ws *ws); /* listen at once */
    void (*failed)(void *arg, const struct nd_err *err, int status, const char *body,
                   size_t length); /* status 0: there was no answer */
};

/* Everything in `where` is copied. */
struct nd_ws_client *nd_ws_client_open(struct nd_loop *loop, const struct nd_ws_where *where,
                                       const struct nd_ws_limits *limits,
                                       const struct nd_ws_client_events *events, void *arg);
void nd_ws_client_cancel(
    struct nd_ws_client *client); /* before either was called; `failed` follows */

#endif
