#include "io/ws_client.h"

#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/list.h"
#include "base/mem.h"
#include "io/http_parse.h"
#include "io/tls.h"

enum {
    HEAD_MOST = 16 * 1024, /* bytes of the answer's head */
    BODY_MOST = 64 * 1024, /* bytes kept of a refusal's body */
    LINGER_MS = 2000,      /* for what is unsent to go, and the server to close */
};

enum state { RESOLVING, CONNECTING, SHAKING, REFUSED, OPEN, FINISHING, CLOSED };

struct nd_ws_client {
    struct nd_loop *loop;
    enum state state;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    bool is_unix, handle_made, reading, head_done;
    int handles; /* open ones: the timer, and the stream when it is made */
    uv_timer_t timer;
    uv_getaddrinfo_t resolve;
    uv_connect_t connect;
    uv_write_t hello_write;
    uv_shutdown_t shutdown;
    struct addrinfo *addresses, *next; /* owned; the next to try */
    char *unix_path, *host;            /* owned */
    int port;
    struct nd_ws_limits limits;
    const struct nd_ws_client_events *events; /* borrowed; NULL once one was called */
    void *arg;
    struct nd_err err;    /* the last failure */
    struct nd_buf hello;  /* the request */
    struct nd_buf answer; /* the head, then a refusal's body */
    llhttp_t llhttp;
    struct nd_buf name, value; /* the field being read */
    bool upgrade, connection;
    size_t head; /* bytes of it so far */
    char key[ND_WS_KEY + 1], accept[ND_WS_ACCEPT + 1], accepted[ND_WS_ACCEPT + 1];
    struct nd_ws *ws;           /* owned */
    struct ssl_ctx_st *context; /* owned; NULL: no TLS */
    struct nd_tls *tls;         /* owned; from the connect on */
    char read[16 * 1024], plain[16 * 1024];
};

struct write {
    uv_write_t req;
    char data[];
};

static void try_next(struct nd_ws_client *c);

/* ---- the end ---- */

static void on_handle_closed(uv_handle_t *handle)
{
    struct nd_ws_client *c = handle->data;

    if (--c->handles > 0)
        return;
    nd_ws_free(c->ws);
    nd_tls_free(c->tls);
    nd_tls_context_free(c->context);
    if (c->addresses)
        uv_freeaddrinfo(c->addresses);
    nd_buf_fini(&c->hello);
    nd_buf_fini(&c->answer);
    nd_buf_fini(&c->name);
    nd_buf_fini(&c->value);
    free(c->unix_path);
    free(c->host);
    free(c);
}

