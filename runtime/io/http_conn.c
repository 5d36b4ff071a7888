#include "io/http_conn.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/mem.h"

enum {
    WAITING_MOST = 64 * 1024, /* bytes a connection keeps of what comes while it is busy */
    UNREAD_MOST = 256 * 1024, /* bytes of answers not taken that stop the next request */
    IN_KEPT = 4 * 1024,       /* bytes an idle connection's buffer may keep */
};

struct write { /* what couldn't be written at once */
    uv_write_t req;
    char data[];
};

static int64_t now_of(const struct nd_http_conn *c)
{
    return (int64_t)uv_now(&c->server->loop->uv);
}

static size_t unread(const struct nd_http_conn *c)
{
    return uv_stream_get_write_queue_size(&c->uv.stream);
}

static void advance(struct nd_http_conn *c, char *data, size_t length);

/* ---- the end ---- */

void nd_http_conn_drop(struct nd_http_conn *c)
{
    struct nd_http_server *server = c->server;

    if (!c->handle_closed || c->req.held)
        return;
    free(c);
    nd_http_server_drop(server);
}

static void tell_gone(struct nd_http_conn *c)
{
    if (!c->req.held || c->req.told_gone)
        return;
    c->req.told_gone = true;
    if (c->req.events && c->req.events->gone)
        c->req.events->gone(c->req.arg, &c->req);
}

static void on_close(uv_handle_t *handle)
{
    struct nd_http_conn *c = handle->data;

    nd_ws_free(c->ws);
    c->ws = NULL;
    nd_http_parse_fini(&c->parse);
    nd_buf_fini(&c->in);
    nd_tls_free(c->tls);
    nd_http_server_left(c->server, c);
    tell_gone(c);
    if (c->req.held && c->req.above && c->req.events &&
        c->req.events->drained) /* who waits must not wait for ever */
        c->req.events->drained(c->req.arg, &c->req);
    c->handle_closed = true;
    nd_http_conn_drop(c);
}

void nd_http_conn_close(struct nd_http_conn *c)
{
    if (c->state == ND_CONN_CLOSED)
        return;
    c->state = ND_CONN_CLOSED;
    uv_close(&c->uv.handle, on_close);
}

static void send_tls(struct nd_http_conn *c);

static void on_shutdown(uv_shutdown_t *req, int status)
{
    struct nd_http_conn *c = req->data;

    if (c->state == ND_CONN_CLOSED)
        return;
    c->shut = true;
    if (status < 0 || c->eof)
        nd_http_conn_close(c);
    else
        c->deadline = now_of(c) + c->server->limits.linger_ms;
}

void nd_http_conn_linger(struct nd_http_conn *c)
{
    if (c->state == ND_CONN_CLOSED || c->state == ND_CONN_LINGER)
        return;
    if (c->tls) {
        nd_tls_end(c->tls);
        send_tls(c);
    }
    if (c->state == ND_CONN_CLOSED)
        return;
    c->state = ND_CONN_LINGER;
    c->deadline = 0;
    nd_http_parse_drop_body(&c->parse);
    c->shutdown.data = c;
    if (uv_shutdown(&c->shutdown, &c->uv.stream, on_shutdown) < 0)
        nd_http_conn_close(c);
    else if (!c->eof)
        nd_http_conn_read(c, true);
}

/* ---- writing ---- */

static void flushed(struct nd_http_conn *c)
{
    struct nd_http_req *req = &c->req;

    if (c->state == ND_CONN_UPGRADED) {
        nd_ws_flushed(c->ws);
    } else if (c->state == ND_CONN_HANDLE) {
        if (!req->above || unread(c) > c->server->limits.stream_high / 2)
            return;
        req->above = false;
        if (req->events && req->events->drained)
            req->events->drained(req->arg, req);
    } else if (c->in.length > c->in_at && unread(c) < UNREAD_MOST / 2) {
        advance(c, NULL, 0);
    }
}

static void on_written(uv_write_t *req, int status)
{
    struct nd_http_conn *c = req->data;

    free(ND_CONTAINER(req, struct write, req));
    if (c->state == ND_CONN_CLOSED)
        return;
    if (status < 0)
        nd_http_conn_close(c);
    else
        flushed(c);
}

