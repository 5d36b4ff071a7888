/* What a client may send the HTTP server, and what it gets: order, streams, the end. (Limits:
 * test_http_limits.c) */
#include "http_fixture.h"

#include <sys/stat.h>

#include "base/mem.h"

/* ---- order and pieces ---- */

static void pipelined_requests_are_answered_in_order(void **state)
{
    struct app app;
    struct client c;
    const char *first, *second, *third;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &c);
    client_says(&app.f, &c,
                GET "\r\n"
                    "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" POST "Content-Length: 3\r\n\r\nabc" GET
                    "\r\n");
    PUMP_UNTIL(&app.f, &c, app.waiting && has(&c, "GET 1."));
    pump_for(&app.f, &c, 20);
    assert_int_equal(app.requests, 2); /* the third waits for the second's answer */
    nd_http_respond(app.waiting, 200, NULL, 0, "WAITED.", 7, NULL);
    PUMP_UNTIL(&app.f, &c, has(&c, "GET 4."));
    first = strstr(c.in.data, "GET 1.");
    second = strstr(c.in.data, "WAITED.");
    third = strstr(c.in.data, "POST 3.");
    assert_true(first && first < second && second < third);
    assert_int_equal(count_of(&c, "HTTP/1.1 200 OK"), 4);
    assert_int_equal(count_of(&c, "\r\nDate: "), 4);
    assert_int_equal(count_of(&c, "\r\nServer: "), 0);
    client_close(&c);
    app_end(&app);
}

static void a_flood_of_pipelined_requests_is_answered_though_nobody_reads(void **state)
{
    enum { REQUESTS = 20000 };
    struct app app;
    struct client c;
    struct nd_buf flood = {0};
    size_t sent = 0;
    int64_t until = nd_clock_monotonic() + 4 * PATIENCE_MS;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &c);
    for (int i = 0; i < REQUESTS; i++)
        nd_buf_adds(&flood, GET "\r\n");
    while (sent < flood.length) { /* until the server stops taking, without reading a byte */
        ssize_t n = send(c.fd, flood.data + sent, flood.length - sent, MSG_NOSIGNAL);

        if (n > 0)
            sent += (size_t)n;
        fixture_turn(&app.f);
        if (nd_clock_monotonic() > until - 3 * PATIENCE_MS)
            break;
    }
    while (count_of(&c, "HTTP/1.1 200") < REQUESTS && nd_clock_monotonic() < until) {
        ssize_t n = sent < flood.length
                        ? send(c.fd, flood.data + sent, flood.length - sent, MSG_NOSIGNAL)
                        : 0;

        if (n > 0)
            sent += (size_t)n;
        fixture_turn(&app.f);
        client_read(&c);
    }
    assert_int_equal(count_of(&c, "HTTP/1.1 200"), REQUESTS);
    nd_buf_fini(&flood);
    client_close(&c);
    app_end(&app);
}

static void a_body_in_pieces_arrives_whole(void **state)
{
    struct app app;
    struct client c;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &c);
    client_says(&app.f, &c, POST "Content-Length: 10\r\n\r\n01");
    client_says(&app.f, &c, "23456");
    client_says(&app.f, &c, "789");
    PUMP_UNTIL(&app.f, &c, answered(&c));
    assert_string_equal(app.body.data, "0123456789");
    nd_buf_clear(&c.in);
    client_says(&app.f, &c, CHUNKED "4\r\n0123\r\n");
    client_says(&app.f, &c, "3\r\n45");
    client_says(&app.f, &c, "6\r\n0\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, answered(&c));
    assert_string_equal(app.body.data, "0123456");
    client_close(&c);
    app_end(&app);
}

static void expect_continue_is_answered_before_the_body(void **state)
{
    struct app app;
    struct client c;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &c);
    client_says(&app.f, &c, POST "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, has(&c, "HTTP/1.1 100 Continue\r\n\r\n"));
    assert_int_equal(app.requests, 0);
    client_says(&app.f, &c, "abc");
    PUMP_UNTIL(&app.f, &c, has(&c, "POST 1."));
    assert_string_equal(app.body.data, "abc");
    client_close(&c);
    client_open(&app.f, &c); /* too large: refused without being asked for */
    client_says(&app.f, &c, POST "Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, c.eof);
    assert_int_equal(status_of(&c), 413);
    client_close(&c);
    app_end(&app);
}

static void HEAD_has_a_length_and_no_body(void **state)
{
    struct app app;
    struct client c;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &c);
    client_says(&app.f, &c, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, has(&c, "\r\n\r\n"));
    assert_true(has(&c, "Content-Length: 7\r\n"));
    assert_false(has(&c, "HEAD 1."));
    client_close(&c);
    app_end(&app);
}

