/* What the HTTP server takes at most, of sizes, times and connections, and what it says beyond. */
#include "http_fixture.h"

#include "base/mem.h"

/* Sends what is in `request`, expects that status and, unless it is 200, the close. */
static void expect_status(struct app *app, struct nd_buf *request, int status)
{
    struct client c;

    client_open(&app->f, &c);
    client_send(&app->f, &c, request->data, request->length);
    PUMP_UNTIL(&app->f, &c, status == 200 ? answered(&c) : c.eof);
    assert_int_equal(status_of(&c), status);
    client_close(&c);
    nd_buf_clear(request);
}

static void limits_have_their_own_statuses(void **state)
{
    enum { MOST = 4 * 1024 * 1024 };
    struct nd_buf r = {0};
    struct app app;
    char *big = nd_alloc(MOST + 2);

    (void)state;
    memset(big, 'x', MOST + 1);
    app_start(&app, NULL);

    nd_buf_addf(&r, "GET /%.*s HTTP/1.1\r\nHost: a\r\n\r\n", 8191, big); /* 8 KiB, just */
    expect_status(&app, &r, 200);
    nd_buf_addf(&r, "GET /%.*s HTTP/1.1\r\nHost: a\r\n\r\n", 8192, big);
    expect_status(&app, &r, 414);
    nd_buf_add(&r, big, 100 * 1024); /* a line without an end */
    expect_status(&app, &r, 414);

    nd_buf_addf(&r, GET "X: %.*s\r\n\r\n", 16 * 1024, big);
    expect_status(&app, &r, 431);
    nd_buf_adds(&r, GET);
    for (int i = 0; i < 101; i++)
        nd_buf_addf(&r, "X-%d: y\r\n", i);
    nd_buf_adds(&r, "\r\n");
    expect_status(&app, &r, 431);

    nd_buf_addf(&r, POST KNOWN "Content-Length: %d\r\n\r\n%.*s", MOST, MOST, big);
    expect_status(&app, &r, 200);
    assert_int_equal(app.body.length, MOST);
    nd_buf_addf(&r, POST KNOWN "Content-Length: %d\r\n\r\n", MOST + 1);
    expect_status(&app, &r, 413);
    nd_buf_addf(&r, POST KNOWN "Transfer-Encoding: chunked\r\n\r\n%x\r\n%.*s\r\n0\r\n\r\n",
                MOST + 1, MOST + 1, big);
    expect_status(&app, &r, 413);
    nd_buf_addf(&r, CHUNKED "1;x=%.*s", 64 * 1024, big); /* endless extensions */
    expect_status(&app, &r, 400);

    nd_buf_fini(&r);
    free(big);
    app_end(&app);
}

static void who_shows_no_token_sends_little(void **state)
{
    enum { LITTLE = 64 * 1024 };
    struct nd_buf r = {0};
    struct app app;
    struct client c;
    char *big = nd_alloc(LITTLE + 2);

    (void)state;
    memset(big, 'x', LITTLE + 1);
    app_start(&app, NULL);
    nd_buf_addf(&r, POST "Content-Length: %d\r\n\r\n%.*s", LITTLE, LITTLE, big);
    expect_status(&app, &r, 200);
    nd_buf_addf(&r, POST "Content-Length: %d\r\n\r\n", LITTLE + 1); /* by the head alone */
    expect_status(&app, &r, 413);
    nd_buf_addf(&r, POST "Authorization:\r\nContent-Length: %d\r\n\r\n", LITTLE + 1);
    expect_status(&app, &r, 413);
    nd_buf_addf(&r, CHUNKED "%x\r\n%.*s\r\n0\r\n\r\n", LITTLE, LITTLE, big);
    expect_status(&app, &r, 200);
    client_open(&app.f, &c); /* without the last chunk */
    client_says(&app.f, &c, CHUNKED "10000\r\n");
    client_send(&app.f, &c, big, LITTLE);
    client_says(&app.f, &c, "\r\n1\r\nx");
    PUMP_UNTIL(&app.f, &c, c.eof);
    assert_int_equal(status_of(&c), 413);
    client_close(&c);
    nd_buf_fini(&r);
    free(big);
    app_end(&app);
}