/* Copies what of `bufs` lies behind the first `skip` bytes, and queues it. */
static void write_later(struct nd_http_conn *c, const uv_buf_t *bufs, unsigned count, size_t skip)
{
    size_t total = 0, at = 0;
    struct write *w;
    uv_buf_t buf;

    for (unsigned i = 0; i < count; i++)
        total += bufs[i].len;
    w = nd_alloc(sizeof *w + total - skip);
    for (unsigned i = 0; i < count; i++) {
        size_t from = skip < bufs[i].len ? skip : bufs[i].len;

        skip -= from;
        if (bufs[i].len > from)
            memcpy(w->data + at, bufs[i].base + from, bufs[i].len - from);
        at += bufs[i].len - from;
    }
    w->req.data = c;
    buf = uv_buf_init(w->data, (unsigned)at);
    if (uv_write(&w->req, &c->uv.stream, &buf, 1, on_written) < 0) {
        free(w);
        nd_http_conn_close(c);
    }
}

static void send_bytes(struct nd_http_conn *c, const uv_buf_t *bufs, unsigned count)
{
    size_t total = 0;
    int sent;

    for (unsigned i = 0; i < count; i++)
        total += bufs[i].len;
    sent = unread(c) ? UV_EAGAIN : uv_try_write(&c->uv.stream, bufs, count);
    if (sent < 0 && sent != UV_EAGAIN)
        nd_http_conn_close(c);
    else if ((size_t)(sent < 0 ? 0 : sent) < total)
        write_later(c, bufs, count, sent < 0 ? 0 : (size_t)sent);
}

/* What the TLS session has to say: answers, and its own business. */
static void send_tls(struct nd_http_conn *c)
{
    size_t length;
    const char *data = nd_tls_output(c->tls, &length);
    uv_buf_t buf = uv_buf_init((char *)(uintptr_t)data, (unsigned)length);

    if (length && c->state != ND_CONN_CLOSED)
        send_bytes(c, &buf, 1);
    nd_tls_sent(c->tls);
}

void nd_http_conn_write(struct nd_http_conn *c, const uv_buf_t *bufs, unsigned count)
{
    if (c->state == ND_CONN_CLOSED)
        return;
    if (!c->tls) {
        send_bytes(c, bufs, count);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        if (nd_tls_write(c->tls, bufs[i].base, bufs[i].len) < 0) {
            nd_http_conn_close(c);
            return;
        }
    }
    send_tls(c);
}

void nd_http_conn_refuse(struct nd_http_conn *c, int status, const struct nd_err *err,
                         const struct nd_http_field *fields, int count)
{
    struct nd_buf *out = &c->server->out, body = {0};
    struct nd_http_field all[4] = {{{"Content-Type", 12}, {"application/json", 16}}};
    struct nd_http_head head = {.status = status, .minor = 1, .close = true, .fields = all};
    uv_buf_t bufs[2];

    for (head.count = 1; head.count <= count; head.count++)
        all[head.count] = fields[head.count - 1];
    nd_http_error_add(&body, err);
    head.length = (int64_t)body.length;
    nd_buf_clear(out);
    nd_http_head_add(out, &head, &c->server->date, NULL);
    bufs[0] = uv_buf_init(out->data, (unsigned)out->length);
    bufs[1] = uv_buf_init(body.data, (unsigned)body.length);
    nd_http_conn_write(c, bufs, c->parse.llhttp.method == HTTP_HEAD ? 1 : 2);
    nd_buf_fini(&body);
    c->keep_alive = false;
    nd_http_conn_linger(c);
}

/* ---- a request is whole ---- */

static void refuse_upgrade(struct nd_http_conn *c)
{
    static const struct nd_http_field fields[] = {
        {{"Upgrade", 7}, {"websocket", 9}},
        {{"Sec-WebSocket-Version", 21}, {"13", 2}},
    };
    struct nd_err err;

    nd_err_set(&err, "websocket_version", "Use version 13.",
               "this server speaks version 13 of the WebSocket protocol");
    nd_http_conn_refuse(c, 426, &err, fields, 2);
}

