/* Listening sockets that are handed on: from one server to the next, and by systemd. Both servers
 * are in this process; what execve adds is in tests/e2e/test_upgrade. */
#include "http_fixture.h"

#include <sys/stat.h>
#include <sys/un.h>

#include "io/handover.h"

#define WEBSOCKET                                                                                  \
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"                 \
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

static void ignore_close(void *arg, int code, const char *reason, size_t length)
{
    (void)arg;
    (void)code;
    (void)reason;
    (void)length;
}

static void upgrade_or_answer(void *arg, struct nd_http_req *req)
{
    static const struct nd_ws_events deaf = {.closed = ignore_close};
    struct nd_http_req_info info;

    nd_http_req_info(req, &info);
    if (info.websocket)
        nd_http_upgrade(req, &deaf, NULL);
    else
        on_request(arg, req);
}

/* The server's end: its successor opens on the same loop. */
static void hand_over(struct app *app)
{
    struct nd_err err = {0};

    app->f.closed = false;
    assert_int_equal(nd_http_server_hand_over(app->f.server, 200, fixture_closed, &app->f, &err),
                     0);
}

static void open_again(struct app *app, const struct nd_http_listen *where)
{
    int64_t deadline = nd_clock_monotonic() + PATIENCE_MS;
    struct nd_err err = {0};

    while (!app->f.closed && nd_clock_monotonic() < deadline)
        fixture_turn(&app->f);
    assert_true(app->f.closed);
    app->f.closed = false;
    app->f.server = nd_http_server_open(&app->f.loop, where, NULL, upgrade_or_answer, app, &err);
    if (!app->f.server)
        fail_msg("%s", err.message);
}

static void who_connects_in_between_is_answered_by_the_next_server(void **state)
{
    struct nd_handover handover = {.count = 0};
    struct nd_http_listen where = {.address = "127.0.0.1"};
    struct app app;
    struct client ws, waiting, between;

    (void)state;
    app_start(&app, NULL);
    app.f.loop.handover = &handover;
    nd_http_server_close(app.f.server, 0, fixture_closed, &app.f);
    open_again(&app, &where);
    where.port = nd_http_server_port(app.f.server);
    client_open(&app.f, &ws);
    client_says(&app.f, &ws, WEBSOCKET);
    PUMP_UNTIL(&app.f, &ws, has(&ws, "\r\n\r\n"));
    nd_buf_clear(&ws.in);
    client_open(&app.f, &waiting);
    client_says(&app.f, &waiting, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    PUMP_UNTIL(&app.f, &waiting, app.waiting);

    hand_over(&app);
    client_open(&app.f, &between); /* not refused */
    client_says(&app.f, &between, GET "\r\n");
    PUMP_UNTIL(&app.f, &ws, has(&ws, "\x88"));
    assert_memory_equal(ws.in.data + 2, "\x03\xf4", 2); /* 1012: come back */
    nd_http_respond(app.waiting, 200, NULL, 0, "WAITED.", 7, NULL);
    PUMP_UNTIL(&app.f, &waiting, has(&waiting, "WAITED."));
    assert_false(has(&between, "HTTP"));

    open_again(&app, &where);
    PUMP_UNTIL(&app.f, &between, answered(&between));
    nd_handover_drop(&handover);
    client_close(&ws);
    client_close(&waiting);
    client_close(&between);
    app_end(&app);
}

static int listening_unix(const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    assert_int_equal(listen(fd, 10), 0);
    return fd;
}

static void a_unix_socket_stays_where_it_is_until_the_last_server_ends(void **state)
{
    char dir[] = "/tmp/nd-test-handover-XXXXXX", path[64];
    struct nd_handover handover = {.count = 0};
    struct nd_http_listen where = {.unix_path = path, .mode = 0600};
    struct nd_err err = {0};
    struct stat before, after;
    struct app app = {0};

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    assert_int_equal(nd_loop_init(&app.f.loop, &err), 0);
    app.f.loop.handover = &handover;
    app.f.closed = true;
    open_again(&app, &where);
    assert_int_equal(stat(path, &before), 0);
    for (int i = 0; i < 3; i++) {
        hand_over(&app);
        open_again(&app, &where);
        nd_handover_drop(&handover);
    }
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    app_end(&app);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(rmdir(dir), 0);
}

static void a_socket_of_systemds_is_taken_and_never_unlinked(void **state)
{
    char dir[] = "/tmp/nd-test-handover-XXXXXX", path[64];
    struct nd_handover handover = {.count = 1};
    struct nd_http_listen where = {.unix_path = path};
    struct nd_err err = {0};
    struct app app = {0};

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    handover.fds[0] = listening_unix(path);
    assert_int_equal(nd_loop_init(&app.f.loop, &err), 0);
    app.f.loop.handover = &handover;
    app.f.closed = true;
    open_again(&app, &where);
    assert_int_equal(handover.fds[0], -1);
    app_end(&app);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void a_socket_for_another_address_is_left_and_closed(void **state)
{
    struct nd_handover handover = {.count = 1};
    struct nd_http_listen where = {.address = "127.0.0.1"};
    struct nd_err err = {0};
    struct app app;
    int fd;

    (void)state;
    app_start(&app, NULL);
    where.port = nd_http_server_port(app.f.server);
    fd = handover.fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(listen(fd, 10), 0);
    app.f.loop.handover = &handover;
    assert_null(nd_http_server_open(&app.f.loop, &where, NULL, on_request, &app, &err));
    assert_string_equal(err.code, "address_in_use");
    nd_handover_drop(&handover);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    app_end(&app);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_connects_in_between_is_answered_by_the_next_server),
        cmocka_unit_test(a_unix_socket_stays_where_it_is_until_the_last_server_ends),
        cmocka_unit_test(a_socket_of_systemds_is_taken_and_never_unlinked),
        cmocka_unit_test(a_socket_for_another_address_is_left_and_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
