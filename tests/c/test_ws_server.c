/* WebSockets over real sockets: the handshake from both sides, and how connections end. */
#include "http_fixture.h"

#include <netinet/in.h>
#include <poll.h>

#include "io/ws_client.h"

#define KEY "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define HELLO                                                                                      \
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" KEY \
    "\r\n"
#define HI "\x81\x82\0\0\0\0hi" /* a masked "hi" */

/* ---- the server's side: echoes, and counts how conversations end ---- */

struct echo {
    struct fixture f;
    struct nd_ws *ws;
    struct nd_http_req *later; /* of /later: upgraded by the test */
    int closed, code;
};

static void echo_message(void *arg, bool binary, const void *data, size_t length)
{
    struct echo *e = arg;

    if (e->ws) /* a message may come before nd_http_upgrade has returned */
        nd_ws_send(e->ws, binary, data, length);
}

static void echo_closed(void *arg, int code, const char *reason, size_t length)
{
    struct echo *e = arg;

    (void)reason;
    (void)length;
    e->ws = NULL;
    e->closed++;
    e->code = code;
}

static const struct nd_ws_events echo_events = {.message = echo_message, .closed = echo_closed};

static void echo_request(void *arg, struct nd_http_req *req)
{
    struct echo *e = arg;
    struct nd_http_req_info info;

    nd_http_req_info(req, &info);
    if (info.path.length == 6 && memcmp(info.path.data, "/later", 6) == 0)
        e->later = req;
    else if (info.websocket)
        e->ws = nd_http_upgrade(req, &echo_events, e);
    else
        nd_http_respond(req, 200, NULL, 0, "plain", 5, NULL);
}

static void echo_start(struct echo *e, const struct nd_http_limits *limits)
{
    memset(e, 0, sizeof *e);
    fixture_start(&e->f, limits, echo_request, e);
}

static void shake(struct echo *e, struct client *c)
{
    client_open(&e->f, c);
    client_says(&e->f, c, HELLO);
    PUMP_UNTIL(&e->f, c, has(c, "\r\n\r\n"));
    assert_int_equal(status_of(c), 101);
    nd_buf_clear(&c->in);
}

