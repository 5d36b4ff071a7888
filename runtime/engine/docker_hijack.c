#include "engine/docker_hijack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"

enum { HEAD_MAX = 16 * 1024, OPEN_MS = 10000 };

struct nd_docker_hijack {
    uv_pipe_t pipe;
    uv_timer_t timer; /* until Docker agrees */
    uv_connect_t connect;
    uv_shutdown_t shutdown;
    struct nd_docker_hijack_call call; /* its texts are not ours */
    struct nd_docker_frames frames;
    struct nd_buf request;
    struct nd_buf head; /* until its end has come */
    struct nd_err err;  /* why it ends; code "": as it should */
    char *doing;        /* owned */
    int handles;        /* still to be closed */
    bool open, closing, reading, finishing;
    char data[32 * 1024];
};

struct write {
    uv_write_t req;
    void (*on_written)(void *arg);
    void *arg;
    char data[];
};

/* --- the end ---------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    struct nd_docker_hijack *h = handle->data;

    if (--h->handles > 0)
        return;
    h->call.on_done(h->call.arg, h->err.code[0] ? &h->err : NULL);
    nd_docker_frames_fini(&h->frames);
    nd_buf_fini(&h->request);
    nd_buf_fini(&h->head);
    free(h->doing);
    free(h);
}

static void end(struct nd_docker_hijack *h)
{
    if (h->closing)
        return;
    h->closing = true;
    uv_close((uv_handle_t *)&h->pipe, on_closed);
    uv_close((uv_handle_t *)&h->timer, on_closed);
}

static void fail(struct nd_docker_hijack *h, const char *code, const char *why)
{
    if (!h->err.code[0])
        nd_err_set(&h->err, code, "", "can't %s: %s", h->doing, why);
    end(h);
}

/* --- what comes ------------------------------------------------------------------------------- */

static void on_piece(void *arg, const struct nd_docker_line *piece)
{
    struct nd_docker_hijack *h = arg;

    h->call.on_data(h->call.arg, piece->stream, piece->text, piece->length);
}

static void take(struct nd_docker_hijack *h, const char *data, size_t length)
{
    if (length && nd_docker_frames_feed(&h->frames, data, length, &h->err) < 0)
        end(h);
}

/* The status of the head, once it is whole; 0 before. What follows it is left in `rest`. */
static int read_head(struct nd_docker_hijack *h, const char **rest, size_t *length)
{
    const char *head_end = h->head.data ? strstr(h->head.data, "\r\n\r\n") : NULL;
    int status = -1;

    if (!head_end)
        return h->head.length > HEAD_MAX ? -1 : 0;
    *rest = head_end + 4;
    *length = h->head.length - (size_t)(*rest - h->head.data);
    if (sscanf(h->head.data, "HTTP/1.%*d %d", &status) != 1)
        return -1;
    return status;
}

static void refuse(struct nd_docker_hijack *h, int status, const char *rest, size_t length)
{
    char why[300];

    if (status < 0)
        snprintf(why, sizeof why, "Docker's answer is not HTTP");
    else
        snprintf(why, sizeof why, "Docker answered %d: %.*s", status,
                 (int)(length < 200 ? length : 200), rest);
    fail(h,
         status == 404 ? "docker_not_found"
         : status < 0  ? "docker_protocol"
                       : "docker_refused",
         why);
}

static void on_head(struct nd_docker_hijack *h, const char *data, size_t length)
{
    const char *rest = NULL;
    size_t left = 0;
    int status;

    nd_buf_add(&h->head, data, length);
    status = read_head(h, &rest, &left);
    if (status == 0)
        return;
    if (status != 101 && status != 200) {
        refuse(h, status, rest ? rest : "", left);
        return;
    }
    h->open = true;
    uv_timer_stop(&h->timer);
    h->call.on_open(h->call.arg);
    take(h, rest, left);
    nd_buf_fini(&h->head);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    struct nd_docker_hijack *h = handle->data;

    (void)size;
    *buf = uv_buf_init(h->data, sizeof h->data);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct nd_docker_hijack *h = stream->data;

    if (h->closing || n == 0)
        return;
    if (n == UV_EOF && h->open) {
        nd_docker_frames_end(&h->frames, &h->err);
        end(h);
    } else if (n < 0) {
        fail(h, "docker_unreachable",
             n == UV_EOF ? "Docker closed the connection" : uv_strerror((int)n));
    } else if (h->open) {
        take(h, buf->base, (size_t)n);
    } else {
        on_head(h, buf->base, (size_t)n);
    }
}