/* ---- streams and peers that leave ---- */

static void a_stream_waits_for_a_slow_reader(void **state)
{
    struct app app;
    struct client c;
    char block[16 * 1024];
    size_t sent = 0;
    int turns = 0;

    (void)state;
    memset(block, 's', sizeof block);
    app_start(&app, NULL);
    client_open(&app.f, &c);
    client_says(&app.f, &c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, app.waiting);
    assert_int_equal(nd_http_stream_begin(app.waiting, 200, NULL, 0, NULL), 0);
    while (nd_http_stream_write(app.waiting, block, sizeof block) && ++turns < 10000)
        sent += sizeof block;
    sent += sizeof block;
    assert_true(turns < 10000); /* it is told to stop while nobody reads */
    assert_false(app.drained);
    PUMP_UNTIL(&app.f, &c, app.drained);
    nd_http_stream_end(app.waiting);
    PUMP_UNTIL(&app.f, &c, has(&c, "\r\n0\r\n\r\n"));
    assert_true(has(&c, "Transfer-Encoding: chunked\r\n"));
    assert_int_equal(count_of(&c, "\r\n4000\r\n"), sent / sizeof block);
    nd_buf_clear(&c.in); /* the connection goes on */
    client_says(&app.f, &c, GET "\r\n");
    PUMP_UNTIL(&app.f, &c, answered(&c));
    client_close(&c);
    app_end(&app);
}

static void a_stream_to_HTTP_1_0_ends_with_the_connection(void **state)
{
    struct app app;
    struct client c;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &c);
    client_says(&app.f, &c, "GET /wait HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, app.waiting);
    nd_http_stream_begin(app.waiting, 200, NULL, 0, NULL);
    nd_http_stream_write(app.waiting, "abc", 3);
    nd_http_stream_end(app.waiting);
    PUMP_UNTIL(&app.f, &c, c.eof);
    assert_true(has(&c, "Connection: close\r\n\r\nabc"));
    assert_false(has(&c, "chunked"));
    client_close(&c);
    app_end(&app);
}

static void an_aborted_stream_looks_cut_off(void **state)
{
    struct app app;
    struct client c;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &c);
    client_says(&app.f, &c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, app.waiting);
    nd_http_stream_begin(app.waiting, 200, NULL, 0, NULL);
    nd_http_stream_write(app.waiting, "abc", 3);
    nd_http_stream_abort(app.waiting);
    PUMP_UNTIL(&app.f, &c, c.eof);
    assert_true(has(&c, "abc"));
    assert_false(has(&c, "\r\n0\r\n"));
    client_close(&c);
    app_end(&app);
}

static void a_peer_that_leaves_is_noticed_and_may_still_be_answered(void **state)
{
    struct app app;
    struct client c;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &c); /* half-closed: the answer still arrives */
    client_says(&app.f, &c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, app.waiting);
    shutdown(c.fd, SHUT_WR);
    PUMP_UNTIL(&app.f, &c, app.gone);
    nd_http_respond(app.waiting, 200, NULL, 0, "late", 4, NULL);
    PUMP_UNTIL(&app.f, &c, c.eof);
    assert_true(has(&c, "late"));
    client_close(&c);

    app.waiting = NULL; /* reset: the answer goes nowhere, and nothing leaks */
    app.gone = false;
    client_open(&app.f, &c);
    client_says(&app.f, &c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, app.waiting);
    setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
    client_close(&c);
    c.eof = true;
    PUMP_UNTIL(&app.f, &c, app.gone);
    assert_true(nd_http_req_gone(app.waiting));
    nd_http_respond(app.waiting, 200, NULL, 0, "late", 4, NULL);
    app_end(&app);
}

