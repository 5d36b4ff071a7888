/*
 * test_http_client.c - what would break for those who make requests: answers lost or mixed up,
 * waits without an end, callbacks twice or never, connections not reused, handles left open.
 */
#include "http_peer.h"

#include "base/clock.h"
#include "base/mem.h"
#include "io/http_client.h"

enum { PATIENCE_MS = 5000 };

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
