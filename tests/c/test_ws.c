/* WebSocket frames in, messages and close codes out: the protocol without a socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"
#include "io/ws.h"

struct end {
    struct nd_ws *ws;
    struct nd_buf sent; /* what it wrote */
    struct nd_buf got;  /* "t:text;" or "b:bytes;" for each message */
    size_t queued;      /* what it is told is queued */
    bool finished, paused;
    int drained, closed; /* how often */
    int code;
    char reason[128];
};

static void io_send(void *io, const void *data, size_t length)
{
    nd_buf_add(&((struct end *)io)->sent, data, length);
}

static size_t io_queued(void *io)
{
    return ((struct end *)io)->queued;
}

static void io_pause(void *io, bool stop)
{
    ((struct end *)io)->paused = stop;
}

static void io_finish(void *io)
{
    ((struct end *)io)->finished = true;
}

static const struct nd_ws_transport transport = {
    .send = io_send,
    .queued = io_queued,
    .pause = io_pause,
    .finish = io_finish,
};

static void on_message(void *arg, bool binary, const void *data, size_t length)
{
    struct end *e = arg;

    nd_buf_addf(&e->got, "%c:", binary ? 'b' : 't');
    nd_buf_add(&e->got, data, length);
    nd_buf_add(&e->got, ";", 1);
}

static void on_drained(void *arg)
{
    ((struct end *)arg)->drained++;
}

static void on_closed(void *arg, int code, const char *reason, size_t length)
{
    struct end *e = arg;

    e->closed++;
    e->code = code;
    snprintf(e->reason, sizeof e->reason, "%.*s", (int)length, reason);
}

static const struct nd_ws_events events = {
    .message = on_message,
    .drained = on_drained,
    .closed = on_closed,
};

static void end_open(struct end *e, bool client)
{
    struct nd_ws_limits limits = nd_ws_limits_default;

    limits.message = 1000;
    memset(e, 0, sizeof *e);
    e->ws = nd_ws_new(client, &limits, &transport, e);
    nd_ws_listen(e->ws, &events, e);
}

static void end_free(struct end *e)
{
    nd_ws_free(e->ws);
    assert_int_equal(e->closed, 1); /* exactly once, whatever happened */
    nd_buf_fini(&e->sent);
    nd_buf_fini(&e->got);
}

/* The code of the close frame at the end of what was sent; 0: there is none. */
static int code_sent(const struct end *e, bool masked)
{
    const unsigned char *p = (const unsigned char *)e->sent.data;
    size_t n = e->sent.length, length = masked ? 8 : 4;

    if (n < length || p[n - length] != 0x88)
        return 0;
    if (!masked)
        return p[n - 2] << 8 | p[n - 1];
    return (p[n - 2] ^ p[n - 6]) << 8 | (p[n - 1] ^ p[n - 5]);
}

/* ---- frames as a client sends them, masked with zeros so that they can be read here ---- */

#define FRAME(op, len, text) op len "\0\0\0\0" text

struct piece {
    const char *bytes;
    size_t length;
};

#define BYTES(text)                                                                                \
    {                                                                                              \
        text, sizeof(text) - 1                                                                     \
    }