static void the_handshake_is_answered(void **state)
{
    struct echo e;
    struct client c;

    (void)state;
    echo_start(&e, NULL);
    client_open(&e.f, &c);
    client_says(&e.f, &c, HELLO);
    PUMP_UNTIL(&e.f, &c, has(&c, "\r\n\r\n"));
    assert_true(has(&c, "HTTP/1.1 101 Switching Protocols\r\n"));
    assert_true(has(&c, "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert_true(has(&c, "\r\nUpgrade: websocket\r\n"));
    assert_true(has(&c, "\r\nConnection: Upgrade\r\n"));
    assert_false(has(&c, "Content-Length"));
    assert_false(has(&c, "Sec-WebSocket-Extensions"));
    nd_buf_clear(&c.in);
    client_send(&e.f, &c, HI, 8);
    PUMP_UNTIL(&e.f, &c, c.in.length == 4);
    assert_memory_equal(c.in.data, "\x81\x02hi", 4);
    client_close(&c);
    fixture_end(&e.f);
    assert_int_equal(e.closed, 1);
}

static void frames_that_come_before_the_upgrade_are_not_lost(void **state)
{
    static const char later[] = "GET /later HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
                                "Upgrade: websocket\r\n" KEY "\r\n" HI;
    struct echo e;
    struct client c;

    (void)state;
    echo_start(&e, NULL);
    client_open(&e.f, &c);
    client_send(&e.f, &c, later, sizeof later - 1);
    PUMP_UNTIL(&e.f, &c, e.later);
    client_send(&e.f, &c, HI, 5); /* and half a frame more */
    e.ws = nd_http_upgrade(e.later, &echo_events, &e);
    client_send(&e.f, &c, HI + 5, 3);
    PUMP_UNTIL(&e.f, &c, has(&c, "\r\n\r\n") && count_of(&c, "\x81\x02hi") >= 1);
    client_close(&c);
    fixture_end(&e.f);
}

static void who_leaves_without_a_word_is_1006(void **state)
{
    struct echo e;
    struct client c;

    (void)state;
    echo_start(&e, NULL);
    shake(&e, &c);
    client_close(&c);
    c.eof = true;
    PUMP_UNTIL(&e.f, &c, e.closed);
    assert_int_equal(e.code, 1006);
    fixture_end(&e.f);
}

static void an_unmasked_frame_ends_the_connection(void **state)
{
    struct echo e;
    struct client c;

    (void)state;
    echo_start(&e, NULL);
    shake(&e, &c);
    client_send(&e.f, &c, "\x81\x02hi", 4);
    PUMP_UNTIL(&e.f, &c, c.eof);
    assert_int_equal(c.in.length, 4);
    assert_memory_equal(c.in.data, "\x88\x02\x03\xea", 4);
    client_close(&c);
    fixture_end(&e.f);
}

static void a_peer_that_answers_no_ping_is_cut(void **state)
{
    struct nd_http_limits limits = nd_http_limits_default;
    struct echo e;
    struct client c;

    (void)state;
    limits.ws.ping_ms = 40;
    limits.linger_ms = 40;
    echo_start(&e, &limits);
    shake(&e, &c);
    PUMP_UNTIL(&e.f, &c, c.eof);
    assert_int_equal(e.code, 1006);
    assert_int_equal(count_of(&c, "\x89"), 2); /* two pings, then the end */
    client_close(&c);
    fixture_end(&e.f);
}

static void a_shutdown_says_1001_and_waits_for_the_answer(void **state)
{
    struct echo e;
    struct client c;

    (void)state;
    echo_start(&e, NULL);
    shake(&e, &c);
    nd_http_server_close(e.f.server, 3000, fixture_closed, &e.f);
    PUMP_UNTIL(&e.f, &c, has(&c, "\x88"));
    assert_memory_equal(c.in.data + 2, "\x03\xe9", 2);
    assert_int_equal(e.closed, 0);
    client_send(&e.f, &c, "\x88\x82\0\0\0\0\x03\xe9", 8);
    PUMP_UNTIL(&e.f, &c, c.eof);
    assert_int_equal(e.code, 1001);
    client_close(&c);
    PUMP_UNTIL(&e.f, &c, e.f.closed);
    fixture_end(&e.f);
}

/* ---- our client against servers of all kinds ---- */

struct caller {
    struct nd_ws *ws;
    struct nd_err err;
    int status, opened, failed, closed, code;
    struct nd_buf got;
};

static void call_message(void *arg, bool binary, const void *data, size_t length)
{
    struct caller *call = arg;

    (void)binary;
    nd_buf_add(&call->got, data, length);
}

static void call_closed(void *arg, int code, const char *reason, size_t length)
{
    struct caller *call = arg;

    (void)reason;
    (void)length;
    call->ws = NULL;
    call->closed++;
    call->code = code;
}

static const struct nd_ws_events call_events = {.message = call_message, .closed = call_closed};

static void call_opened(void *arg, struct nd_ws *ws)
{
    struct caller *call = arg;

    call->opened++;
    call->ws = ws;
    nd_ws_listen(ws, &call_events, call);
}

static void call_failed(void *arg, const struct nd_err *err, int status, const char *body,
                        size_t length)
{
    struct caller *call = arg;

    call->failed++;
    call->err = *err;
    call->status = status;
    if (length)
        nd_buf_add(&call->got, body, length);
}

static const struct nd_ws_client_events client_events = {
    .opened = call_opened,
    .failed = call_failed,
};

static struct nd_ws_client *dial(struct nd_loop *loop, struct caller *call, const char *host,
                                 int port, int timeout_ms)
{
    struct nd_ws_where where = {
        .host = host, .port = port, .authority = "a", .target = "/ws", .timeout_ms = timeout_ms};

    struct nd_ws_limits limits = nd_ws_limits_default;

    limits.close_ms = 200;
    memset(call, 0, sizeof *call);
    return nd_ws_client_open(loop, &where, &limits, &client_events, call);
}

#define TURN_UNTIL(loop, cond)                                                                     \
    do {                                                                                           \
        int64_t until_ = nd_clock_monotonic() + PATIENCE_MS;                                       \
        while (!(cond)) {                                                                          \
            fixture_turn(loop);                                                                    \
            if (nd_clock_monotonic() > until_)                                                     \
                fail_msg("not in time: %s", #cond);                                                \
        }                                                                                          \
    } while (0)

static void our_client_talks_to_our_server(void **state)
{
    struct echo e;
    struct caller call;

    (void)state;
    echo_start(&e, NULL);
    dial(&e.f.loop, &call, "127.0.0.1", nd_http_server_port(e.f.server), 2000);
    TURN_UNTIL(&e.f, call.opened);
    nd_ws_send(call.ws, false, "hello", 5);
    TURN_UNTIL(&e.f, call.got.length == 5);
    assert_string_equal(call.got.data, "hello");
    nd_ws_close(call.ws, 4000, "bye", 3);
    TURN_UNTIL(&e.f, call.closed && e.closed);
    assert_int_equal(call.code, 4000);
    assert_int_equal(e.code, 4000);
    nd_buf_fini(&call.got);

    /* the server is on 127.0.0.1 alone: a name that is also ::1 must get there all the same */
    dial(&e.f.loop, &call, "localhost", nd_http_server_port(e.f.server), 2000);
    TURN_UNTIL(&e.f, call.opened);
    nd_http_server_close(e.f.server, 1000, fixture_closed, &e.f);
    TURN_UNTIL(&e.f, call.closed);
    assert_int_equal(call.code, 1001);
    TURN_UNTIL(&e.f, e.f.closed);
    fixture_end(&e.f);
}

/* A listening socket of which the test answers the first connection by hand. */
static int listen_by_hand(int *port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof in;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof in), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &length), 0);
    *port = ntohs(in.sin_port);
    return fd;
}

