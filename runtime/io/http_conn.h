/*
 * http_conn.h - one connection of the HTTP server; for http_server.c, http_conn.c, http_request.c.
 *
 * A connection goes round  IDLE → READ → HANDLE → IDLE  until one of the sides closes:
 *
 *   IDLE      nothing of a request has come yet
 *   READ      part of a head or body has come
 *   HANDLE    a request is with its handler; bytes that come meanwhile wait in `in`
 *   UPGRADED  a WebSocket; bytes go to `ws`
 *   LINGER    our last byte is written; read and drop until the peer closes, since closing with
 *             unread bytes would reset the connection and could destroy the answer on its way
 *   CLOSED    uv_close was called
 *
 * Freed when the handle is closed and no handler holds the request. No timers of its own: the
 * server's sweep looks at `deadline`.
 */
#ifndef ND_IO_HTTP_CONN_H
#define ND_IO_HTTP_CONN_H

#include "base/list.h"
#include "io/http_server.h"
#include "io/tls.h"

enum nd_http_conn_state {
    ND_CONN_IDLE,
    ND_CONN_READ,
    ND_CONN_HANDLE,
    ND_CONN_UPGRADED,
    ND_CONN_LINGER,
    ND_CONN_CLOSED,
};

struct nd_http_address { /* how many connections an IP address has */
    struct nd_list link; /* in the server's bucket */
    unsigned char ip[16];
    int connections;
    int handshakes; /* of TLS, under way */
};

enum { ND_HTTP_BUCKETS = 256, ND_HTTP_READ = 64 * 1024, ND_HTTP_RECORD = 16 * 1024 };

struct nd_http_server {
    struct nd_loop *loop;
    struct nd_http_limits limits;
    nd_http_on_request *on_request;
    void *arg;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } listener;
    uv_timer_t sweep; /* looks at the deadlines while there are connections */
    bool unix_socket, closing, listener_closed, sweep_closed;
    bool handed_over; /* the listening socket lives on */
    char *path;       /* owned: unix socket's path, or the address */
    dev_t path_dev;   /* of the socket's inode: only our own is unlinked */
    ino_t path_ino;
    int port;               /* -1: unix */
    struct nd_list conns;   /* struct nd_http_conn */
    int count;              /* connections that were let in */
    int refused;            /* connections that are being told 503 */
    int handshakes;         /* of TLS, under way */
    struct ssl_ctx_st *tls; /* owned; NULL: none */
    size_t bodies;          /* bytes held of bodies on their way */
    int holders;            /* connections' structs, and one until the handles are closed */
    int64_t grace_until;    /* ms, monotonic; while closing */
    void (*on_closed)(void *arg);
    void *closed_arg;
    struct nd_list addresses[ND_HTTP_BUCKETS];
    struct nd_http_date date;
    struct nd_buf out;          /* scratch: the head being written */
    struct nd_buf target;       /* scratch: the decoded path */
    char read[ND_HTTP_READ];    /* every connection reads into this; what it keeps it copies */
    char plain[ND_HTTP_RECORD]; /* and decrypts into this */
};

struct nd_http_req {                         /* part of its connection */
    const struct nd_http_req_events *events; /* borrowed */
    void *arg;
    struct nd_http_target parts; /* valid while on_request runs */
    int minor;
    bool head, websocket, held, streaming, told_gone;
    bool above; /* `drained` is owed */
    char accept[ND_WS_ACCEPT + 1];
};

struct nd_http_conn {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct nd_http_server *server;
    struct nd_list link;
    enum nd_http_conn_state state;
    bool reading;   /* uv_read_start is in force */
    bool eof;       /* the peer closed its end */
    bool shut;      /* we closed ours */
    bool advancing; /* conn_advance is running */
    bool keep_alive;
    bool counted; /* in server->count */
    bool refused; /* in server->refused */
    bool handle_closed;
    bool continued;     /* 100 was sent for the request being read */
    bool answered;      /* a request came by it before */
    bool shaking;       /* its TLS handshake is under way, and counted */
    struct nd_tls *tls; /* owned; NULL: none */
    struct nd_http_peer peer;
    struct nd_http_address *address; /* NULL on unix sockets */
    struct nd_http_parse parse;
    struct nd_buf in; /* bytes not yet parsed, from in_at on */
    size_t in_at;
    int64_t deadline;     /* ms, monotonic; 0: none */
    int64_t body_since;   /* ms: when the head was whole */
    size_t queued_last;   /* bytes waiting to be sent at the last sweep ... */
    int64_t queued_since; /* ... and since when it has been as many */
    uv_shutdown_t shutdown;
    struct nd_http_req req;
    struct nd_ws *ws; /* owned, in UPGRADED */
};

/* http_conn.c */
struct nd_http_conn *nd_http_conn_new(struct nd_http_server *server);
void nd_http_conn_start(struct nd_http_conn *c);
void nd_http_conn_close(struct nd_http_conn *c); /* at once; gone is told from the close callback */
void nd_http_conn_linger(struct nd_http_conn *c); /* when all is sent */
void nd_http_conn_sweep(struct nd_http_conn *c, int64_t now);
void nd_http_conn_leave(struct nd_http_conn *c); /* the server closes: end what is idle */
void nd_http_conn_write(struct nd_http_conn *c, const uv_buf_t *bufs, unsigned count);
void nd_http_conn_answered(struct nd_http_conn *c); /* the request is over; go on or linger */
void nd_http_conn_refuse(struct nd_http_conn *c, int status, const struct nd_err *err,
                         const struct nd_http_field *fields, int count); /* answer and close */
void nd_http_conn_read(struct nd_http_conn *c, bool on);
void nd_http_conn_upgraded(struct nd_http_conn *c, struct nd_ws *ws); /* feeds it what waits */
void nd_http_conn_drop(struct nd_http_conn *c); /* frees it when nothing holds it */

/* http_server.c */
void nd_http_server_shaken(struct nd_http_server *server, struct nd_http_conn *c);
void nd_http_server_left(struct nd_http_server *server, struct nd_http_conn *c);
void nd_http_server_drop(struct nd_http_server *server);

#endif