static void close_all(struct nd_ws_client *c)
{
    if (c->state == CLOSED)
        return;
    c->state = CLOSED;
    if (c->handle_made)
        uv_close(&c->uv.handle, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
}

static void fail(struct nd_ws_client *c, int status)
{
    const struct nd_ws_client_events *events = c->events;

    c->events = NULL;
    if (events)
        events->failed(c->arg, &c->err, status, c->answer.data, c->answer.length);
    if (c->state == RESOLVING)
        uv_cancel((uv_req_t *)&c->resolve); /* on_resolved closes */
    else
        close_all(c);
}

static void fail_with(struct nd_ws_client *c, const char *code, const char *why)
{
    nd_err_set(&c->err, code, NULL, "can't open a WebSocket to %s: %s",
               c->is_unix ? c->unix_path : c->host, why);
    fail(c, 0);
}

/* ---- the open WebSocket's transport ---- */

static void on_written(uv_write_t *req, int status)
{
    struct nd_ws_client *c = req->data;

    free(ND_CONTAINER(req, struct write, req));
    if (c->state == CLOSED)
        return;
    if (status < 0)
        close_all(c);
    else if (c->state == OPEN)
        nd_ws_flushed(c->ws);
}

static void send_bytes(struct nd_ws_client *c, const void *data, size_t length)
{
    struct write *w;
    uv_buf_t buf;

    w = nd_alloc(sizeof *w + length);
    memcpy(w->data, data, length);
    w->req.data = c;
    buf = uv_buf_init(w->data, (unsigned)length);
    if (uv_write(&w->req, &c->uv.stream, &buf, 1, on_written) < 0) {
        free(w);
        close_all(c);
    }
}

/* What the TLS session has to say. */
static void send_tls(struct nd_ws_client *c)
{
    size_t length;
    const char *data = nd_tls_output(c->tls, &length);

    if (length && c->state != CLOSED)
        send_bytes(c, data, length);
    nd_tls_sent(c->tls);
}

static void ws_send(void *io, const void *data, size_t length)
{
    struct nd_ws_client *c = io;

    if (c->state != OPEN)
        return;
    if (!c->tls) {
        send_bytes(c, data, length);
    } else if (nd_tls_write(c->tls, data, length) < 0) {
        close_all(c);
    } else {
        send_tls(c);
    }
}

static size_t ws_queued(void *io)
{
    struct nd_ws_client *c = io;

    return uv_stream_get_write_queue_size(&c->uv.stream);
}

static void read_switch(struct nd_ws_client *c, bool on);

static void ws_pause(void *io, bool stop)
{
    read_switch(io, !stop);
}

static void on_linger_end(uv_timer_t *timer)
{
    close_all(timer->data);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    struct nd_ws_client *c = req->data;

    if (status < 0)
        close_all(c);
}

static void ws_finish(void *io)
{
    struct nd_ws_client *c = io;

    if (c->state != OPEN)
        return;
    if (c->tls) {
        nd_tls_end(c->tls);
        send_tls(c);
        if (c->state != OPEN)
            return;
    }
    c->state = FINISHING;
    c->shutdown.data = c;
    uv_timer_start(&c->timer, on_linger_end, LINGER_MS, 0);
    if (uv_shutdown(&c->shutdown, &c->uv.stream, on_shutdown) < 0)
        close_all(c);
    else
        read_switch(c, true);
}

static const struct nd_ws_transport transport = {
    .send = ws_send,
    .queued = ws_queued,
    .pause = ws_pause,
    .finish = ws_finish,
};

static void on_tick(uv_timer_t *timer)
{
    struct nd_ws_client *c = timer->data;

    if (c->state == OPEN)
        nd_ws_tick(c->ws, (int64_t)uv_now(timer->loop));
}

/* ---- the handshake's answer ---- */

static int on_field(llhttp_t *llhttp, const char *at, size_t length)
{
    struct nd_ws_client *c = llhttp->data;

    nd_buf_add(&c->name, at, length);
    return 0;
}

static int on_value(llhttp_t *llhttp, const char *at, size_t length)
{
    struct nd_ws_client *c = llhttp->data;

    nd_buf_add(&c->value, at, length);
    return 0;
}

static int on_value_complete(llhttp_t *llhttp)
{
    struct nd_ws_client *c = llhttp->data;
    struct nd_http_text value = {c->value.data, c->value.length};
    const char *name = c->name.data ? c->name.data : "";

    if (strcasecmp(name, "upgrade") == 0)
        c->upgrade = nd_http_list_has(value, "websocket");
    else if (strcasecmp(name, "connection") == 0)
        c->connection = nd_http_list_has(value, "upgrade");
    else if (strcasecmp(name, "sec-websocket-accept") == 0 && value.length <= ND_WS_ACCEPT)
        snprintf(c->accepted, sizeof c->accepted, "%s", value.data);
    nd_buf_clear(&c->name);
    nd_buf_clear(&c->value);
    return 0;
}

static int on_headers_complete(llhttp_t *llhttp)
{
    struct nd_ws_client *c = llhttp->data;

    c->head_done = true;
    return llhttp->status_code == 101 ? 2 : 0;
}

static int on_body(llhttp_t *llhttp, const char *at, size_t length)
{
    struct nd_ws_client *c = llhttp->data;

    if (c->answer.length + length <= BODY_MOST)
        nd_buf_add(&c->answer, at, length);
    return 0;
}

static int on_message_complete(llhttp_t *llhttp)
{
    return llhttp->status_code == 101 ? 0 : HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

static void refused(struct nd_ws_client *c)
{
    int status = c->llhttp.status_code;

    nd_err_set(&c->err, "ws_refused", NULL, "%s answered %d to the WebSocket handshake",
               c->is_unix ? c->unix_path : c->host, status);
    fail(c, status);
}

static void opened(struct nd_ws_client *c, const char *rest, size_t length)
{
    const struct nd_ws_client_events *events = c->events;
    int every = c->limits.ping_ms < c->limits.close_ms ? c->limits.ping_ms : c->limits.close_ms;

    if (!c->upgrade || !c->connection || strcmp(c->accept, c->accepted) != 0) {
        fail_with(c, "ws_protocol", "the server's handshake isn't valid");
        return;
    }
    c->state = OPEN;
    c->events = NULL;
    c->ws = nd_ws_new(true, &c->limits, &transport, c);
    every = every > 4000 ? 1000 : every < 40 ? 10 : every / 4;
    uv_timer_start(&c->timer, on_tick, (uint64_t)every, (uint64_t)every);
    events->opened(c->arg, c->ws);
    if (length && c->state == OPEN)
        nd_ws_feed(c->ws, rest, length);
}

static void shake(struct nd_ws_client *c, const char *data, size_t length)
{
    llhttp_errno_t rc = llhttp_execute(&c->llhttp, data, length);

    if (!c->head_done)
        c->head += length;
    if (rc == HPE_PAUSED_UPGRADE && c->llhttp.status_code == 101) {
        const char *rest = llhttp_get_error_pos(&c->llhttp);

        opened(c, rest, (size_t)(data + length - rest));
    } else if (rc == HPE_PAUSED || rc == HPE_PAUSED_UPGRADE) {
        refused(c);
    } else if (rc != HPE_OK) {
        fail_with(c, "ws_protocol", llhttp_get_error_reason(&c->llhttp) ?: "bad answer");
    } else if (c->head > HEAD_MOST) {
        fail_with(c, "ws_protocol", "the answer's header fields are too large");
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct nd_ws_client *c = handle->data;

    (void)suggested;
    *buf = uv_buf_init(c->read, sizeof c->read);
}

static void on_end_of_stream(struct nd_ws_client *c, int status)
{
    c->reading = false;
    if (c->state == OPEN) {
        nd_ws_lost(c->ws);
        close_all(c);
    } else if (c->state == FINISHING) {
        close_all(c);
    } else if (c->head_done) {
        refused(c); /* its body ended with the connection */
    } else {
        fail_with(c, "ws_protocol",
                  status == UV_EOF ? "the server closed the connection" : uv_strerror(status));
    }
}

static void take(struct nd_ws_client *c, const char *data, size_t length)
{
    if (c->state == OPEN)
        nd_ws_feed(c->ws, data, length);
    else if (c->state == SHAKING)
        shake(c, data, length);
}

/* The request goes out once the handshake of TLS is done. */
static void say_hello(struct nd_ws_client *c)
{
    if (!c->hello.length || !nd_tls_ready(c->tls))
        return;
    nd_tls_write(c->tls, c->hello.data, c->hello.length);
    nd_buf_clear(&c->hello);
}

static void take_tls(struct nd_ws_client *c, const char *data, size_t length)
{
    struct nd_err err = {0};
    int n = ND_TLS_MORE;

    nd_tls_feed(c->tls, data, length);
    while (c->state < FINISHING && (n = nd_tls_read(c->tls, c->plain, sizeof c->plain, &err)) > 0)
        take(c, c->plain, (size_t)n);
    nd_tls_feed(c->tls, NULL, 0);
    if (c->state == CLOSED)
        return;
    say_hello(c);
    send_tls(c);
    if (n == ND_TLS_END) {
        on_end_of_stream(c, UV_EOF);
    } else if (n == ND_TLS_FAILED && c->events) {
        nd_err_set(&c->err, "ws_tls", err.hint, "can't open a WebSocket to %s: %s", c->host,
                   err.message);
        fail(c, 0);
    } else if (n == ND_TLS_FAILED) {
        on_end_of_stream(c, UV_ECONNRESET);
    }
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buf)
{
    struct nd_ws_client *c = stream->data;

    if (length == 0 || c->state == CLOSED)
        return;
    if (length < 0)
        on_end_of_stream(c, (int)length);
    else if (c->tls)
        take_tls(c, buf->base, (size_t)length);
    else
        take(c, buf->base, (size_t)length);
}

static void read_switch(struct nd_ws_client *c, bool on)
{
    if (c->reading == on || c->state == CLOSED)
        return;
    c->reading = on;
    if (!on)
        uv_read_stop(&c->uv.stream);
    else if (uv_read_start(&c->uv.stream, on_alloc, on_read) < 0)
        close_all(c);
}

/* ---- connecting ---- */

static void on_hello_written(uv_write_t *req, int status)
{
    struct nd_ws_client *c = req->data;

    if (status < 0 && c->state == SHAKING)
        fail_with(c, "ws_connect", uv_strerror(status));
}

static void on_stream_replaced(uv_handle_t *handle)
{
    struct nd_ws_client *c = handle->data;

    if (c->state == CLOSED) {
        on_handle_closed(handle);
        return;
    }
    c->handles--;
    try_next(c);
}

static void on_connected(uv_connect_t *req, int status)
{
    struct nd_ws_client *c = req->data;
    uv_buf_t buf;

    if (c->state != CONNECTING)
        return;
    if (status < 0) {
        nd_err_set(&c->err, "ws_connect", "Check that the server runs and listens there.",
                   "can't open a WebSocket to %s: %s", c->is_unix ? c->unix_path : c->host,
                   uv_strerror(status));
        if (c->next) {
            c->handle_made = false;
            uv_close(&c->uv.handle, on_stream_replaced);
        } else {
            fail(c, 0);
        }
        return;
    }
    c->state = SHAKING;
    if (c->context) {
        c->tls = nd_tls_connect(c->context, c->host);
        read_switch(c, true);
        take_tls(c, NULL, 0);
        return;
    }
    buf = uv_buf_init(c->hello.data, (unsigned)c->hello.length);
    c->hello_write.data = c;
    if (uv_write(&c->hello_write, &c->uv.stream, &buf, 1, on_hello_written) < 0)
        fail_with(c, "ws_connect", "can't write");
    else
        read_switch(c, true);
}

static void try_next(struct nd_ws_client *c)
{
    struct addrinfo *address = c->next;
    int rc;

    c->state = CONNECTING;
    c->next = address->ai_next;
    uv_tcp_init(&c->loop->uv, &c->uv.tcp);
    c->uv.handle.data = c;
    c->handle_made = true;
    c->handles++;
    uv_tcp_nodelay(&c->uv.tcp, 1);
    rc = uv_tcp_connect(&c->connect, &c->uv.tcp, address->ai_addr, on_connected);
    if (rc < 0)
        fail_with(c, "ws_connect", uv_strerror(rc));
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *addresses)
{
    struct nd_ws_client *c = req->data;

    c->addresses = c->next = addresses;
    c->state = CONNECTING;
    if (!c->events)
        close_all(c); /* timed out or cancelled meanwhile */
    else if (status < 0 || !addresses)
        fail_with(c, "ws_dns", uv_strerror(status));
    else
        try_next(c);
}

static void on_timeout(uv_timer_t *timer)
{
    fail_with(timer->data, "ws_timeout", "the server didn't answer in time");
}

static void on_start(uv_timer_t *timer)
{
    struct nd_ws_client *c = timer->data;

    if (!c->events) {
        close_all(c);
        return;
    }
    nd_err_set(&c->err, "ws_dns", NULL, "can't look up %s", c->host);
    fail(c, 0);
}

static void start(struct nd_ws_client *c)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
    char port[12];

    c->connect.data = c;
    if (c->is_unix) {
        c->state = CONNECTING;
        uv_pipe_init(&c->loop->uv, &c->uv.pipe, 0);
        c->uv.handle.data = c;
        c->handle_made = true;
        c->handles++;
        uv_pipe_connect(&c->connect, &c->uv.pipe, c->unix_path, on_connected);
        return;
    }
    snprintf(port, sizeof port, "%d", c->port);
    c->resolve.data = c;
    if (uv_getaddrinfo(&c->loop->uv, &c->resolve, on_resolved, c->host, port, &hints) < 0) {
        c->state = CONNECTING;
        uv_timer_start(&c->timer, on_start, 0, 0); /* not from within open */
    }
}

static void add_hello(struct nd_ws_client *c, const struct nd_ws_where *where)
{
    nd_buf_addf(&c->hello,
                "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n",
                where->target, where->authority, c->key);
    for (int i = 0; i < where->count; i++)
        nd_buf_addf(&c->hello, "%.*s: %.*s\r\n", (int)where->fields[i].name.length,
                    where->fields[i].name.data, (int)where->fields[i].value.length,
                    where->fields[i].value.data);
    nd_buf_adds(&c->hello, "\r\n");
}

struct nd_ws_client *nd_ws_client_open(struct nd_loop *loop, const struct nd_ws_where *where,
                                       const struct nd_ws_limits *limits,
                                       const struct nd_ws_client_events *events, void *arg)
{
    struct nd_ws_client *c = nd_alloc(sizeof *c);

    c->loop = loop;
    c->limits = limits ? *limits : nd_ws_limits_default;
    c->events = events;
    c->arg = arg;
    c->is_unix = where->unix_path != NULL;
    c->unix_path = where->unix_path ? nd_strdup(where->unix_path) : NULL;
    c->host = where->host ? nd_strdup(where->host) : NULL;
    c->port = where->port;
    c->context = where->tls;
    nd_ws_key_new(c->key);
    nd_ws_accept(c->key, c->accept);
    add_hello(c, where);
    llhttp_init(&c->llhttp, HTTP_RESPONSE, &settings);
    c->llhttp.data = c;
    uv_timer_init(&loop->uv, &c->timer);
    c->timer.data = c;
    c->handles = 1;
    uv_timer_start(&c->timer, on_timeout, (uint64_t)where->timeout_ms, 0);
    start(c);
    return c;
}

void nd_ws_client_cancel(struct nd_ws_client *client)
{
    if (!client->events)
        return;
    nd_err_set(&client->err, "cancelled", NULL, "opening the WebSocket was cancelled");
    fail(client, 0);
}