static const struct {
    const char *what;
    struct piece in;
    const char *messages;
    int code; /* of the close frame it answers with; 0: stays open */
} cases[] = {
    {"text", BYTES(FRAME("\x81", "\x83", "abc")), "t:abc;", 0},
    {"binary",
     BYTES(FRAME("\x82", "\x83",
                 "a\xff"
                 "c")),
     "b:a\xff"
     "c;",
     0},
    {"empty text", BYTES(FRAME("\x81", "\x80", "")), "t:;", 0},
    {"masked",
     BYTES("\x81\x83\x01\x02\x03\x04"
           "``\x60"),
     "t:abc;", 0},
    {"two messages", BYTES(FRAME("\x81", "\x81", "a") FRAME("\x81", "\x81", "b")), "t:a;t:b;", 0},
    {"fragments",
     BYTES(FRAME("\x01", "\x81", "a") FRAME("\x00", "\x81", "b") FRAME("\x80", "\x81", "c")),
     "t:abc;", 0},
    {"empty fragments",
     BYTES(FRAME("\x01", "\x80", "") FRAME("\x00", "\x80", "") FRAME("\x80", "\x81", "c")), "t:c;",
     0},
    {"a ping between fragments",
     BYTES(FRAME("\x01", "\x81", "a") FRAME("\x89", "\x82", "hi") FRAME("\x80", "\x81", "c")),
     "t:ac;", 0},
    {"a pong nobody asked for", BYTES(FRAME("\x8a", "\x82", "hi")), "", 0},
    {"a character split over fragments",
     BYTES(FRAME("\x01", "\x81", "\xc3") FRAME("\x80", "\x81", "\xa9")), "t:\xc3\xa9;", 0},
    {"length in 16 bits",
     BYTES("\x81\xfe\x00\x7e\0\0\0\0"
           "0123456789012345678901234567890123456789012345678901234567890123456789"
           "01234567890123456789012345678901234567890123456789012345"),
     "t:0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"
     "12345678901234567890123456789012345;",
     0},
    {"unmasked",
     BYTES("\x81\x03"
           "abc"),
     "", 1002},
    {"reserved bit 1", BYTES(FRAME("\xc1", "\x81", "a")), "", 1002},
    {"reserved bit 2", BYTES(FRAME("\xa1", "\x81", "a")), "", 1002},
    {"reserved bit 3", BYTES(FRAME("\x91", "\x81", "a")), "", 1002},
    {"opcode 3", BYTES(FRAME("\x83", "\x81", "a")), "", 1002},
    {"opcode 11", BYTES(FRAME("\x8b", "\x81", "a")), "", 1002},
    {"continuation of nothing", BYTES(FRAME("\x80", "\x81", "a")), "", 1002},
    {"text inside a message", BYTES(FRAME("\x01", "\x81", "a") FRAME("\x81", "\x81", "b")), "",
     1002},
    {"a fragmented ping", BYTES(FRAME("\x09", "\x81", "a")), "", 1002},
    {"a long ping", BYTES("\x89\xfe\x00\x7e\0\0\0\0"), "", 1002},
    {"a length in too many bits", BYTES("\x81\xfe\x00\x01\0\0\0\0a"), "", 1002},
    {"a length in far too many bits", BYTES("\x81\xff\0\0\0\0\0\0\0\x01\0\0\0\0a"), "", 1002},
    {"a negative length", BYTES("\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0a"), "", 1002},
    {"too big, by its header", BYTES("\x81\xfe\x03\xe9\0\0\0\0a"), "", 1009},
    {"too big by far", BYTES("\x81\xff\0\0\x7f\xff\xff\xff\xff\xff\0\0\0\0a"), "", 1009},
    {"not UTF-8", BYTES(FRAME("\x81", "\x82", "\xff\xfe")), "", 1007},
    {"half a character", BYTES(FRAME("\x81", "\x81", "\xc3")), "", 1007},
    {"an overlong character", BYTES(FRAME("\x81", "\x82", "\xc0\x80")), "", 1007},
    {"a surrogate", BYTES(FRAME("\x81", "\x83", "\xed\xa0\x80")), "", 1007},
    {"not UTF-8 in a later fragment",
     BYTES(FRAME("\x01", "\x81", "a") FRAME("\x80", "\x81", "\xff")), "", 1007},
    {"close", BYTES(FRAME("\x88", "\x82", "\x03\xe8")), "", 1000},
    {"close of ours to choose", BYTES(FRAME("\x88", "\x82", "\x0f\xa0")), "", 4000},
    {"close with half a code", BYTES(FRAME("\x88", "\x81", "\x03")), "", 1002},
    {"close with a code nobody may send", BYTES(FRAME("\x88", "\x82", "\x03\xed")), "", 1002},
    {"close with code 999", BYTES(FRAME("\x88", "\x82", "\x03\xe7")), "", 1002},
    {"text after close", BYTES(FRAME("\x88", "\x82", "\x03\xe8") FRAME("\x81", "\x81", "a")), "",
     1000},
};

