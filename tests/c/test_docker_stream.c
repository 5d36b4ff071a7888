/*
 * test_docker_stream.c - what would break for who reads logs or watches a pull: lines torn by the
 * way bytes arrive, wrong times, progress that falls, an error inside the stream that goes unseen.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/docker_image.h"
#include "engine/docker_stream.h"

/* --- lines ------------------------------------------------------------------------------------ */

static void on_line(void *arg, const struct nd_docker_line *line)
{
    nd_buf_addf(arg, "%d %lld ", (int)line->stream, (long long)line->time);
    if (line->length > 100)
        nd_buf_addf(arg, "(%zu)", line->length);
    else
        nd_buf_add(arg, line->text, line->length);
    nd_buf_adds(arg, "|");
}

static void add_frame(struct nd_buf *out, int stream, const char *text)
{
    size_t length = strlen(text);
    char head[8] = {(char)stream, 0, 0, 0, 0, 0, (char)(length >> 8), (char)length};

    nd_buf_add(out, head, sizeof head);
    nd_buf_adds(out, text);
}

/* Feeds `in` in pieces of every size and expects `want` each time. */
static void expect_lines(const struct nd_docker_frames *options, const struct nd_buf *in,
                         const char *want)
{
    for (size_t piece = 1; piece <= in->length; piece = piece < 40 ? piece + 1 : piece * 3) {
        struct nd_docker_frames f = *options;
        struct nd_buf got = {0};

        f.on_line = on_line;
        f.arg = &got;
        for (size_t at = 0; at < in->length; at += piece)
            assert_int_equal(
                nd_docker_frames_feed(&f, in->data + at,
                                      in->length - at < piece ? in->length - at : piece, NULL),
                0);
        assert_int_equal(nd_docker_frames_end(&f, NULL), 0);
        assert_string_equal(got.data, want);
        nd_docker_frames_fini(&f);
        nd_buf_fini(&got);
    }
}

static void frames_give_lines_by_stream(void **state)
{
    struct nd_buf in = {0};

    (void)state;
    add_frame(&in, 1, "one\ntw");
    add_frame(&in, 2, "err");
    add_frame(&in, 1, "o\n\n");
    add_frame(&in, 2, "or\n");
    add_frame(&in, 1, "");
    add_frame(&in, 1, "last");
    expect_lines(&(struct nd_docker_frames){0}, &in,
                 "1 -1 one|1 -1 two|1 -1 |2 -1 error|1 -1 last|");
    nd_buf_fini(&in);
}

static void stamps_are_cut_off_and_read(void **state)
{
    struct nd_buf in = {0};

    (void)state;
    add_frame(&in, 1, "2024-02-29T12:00:00.123456789Z hello\n");
    add_frame(&in, 1, "2024-02-29T12:00:00.5+01:00 part");
    add_frame(&in, 1, "2024-02-29T12:00:01Z of it\n");
    add_frame(&in, 2, "no stamp\n");
    expect_lines(&(struct nd_docker_frames){.timestamps = true}, &in,
                 "1 1709208000123 hello|1 1709204400500 part|1 1709208001000 of it|"
                 "2 -1 no stamp|");
    nd_buf_fini(&in);
}

static void a_terminal_has_no_frames(void **state)
{
    struct nd_buf in = {0};

    (void)state;
    nd_buf_adds(&in, "1970-01-01T00:00:01Z a\r\n1970-01-01T00:00:02Z b\r\nend");
    expect_lines(&(struct nd_docker_frames){.tty = true, .timestamps = true}, &in,
                 "1 1000 a|1 2000 b|1 -1 end|");
    nd_buf_fini(&in);
}

static void long_lines_come_in_pieces(void **state)
{
    struct nd_buf in = {0};
    char *block = nd_alloc(20001);

    (void)state;
    memset(block, 'x', 20000);
    add_frame(&in, 1, block);
    add_frame(&in, 1, "\n");
    expect_lines(&(struct nd_docker_frames){0}, &in, "1 -1 (16384)|1 -1 (3616)|");
    free(block);
    nd_buf_fini(&in);
}