/* --- the beginning ---------------------------------------------------------------------------- */

static void on_connected(uv_connect_t *req, int status)
{
    struct nd_docker_hijack *h = req->data;

    if (h->closing)
        return;
    if (status < 0) {
        fail(h, "docker_unreachable", uv_strerror(status));
        return;
    }
    nd_docker_hijack_write(h, h->request.data, h->request.length, NULL, NULL);
    nd_docker_hijack_pause(h, false);
}

static void on_late(uv_timer_t *timer)
{
    fail(timer->data, "docker_timeout", "Docker does not answer");
}

struct nd_docker_hijack *nd_docker_hijack_start(struct nd_docker *d,
                                                const struct nd_docker_hijack_call *call)
{
    struct nd_docker_hijack *h = nd_alloc(sizeof *h);
    const char *api = nd_docker_api(d);
    uv_loop_t *loop = &nd_docker_loop(d)->uv;

    h->call = *call;
    h->doing = nd_strdup(call->doing);
    h->frames.tty = call->tty;
    h->frames.raw = true;
    h->frames.on_line = on_piece;
    h->frames.arg = h;
    nd_buf_addf(&h->request,
                "POST %s%s%s HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
                "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                api[0] ? "/v" : "", api, call->path, strlen(call->body), call->body);
    uv_pipe_init(loop, &h->pipe, 0);
    uv_timer_init(loop, &h->timer);
    h->handles = 2;
    h->pipe.data = h->timer.data = h->connect.data = h;
    uv_timer_start(&h->timer, on_late, OPEN_MS, 0);
    uv_pipe_connect(&h->connect, &h->pipe, nd_docker_socket(d), on_connected);
    return h;
}

/* --- what goes -------------------------------------------------------------------------------- */

static void on_shut(uv_shutdown_t *req, int status)
{
    (void)req; /* the other side's end, or an error of reading, tells */
    (void)status;
}

static void finish_writing(struct nd_docker_hijack *h)
{
    if (!h->finishing || h->closing || uv_stream_get_write_queue_size((uv_stream_t *)&h->pipe))
        return;
    h->finishing = false;
    uv_shutdown(&h->shutdown, (uv_stream_t *)&h->pipe, on_shut);
}

static void on_write_done(uv_write_t *req, int status)
{
    struct write *w = ND_CONTAINER(req, struct write, req);
    struct nd_docker_hijack *h = req->data;

    (void)status; /* the reading side tells */
    if (w->on_written)
        w->on_written(w->arg);
    free(w);
    finish_writing(h);
}

void nd_docker_hijack_write(struct nd_docker_hijack *h, const void *data, size_t length,
                            void (*on_written)(void *arg), void *arg)
{
    struct write *w;
    uv_buf_t buf;

    if (h->closing) {
        if (on_written)
            on_written(arg);
        return;
    }
    w = nd_alloc(sizeof *w + length);
    memcpy(w->data, data, length);
    w->on_written = on_written;
    w->arg = arg;
    w->req.data = h;
    buf = uv_buf_init(w->data, (unsigned)length);
    if (uv_write(&w->req, (uv_stream_t *)&h->pipe, &buf, 1, on_write_done) < 0) {
        if (on_written)
            on_written(arg);
        free(w);
    }
}

void nd_docker_hijack_finish(struct nd_docker_hijack *h)
{
    h->finishing = true;
    finish_writing(h);
}

void nd_docker_hijack_pause(struct nd_docker_hijack *h, bool stop)
{
    if (h->closing || h->reading == !stop)
        return;
    h->reading = !stop;
    if (stop)
        uv_read_stop((uv_stream_t *)&h->pipe);
    else
        uv_read_start((uv_stream_t *)&h->pipe, on_alloc, on_read);
}

void nd_docker_hijack_cancel(struct nd_docker_hijack *h)
{
    if (!h->closing && !h->err.code[0])
        nd_err_set(&h->err, "cancelled", "", "can't %s: cancelled", h->doing);
    end(h);
}