static void a_peer_that_takes_nothing_is_cut(void **state)
{
    struct nd_http_limits limits = nd_http_limits_default;
    struct app app;
    struct client c;
    char *block = nd_alloc(8 * 1024 * 1024);
    int64_t until = nd_clock_monotonic() + PATIENCE_MS;

    (void)state;
    limits.write_ms = 80;
    app_start(&app, &limits);
    client_open(&app.f, &c);
    client_says(&app.f, &c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, app.waiting);
    nd_http_respond(app.waiting, 200, NULL, 0, block, 8 * 1024 * 1024, NULL);
    while (nd_http_server_connections(app.f.server) && nd_clock_monotonic() < until)
        fixture_turn(&app.f);
    assert_int_equal(nd_http_server_connections(app.f.server), 0);
    free(block);
    client_close(&c);
    app_end(&app);
}

static void answers_that_could_split_are_not_sent(void **state)
{
    static const struct nd_http_field bad[] = {
        {{"X", 1}, {"a\r\nY: b", 7}}, {{"X Y", 3}, {"a", 1}}, {{"", 0}, {"a", 1}}};
    struct app app;

    (void)state;
    app_start(&app, NULL);
    for (int i = 0; i < 3; i++) {
        struct nd_err err = {0};
        struct client c;

        app.waiting = NULL;
        client_open(&app.f, &c);
        client_says(&app.f, &c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
        PUMP_UNTIL(&app.f, &c, app.waiting);
        assert_int_equal(nd_http_respond(app.waiting, 200, &bad[i], 1, "x", 1, &err), -1);
        assert_string_equal(err.code, "bad_response");
        PUMP_UNTIL(&app.f, &c, c.eof);
        assert_int_equal(status_of(&c), 500);
        assert_false(has(&c, "Y: b\r\n"));
        client_close(&c);
    }
    app_end(&app);
}

/* ---- listening and the end ---- */

static void a_graceful_close_finishes_what_is_in_flight(void **state)
{
    struct app app;
    struct client idle, busy, late;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &idle);
    client_says(&app.f, &idle, GET "\r\n");
    PUMP_UNTIL(&app.f, &idle, answered(&idle));
    client_open(&app.f, &busy);
    client_says(&app.f, &busy, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    PUMP_UNTIL(&app.f, &busy, app.waiting);
    nd_http_server_close(app.f.server, 3000, fixture_closed, &app.f);
    PUMP_UNTIL(&app.f, &idle, idle.eof);
    assert_false(busy.eof);
    late.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(late.fd,
                             (struct sockaddr *)&(struct sockaddr_in){
                                 .sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)nd_http_server_port(app.f.server)),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
                             sizeof(struct sockaddr_in)),
                     -1);
    close(late.fd);
    nd_http_respond(app.waiting, 200, NULL, 0, "done", 4, NULL);
    PUMP_UNTIL(&app.f, &busy, busy.eof);
    assert_true(has(&busy, "Connection: close\r\n"));
    assert_true(has(&busy, "done"));
    client_close(&idle);
    client_close(&busy);
    PUMP_UNTIL(&app.f, &idle, app.f.closed);
    app_end(&app);
}

static void the_grace_ends(void **state)
{
    struct app app;
    struct client c;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &c);
    client_says(&app.f, &c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    PUMP_UNTIL(&app.f, &c, app.waiting);
    nd_http_server_close(app.f.server, 50, fixture_closed, &app.f);
    PUMP_UNTIL(&app.f, &c, c.eof && app.f.closed);
    assert_true(app.gone);
    nd_http_respond(app.waiting, 200, NULL, 0, "late", 4, NULL); /* into the void */
    client_close(&c);
    app_end(&app);
}