/* A WebSocket handshake by RFC 6455, 4.2.1; false: answered with an error. */
static bool check_upgrade(struct nd_http_conn *c)
{
    struct nd_http_text version = nd_http_parse_field(&c->parse, "sec-websocket-version");
    struct nd_http_text key = nd_http_parse_field(&c->parse, "sec-websocket-key");
    struct nd_err err;

    if (version.length != 2 || memcmp(version.data, "13", 2) != 0) {
        refuse_upgrade(c);
        return false;
    }
    if (!nd_ws_key_is_valid(key.data, key.length)) {
        nd_err_set(&err, "bad_request", NULL, "Sec-WebSocket-Key isn't 16 bytes in base64");
        nd_http_conn_refuse(c, 400, &err, NULL, 0);
        return false;
    }
    nd_ws_accept(key.data, c->req.accept);
    return true;
}

static int read_target(struct nd_http_conn *c, struct nd_err *err)
{
    struct nd_http_parse *p = &c->parse;
    struct nd_http_text target = nd_http_parse_text(p, p->target);
    struct nd_http_target *parts = &c->req.parts;

    if (nd_http_target_split(target.data, target.length, parts, err) < 0 ||
        nd_http_path_decode(parts->path, &c->server->target, err) < 0)
        return -1;
    if (*parts->path.data == '*' && p->llhttp.method != HTTP_OPTIONS)
        return nd_err_set(err, "bad_target", NULL, "only OPTIONS may ask for \"*\"");
    if (parts->authority.length && p->host >= 0) {
        p->value[p->host].at = (uint16_t)(parts->authority.data - p->base);
        p->value[p->host].length = (uint16_t)parts->authority.length;
    }
    return 0;
}

static void dispatch(struct nd_http_conn *c)
{
    struct nd_http_parse *p = &c->parse;
    struct nd_err err = {0};

    memset(&c->req, 0, sizeof c->req);
    if (read_target(c, &err) < 0) {
        nd_http_conn_refuse(c, 400, &err, NULL, 0);
        return;
    }
    c->req.minor = p->llhttp.http_minor;
    c->req.head = p->llhttp.method == HTTP_HEAD;
    c->req.websocket = p->websocket && p->llhttp.method == HTTP_GET;
    if (c->req.websocket && !check_upgrade(c))
        return;
    c->keep_alive = p->keep_alive && !c->server->closing && !c->req.websocket;
    c->state = ND_CONN_HANDLE;
    c->deadline = 0;
    c->req.held = true;
    c->server->on_request(c->server->arg, &c->req);
    nd_http_parse_drop_body(p);
}

void nd_http_conn_answered(struct nd_http_conn *c)
{
    if (c->state == ND_CONN_CLOSED) {
        nd_http_conn_drop(c);
        return;
    }
    c->answered = true;
    if (!c->keep_alive || c->server->closing) {
        nd_http_conn_linger(c);
        return;
    }
    c->state = ND_CONN_IDLE;
    c->deadline = now_of(c) + c->server->limits.idle_ms;
    nd_http_parse_next(&c->parse);
    if (!c->advancing)
        advance(c, NULL, 0);
}

/* ---- reading ---- */

/* Part of a request is there: what it has time for, and 100 Continue. */
static void await_rest(struct nd_http_conn *c, size_t bytes)
{
    static char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    const struct nd_http_limits *limits = &c->server->limits;

    if (c->state == ND_CONN_IDLE) {
        c->state = ND_CONN_READ;
        c->continued = false;
        c->body_since = 0;
        c->deadline = now_of(c) + limits->head_ms;
    }
    if (c->parse.state != ND_HTTP_BODY)
        return;
    if (!c->body_since) {
        c->body_since = now_of(c);
        c->deadline = 0; /* the sweep goes by body_since */
    }
    if (c->parse.expects && !c->continued && bytes == 0) {
        uv_buf_t buf = uv_buf_init(go_on, sizeof go_on - 1);

        nd_http_conn_write(c, &buf, 1);
    }
    c->continued = true;
}

static void refuse_unread(struct nd_http_conn *c)
{
    static const struct nd_http_field later = {{"Retry-After", 11}, {"5", 1}};

    nd_http_conn_refuse(c, c->parse.status, &c->parse.err, &later, c->parse.status == 503);
}

