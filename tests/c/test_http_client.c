/*
 * test_http_client.c - what would break for those who make requests: answers lost or mixed up,
 * waits without an end, callbacks twice or never, connections not reused, handles left open.
 *
 * The server is a thread for each connection, below; what it answers depends on the path.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "io/http_client.h"

enum { BIG = 4 * 1024 * 1024, PATIENCE_MS = 5000 };

/* --- the server ------------------------------------------------------------------------------- */

struct server {
    int unix_fd, tcp_fd;
    int port;
    char path[64];
    int accepted; /* connections; by __atomic */
    pthread_t threads[2];
};

static bool put(int fd, const char *data, size_t length)
{
    while (length) {
        ssize_t n = send(fd, data, length, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        data += n;
        length -= (size_t)n;
    }
    return true;
}

static bool puts_to(int fd, const char *text)
{
    return put(fd, text, strlen(text));
}

static bool put_big(int fd)
{
    char block[65536];
    bool ok;

    memset(block, 'b', sizeof block);
    ok = puts_to(fd, "HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\n\r\n");
    for (int i = 0; ok && i < BIG / (int)sizeof block; i++)
        ok = put(fd, block, sizeof block);
    return ok;
}

static bool put_body(int fd, const char *body, size_t length)
{
    char head[128];

    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", length);
    return puts_to(fd, head) && put(fd, body, length);
}

static void hang(int fd)
{
    char waste[4096];

    while (recv(fd, waste, sizeof waste, 0) > 0)
        ;
}

static int dropped; /* requests for /drop; by __atomic */

/* Answers one request; false: close. */
static bool answer(int fd, const char *path, const char *head, const char *body, size_t length)
{
    if (!strcmp(path, "/big"))
        return put_big(fd);
    if (!strcmp(path, "/echo"))
        return put_body(fd, body, length);
    if (!strcmp(path, "/head"))
        return put_body(fd, head, strlen(head));
    if (!strcmp(path, "/hang")) {
        hang(fd);
        return false;
    }
    if (!strcmp(path, "/stall")) {
        puts_to(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome");
        hang(fd);
        return false;
    }
    if (!strcmp(path, "/drop")) {
        __atomic_add_fetch(&dropped, 1, __ATOMIC_SEQ_CST);
        return false;
    }
    if (!strcmp(path, "/redirect"))
        return puts_to(fd,
                       "HTTP/1.1 302 Found\r\nLocation: /echo\r\nContent-Length: 4\r\n\r\ngone");
    if (!strcmp(path, "/escape"))
        return puts_to(fd, "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n"
                           "Content-Length: 0\r\n\r\n");
    if (!strcmp(path, "/headers"))
        return puts_to(fd, "HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\n"
                           "HTTP/1.1 200 OK\r\nX-Two:  a \r\nX-TWO: b\r\nX-Empty:\r\n"
                           "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Late: 1\r\n\r\n");
    return puts_to(fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
}

/* Undoes chunks in place; returns the length, or -1 while the last one is missing. */
static long unchunk(char *data, size_t have)
{
    size_t from = 0, to = 0;

    for (;;) {
        char *line = memmem(data + from, have - from, "\r\n", 2);
        size_t n;

        if (!line)
            return -1;
        n = strtoul(data + from, NULL, 16);
        from = (size_t)(line + 2 - data);
        if (from + n + 2 > have)
            return -1;
        if (n == 0)
            return (long)to;
        memmove(data + to, data + from, n);
        to += n;
        from += n + 2;
    }
}

static bool read_body(int fd, const char *head, char *body, size_t size, size_t *have)
{
    const char *field = strcasestr(head, "\r\nContent-Length:");
    bool chunked = strcasestr(head, "\r\nTransfer-Encoding: chunked");
    size_t need = field ? strtoul(field + 17, NULL, 10) : 0;
    long length;

    for (;;) {
        ssize_t n;

        if (!chunked && *have >= need)
            return true;
        if (chunked) {
            char *copy = malloc(*have + 1);

            memcpy(copy, body, *have);
            copy[*have] = '\0';
            length = unchunk(copy, *have);
            if (length >= 0)
                memcpy(body, copy, *have = (size_t)length);
            free(copy);
            if (length >= 0)
                return true;
        }
        n = recv(fd, body + *have, size - *have, 0);
        if (n <= 0)
            return false;
        *have += (size_t)n;
    }
}

static void *serve(void *arg)
{
    enum { SIZE = 1 << 20 };
    int fd = (int)(long)arg;
    char *head = calloc(1, SIZE);
    char *body = calloc(1, SIZE);
    char path[256];

    for (;;) {
        size_t have = 0, extra;
        char *end = NULL;

        while (!end) {
            ssize_t n = recv(fd, head + have, SIZE - 1 - have, 0);

            if (n <= 0)
                goto out;
            have += (size_t)n;
            head[have] = '\0';
            end = strstr(head, "\r\n\r\n");
        }
        extra = have - (size_t)(end + 4 - head);
        memcpy(body, end + 4, extra);
        end[2] = '\0';
        if (!read_body(fd, head, body, SIZE, &extra) || sscanf(head, "%*s %255s", path) != 1 ||
            !answer(fd, path, head, body, extra))
            break;
    }
out:
    free(head);
    free(body);
    close(fd);
    return NULL;
}

struct accepting {
    struct server *server;
    int fd;
};

static void *accept_all(void *arg)
{
    struct accepting *a = arg;
    int fd;

    while ((fd = accept4(a->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        pthread_t thread;

        __atomic_add_fetch(&a->server->accepted, 1, __ATOMIC_SEQ_CST);
        pthread_create(&thread, NULL, serve, (void *)(long)fd);
        pthread_detach(thread);
    }
    free(a);
    return NULL;
}

static void start_accepting(struct server *s, int i, int fd)
{
    struct accepting *a = malloc(sizeof *a);

    *a = (struct accepting){s, fd};
    listen(fd, 64);
    pthread_create(&s->threads[i], NULL, accept_all, a);
}

static void server_start(struct server *s)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;

    memset(s, 0, sizeof *s);
    snprintf(s->path, sizeof s->path, "/tmp/nd-test-http-%d.sock", getpid());
    unlink(s->path);
    memcpy(local.sun_path, s->path, sizeof s->path);
    s->unix_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    s->tcp_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->unix_fd, (struct sockaddr *)&local, sizeof local), 0);
    assert_int_equal(bind(s->tcp_fd, (struct sockaddr *)&address, sizeof address), 0);
    getsockname(s->tcp_fd, (struct sockaddr *)&address, &length);
    s->port = ntohs(address.sin_port);
    start_accepting(s, 0, s->unix_fd);
    start_accepting(s, 1, s->tcp_fd);
}

static void server_stop(struct server *s)
{
    shutdown(s->unix_fd, SHUT_RDWR);
    shutdown(s->tcp_fd, SHUT_RDWR);
    for (int i = 0; i < 2; i++)
        pthread_join(s->threads[i], NULL);
    close(s->unix_fd);
    close(s->tcp_fd);
    unlink(s->path);
}

/* --- the fixture ------------------------------------------------------------------------------ */

struct fixture {
    struct server server;
    struct nd_loop loop;
    struct nd_http *http;
};

/* One request and all that came of it. */
struct call {
    struct fixture *f;
    struct nd_http_request req;
    struct nd_http_transfer *t;
    int heads, datas, dones;
    size_t bytes;
    int status;
    struct nd_buf body;
    char two[32]; /* X-Two */
    struct nd_err err;
    const char *then; /* "cancel in head", ...: what a callback does */
    struct call *next_call;
    size_t to_send;
    int pauses;
};

static int set_up(void **state)
{
    struct fixture *f = nd_alloc(sizeof *f);

    server_start(&f->server);
    assert_int_equal(nd_loop_init(&f->loop, NULL), 0);
    f->http = nd_http_new(&f->loop);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    nd_http_free(f->http);
    nd_loop_fini(&f->loop); /* aborts if a handle is left */
    server_stop(&f->server);
    free(f);
    return 0;
}

static bool does(const struct call *c, const char *what)
{
    return c->then && strcmp(c->then, what) == 0;
}

static void begin(struct call *c);

static void on_headers(void *arg, const struct nd_http_response *r)
{
    struct call *c = arg;

    c->heads++;
    c->status = r->status;
    if (nd_http_header(r, "x-two"))
        snprintf(c->two, sizeof c->two, "%s", nd_http_header(r, "x-two"));
    assert_null(nd_http_header(r, "x-early"));
    if (does(c, "cancel in head"))
        nd_http_cancel(c->t);
}

static void on_data(void *arg, const char *data, size_t length)
{
    struct call *c = arg;

    c->datas++;
    c->bytes += length;
    if (c->bytes < 65536)
        nd_buf_add(&c->body, data, length);
    if (does(c, "cancel in data"))
        nd_http_cancel(c->t);
    if (does(c, "pause") && !c->pauses++)
        nd_http_pause(c->t, true);
    if (does(c, "start in data") && c->datas == 1)
        begin(c->next_call);
}

static void on_done(void *arg, struct nd_http_response *r, const struct nd_err *err)
{
    struct call *c = arg;

    (void)r;
    c->dones++;
    if (err)
        c->err = *err;
    if (does(c, "start in done"))
        begin(c->next_call);
}

static void begin(struct call *c)
{
    c->req.arg = c;
    c->req.on_headers = on_headers;
    c->req.on_data = on_data;
    c->req.on_done = on_done;
    c->t = nd_http_start(c->f->http, &c->req);
    assert_int_equal(c->dones, 0);
}

static void pump(struct call *c, int dones)
{
    int64_t deadline = nd_clock_monotonic() + PATIENCE_MS;

    while (c->dones < dones && nd_clock_monotonic() < deadline)
        uv_run(&c->f->loop.uv, UV_RUN_ONCE);
    assert_int_equal(c->dones, dones);
}

static struct call new_call(struct fixture *f, const char *path)
{
    static char urls[64][128];
    static int used;
    char *url = urls[used++ % 64];

    snprintf(url, sizeof urls[0], "http://localhost%s", path);
    return (struct call){.f = f, .req = {.url = url, .unix_path = f->server.path}};
}

static void expect(struct call *c, const char *code)
{
    pump(c, 1);
    assert_string_equal(c->err.code, code);
    nd_buf_fini(&c->body);
}

static void run(struct call *c, const char *code)
{
    begin(c);
    expect(c, code);
}

/* --- the tests -------------------------------------------------------------------------------- */

static void many_requests_use_one_connection(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 10; i++) {
        struct call c = new_call(f, "/echo");

        c.req.method = i ? "PUT" : "POST";
        c.req.body = "hello";
        c.req.body_length = 5;
        begin(&c);
        pump(&c, 1);
        assert_int_equal(c.status, 200);
        assert_string_equal(c.body.data, "hello");
        nd_buf_fini(&c.body);
    }
    assert_int_equal(__atomic_load_n(&f->server.accepted, __ATOMIC_SEQ_CST), 1);
}

static void a_post_is_never_sent_twice(void **state)
{
    struct call warm = new_call(*state, "/echo");
    struct call c = new_call(*state, "/drop");

    run(&warm, "");
    c.req.method = "POST";
    run(&c, "http_closed");
    assert_int_equal(__atomic_load_n(&dropped, __ATOMIC_SEQ_CST), 1);
}

static void tcp_ignores_the_proxies_of_the_environment(void **state)
{
    struct fixture *f = *state;
    struct call c = new_call(f, "");
    char url[64];

    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/echo", f->server.port);
    c.req.url = url;
    c.req.unix_path = NULL;
    run(&c, "");
    assert_int_equal(c.status, 200);
    unsetenv("http_proxy");
    unsetenv("ALL_PROXY");
}

static void descriptors_are_not_inherited(void **state)
{
    struct fixture *f = *state;
    struct call c = new_call(f, "/stall");

    begin(&c);
    while (!c.heads)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    for (int fd = 3; fd < 256; fd++) {
        struct sockaddr_un peer = {0};
        socklen_t length = sizeof peer;

        if (getpeername(fd, (struct sockaddr *)&peer, &length) == 0 &&
            strcmp(peer.sun_path, f->server.path) == 0)
            assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    nd_http_cancel(c.t);
    expect(&c, "cancelled");
}

static void only_what_was_asked_for_is_sent(void **state)
{
    struct call c = new_call(*state, "/head");

    c.req.method = "POST";
    c.req.headers = (const char *const[]){"X-Empty;", "X-A: b", NULL};
    begin(&c);
    pump(&c, 1);
    assert_non_null(strstr(c.body.data, "POST /head HTTP/1.1\r\n"));
    assert_non_null(strstr(c.body.data, "X-Empty:\r\n"));
    assert_non_null(strstr(c.body.data, "X-A: b\r\n"));
    assert_non_null(strstr(c.body.data, "Content-Length: 0\r\n"));
    assert_null(strstr(c.body.data, "Content-Type"));
    assert_null(strstr(c.body.data, "Expect"));
    nd_buf_fini(&c.body);
}

static void headers_are_read_past_an_interim_answer(void **state)
{
    struct call c = new_call(*state, "/headers");

    begin(&c);
    pump(&c, 1);
    assert_int_equal(c.heads, 1);
    assert_string_equal(c.two, "a");
    assert_string_equal(c.body.data, "ok");
    nd_buf_fini(&c.body);
}

static void redirects_are_followed_only_on_request(void **state)
{
    struct call c = new_call(*state, "/redirect");

    run(&c, "");
    assert_int_equal(c.status, 302);
    c = new_call(*state, "/redirect");
    c.req.follow = true;
    run(&c, "");
    assert_int_equal(c.status, 200);
    c = new_call(*state, "/escape");
    c.req.follow = true;
    run(&c, "http_protocol");
}

static long send_slowly(void *arg, char *out, size_t size)
{
    struct call *c = arg;
    size_t n = size < c->to_send ? size : c->to_send;

    if (c->to_send && c->pauses++ % 2 == 0)
        return ND_HTTP_PAUSE;
    memset(out, 'u', n);
    c->to_send -= n;
    return (long)n;
}

static void on_tick(uv_timer_t *timer)
{
    struct call *c = timer->data;

    if (!c->dones)
        nd_http_resume_body(c->t);
}

static void a_body_can_be_streamed_with_pauses(void **state)
{
    struct fixture *f = *state;
    struct call c = new_call(f, "/echo");
    uv_timer_t timer;

    c.req.method = "POST";
    c.req.next = send_slowly;
    c.to_send = 300000;
    uv_timer_init(&f->loop.uv, &timer);
    timer.data = &c;
    uv_timer_start(&timer, on_tick, 1, 1);
    run(&c, "");
    assert_int_equal(c.bytes, 300000);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&f->loop.uv, UV_RUN_NOWAIT);
}

static long refuse_to_send(void *arg, char *out, size_t size)
{
    (void)arg;
    (void)out;
    (void)size;
    return ND_HTTP_ABORT;
}

static void a_body_that_is_given_up_ends_the_request(void **state)
{
    struct call c = new_call(*state, "/echo");

    c.req.method = "POST";
    c.req.next = refuse_to_send;
    run(&c, "cancelled");
}

static void a_paused_answer_waits_and_loses_nothing(void **state)
{
    struct fixture *f = *state;
    struct call c = new_call(f, "/big");
    int64_t until;
    int datas;

    c.then = "pause";
    c.req.idle_timeout_ms = 50; /* does not run while paused */
    begin(&c);
    while (!c.datas)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    datas = c.datas;
    for (until = nd_clock_monotonic() + 150; nd_clock_monotonic() < until;)
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
    assert_int_equal(c.datas, datas);
    nd_http_pause(c.t, false);
    expect(&c, "");
    assert_int_equal(c.bytes, BIG);
}

static void an_answer_above_the_limit_is_cut_off(void **state)
{
    struct call c = new_call(*state, "/big");

    c.req.max_bytes = 1000;
    run(&c, "http_too_large");
    assert_int_equal(c.bytes, 0);
}

static void each_deadline_ends_the_wait(void **state)
{
    static const struct {
        const char *path;
        int head_ms, total_ms, idle_ms;
    } cases[] = {
        {"/hang", 50, 0, 0},  {"/hang", 0, 50, 0},     {"/hang", 0, 0, 50},
        {"/stall", 0, 50, 0}, {"/stall", 1000, 0, 50},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct call c = new_call(*state, cases[i].path);
        int64_t start = nd_clock_monotonic();

        c.req.head_timeout_ms = cases[i].head_ms;
        c.req.timeout_ms = cases[i].total_ms;
        c.req.idle_timeout_ms = cases[i].idle_ms;
        run(&c, "http_timeout");
        assert_in_range(nd_clock_monotonic() - start, 45, 800);
    }
}

static void nobody_there_is_said_with_the_reason(void **state)
{
    struct call c = new_call(*state, "/echo");

    c.req.unix_path = "/nonexistent/socket";
    run(&c, "http_connect");
    assert_non_null(strstr(c.err.message, "No such file"));
    c = new_call(*state, "/echo");
    c.req.unix_path = NULL;
    c.req.url = "http://nowhere.invalid/";
    run(&c, "http_dns");
}

static void cancelling_at_any_moment_calls_back_once(void **state)
{
    static const char *const moments[] = {"cancel in head", "cancel in data", NULL};

    for (int i = 0; i < 3; i++) {
        struct call c = new_call(*state, "/big");

        c.then = moments[i];
        begin(&c);
        if (!moments[i]) {
            nd_http_cancel(c.t);
            nd_http_cancel(c.t);
            assert_int_equal(c.dones, 0); /* not within the call */
        }
        expect(&c, "cancelled");
        uv_run(&c.f->loop.uv, UV_RUN_NOWAIT);
        assert_int_equal(c.dones, 1);
    }
}

static void requests_can_start_within_callbacks(void **state)
{
    static const char *const moments[] = {"start in data", "start in done"};

    for (int i = 0; i < 2; i++) {
        struct call second = new_call(*state, "/echo");
        struct call first = new_call(*state, "/headers");

        first.then = moments[i];
        first.next_call = &second;
        run(&first, "");
        expect(&second, "");
        assert_int_equal(second.status, 200);
    }
}

static void many_at_once_all_end(void **state)
{
    static struct call calls[40];

    for (int i = 0; i < 40; i++) {
        calls[i] = new_call(*state, i % 2 ? "/echo" : "/headers");
        begin(&calls[i]);
    }
    for (int i = 0; i < 40; i++)
        expect(&calls[i], "");
}

static void closing_the_client_ends_what_is_under_way(void **state)
{
    struct fixture *f = *state;
    struct call hanging = new_call(f, "/hang");
    struct call stalled = new_call(f, "/stall");
    struct call fresh = new_call(f, "/echo");

    begin(&hanging);
    begin(&stalled);
    while (!stalled.heads)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    begin(&fresh);
    nd_http_free(f->http);
    f->http = NULL;
    expect(&hanging, "cancelled");
    expect(&stalled, "cancelled");
    expect(&fresh, "cancelled");
}

static void encoding_keeps_what_is_safe(void **state)
{
    struct nd_buf out = {0};

    (void)state;
    nd_http_encode(&out, "a b/c?&=\xc3\xa9\0.~", 13, "/");
    assert_string_equal(out.data, "a%20b/c%3F%26%3D%C3%A9%00.~");
    nd_buf_fini(&out);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(many_requests_use_one_connection),
        T(a_post_is_never_sent_twice),
        T(tcp_ignores_the_proxies_of_the_environment),
        T(descriptors_are_not_inherited),
        T(only_what_was_asked_for_is_sent),
        T(headers_are_read_past_an_interim_answer),
        T(redirects_are_followed_only_on_request),
        T(a_body_can_be_streamed_with_pauses),
        T(a_body_that_is_given_up_ends_the_request),
        T(a_paused_answer_waits_and_loses_nothing),
        T(an_answer_above_the_limit_is_cut_off),
        T(each_deadline_ends_the_wait),
        T(nobody_there_is_said_with_the_reason),
        T(cancelling_at_any_moment_calls_back_once),
        T(requests_can_start_within_callbacks),
        T(many_at_once_all_end),
        T(closing_the_client_ends_what_is_under_way),
        cmocka_unit_test(encoding_keeps_what_is_safe),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