static void check_case(size_t i, size_t step)
{
    const char *p = cases[i].in.bytes;
    size_t length = cases[i].in.length;
    struct end e;

    end_open(&e, false);
    for (size_t at = 0; at < length; at += step)
        nd_ws_feed(e.ws, p + at, length - at < step ? length - at : step);
    if (strcmp(e.got.data ? e.got.data : "", cases[i].messages) != 0)
        fail_msg("%s: got %s instead of %s", cases[i].what, e.got.data, cases[i].messages);
    if (code_sent(&e, false) != cases[i].code)
        fail_msg("%s: closed with %d instead of %d", cases[i].what, code_sent(&e, false),
                 cases[i].code);
    assert_int_equal(e.finished, cases[i].code != 0);
    assert_int_equal(e.closed, cases[i].code != 0);
    end_free(&e);
}

static void frames_give_messages_or_the_right_close_code(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_case(i, 1000000);
}

static void however_they_are_cut_up(void **state)
{
    (void)state;
    for (size_t step = 1; step < 8; step++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            check_case(i, step);
}

static void pings_are_answered_with_their_own_bytes(void **state)
{
    static const char ping[] = FRAME("\x89", "\x82", "hi");
    struct end e;

    (void)state;
    end_open(&e, false);
    nd_ws_feed(e.ws, ping, sizeof ping - 1);
    assert_int_equal(e.sent.length, 4);
    assert_memory_equal(e.sent.data, "\x8a\x02hi", 4);
    end_free(&e);
}

static void fragments_that_add_up_to_too_much_end_in_1009(void **state)
{
    static const char first[] = FRAME("\x01", "\xfd", ""), more[] = FRAME("\x00", "\xfd", "");
    char payload[125];
    struct end e;

    (void)state;
    memset(payload, 'x', sizeof payload);
    end_open(&e, false);
    nd_ws_feed(e.ws, first, sizeof first - 1);
    nd_ws_feed(e.ws, payload, 125);
    for (int i = 0; i < 7; i++) { /* 1,000 bytes are allowed */
        nd_ws_feed(e.ws, more, sizeof more - 1);
        nd_ws_feed(e.ws, payload, 125);
        assert_false(e.finished);
    }
    nd_ws_feed(e.ws, more, sizeof more - 1);
    nd_ws_feed(e.ws, payload, 125);
    assert_true(e.finished);
    assert_int_equal(e.code, 1009);
    assert_int_equal(code_sent(&e, false), 1009);
    end_free(&e);
}

static void two_silent_pings_are_a_dead_peer(void **state)
{
    static const char pong[] = FRAME("\x8a", "\x80", "");
    struct end e;
    int64_t now = 1000000, every = nd_ws_limits_default.ping_ms;

    (void)state;
    end_open(&e, false);
    nd_ws_tick(e.ws, now);
    assert_int_equal(e.sent.length, 0);
    for (int i = 1; i <= 5; i++) { /* each ping is answered */
        nd_ws_tick(e.ws, now += every);
        assert_int_equal(e.sent.length, 2 * i);
        nd_ws_feed(e.ws, pong, sizeof pong - 1);
    }
    nd_ws_tick(e.ws, now += every);
    nd_ws_tick(e.ws, now += every);
    assert_int_equal(e.closed, 0);
    nd_ws_tick(e.ws, now += every);
    assert_int_equal(e.closed, 1);
    assert_int_equal(e.code, 1006);
    assert_true(e.finished);
    end_free(&e);
}

static void our_close_waits_for_the_answer_but_not_for_ever(void **state)
{
    static const char answer[] = FRAME("\x88", "\x85",
                                       "\x0f\xa1"
                                       "bye");
    static const char text[] = FRAME("\x81", "\x81", "a");
    struct end e;

    (void)state;
    end_open(&e, false);
    nd_ws_close(e.ws, 4001, "enough", 6);
    assert_int_equal(e.sent.length, 10);
    assert_memory_equal(e.sent.data,
                        "\x88\x08\x0f\xa1"
                        "enough",
                        10);
    assert_int_equal(nd_ws_send(e.ws, false, "x", 1), -1);
    nd_ws_feed(e.ws, text, sizeof text - 1); /* dropped */
    assert_int_equal(e.got.length, 0);
    assert_int_equal(e.closed, 0);
    nd_ws_feed(e.ws, answer, sizeof answer - 1);
    assert_int_equal(e.code, 4001);
    assert_string_equal(e.reason, "bye");
    assert_true(e.finished);
    assert_int_equal(e.sent.length, 10);
    end_free(&e);

    end_open(&e, false);
    nd_ws_close(e.ws, 1000, "", 0);
    nd_ws_tick(e.ws, INT64_MAX / 2);
    assert_int_equal(e.code, 1006);
    assert_true(e.finished);
    end_free(&e);
}

static void a_long_reason_is_cut_between_characters(void **state)
{
    char reason[200];
    struct end e;

    (void)state;
    for (size_t i = 0; i < sizeof reason; i += 2)
        memcpy(reason + i, "\xc3\xa9", 2);
    end_open(&e, false);
    nd_ws_close(e.ws, 1000, reason, sizeof reason);
    assert_int_equal((unsigned char)e.sent.data[1], 124);
    assert_int_equal((unsigned char)e.sent.data[e.sent.length - 1], 0xa9);
    end_free(&e);
}

static void a_lost_connection_is_1006(void **state)
{
    struct end e;

    (void)state;
    end_open(&e, false);
    nd_ws_lost(e.ws);
    assert_int_equal(e.code, 1006);
    end_free(&e);
}

static void a_full_buffer_is_reported_and_drains(void **state)
{
    struct end e;
    size_t high = nd_ws_limits_default.high;

    (void)state;
    end_open(&e, false);
    e.queued = high;
    nd_ws_send(e.ws, false, "x", 1);
    assert_false(nd_ws_full(e.ws));
    e.queued = high + 1;
    nd_ws_send(e.ws, false, "x", 1);
    assert_true(nd_ws_full(e.ws));
    assert_int_equal(nd_ws_buffered(e.ws), high + 1);
    e.queued = high / 2 + 1;
    nd_ws_flushed(e.ws);
    assert_int_equal(e.drained, 0);
    e.queued = high / 2;
    nd_ws_flushed(e.ws);
    assert_int_equal(e.drained, 1);
    assert_false(nd_ws_full(e.ws));
    nd_ws_flushed(e.ws);
    assert_int_equal(e.drained, 1);
    end_free(&e);
}

/* Else its pongs would fill our memory. */
static void a_peer_that_pings_and_never_reads_is_not_read_from(void **state)
{
    static const char ping[] = FRAME("\x89", "\x82", "hi");
    size_t high = nd_ws_limits_default.high;
    struct end e;

    (void)state;
    end_open(&e, false);
    for (size_t i = 0; i < high && !e.paused; i++) {
        nd_ws_feed(e.ws, ping, sizeof ping - 1);
        e.queued = e.sent.length;
    }
    assert_true(e.paused);
    assert_in_range(e.sent.length, high / 4, 2 * high);
    e.queued = 0;
    nd_ws_flushed(e.ws);
    assert_false(e.paused);
    nd_ws_pause(e.ws, true);
    assert_true(e.paused);
    nd_ws_pause(e.ws, false);
    assert_false(e.paused);
    end_free(&e);
}

/* Else two sides that send much at once would wait for each other. */
static void a_peer_that_has_not_read_our_messages_is_still_read_from(void **state)
{
    static const char text_and_ping[] = FRAME("\x81", "\x82", "hi") FRAME("\x89", "\x82", "hi");
    struct end e;

    (void)state;
    end_open(&e, false);
    e.queued = nd_ws_limits_default.high + 1;
    nd_ws_send(e.ws, false, "x", 1);
    assert_true(nd_ws_full(e.ws));
    nd_ws_feed(e.ws, text_and_ping, sizeof text_and_ping - 1);
    assert_string_equal(e.got.data, "t:hi;");
    assert_false(e.paused);
    end_free(&e);
}

static void a_client_masks_and_wants_no_masks(void **state)
{
    static const char masked[] = FRAME("\x81", "\x81", "a"), plain[] = "\x81\x01"
                                                                       "a";
    const unsigned char *p;
    struct end e;

    (void)state;
    end_open(&e, true);
    nd_ws_send(e.ws, false, "abc", 3);
    p = (const unsigned char *)e.sent.data;
    assert_int_equal(e.sent.length, 9);
    assert_int_equal(p[1], 0x83);
    for (int i = 0; i < 3; i++)
        assert_int_equal(p[6 + i] ^ p[2 + i], "abc"[i]);
    nd_ws_feed(e.ws, plain, sizeof plain - 1);
    assert_string_equal(e.got.data, "t:a;");
    nd_ws_feed(e.ws, masked, sizeof masked - 1);
    assert_int_equal(e.code, 1002);
    assert_int_equal(code_sent(&e, true), 1002);
    end_free(&e);

    end_open(&e, true); /* the close frame that is ours to make is masked too */
    nd_ws_feed(e.ws,
               "\x83\x01"
               "a",
               3);
    assert_int_equal(code_sent(&e, true), 1002);
    end_free(&e);
}

static void handshake_keys(void **state)
{
    char accept[ND_WS_ACCEPT + 1], key[ND_WS_KEY + 1], other[ND_WS_KEY + 1];

    (void)state;
    nd_ws_accept("dGhlIHNhbXBsZSBub25jZQ==", accept); /* RFC 6455, 1.3 */
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    nd_ws_key_new(key);
    nd_ws_key_new(other);
    assert_string_not_equal(key, other);
    assert_true(nd_ws_key_is_valid(key, strlen(key)));
    assert_false(nd_ws_key_is_valid("YQ==", 4));
    assert_false(nd_ws_key_is_valid("dGhlIHNhbXBsZSBub25jZQ=", 23));
    assert_false(nd_ws_key_is_valid("dGhlIHNhbXBsZSBub25jZ*==", 24));
    assert_false(nd_ws_key_is_valid("dGhlIHNhbXBsZSBub25jZQ=a", 24));
    assert_false(nd_ws_key_is_valid(NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_give_messages_or_the_right_close_code),
        cmocka_unit_test(however_they_are_cut_up),
        cmocka_unit_test(pings_are_answered_with_their_own_bytes),
        cmocka_unit_test(fragments_that_add_up_to_too_much_end_in_1009),
        cmocka_unit_test(two_silent_pings_are_a_dead_peer),
        cmocka_unit_test(our_close_waits_for_the_answer_but_not_for_ever),
        cmocka_unit_test(a_long_reason_is_cut_between_characters),
        cmocka_unit_test(a_lost_connection_is_1006),
        cmocka_unit_test(a_full_buffer_is_reported_and_drains),
        cmocka_unit_test(a_peer_that_pings_and_never_reads_is_not_read_from),
        cmocka_unit_test(a_peer_that_has_not_read_our_messages_is_still_read_from),
        cmocka_unit_test(a_client_masks_and_wants_no_masks),
        cmocka_unit_test(handshake_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
