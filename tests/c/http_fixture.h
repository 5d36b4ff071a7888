/*
 * http_fixture.h - a server in this process and raw sockets against it, on one thread.
 *
 * The test turns the loop itself (`pump`), so nothing sleeps: it waits for a condition with a
 * deadline. `fixture_end` closes the server and proves that the loop has no handle left.
 */
#ifndef TESTS_HTTP_FIXTURE_H
#define TESTS_HTTP_FIXTURE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/clock.h"
#include "io/http_server.h"

enum { PATIENCE_MS = 5000 };

struct client {
    int fd;
    struct nd_buf in; /* what came */
    bool eof;         /* the server closed, or reset */
};

struct fixture {
    struct nd_loop loop;
    struct nd_http_server *server;
    bool closed;
};

static inline void fixture_start(struct fixture *f, const struct nd_http_limits *limits,
                                 nd_http_on_request *on_request, void *arg)
{
    struct nd_http_listen where = {.address = "127.0.0.1"};
    struct nd_err err = {0};

    memset(f, 0, sizeof *f);
    assert_int_equal(nd_loop_init(&f->loop, &err), 0);
    f->server = nd_http_server_open(&f->loop, &where, limits, on_request, arg, &err);
    if (!f->server)
        fail_msg("%s", err.message);
}

static inline void fixture_closed(void *arg)
{
    ((struct fixture *)arg)->closed = true;
}

static inline void fixture_turn(struct fixture *f)
{
    struct pollfd p = {.fd = uv_backend_fd(&f->loop.uv), .events = POLLIN};

    poll(&p, 1, 1);
    uv_run(&f->loop.uv, UV_RUN_NOWAIT);
}

static inline void fixture_end(struct fixture *f)
{
    int64_t deadline = nd_clock_monotonic() + PATIENCE_MS;

    if (!f->closed)
        nd_http_server_close(f->server, 0, fixture_closed, f);
    while (!f->closed && nd_clock_monotonic() < deadline)
        fixture_turn(f);
    assert_true(f->closed);
    nd_loop_fini(&f->loop); /* aborts when a handle is left */
}

static inline void client_open(struct fixture *f, struct client *c)
{
    struct sockaddr_in in = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)nd_http_server_port(f->server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    memset(c, 0, sizeof *c);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(c->fd, (struct sockaddr *)&in, sizeof in), 0);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static inline void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    nd_buf_fini(&c->in);
}

static inline void client_read(struct client *c)
{
    char bytes[16384];
    ssize_t n;

    while (!c->eof && (n = recv(c->fd, bytes, sizeof bytes, 0)) != -1) {
        if (n == 0)
            c->eof = true;
        nd_buf_add(&c->in, bytes, (size_t)n);
    }
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        c->eof = true;
}