/* Sends the head of a POST with a body of `length` bytes, and the first `part` of them. */
static void begin_body(struct app *app, struct client *c, const char *bytes, size_t length,
                       size_t part)
{
    char head[128];

    snprintf(head, sizeof head, POST KNOWN "Content-Length: %zu\r\n\r\n", length);
    client_open(&app->f, c);
    client_says(&app->f, c, head);
    client_send(&app->f, c, bytes, part);
}

static void all_bodies_together_are_limited(void **state)
{
    enum { BODY = 90 * 1024, PART = 60 * 1024 };
    struct nd_http_limits limits = nd_http_limits_default;
    struct app app;
    struct client first, second, c;
    char *bytes = nd_alloc(BODY + 1);

    (void)state;
    memset(bytes, 'x', BODY);
    limits.sizes.bodies = 100 * 1024;
    app_start(&app, &limits);
    begin_body(&app, &first, bytes, BODY, PART);
    pump_for(&app.f, &first, 20);

    begin_body(&app, &second, bytes, BODY, PART); /* who comes last is sent away */
    PUMP_UNTIL(&app.f, &second, second.eof);
    assert_int_equal(status_of(&second), 503);
    assert_true(has(&second, "\r\nRetry-After: "));
    assert_true(has(&second, "bodies_full"));
    client_close(&second);

    client_open(&app.f, &c); /* nothing is kept of what comes whole */
    client_says(&app.f, &c, POST "Content-Length: 3\r\n\r\nabc");
    PUMP_UNTIL(&app.f, &c, answered(&c));
    assert_int_equal(status_of(&c), 200);
    client_close(&c);

    client_send(&app.f, &first, bytes, BODY - PART);
    PUMP_UNTIL(&app.f, &first, answered(&first));
    assert_int_equal(status_of(&first), 200);
    assert_int_equal(app.body.length, BODY);

    for (int i = 0; i < 3; i++) { /* who has his answer, or has left, holds nothing */
        begin_body(&app, &c, bytes, BODY, i < 2 ? PART : BODY);
        pump_for(&app.f, &c, 20);
        if (i == 2)
            PUMP_UNTIL(&app.f, &c, answered(&c));
        assert_int_equal(status_of(&c), i < 2 ? 0 : 200);
        client_close(&c);
        PUMP_UNTIL(&app.f, &first, nd_http_server_connections(app.f.server) == 1);
    }
    client_close(&first);
    free(bytes);
    app_end(&app);
}

/* What is read is copied by then: a handler that takes its time doesn't keep others out. */
static void a_body_counts_until_its_handler_has_it(void **state)
{
    enum { BODY = 90 * 1024 };
    struct nd_http_limits limits = nd_http_limits_default;
    struct app app;
    struct client waits, c;
    char *bytes = nd_alloc(BODY + 1), head[128];

    (void)state;
    memset(bytes, 'x', BODY);
    limits.sizes.bodies = 100 * 1024;
    app_start(&app, &limits);
    snprintf(head, sizeof head,
             "POST /wait HTTP/1.1\r\nHost: a\r\n" KNOWN "Content-Length: %d\r\n\r\n", BODY);
    client_open(&app.f, &waits);
    client_says(&app.f, &waits, head);
    client_send(&app.f, &waits, bytes, BODY);
    PUMP_UNTIL(&app.f, &waits, app.waiting);
    begin_body(&app, &c, bytes, BODY, BODY);
    PUMP_UNTIL(&app.f, &c, answered(&c));
    assert_int_equal(status_of(&c), 200);
    nd_http_respond(app.waiting, 200, NULL, 0, "done", 4, NULL);
    PUMP_UNTIL(&app.f, &waits, has(&waits, "done"));
    client_close(&waits);
    client_close(&c);
    free(bytes);
    app_end(&app);
}

static void slow_clients_are_told_408(void **state)
{
    struct nd_http_limits limits = nd_http_limits_default;
    struct app app;
    struct client c;

    (void)state;
    limits.head_ms = 60;
    limits.body_ms = 60;
    limits.body_rate = 1000;
    limits.idle_ms = 60;
    app_start(&app, &limits);

    client_open(&app.f, &c); /* part of a head */
    client_says(&app.f, &c, "GET / HT");
    PUMP_UNTIL(&app.f, &c, c.eof);
    assert_int_equal(status_of(&c), 408);
    client_close(&c);

    client_open(&app.f, &c); /* nothing at all: closed without a word */
    PUMP_UNTIL(&app.f, &c, c.eof);
    assert_int_equal(c.in.length, 0);
    client_close(&c);

    client_open(&app.f, &c); /* idle after a request: the same */
    client_says(&app.f, &c, GET "\r\n");
    PUMP_UNTIL(&app.f, &c, c.eof);
    assert_int_equal(count_of(&c, "HTTP/1.1 "), 1);
    client_close(&c);

    client_open(&app.f, &c); /* part of a body */
    client_says(&app.f, &c, POST "Content-Length: 1000\r\n\r\nabc");
    PUMP_UNTIL(&app.f, &c, c.eof);
    assert_int_equal(status_of(&c), 408);
    client_close(&c);
    assert_int_equal(app.requests, 1);
    app_end(&app);
}

