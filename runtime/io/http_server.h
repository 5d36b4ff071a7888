/*
 * http_server.h - an HTTP/1.1 server with WebSockets, for few routes and careful answers.
 *
 * A listener on one unix socket or TCP address. A request is read whole (its body is capped), then
 * `on_request` is called with it; the answer may come at once or later, from the loop's thread. A
 * connection has one request out at a time: pipelined ones wait for their turn in the connection's
 * buffer, so answers leave in order. What is wrong with a request before it reaches `on_request` is
 * answered here, with the envelope {success, message, code, hint}, and the connection is closed.
 *
 * An `nd_http_req` is valid from `on_request` until the call that ends it: nd_http_respond,
 * nd_http_refuse, nd_http_stream_end, nd_http_stream_abort or nd_http_upgrade, exactly one of them,
 * also after the peer went away. The texts of nd_http_req_info are valid until on_request returns.
 *
 * With TLS (tls.h) a connection has to be through its handshake and its first request's head within
 * head_ms.
 *
 * Slow and greedy peers: deadlines for the head, the body (a least rate), idle connections, and
 * writes without progress; caps on connections altogether and by address, and on the bytes of
 * bodies whose rest is still to come (503). Over TCP, who shows no Authorization may send a small
 * body only. That it is worth something is for the layer above to find out.
 */
#ifndef ND_IO_HTTP_SERVER_H
#define ND_IO_HTTP_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

#include "io/http_parse.h"
#include "io/http_response.h"
#include "io/loop.h"
#include "io/ws.h"

struct nd_http_server;
struct nd_http_req;

struct nd_http_limits {
    struct nd_http_sizes sizes;
    int head_ms;        /* from a request's first byte (or the connect) to the end of its head */
    int body_ms;        /* what a body may take ... */
    int body_rate;      /* ... beside the time that its bytes take at so many a second */
    int idle_ms;        /* between requests */
    int write_ms;       /* a peer that takes nothing of what waits for it for so long is cut */
    int linger_ms;      /* after our last byte, for the peer to close */
    int connections;    /* at once; more are answered 503 */
    int per_address;    /* of them from one IP address */
    int handshakes;     /* of TLS under way at once; more are closed. A quarter from one address */
    size_t stream_high; /* bytes waiting from which a stream's writer should wait for `drained` */
    struct nd_ws_limits ws;
};

extern const struct nd_http_limits nd_http_limits_default;

struct nd_http_listen {
    const char *unix_path;  /* a unix socket, or NULL */
    mode_t mode;            /* of the socket; 0: 0660 */
    const char *group;      /* its group, or NULL: as it comes */
    const char *address;    /* numeric IPv4 or IPv6 address, where unix_path is NULL */
    int port;               /* 0: any free one */
    struct ssl_ctx_st *tls; /* taken; NULL: none. See nd_http_server_set_tls */
};

enum nd_http_peer_kind { ND_HTTP_UNIX, ND_HTTP_TCP };

struct nd_http_peer {
    enum nd_http_peer_kind kind;
    uid_t uid; /* unix: of the process that connected */
    gid_t gid;
    pid_t pid;
    char address[46]; /* tcp */
    int port;
    bool tls;
};

struct nd_http_req_info {
    const char *method;
    struct nd_http_text target; /* as sent */
    struct nd_http_text path;   /* decoded and normalised */
    struct nd_http_text query;  /* as sent; read it with nd_http_query_next */
    struct nd_http_text body;
    int fields; /* see nd_http_req_field; "host" is the target's where that names one */
    const struct nd_http_peer *peer;
    bool websocket; /* a valid handshake: may be answered by nd_http_upgrade */
    bool head;      /* HEAD: a body is counted but not sent */
};

typedef void nd_http_on_request(void *arg, struct nd_http_req *req);

/* Starts listening, on the socket that was handed over where there is one (handover.h). `limits`
 * NULL: the default. */
struct nd_http_server *nd_http_server_open(struct nd_loop *loop, const struct nd_http_listen *where,
                                           const struct nd_http_limits *limits,
                                           nd_http_on_request *on_request, void *arg,
                                           struct nd_err *err);
/* Stops listening and closes connections that idle between requests at once; what is being
 * answered, or connected and has not asked yet, has `grace_ms`. WebSockets are closed with 1001.
 * `on_closed` (may be NULL) is called when the last handle is closed; the server is gone then. A
 * second call shortens the grace. */
void nd_http_server_close(struct nd_http_server *server, int grace_ms, void (*on_closed)(void *arg),
                          void *arg);
/* The same, but the listening socket stays open: connections wait in it for the program that comes,
 * for which the loop's handover keeps it. WebSockets are closed with 1012. */
int nd_http_server_hand_over(struct nd_http_server *server, int grace_ms,
                             void (*on_closed)(void *arg), void *arg, struct nd_err *err);
/* Takes another TLS context (nd_tls_server) for the connections to come; the others keep theirs.
 * Only where it was opened with one. */
void nd_http_server_set_tls(struct nd_http_server *server, struct ssl_ctx_st *tls);
int nd_http_server_port(const struct nd_http_server *server);            /* -1 on a unix socket */
const char *nd_http_server_address(const struct nd_http_server *server); /* path or IP address */
int nd_http_server_connections(const struct nd_http_server *server);

/* ---- a request ---- */

void nd_http_req_info(struct nd_http_req *req, struct nd_http_req_info *out);
struct nd_http_field nd_http_req_field(const struct nd_http_req *req,
                                       int i); /* names in lower case */

/* For what comes later. `gone`: the peer closed its end (perhaps only that one); called at most
 * once. `drained`: fewer than stream_high / 2 bytes wait after more than stream_high did. */
struct nd_http_req_events {
    void (*gone)(void *arg, struct nd_http_req *req);
    void (*drained)(void *arg, struct nd_http_req *req);
};
void nd_http_req_listen(struct nd_http_req *req, const struct nd_http_req_events *events,
                        void *arg);
bool nd_http_req_gone(const struct nd_http_req *req);

/* The whole answer. Where the head isn't valid, a 500 is sent and -1 returned; it ends `req`
 * either way. `body` is copied as far as it can't be sent at once. */
int nd_http_respond(struct nd_http_req *req, int status, const struct nd_http_field *fields,
                    int count, const void *body, size_t length, struct nd_err *err);
/* An error in the envelope. */
void nd_http_refuse(struct nd_http_req *req, int status, const struct nd_err *err);

/* An answer in pieces: chunked, or until the close for HTTP/1.0. */
int nd_http_stream_begin(struct nd_http_req *req, int status, const struct nd_http_field *fields,
                         int count, struct nd_err *err); /* -1 ends req, as nd_http_respond does */
/* False: more than stream_high bytes wait; write on after `drained`. */
bool nd_http_stream_write(struct nd_http_req *req, const void *data, size_t length);
void nd_http_stream_end(struct nd_http_req *req);
void nd_http_stream_abort(struct nd_http_req *req); /* cuts the connection: the peer must notice */

/* Answers a WebSocket handshake. The connection owns what is returned, which is dead after
 * `closed`. NULL: the peer is gone already, and no event will come. */
struct nd_ws *nd_http_upgrade(struct nd_http_req *req, const struct nd_ws_events *events,
                              void *arg);

#endif