static void what_is_no_frame_is_an_error(void **state)
{
    static const char *const bad[] = {"\4\0\0\0\0\0\0\1x", "\1\1\0\0\0\0\0\1x", "\1\0\0\0\7\0\0\0x",
                                      "hello wo"};
    struct nd_docker_frames cut = {.on_line = on_line};
    struct nd_buf got = {0};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct nd_docker_frames f = {.on_line = on_line, .arg = &got};
        struct nd_err err = {0};

        assert_int_equal(nd_docker_frames_feed(&f, bad[i], 8, &err), -1);
        assert_string_equal(err.code, "docker_protocol");
        nd_docker_frames_fini(&f);
    }
    cut.arg = &got;
    assert_int_equal(nd_docker_frames_feed(&cut, "\1\0\0\0\0\0\0\7abc", 11, NULL), 0);
    assert_int_equal(nd_docker_frames_end(&cut, NULL), -1);
    assert_string_equal(got.data, "1 -1 abc|"); /* what came is not lost */
    nd_docker_frames_fini(&cut);
    nd_buf_fini(&got);
}

static void times_are_read_or_refused(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2000-03-01T00:00:00.001Z", 951868800001},
        {"1969-12-31T23:59:59Z", -1000},
        {"2038-01-19T03:14:08-00:30", 2147485448000},
    };
    static const char *const bad[] = {"",
                                      "2024-01-01T00:00:00",
                                      "2024-13-01T00:00:00Z",
                                      "2024-01-01 00:00:00Z",
                                      "2024-01-01T00:00:00+1:00 ",
                                      "x024-01-01T00:00:00Z",
                                      "2024-01-01T24:00:00Z"};
    int64_t ms;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(nd_docker_time(good[i].text, strlen(good[i].text), &ms),
                         strlen(good[i].text));
        assert_int_equal(ms, good[i].ms);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(nd_docker_time(bad[i], strlen(bad[i]), &ms), 0);
}

/* --- progress --------------------------------------------------------------------------------- */

static int tell(struct nd_docker_progress *p, const char *text, struct nd_err *err)
{
    return nd_docker_progress_add(p, text, strlen(text), err);
}

static void progress_sums_layers_and_never_falls(void **state)
{
    static const char *const steps[] = {
        "{\"status\":\"Pulling from library/demo\",\"id\":\"1\"}",
        "{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"a\"}",
        "{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"b\"}",
        "{\"status\":\"Already exists\",\"progressDetail\":{},\"id\":\"c\"}",
        "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":50,\"total\":100},\"id\":"
        "\"a\"}",
        "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":10,\"total\":300},\"id\":"
        "\"b\"}",
        "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":20,\"total\":100},\"id\":"
        "\"a\"}",
        "{\"status\":\"Download complete\",\"id\":\"a\"}",
        "{\"status\":\"Extracting\",\"progressDetail\":{\"current\":1,\"total\":100},\"id\":\"a\"}",
        "{\"status\":\"Pull complete\",\"id\":\"a\"}",
        "{\"status\":\"Digest: sha256:"
        "0123456789012345678901234567890123456789012345678901234567890123\"}",
    };
    static const int64_t done[] = {0, 0, 0, 0, 50, 60, 60, 110, 110, 110, 110};
    struct nd_docker_progress p = {.doing = "pull demo:1"};

    (void)state;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        assert_int_equal(tell(&p, steps[i], NULL), 0);
        assert_int_equal(p.done, done[i]);
    }
    assert_int_equal(p.total, 400);
    assert_int_equal(p.complete, 2);
    assert_int_equal(p.count, 3);
    assert_int_equal(strlen(p.digest), 71);
    nd_docker_progress_fini(&p);
}