/* Dialling takes several turns of the loop: accept blocks only once there is somebody. */
static int accept_by_hand(struct fixture *f, int listener)
{
    struct pollfd ready = {.fd = listener, .events = POLLIN};

    TURN_UNTIL(f, poll(&ready, 1, 0) > 0);
    return accept(listener, NULL, NULL);
}

#define OK101 "HTTP/1.1 101 Switching Protocols\r\n"
#define UPGRADE "Connection: Upgrade\r\nUpgrade: websocket\r\n"

static const struct {
    const char *what, *answer, *code;
    int status;
} answers[] = {
    {"a wrong accept", OK101 UPGRADE "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
     "ws_protocol", 0},
    {"no accept", OK101 UPGRADE "\r\n", "ws_protocol", 0},
    {"no upgrade", OK101 "\r\n", "ws_protocol", 0},
    {"garbage", "SSH-2.0-OpenSSH\r\n", "ws_protocol", 0},
    {"nothing", "", "ws_protocol", 0},
    {"half a head", "HTTP/1.1 101 Swi", "ws_protocol", 0},
    {"a page", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage", "ws_refused", 200},
    {"a page until the close", "HTTP/1.1 404 No\r\n\r\ngone", "ws_refused", 404},
    {"a refusal in chunks",
     "HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", "ws_refused",
     401},
};

static void bad_answers_are_errors_with_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct fixture f = {0};
        struct caller call;
        int port, listener = listen_by_hand(&port), fd;

        assert_int_equal(nd_loop_init(&f.loop, NULL), 0);
        dial(&f.loop, &call, "127.0.0.1", port, 3000);
        fd = accept_by_hand(&f, listener);
        (void)!write(fd, answers[i].answer, strlen(answers[i].answer));
        shutdown(fd, SHUT_WR);
        TURN_UNTIL(&f, call.failed);
        if (strcmp(call.err.code, answers[i].code) != 0 || call.status != answers[i].status)
            fail_msg("%s: %s, %d", answers[i].what, call.err.code, call.status);
        if (call.status)
            assert_true(call.got.length >= 2);
        assert_int_equal(call.opened, 0);
        close(fd);
        close(listener);
        nd_buf_fini(&call.got);
        nd_loop_fini(&f.loop);
        assert_int_equal(call.failed, 1);
    }
}