static void a_steady_body_may_take_longer_than_body_ms(void **state)
{
    struct nd_http_limits limits = nd_http_limits_default;
    struct app app;
    struct client c;

    (void)state;
    limits.body_ms = 50;
    limits.body_rate = 100; /* bytes/s: each earns 10 ms */
    app_start(&app, &limits);
    client_open(&app.f, &c);
    client_says(&app.f, &c, POST "Content-Length: 60\r\n\r\n");
    for (int i = 0; i < 30; i++) {
        client_says(&app.f, &c, "ab");
        pump_for(&app.f, &c, 5);
    }
    PUMP_UNTIL(&app.f, &c, answered(&c));
    assert_int_equal(status_of(&c), 200);
    client_close(&c);
    app_end(&app);
}

static void too_many_connections_are_told_503(void **state)
{
    enum { CAP = 5 };
    struct nd_http_limits limits = nd_http_limits_default;

    (void)state;
    for (int by_address = 0; by_address < 2; by_address++) {
        struct client c[CAP + 1];
        struct app app;

        limits.connections = by_address ? 1000 : CAP;
        limits.per_address = by_address ? CAP : 1000;
        app_start(&app, &limits);
        for (int i = 0; i < CAP; i++) {
            client_open(&app.f, &c[i]);
            client_says(&app.f, &c[i], GET "\r\n");
            PUMP_UNTIL(&app.f, &c[i], answered(&c[i]));
            assert_int_equal(status_of(&c[i]), 200);
        }
        client_open(&app.f, &c[CAP]);
        client_says(&app.f, &c[CAP], GET "\r\n");
        PUMP_UNTIL(&app.f, &c[CAP], c[CAP].eof);
        assert_int_equal(status_of(&c[CAP]), 503);
        client_close(&c[CAP]);
        client_close(&c[0]); /* one leaves, one may come */
        PUMP_UNTIL(&app.f, &c[1], nd_http_server_connections(app.f.server) == CAP - 1);
        pump_for(&app.f, &c[1], 5);
        client_open(&app.f, &c[0]);
        client_says(&app.f, &c[0], GET "\r\n");
        PUMP_UNTIL(&app.f, &c[0], answered(&c[0]));
        assert_int_equal(status_of(&c[0]), 200);
        for (int i = 0; i < CAP; i++)
            client_close(&c[i]);
        app_end(&app);
    }
}

static void many_connections_at_once_are_served(void **state)
{
    enum { MANY = 400 };
    static struct client c[MANY];
    struct app app;

    (void)state;
    app_start(&app, NULL);
    for (int i = 0; i < MANY; i++) {
        client_open(&app.f, &c[i]);
        client_says(&app.f, &c[i], "GET / HTTP/1.1\r\nHo");
    }
    for (int i = 0; i < MANY; i++)
        client_says(&app.f, &c[i], "st: a\r\n\r\n");
    for (int i = 0; i < MANY; i++) {
        PUMP_UNTIL(&app.f, &c[i], answered(&c[i]));
        assert_int_equal(status_of(&c[i]), 200);
    }
    assert_int_equal(app.requests, MANY);
    for (int i = 0; i < MANY; i++)
        client_close(&c[i]);
    app_end(&app);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_have_their_own_statuses),
        cmocka_unit_test(who_shows_no_token_sends_little),
        cmocka_unit_test(all_bodies_together_are_limited),
        cmocka_unit_test(a_body_counts_until_its_handler_has_it),
        cmocka_unit_test(slow_clients_are_told_408),
        cmocka_unit_test(a_steady_body_may_take_longer_than_body_ms),
        cmocka_unit_test(too_many_connections_are_told_503),
        cmocka_unit_test(many_connections_at_once_are_served),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