/* Turns the loop and reads until `cond` holds; fails the test where it doesn't in time. */
#define PUMP_UNTIL(f, c, cond)                                                                     \
    do {                                                                                           \
        int64_t until_ = nd_clock_monotonic() + PATIENCE_MS;                                       \
        while (!(cond)) {                                                                          \
            fixture_turn(f);                                                                       \
            client_read(c);                                                                        \
            if (nd_clock_monotonic() > until_)                                                     \
                fail_msg("not in time: %s; got: %s", #cond, (c)->in.data ? (c)->in.data : "");     \
        }                                                                                          \
    } while (0)

/* Turns the loop for `ms`: for asserting that something does not happen. */
static inline void pump_for(struct fixture *f, struct client *c, int ms)
{
    int64_t until = nd_clock_monotonic() + ms;

    do {
        fixture_turn(f);
        client_read(c);
    } while (nd_clock_monotonic() < until);
}

static inline void client_send(struct fixture *f, struct client *c, const void *data, size_t length)
{
    const char *p = data;
    int64_t until = nd_clock_monotonic() + PATIENCE_MS;

    while (length && !c->eof) {
        ssize_t n = send(c->fd, p, length, MSG_NOSIGNAL);

        if (n > 0) {
            p += n;
            length -= (size_t)n;
        } else if (errno != EAGAIN) {
            return; /* the server has closed; the answer is still to be read */
        }
        fixture_turn(f);
        client_read(c);
        if (nd_clock_monotonic() > until)
            fail_msg("can't send: %zu bytes left", length);
    }
}

static inline void client_says(struct fixture *f, struct client *c, const char *text)
{
    client_send(f, c, text, strlen(text));
}

static inline bool has(const struct client *c, const char *text)
{
    return c->in.length && memmem(c->in.data, c->in.length, text, strlen(text)) != NULL;
}

/* How often `text` occurs in what came. */
static inline int count_of(const struct client *c, const char *text)
{
    const char *p = c->in.data, *end = p + c->in.length;
    int n = 0;

    while (p && p < end && (p = memmem(p, (size_t)(end - p), text, strlen(text)))) {
        n++;
        p += strlen(text);
    }
    return n;
}

static inline int status_of(const struct client *c)
{
    int status = 0;

    if (c->in.length)
        sscanf(c->in.data, "HTTP/1.1 %d", &status);
    return status;
}

/* A whole response, by its Content-Length, is there. */
static inline bool answered(const struct client *c)
{
    const char *end = c->in.length ? strstr(c->in.data, "\r\n\r\n") : NULL;
    const char *length = end ? strstr(c->in.data, "Content-Length: ") : NULL;

    if (!end)
        return false;
    if (!length || length > end)
        return true;
    return c->in.length >= (size_t)(end + 4 - c->in.data) + strtoul(length + 16, NULL, 10);
}

/* ---- an application that most tests share ---- */

#define GET "GET / HTTP/1.1\r\nHost: a\r\n"
#define POST "POST / HTTP/1.1\r\nHost: a\r\n"
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"
#define KNOWN "Authorization: Bearer t\r\n" /* may send more than others */

struct app {
    struct fixture f;
    int requests;
    struct nd_http_req *waiting; /* a request to /wait, unanswered */
    bool gone, drained;
    struct nd_buf path, body;
    char host[64];
    struct nd_http_peer peer;
};

static inline void on_gone(void *arg, struct nd_http_req *req)
{
    (void)req;
    ((struct app *)arg)->gone = true;
}

static inline void on_drained(void *arg, struct nd_http_req *req)
{
    (void)req;
    ((struct app *)arg)->drained = true;
}

static const struct nd_http_req_events events = {.gone = on_gone, .drained = on_drained};

/* /wait holds the request; everything else is answered at once by the number of the request. */
static inline void on_request(void *arg, struct nd_http_req *req)
{
    struct app *app = arg;
    struct nd_http_req_info info;
    char text[64];

    nd_http_req_info(req, &info);
    app->requests++;
    app->peer = *info.peer;
    nd_buf_clear(&app->path);
    nd_buf_add(&app->path, info.path.data, info.path.length);
    nd_buf_clear(&app->body);
    nd_buf_add(&app->body, info.body.data, info.body.length);
    app->host[0] = '\0';
    for (int i = 0; i < info.fields; i++) {
        struct nd_http_field f = nd_http_req_field(req, i);

        if (f.name.length == 4 && memcmp(f.name.data, "host", 4) == 0)
            snprintf(app->host, sizeof app->host, "%.*s", (int)f.value.length, f.value.data);
    }
    if (info.path.length == 5 && memcmp(info.path.data, "/wait", 5) == 0) {
        app->waiting = req;
        nd_http_req_listen(req, &events, app);
        return;
    }
    snprintf(text, sizeof text, "%s %d.", info.method, app->requests);
    nd_http_respond(req, 200, NULL, 0, text, strlen(text), NULL);
}

static inline void app_start(struct app *app, const struct nd_http_limits *limits)
{
    memset(app, 0, sizeof *app);
    fixture_start(&app->f, limits, on_request, app);
}

static inline void app_end(struct app *app)
{
    fixture_end(&app->f);
    nd_buf_fini(&app->path);
    nd_buf_fini(&app->body);
}

#endif