static void errors_inside_a_stream_are_errors(void **state)
{
    static const char *const cases[][2] = {
        {"{\"errorDetail\":{\"message\":\"manifest unknown\"},\"error\":\"x\"}", "image_not_found"},
        {"{\"error\":\"unauthorized: no\"}", "registry_denied"},
        {"{\"errorDetail\":{\"message\":\"pull access denied for x, repository does not exist or "
         "may "
         "require 'docker login': denied\"}}",
         "image_not_found"},
        {"{\"errorDetail\":{\"message\":\"denied: requested access\"}}", "registry_denied"},
        {"{\"errorDetail\":{\"message\":\"unexpected EOF\"}}", "pull_failed"},
        {"{\"errorDetail\":{}}", "pull_failed"},
        {"[]", "docker_protocol"},
        {"{", "docker_protocol"},
    };
    struct nd_docker_progress local = {.doing = "load", .local = true};
    struct nd_err err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct nd_docker_progress p = {.doing = "pull demo:1"};

        memset(&err, 0, sizeof err);
        assert_int_equal(tell(&p, cases[i][0], &err), -1);
        assert_string_equal(err.code, cases[i][1]);
        assert_non_null(strstr(err.message, "pull demo:1"));
        nd_docker_progress_fini(&p);
    }
    assert_int_equal(tell(&local, "{\"error\":\"not found\"}", &err), -1);
    assert_string_equal(err.code, "docker_refused");
}

static void lies_about_bytes_do_no_harm(void **state)
{
    struct nd_docker_progress p = {.doing = "pull demo:1"};
    char text[200];

    (void)state;
    tell(&p,
         "{\"id\":\"a\",\"status\":\"Downloading\",\"progressDetail\":"
         "{\"current\":-5,\"total\":9223372036854775807}}",
         NULL);
    tell(&p, "{\"id\":\"b\",\"status\":\"Downloading\",\"progressDetail\":\"no\"}", NULL);
    tell(&p, "{\"id\":7,\"status\":[],\"stream\":{}}", NULL);
    for (int i = 0; i < 2 * ND_DOCKER_LAYERS_MAX; i++) {
        snprintf(text, sizeof text, "{\"id\":\"l%d\",\"status\":\"Waiting\"}", i);
        assert_int_equal(tell(&p, text, NULL), 0);
    }
    assert_int_equal(p.count, ND_DOCKER_LAYERS_MAX);
    assert_int_equal(p.done, 0);
    nd_docker_progress_fini(&p);
}

/* --- references ------------------------------------------------------------------------------- */

static void references_are_split(void **state)
{
    static const char *const good[][4] = {
        {"demo", "demo", "latest", NULL},
        {"demo:1", "demo", "1", NULL},
        {"127.0.0.1:5000/a/demo", "127.0.0.1:5000/a/demo", "latest", NULL},
        {"r.io:5000/demo:1.2-x", "r.io:5000/demo", "1.2-x", NULL},
        {"demo:1@sha256:ab", "demo", NULL, "sha256:ab"},
        {"sha256:0123", "sha256", "0123", NULL},
    };
    static const char *const bad[] = {"",          "a b",  "../x", "a:", ":a", "a@md5:1",
                                      "@sha256:1", "a//b", "a\nb", "-a", "a?b"};
    char *repo, *tag, *digest;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(nd_docker_ref_split(good[i][0], &repo, &tag, &digest, NULL), 0);
        assert_string_equal(repo, good[i][1]);
        assert_string_equal(tag ? tag : "-", good[i][2] ? good[i][2] : "-");
        assert_string_equal(digest ? digest : "-", good[i][3] ? good[i][3] : "-");
        free(repo);
        free(tag);
        free(digest);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(nd_docker_ref_split(bad[i], &repo, &tag, &digest, NULL), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_give_lines_by_stream),
        cmocka_unit_test(stamps_are_cut_off_and_read),
        cmocka_unit_test(a_terminal_has_no_frames),
        cmocka_unit_test(long_lines_come_in_pieces),
        cmocka_unit_test(what_is_no_frame_is_an_error),
        cmocka_unit_test(times_are_read_or_refused),
        cmocka_unit_test(progress_sums_layers_and_never_falls),
        cmocka_unit_test(errors_inside_a_stream_are_errors),
        cmocka_unit_test(lies_about_bytes_do_no_harm),
        cmocka_unit_test(references_are_split),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
