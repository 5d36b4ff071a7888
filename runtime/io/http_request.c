/* The answers to a request: http_server.h's second half. */
#include <stdio.h>

#include "io/http_conn.h"

static struct nd_http_conn *conn_of(const struct nd_http_req *req)
{
    return ND_CONTAINER(req, struct nd_http_conn, req);
}

void nd_http_req_info(struct nd_http_req *req, struct nd_http_req_info *out)
{
    struct nd_http_conn *c = conn_of(req);
    struct nd_buf *path = &c->server->target;

    *out = (struct nd_http_req_info){
        .method = nd_http_parse_method(&c->parse),
        .target = nd_http_parse_text(&c->parse, c->parse.target),
        .path = {path->data, path->length},
        .query = req->parts.query,
        .body = c->parse.body,
        .fields = c->parse.fields,
        .peer = &c->peer,
        .websocket = req->websocket,
        .head = req->head,
    };
}

struct nd_http_field nd_http_req_field(const struct nd_http_req *req, int i)
{
    const struct nd_http_parse *p = &conn_of(req)->parse;

    return (struct nd_http_field){nd_http_parse_text(p, p->name[i]),
                                  nd_http_parse_text(p, p->value[i])};
}

void nd_http_req_listen(struct nd_http_req *req, const struct nd_http_req_events *events, void *arg)
{
    req->events = events;
    req->arg = arg;
}

bool nd_http_req_gone(const struct nd_http_req *req)
{
    const struct nd_http_conn *c = conn_of(req);

    return c->state == ND_CONN_CLOSED || c->eof;
}

/* The connection goes on with its next request, or ends. */
static void end(struct nd_http_req *req)
{
    req->held = false;
    req->events = NULL;
    nd_http_conn_answered(conn_of(req));
}

static int bad_response(struct nd_http_req *req, const struct nd_err *err)
{
    struct nd_http_conn *c = conn_of(req);

    req->held = false;
    if (c->state == ND_CONN_CLOSED)
        nd_http_conn_drop(c);
    else
        nd_http_conn_refuse(c, 500, err, NULL, 0);
    return -1;
}

/* Writes head and (if any) body in one call. */
static int write_head(struct nd_http_req *req, struct nd_http_head *head, const void *body,
                      size_t length, struct nd_err *err)
{
    struct nd_http_conn *c = conn_of(req);
    struct nd_buf *out = &c->server->out;
    struct nd_err why = {0};
    uv_buf_t bufs[2];

    if (c->server->closing || nd_http_fields_close(head->fields, head->count) ||
        (head->length == ND_HTTP_UNTIL_CLOSE && !req->head))
        c->keep_alive = false;
    head->close = !c->keep_alive;
    head->minor = req->minor;
    nd_buf_clear(out);
    if (nd_http_head_add(out, head, &c->server->date, &why) < 0) {
        if (err)
            *err = why;
        return bad_response(req, &why);
    }
    bufs[0] = uv_buf_init(out->data, (unsigned)out->length);
    bufs[1] = uv_buf_init((char *)body, (unsigned)length);
    nd_http_conn_write(c, bufs, length ? 2 : 1);
    return 0;
}

int nd_http_respond(struct nd_http_req *req, int status, const struct nd_http_field *fields,
                    int count, const void *body, size_t length, struct nd_err *err)
{
    bool has_body = nd_http_has_body(status);
    struct nd_http_head head = {
        .status = status,
        .fields = fields,
        .count = count,
        .length = has_body ? (int64_t)length : ND_HTTP_NO_BODY,
    };

    if (conn_of(req)->state != ND_CONN_CLOSED &&
        write_head(req, &head, body, has_body && !req->head ? length : 0, err) < 0)
        return -1;
    end(req);
    return 0;
}

void nd_http_refuse(struct nd_http_req *req, int status, const struct nd_err *err)
{
    static const struct nd_http_field json = {{"Content-Type", 12}, {"application/json", 16}};
    struct nd_buf body = {0};

    nd_http_error_add(&body, err);
    nd_http_respond(req, status, &json, 1, body.data, body.length, NULL);
    nd_buf_fini(&body);
}

/* ---- in pieces ---- */