static void unix_sockets_tell_who_connects(void **state)
{
    char dir[] = "/tmp/nd-test-http-XXXXXX", path[64];
    struct nd_http_listen where = {.unix_path = path, .mode = 0600};
    struct nd_err err = {0};
    struct app app = {0};
    struct sockaddr_un {
        sa_family_t family;
        char path[108];
    } un = {.family = AF_UNIX};
    struct client c = {0};
    struct stat st;
    FILE *left_over;
    static char bytes[100000];
    struct nd_http_limits limits = nd_http_limits_default;

    (void)state;
    limits.sizes.bodies = 1000;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    snprintf(un.path, sizeof un.path, "%s", path);
    assert_int_equal(nd_loop_init(&app.f.loop, &err), 0);

    left_over = fopen(path, "w"); /* somebody's file is not ours to remove */
    fclose(left_over);
    assert_null(nd_http_server_open(&app.f.loop, &where, NULL, on_request, &app, &err));
    assert_string_equal(err.code, "address_in_use");
    unlink(path);

    app.f.server = nd_http_server_open(&app.f.loop, &where, &limits, on_request, &app, &err);
    assert_non_null(app.f.server);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_null(nd_http_server_open(&app.f.loop, &where, NULL, on_request, &app, &err));
    assert_string_equal(err.code, "address_in_use");

    c.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(c.fd, (struct sockaddr *)&un, sizeof un), 0);
    fcntl(c.fd, F_SETFL, O_NONBLOCK);
    client_says(&app.f, &c, GET "\r\n");
    PUMP_UNTIL(&app.f, &c, answered(&c));
    nd_buf_clear(&c.in);
    client_says(&app.f, &c, POST "Content-Length: 100000\r\n\r\n"); /* it needs no token */
    client_send(&app.f, &c, bytes, sizeof bytes);
    PUMP_UNTIL(&app.f, &c, answered(&c));
    assert_int_equal(status_of(&c), 200);
    assert_int_equal(app.body.length, sizeof bytes);
    assert_int_equal(app.peer.kind, ND_HTTP_UNIX);
    assert_int_equal(app.peer.uid, getuid());
    assert_int_equal(app.peer.pid, getpid());
    client_close(&c);
    app_end(&app);
    assert_int_equal(access(path, F_OK), -1); /* removed at the end */
    assert_int_equal(rmdir(dir), 0);
}

static void a_socket_left_by_a_dead_process_is_taken_over(void **state)
{
    char dir[] = "/tmp/nd-test-http-XXXXXX", path[64];
    struct nd_http_listen where = {.unix_path = path};
    struct sockaddr_un {
        sa_family_t family;
        char path[108];
    } un = {.family = AF_UNIX};
    struct nd_err err = {0};
    struct app app = {0};
    int fd;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    snprintf(un.path, sizeof un.path, "%s", path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    close(fd);
    assert_int_equal(nd_loop_init(&app.f.loop, &err), 0);
    app.f.server = nd_http_server_open(&app.f.loop, &where, NULL, on_request, &app, &err);
    assert_non_null(app.f.server);
    app_end(&app);
    assert_int_equal(rmdir(dir), 0);
}

static void an_address_in_use_is_named(void **state)
{
    struct nd_http_listen where = {.address = "127.0.0.1"};
    struct nd_err err = {0};
    struct app app;

    (void)state;
    app_start(&app, NULL);
    where.port = nd_http_server_port(app.f.server);
    assert_null(nd_http_server_open(&app.f.loop, &where, NULL, on_request, &app, &err));
    assert_string_equal(err.code, "address_in_use");
    where.address = "localhost";
    assert_null(nd_http_server_open(&app.f.loop, &where, NULL, on_request, &app, &err));
    assert_string_equal(err.code, "bad_address");
    app_end(&app);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(a_flood_of_pipelined_requests_is_answered_though_nobody_reads),
        cmocka_unit_test(a_body_in_pieces_arrives_whole),
        cmocka_unit_test(expect_continue_is_answered_before_the_body),
        cmocka_unit_test(HEAD_has_a_length_and_no_body),
        cmocka_unit_test(a_stream_waits_for_a_slow_reader),
        cmocka_unit_test(a_stream_to_HTTP_1_0_ends_with_the_connection),
        cmocka_unit_test(an_aborted_stream_looks_cut_off),
        cmocka_unit_test(a_peer_that_leaves_is_noticed_and_may_still_be_answered),
        cmocka_unit_test(a_peer_that_takes_nothing_is_cut),
        cmocka_unit_test(answers_that_could_split_are_not_sent),
        cmocka_unit_test(a_graceful_close_finishes_what_is_in_flight),
        cmocka_unit_test(the_grace_ends),
        cmocka_unit_test(unix_sockets_tell_who_connects),
        cmocka_unit_test(a_socket_left_by_a_dead_process_is_taken_over),
        cmocka_unit_test(an_address_in_use_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