/* Parses what it can of `data`, or of c->in where that is NULL; returns what it took. */
static size_t parse(struct nd_http_conn *c, char *data, size_t length)
{
    size_t at = 0;

    while ((c->state == ND_CONN_IDLE || c->state == ND_CONN_READ) && at < length &&
           unread(c) < UNREAD_MOST) {
        size_t used;
        enum nd_http_parse_state state =
            nd_http_parse_feed(&c->parse, data + at, length - at, &used);

        at += used;
        if (state == ND_HTTP_FAILED) {
            refuse_unread(c);
        } else if (state == ND_HTTP_DONE) {
            dispatch(c);
        } else {
            await_rest(c, c->parse.body_held.length);
            break;
        }
    }
    return at;
}

static void keep(struct nd_http_conn *c, const char *data, size_t length)
{
    if (length)
        nd_buf_add(&c->in, data, length);
}

static void advance(struct nd_http_conn *c, char *data, size_t length)
{
    size_t waiting;

    c->advancing = true;
    if (!data && c->in.length) {
        c->in_at += parse(c, c->in.data + c->in_at, c->in.length - c->in_at);
        nd_buf_drop(&c->in, c->in_at);
        c->in_at = 0;
    } else if (data) {
        size_t used = parse(c, data, length);

        if (c->state < ND_CONN_UPGRADED)
            keep(c, data + used, length - used);
        else if (c->state == ND_CONN_UPGRADED && used < length)
            nd_ws_feed(c->ws, data + used, length - used);
    }
    c->advancing = false;
    if (c->state == ND_CONN_UPGRADED && c->in.length) {
        nd_ws_feed(c->ws, c->in.data, c->in.length);
        nd_buf_fini(&c->in);
    }
    waiting = c->in.length;
    if (!waiting && c->in.capacity > IN_KEPT)
        nd_buf_fini(&c->in);
    if (c->eof && (c->state == ND_CONN_IDLE || c->state == ND_CONN_READ) && unread(c) < UNREAD_MOST)
        nd_http_conn_linger(c); /* what is there is all there will be */
    if (c->state < ND_CONN_UPGRADED && !c->eof)
        nd_http_conn_read(c, waiting < WAITING_MOST);
}

void nd_http_conn_upgraded(struct nd_http_conn *c, struct nd_ws *ws)
{
    c->ws = ws;
    c->state = ND_CONN_UPGRADED;
    nd_http_conn_read(c, true);
    if (!c->advancing)
        advance(c, NULL, 0);
}