int nd_http_stream_begin(struct nd_http_req *req, int status, const struct nd_http_field *fields,
                         int count, struct nd_err *err)
{
    struct nd_http_head head = {
        .status = status,
        .fields = fields,
        .count = count,
        .length = !nd_http_has_body(status) ? ND_HTTP_NO_BODY
                  : req->minor == 0         ? ND_HTTP_UNTIL_CLOSE
                                            : ND_HTTP_CHUNKED,
    };

    if (conn_of(req)->state != ND_CONN_CLOSED && write_head(req, &head, NULL, 0, err) < 0)
        return -1;
    req->streaming = true;
    if (!nd_http_has_body(status))
        req->head = true;
    return 0;
}

bool nd_http_stream_write(struct nd_http_req *req, const void *data, size_t length)
{
    struct nd_http_conn *c = conn_of(req);
    char size[24];
    uv_buf_t bufs[3];

    if (c->state == ND_CONN_CLOSED || req->head || !length)
        return true;
    if (req->minor == 0) {
        bufs[0] = uv_buf_init((char *)data, (unsigned)length);
        nd_http_conn_write(c, bufs, 1);
    } else {
        bufs[0] = uv_buf_init(size, (unsigned)snprintf(size, sizeof size, "%zx\r\n", length));
        bufs[1] = uv_buf_init((char *)data, (unsigned)length);
        bufs[2] = uv_buf_init((char *)"\r\n", 2);
        nd_http_conn_write(c, bufs, 3);
    }
    if (c->state == ND_CONN_CLOSED ||
        uv_stream_get_write_queue_size(&c->uv.stream) <= c->server->limits.stream_high)
        return true;
    req->above = true;
    return false;
}

void nd_http_stream_end(struct nd_http_req *req)
{
    uv_buf_t last = uv_buf_init((char *)"0\r\n\r\n", 5);

    if (req->minor > 0 && !req->head)
        nd_http_conn_write(conn_of(req), &last, 1);
    end(req);
}

void nd_http_stream_abort(struct nd_http_req *req)
{
    nd_http_conn_close(conn_of(req));
    end(req);
}

/* ---- WebSocket: the connection as its transport ---- */

static void ws_send(void *io, const void *data, size_t length)
{
    uv_buf_t buf = uv_buf_init((char *)data, (unsigned)length);

    nd_http_conn_write(io, &buf, 1);
}

static size_t ws_queued(void *io)
{
    struct nd_http_conn *c = io;

    return uv_stream_get_write_queue_size(&c->uv.stream);
}

static void ws_pause(void *io, bool stop)
{
    nd_http_conn_read(io, !stop);
}

static void ws_finish(void *io)
{
    nd_http_conn_linger(io);
}

static const struct nd_ws_transport ws_transport = {
    .send = ws_send,
    .queued = ws_queued,
    .pause = ws_pause,
    .finish = ws_finish,
};

struct nd_ws *nd_http_upgrade(struct nd_http_req *req, const struct nd_ws_events *events, void *arg)
{
    struct nd_http_conn *c = conn_of(req);
    const struct nd_http_field fields[] = {
        {{"Upgrade", 7}, {"websocket", 9}},
        {{"Connection", 10}, {"Upgrade", 7}},
        {{"Sec-WebSocket-Accept", 20}, {req->accept, ND_WS_ACCEPT}},
    };
    struct nd_http_head head = {
        .status = 101,
        .fields = fields,
        .count = 3,
        .length = ND_HTTP_NO_BODY,
        .minor = 1,
    };
    struct nd_buf *out = &c->server->out;
    struct nd_ws *ws;
    uv_buf_t buf;

    if (c->state == ND_CONN_CLOSED || c->eof) {
        c->keep_alive = false;
        end(req);
        return NULL;
    }
    req->held = false;
    nd_buf_clear(out);
    nd_http_head_add(out, &head, &c->server->date, NULL);
    buf = uv_buf_init(out->data, (unsigned)out->length);
    nd_http_conn_write(c, &buf, 1);
    ws = nd_ws_new(false, &c->server->limits.ws, &ws_transport, c);
    nd_ws_listen(ws, events, arg);
    if (c->state == ND_CONN_CLOSED)
        c->ws = ws; /* the write failed; `closed` comes from the handle's close */
    else
        nd_http_conn_upgraded(c, ws);
    if (c->server->closing)
        nd_http_conn_leave(c);
    return ws;
}