static void a_head_without_end_is_given_up(void **state)
{
    struct fixture f = {0};
    struct caller call;
    char junk[4096];
    int port, listener = listen_by_hand(&port), fd;

    (void)state;
    memset(junk, 'x', sizeof junk);
    assert_int_equal(nd_loop_init(&f.loop, NULL), 0);
    dial(&f.loop, &call, "127.0.0.1", port, 3000);
    fd = accept_by_hand(&f, listener);
    (void)!write(fd, "HTTP/1.1 101 OK\r\nX: ", 20);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (int64_t until = nd_clock_monotonic() + PATIENCE_MS;
         !call.failed && nd_clock_monotonic() < until;) {
        (void)!send(fd, junk, sizeof junk, MSG_NOSIGNAL);
        fixture_turn(&f);
    }
    assert_string_equal(call.err.code, "ws_protocol");
    close(fd);
    close(listener);
    nd_loop_fini(&f.loop);
}

static void silence_and_absence_end_in_time(void **state)
{
    struct fixture f = {0};
    struct caller call;
    int port, listener = listen_by_hand(&port);

    (void)state;
    assert_int_equal(nd_loop_init(&f.loop, NULL), 0);
    dial(&f.loop, &call, "127.0.0.1", port, 50);
    TURN_UNTIL(&f, call.failed);
    assert_string_equal(call.err.code, "ws_timeout");

    nd_ws_client_cancel(dial(&f.loop, &call, "127.0.0.1", port, 1000));
    TURN_UNTIL(&f, call.failed);
    assert_string_equal(call.err.code, "cancelled");
    close(listener);

    dial(&f.loop, &call, "127.0.0.1", port, 1000); /* nobody listens any more */
    TURN_UNTIL(&f, call.failed);
    assert_string_equal(call.err.code, "ws_connect");
    nd_loop_fini(&f.loop);
}

/* Reads the request and agrees to it. */
static void agree_by_hand(struct fixture *f, int fd)
{
    char request[1024], accept[ND_WS_ACCEPT + 1];
    struct nd_buf answer = {0};
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    ssize_t n;

    TURN_UNTIL(f, poll(&ready, 1, 0) > 0);
    n = read(fd, request, sizeof request - 1);
    assert_true(n > 0);
    request[n] = '\0';
    nd_ws_accept(strstr(request, "Sec-WebSocket-Key: ") + 19, accept);
    nd_buf_addf(&answer, OK101 UPGRADE "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    assert_int_equal(write(fd, answer.data, answer.length), answer.length);
    nd_buf_fini(&answer);
}

/* Else ndctl could not be interrupted while what it sends isn't taken. */
static void a_server_that_reads_nothing_does_not_keep_our_client(void **state)
{
    static const char data[64 * 1024];
    struct fixture f = {0};
    struct caller call;
    int port, listener = listen_by_hand(&port), fd;

    (void)state;
    assert_int_equal(nd_loop_init(&f.loop, NULL), 0);
    dial(&f.loop, &call, "127.0.0.1", port, 1000);
    fd = accept_by_hand(&f, listener);
    agree_by_hand(&f, fd);
    TURN_UNTIL(&f, call.opened);
    for (int i = 0; i < 1000 && !nd_ws_full(call.ws); i++)
        nd_ws_send(call.ws, true, data, sizeof data);
    assert_true(nd_ws_full(call.ws));
    nd_ws_close(call.ws, 1000, "", 0);
    TURN_UNTIL(&f, call.closed);
    assert_int_equal(call.code, 1006);
    TURN_UNTIL(&f, !uv_loop_alive(&f.loop.uv));
    close(fd);
    close(listener);
    nd_loop_fini(&f.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_handshake_is_answered),
        cmocka_unit_test(frames_that_come_before_the_upgrade_are_not_lost),
        cmocka_unit_test(who_leaves_without_a_word_is_1006),
        cmocka_unit_test(an_unmasked_frame_ends_the_connection),
        cmocka_unit_test(a_peer_that_answers_no_ping_is_cut),
        cmocka_unit_test(a_shutdown_says_1001_and_waits_for_the_answer),
        cmocka_unit_test(our_client_talks_to_our_server),
        cmocka_unit_test(bad_answers_are_errors_with_names),
        cmocka_unit_test(a_head_without_end_is_given_up),
        cmocka_unit_test(silence_and_absence_end_in_time),
        cmocka_unit_test(a_server_that_reads_nothing_does_not_keep_our_client),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