static void on_eof(struct nd_http_conn *c)
{
    c->eof = true;
    c->reading = false;
    switch (c->state) {
    case ND_CONN_HANDLE: /* half-closed perhaps: a plain answer is still worth sending */
        tell_gone(c);
        break;
    case ND_CONN_UPGRADED:
        nd_ws_lost(c->ws);
        break;
    case ND_CONN_LINGER:
        if (c->shut)
            nd_http_conn_close(c);
        break;
    case ND_CONN_CLOSED:
        break;
    default:
        advance(c, NULL, 0);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct nd_http_conn *c = handle->data;

    (void)suggested;
    *buf = uv_buf_init(c->server->read, sizeof c->server->read);
}

static void take(struct nd_http_conn *c, char *data, size_t length)
{
    if (c->state == ND_CONN_UPGRADED) {
        nd_ws_feed(c->ws, data, length);
    } else if (c->state < ND_CONN_UPGRADED) {
        if (c->in.length || c->state == ND_CONN_HANDLE) {
            keep(c, data, length);
            advance(c, NULL, 0);
        } else {
            advance(c, data, length);
        }
    }
}

static void take_tls(struct nd_http_conn *c, const char *data, size_t length)
{
    char *plain = c->server->plain;
    int n = 0;

    nd_tls_feed(c->tls, data, length);
    while (c->state < ND_CONN_LINGER && (n = nd_tls_read(c->tls, plain, ND_HTTP_RECORD, NULL)) > 0)
        take(c, plain, (size_t)n);
    nd_tls_feed(c->tls, NULL, 0);
    if (c->shaking && nd_tls_ready(c->tls))
        nd_http_server_shaken(c->server, c);
    if (c->state == ND_CONN_CLOSED)
        return;
    send_tls(c);
    if (n == ND_TLS_FAILED)
        nd_http_conn_close(c);
    else if (n == ND_TLS_END)
        on_eof(c);
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buf)
{
    struct nd_http_conn *c = stream->data;

    if (length == 0 || c->state == ND_CONN_CLOSED)
        return;
    if (length == UV_EOF)
        on_eof(c);
    else if (length < 0)
        nd_http_conn_close(c);
    else if (c->tls)
        take_tls(c, buf->base, (size_t)length);
    else
        take(c, buf->base, (size_t)length);
}

void nd_http_conn_read(struct nd_http_conn *c, bool on)
{
    if (c->reading == on || c->state == ND_CONN_CLOSED || c->eof)
        return;
    c->reading = on;
    if (!on)
        uv_read_stop(&c->uv.stream);
    else if (uv_read_start(&c->uv.stream, on_alloc, on_read) < 0)
        nd_http_conn_close(c);
}

/* ---- from the server ---- */

struct nd_http_conn *nd_http_conn_new(struct nd_http_server *server)
{
    struct nd_http_conn *c = nd_alloc(sizeof *c);

    c->server = server;
    server->holders++;
    nd_list_init(&c->link);
    nd_http_parse_init(&c->parse, &server->limits.sizes, &server->bodies);
    if (server->unix_socket)
        uv_pipe_init(&server->loop->uv, &c->uv.pipe, 0);
    else
        uv_tcp_init(&server->loop->uv, &c->uv.tcp);
    c->uv.handle.data = c;
    return c;
}

void nd_http_conn_start(struct nd_http_conn *c)
{
    c->deadline = now_of(c) + c->server->limits.head_ms;
    nd_http_conn_read(c, true);
}

static void leave_ws(struct nd_ws *ws, bool handed_over)
{
    if (handed_over)
        nd_ws_close(ws, 1012, "the server is replaced", 22);
    else
        nd_ws_close(ws, 1001, "the server shuts down", 21);
}

/* A request is on its way, or has come and is not read yet. */
static bool expects_one(struct nd_http_conn *c)
{
    uv_os_fd_t fd;
    int bytes = 0;

    return !c->answered ||
           (uv_fileno(&c->uv.handle, &fd) == 0 && ioctl(fd, FIONREAD, &bytes) == 0 && bytes > 0);
}

void nd_http_conn_leave(struct nd_http_conn *c)
{
    if (c->state == ND_CONN_IDLE && expects_one(c))
        return; /* it is answered, if it comes within the grace */
    if (c->state == ND_CONN_IDLE && !unread(c) && !c->tls)
        nd_http_conn_close(c);
    else if (c->state == ND_CONN_IDLE)
        nd_http_conn_linger(c);
    else if (c->state == ND_CONN_UPGRADED)
        leave_ws(c->ws, c->server->handed_over);
}

static void too_slow(struct nd_http_conn *c, const char *what)
{
    struct nd_err err;

    nd_err_set(&err, "request_timeout", "Send the request faster.", "%s took too long", what);
    nd_http_conn_refuse(c, 408, &err, NULL, 0);
}

void nd_http_conn_sweep(struct nd_http_conn *c, int64_t now)
{
    const struct nd_http_limits *limits = &c->server->limits;
    size_t queued;

    if (c->state == ND_CONN_CLOSED)
        return;
    queued = unread(c);
    if (!queued || queued != c->queued_last) {
        c->queued_last = queued;
        c->queued_since = now;
    } else if (now - c->queued_since >= limits->write_ms) {
        nd_http_conn_close(c);
        return;
    }
    if (c->state == ND_CONN_UPGRADED) {
        nd_ws_tick(c->ws, now);
    } else if (c->state == ND_CONN_READ && c->body_since) {
        int64_t earned = (int64_t)c->parse.body_held.length * 1000 / limits->body_rate;

        if (now >= c->body_since + limits->body_ms + earned)
            too_slow(c, "the request's body");
    } else if (c->deadline && now >= c->deadline) {
        if (c->state == ND_CONN_READ)
            too_slow(c, "the request's head");
        else
            nd_http_conn_close(c);
    }
}
