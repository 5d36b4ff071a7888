/*
 * test_log_store.c - lines that would be lost, doubled or told out of order: a file torn at any
 * byte, a disk that refuses, a daemon that starts anew, a reader who comes late or doesn't read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/log_follow.h"
#include "engine/log_read.h"
#include "engine/log_store.h"

struct fixture {
    struct nd_loop loop;
    char dir[64];
    struct nd_log_store *store;
    struct nd_log_app *app;
    struct nd_log_source *source;
    size_t keep;
    bool waited;
};

static void open_store(struct fixture *f)
{
    struct nd_log_disk disk = {0};
    char *dir;

    f->store = nd_log_store_new(&f->loop, f->dir, f->keep);
    dir = nd_log_store_dir(f->store, 7);
    assert_int_equal(nd_log_disk_read(&disk, dir, NULL), 0);
    f->app = nd_log_store_app(f->store, 7, "shop", &disk);
    nd_log_disk_fini(&disk);
    f->source = nd_log_source_new(f->app, 3, "nd-1-shop-web-3-1");
    free(dir);
}

static void turn_until_idle(struct fixture *f)
{
    while (uv_run(&f->loop.uv, UV_RUN_NOWAIT))
        usleep(200);
}

static void close_store(struct fixture *f)
{
    nd_log_store_free(f->store);
    turn_until_idle(f);
    nd_log_source_free(f->source);
    f->store = NULL;
}

static int set_up(void **state)
{
    struct fixture *f = nd_alloc(sizeof *f);

    strcpy(f->dir, "/tmp/nd-test-logs-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(nd_loop_init(&f->loop, NULL), 0);
    open_store(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char *command = nd_printf("rm -rf %s", f->dir);

    if (f->store)
        close_store(f);
    nd_loop_fini(&f->loop);
    assert_int_equal(system(command), 0);
    free(command);
    free(f);
    return 0;
}

static void on_flushed(void *arg)
{
    *(bool *)arg = true;
}

static void wait_for(struct fixture *f, bool *done)
{
    while (!*done) {
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        usleep(100);
    }
}

static void flush(struct fixture *f)
{
    struct nd_log_flush flush = {.done = on_flushed, .arg = &f->waited};

    f->waited = false;
    nd_log_app_flush(f->app, &flush);
    wait_for(f, &f->waited);
}

static void print(struct fixture *f, const char *text)
{
    nd_log_source_add(f->source, 1000, false, text, strlen(text));
    nd_log_app_kick(f->app);
}

struct read {
    bool done;
    char *text;
    uint64_t lines;
};

static void on_read(void *arg, struct nd_buf *text, uint64_t lines)
{
    struct read *r = arg;

    r->text = nd_buf_take(text);
    r->lines = lines;
    r->done = true;
}

/* "1 one|2 two|": what a query finds. */
static char *find(struct fixture *f, struct nd_log_filter filter, uint64_t tail)
{
    struct read r = {0};
    struct nd_buf out = {0};

    nd_log_read_start(f->app, &filter, tail, SIZE_MAX, on_read, &r);
    wait_for(f, &r.done);
    for (const char *at = r.text; (at = strstr(at, "{\"seq\":")); at++) {
        const char *line = strstr(at, "\"line\":\"");
        const char *lost = strstr(at, "\"dropped\":");

        nd_buf_addf(&out, "%ld ", strtol(at + 7, NULL, 10));
        if (lost && (!line || lost < line))
            nd_buf_addf(&out, "lost %ld|", strtol(lost + 10, NULL, 10));
        else
            nd_buf_addf(&out, "%.*s|", (int)strcspn(line + 8, "\""), line + 8);
    }
    free(r.text);
    return nd_buf_take(&out);
}

static void expect(struct fixture *f, struct nd_log_filter filter, uint64_t tail, const char *want)
{
    char *got = find(f, filter, tail);

    assert_string_equal(got, want);
    free(got);
}

static void lines_are_found_by_what_they_are(void **state)
{
    struct fixture *f = *state;
    struct nd_log_source *other = nd_log_source_new(f->app, 4, "nd-1-shop-web-4-1");

    print(f, "one apple");
    nd_log_source_add(other, 2000, true, "two \"pears\"", 11);
    print(f, "three apples");
    expect(f, (struct nd_log_filter){0}, ND_LOG_ALL, "1 one apple|2 two \\|3 three apples|");
    expect(f, (struct nd_log_filter){.after = 1}, ND_LOG_ALL, "2 two \\|3 three apples|");
    expect(f, (struct nd_log_filter){.release = 4}, ND_LOG_ALL, "2 two \\|");
    expect(f, (struct nd_log_filter){.instance = nd_strdup("web-3-1")}, ND_LOG_ALL,
           "1 one apple|3 three apples|");
    expect(f, (struct nd_log_filter){.instance = nd_strdup("3-1")}, 1, "3 three apples|");
    expect(f, (struct nd_log_filter){.instance = nd_strdup("eb-3-1")}, ND_LOG_ALL, "");
    expect(f, (struct nd_log_filter){.grep = nd_strdup("apple")}, ND_LOG_ALL,
           "1 one apple|3 three apples|");
    expect(f, (struct nd_log_filter){.grep = nd_strdup("\"pears\"")}, ND_LOG_ALL, "2 two \\|");
    expect(f, (struct nd_log_filter){.since = 1500}, ND_LOG_ALL, "2 two \\|");
    expect(f, (struct nd_log_filter){.until = 1500}, ND_LOG_ALL, "1 one apple|3 three apples|");
    expect(f, (struct nd_log_filter){0}, 2, "2 two \\|3 three apples|");
    expect(f, (struct nd_log_filter){0}, 0, "");
    nd_log_source_free(other);
}

static void numbers_go_on_after_a_restart(void **state)
{
    struct fixture *f = *state;

    print(f, "one");
    print(f, "two");
    close_store(f);
    open_store(f);
    print(f, "three");
    expect(f, (struct nd_log_filter){0}, ND_LOG_ALL, "1 one|2 two|3 three|");
}

static char *segment(struct fixture *f)
{
    return nd_printf("%s/7/%020d.raw", f->dir, 1);
}

/* Whatever a crash cut off, the lines before are there, and the next gets the next number. */
static void a_file_torn_at_any_byte_loses_its_last_write_at_most(void **state)
{
    struct fixture *f = *state;
    char *path = segment(f);
    struct stat whole, two;

    print(f, "one");
    flush(f);
    print(f, "two");
    flush(f);
    assert_int_equal(stat(path, &two), 0);
    print(f, "three");
    flush(f);
    assert_int_equal(stat(path, &whole), 0);
    for (off_t cut = whole.st_size; cut > two.st_size; cut -= 7) {
        close_store(f);
        assert_int_equal(truncate(path, cut), 0);
        open_store(f);
        expect(f, (struct nd_log_filter){0}, ND_LOG_ALL,
               cut == whole.st_size ? "1 one|2 two|3 three|" : "1 one|2 two|");
        if (cut < whole.st_size) {
            print(f, "three");
            expect(f, (struct nd_log_filter){0}, 2, "2 two|3 three|");
        }
    }
    free(path);
}

static void a_damaged_byte_is_no_line(void **state)
{
    struct fixture *f = *state;
    char *path = segment(f);
    int fd;

    print(f, "one");
    flush(f);
    print(f, "two");
    flush(f);
    close_store(f);
    fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(lseek(fd, -1, SEEK_END) > 0, 1);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    open_store(f);
    expect(f, (struct nd_log_filter){0}, ND_LOG_ALL, "1 one|");
    free(path);
}

static void print_many(struct fixture *f, int from, int to)
{
    char text[256];

    for (int i = from; i <= to; i++) {
        snprintf(text, sizeof text, "line %06d %0200d", i, i * 7919);
        print(f, text);
        if (i % 1000 == 0)
            flush(f);
    }
    flush(f);
}

static void settle(struct fixture *f)
{
    int64_t until = nd_clock_monotonic() + 10000;
    struct nd_log_stats stats;
    int sealed;

    do {
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        usleep(1000);
        nd_log_app_stats(f->app, &stats);
        sealed = stats.bytes < 8 * 1024 * 1024;
    } while (!sealed && nd_clock_monotonic() < until);
}

static void full_segments_are_sealed_and_read_as_before(void **state)
{
    struct fixture *f = *state;
    struct nd_log_stats stats;

    print_many(f, 1, 60000);
    settle(f);
    nd_log_app_stats(f->app, &stats);
    assert_true(stats.segments >= 3);
    assert_true(stats.bytes < 8 * 1024 * 1024); /* of 14 MB */
    for (int round = 0; round < 2; round++) {
        struct read r = {0};
        struct nd_log_filter filter = {0};
        char *got = find(f, (struct nd_log_filter){.grep = nd_strdup("line 0123")}, 2);

        assert_non_null(strstr(got, "12398 line 012398"));
        assert_non_null(strstr(got, "12399 line 012399"));
        free(got);
        nd_log_read_start(f->app, &filter, ND_LOG_ALL, SIZE_MAX, on_read, &r);
        wait_for(f, &r.done);
        assert_int_equal(r.lines, 60000);
        free(r.text);
        close_store(f);
        open_store(f);
    }
}

static void the_oldest_go_when_it_is_too_much(void **state)
{
    struct fixture *f = *state;
    struct nd_log_stats stats;
    char *got;

    close_store(f);
    f->keep = 100 * 1024;
    open_store(f);
    print_many(f, 1, 60000);
    settle(f);
    turn_until_idle(f);
    nd_log_app_stats(f->app, &stats);
    assert_true(stats.first > 1);
    assert_int_equal(stats.last, 60000);
    assert_true(stats.bytes < 5 * 1024 * 1024); /* the one being written, and no more */
    got = find(f, (struct nd_log_filter){0}, 1);
    assert_non_null(strstr(got, "60000 line 060000"));
    free(got);
}

static void a_lower_limit_holds_from_the_next_line_on(void **state)
{
    struct fixture *f = *state;
    struct nd_log_stats before, after;

    print_many(f, 1, 60000);
    settle(f);
    turn_until_idle(f);
    nd_log_app_stats(f->app, &before);
    nd_log_store_keep(f->store, 100 * 1024);
    print(f, "one more");
    flush(f);
    turn_until_idle(f);
    nd_log_app_stats(f->app, &after);
    assert_int_equal(before.first, 1);
    assert_true(after.first > 1);
    assert_int_equal(after.last, 60001);
    assert_true(after.bytes < before.bytes);
}

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void lines_the_disk_refuses_wait_and_then_are_counted(void **state)
{
    struct fixture *f = *state;
    struct nd_log_stats stats;
    char big[8001], want[64];
    char *got;
    unsigned printed = 0;

    memset(big, 'x', 8000);
    big[8000] = '\0';
    print(f, "one");
    flush(f);
    limit_files(0);
    print(f, "two");
    for (int i = 0; i < 50; i++) {
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        usleep(200);
    }
    for (; printed < 2000; printed++)
        print(f, big);
    nd_log_app_stats(f->app, &stats);
    assert_int_equal(stats.last, 1);
    assert_true(stats.lost > 500);
    limit_files(RLIM_INFINITY);
    print(f, "last");
    flush(f);
    nd_log_app_stats(f->app, &stats);
    assert_int_equal(stats.last, printed + 3); /* a number for each, whether kept or lost */
    got = find(f, (struct nd_log_filter){.grep = nd_strdup("t")}, ND_LOG_ALL);
    snprintf(want, sizeof want, "%u lost %llu|", printed + 3, (unsigned long long)stats.lost);
    if (!strstr(got, want)) /* `last` may have been taken before or after */
        snprintf(want, sizeof want, "lost %llu|", (unsigned long long)stats.lost);
    assert_non_null(strstr(got, "2 two|"));
    assert_non_null(strstr(got, want));
    free(got);
}

enum { UNSENT_MOST = 256 * 1024 };

/* --- followers -------------------------------------------------------------------------------- */

struct reader {
    struct nd_log_follower *follower;
    struct nd_buf text; /* of its frames, a line each */
    size_t unsent;
    uint64_t lines, dropped, last;
    bool stalled, ended;
};

static void reader_send(void *io, const char *frame, size_t length)
{
    struct reader *r = io;

    assert_true(length <= ND_LOG_FRAME_MAX);
    if (strncmp(frame, "{\"dropped\":", 11) == 0) {
        r->dropped += strtoull(frame + 11, NULL, 10);
        return;
    }
    for (const char *at = frame; (at = memmem(at, length - (size_t)(at - frame), "{\"seq\":", 7));
         at += 7) {
        uint64_t seq = strtoull(at + 7, NULL, 10);

        assert_true(seq > r->last);
        r->last = seq;
        r->lines++;
    }
    if (r->stalled)
        r->unsent += length;
    nd_buf_add(&r->text, frame, length);
    nd_buf_adds(&r->text, "\n");
}

static bool reader_full(void *io)
{
    return ((struct reader *)io)->unsent > UNSENT_MOST;
}

static void reader_end(void *io, const char *why)
{
    (void)why;
    ((struct reader *)io)->ended = true;
}

static const struct nd_log_sink sink = {
    .send = reader_send, .full = reader_full, .end = reader_end};

static void follow(struct fixture *f, struct reader *r, struct nd_log_filter filter, uint64_t tail,
                   bool on)
{
    struct nd_log_follow_call call = {
        .filter = filter, .tail = tail, .follow = on, .sink = &sink, .io = r};

    r->follower = nd_log_follow_start(f->app, &call);
}

static void a_follower_gets_what_was_and_what_comes_without_a_gap(void **state)
{
    struct fixture *f = *state;
    struct reader r = {0}, late = {0}, once = {0};
    char text[64];

    for (int i = 1; i <= 40000; i++) {
        snprintf(text, sizeof text, "line %d", i);
        nd_log_source_add(f->source, 1000, false, text, strlen(text));
        if (i % 100 == 0) {
            nd_log_app_kick(f->app);
            uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        }
        if (i == 10000)
            follow(f, &r, (struct nd_log_filter){0}, ND_LOG_ALL, true);
        if (i == 20000)
            follow(f, &late, (struct nd_log_filter){.after = 15000}, ND_LOG_ALL, true);
    }
    flush(f);
    while (r.last < 40000 || late.last < 40000)
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
    assert_int_equal(r.lines + r.dropped, 40000);
    assert_int_equal(late.lines + late.dropped, 25000);
    follow(f, &once, (struct nd_log_filter){0}, 5, false);
    wait_for(f, &once.ended);
    assert_int_equal(once.lines, 5);
    nd_log_follow_stop(r.follower);
    nd_log_follow_stop(late.follower);
    nd_buf_fini(&r.text);
    nd_buf_fini(&late.text);
    nd_buf_fini(&once.text);
}

static void go_on(struct fixture *f, struct reader *r, uint64_t wanted)
{
    int64_t until = nd_clock_monotonic() + 20000;

    r->unsent = 0;
    r->stalled = false;
    nd_log_follow_drained(r->follower);
    while (r->lines + r->dropped < wanted && nd_clock_monotonic() < until) {
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        usleep(100);
    }
}

static void a_reader_who_stalls_is_told_exactly_how_much_it_missed(void **state)
{
    struct fixture *f = *state;
    struct reader slow = {0}, picky = {0}, good = {0};

    follow(f, &slow, (struct nd_log_filter){0}, 0, true);
    follow(f, &picky, (struct nd_log_filter){.grep = nd_strdup("7 ")}, 0, true);
    follow(f, &good, (struct nd_log_filter){0}, 0, true);
    flush(f);
    slow.stalled = picky.stalled = true;
    print_many(f, 1, 60000);
    assert_true(slow.unsent <= UNSENT_MOST + ND_LOG_FRAME_MAX);
    assert_true(picky.unsent <= UNSENT_MOST + ND_LOG_FRAME_MAX);
    assert_int_equal(good.lines, 60000);
    assert_true(slow.lines < 10000);
    go_on(f, &slow, 60000); /* not too far behind: it gets them all */
    go_on(f, &picky, 6000);
    assert_int_equal(slow.dropped + picky.dropped, 0);
    assert_int_equal(slow.lines, 60000);
    assert_int_equal(picky.lines, 6000);
    slow.stalled = picky.stalled = true;
    print_many(f, 1, 150000);
    go_on(f, &slow, 210000);
    go_on(f, &picky, 21000);
    assert_int_equal(slow.lines + slow.dropped, 210000);
    assert_true(slow.dropped > 100000);
    assert_int_equal(picky.lines + picky.dropped, 21000);
    assert_true(picky.dropped > 10000);
    print(f, "number 7 again");
    flush(f);
    assert_int_equal(slow.lines + slow.dropped, 210001);
    assert_int_equal(picky.lines + picky.dropped, 21001);
    assert_int_equal(good.lines, 210001);
    nd_log_follow_stop(slow.follower);
    nd_log_follow_stop(picky.follower);
    nd_log_follow_stop(good.follower);
    nd_buf_fini(&slow.text);
    nd_buf_fini(&picky.text);
    nd_buf_fini(&good.text);
}

static void whatever_is_printed_is_told_as_json_in_frames_of_64_kib(void **state)
{
    struct fixture *f = *state;
    struct reader r = {0};
    char worst[ND_LOG_LINE_MAX];

    follow(f, &r, (struct nd_log_filter){0}, 0, true);
    flush(f);
    memset(worst, 1, sizeof worst); /* six bytes of JSON each */
    for (int i = 0; i < 3; i++)
        nd_log_source_add(f->source, 1000, false, worst, sizeof worst);
    print(f, "\xff\xc3\x28 \xe2\x82\xac \xed\xa0\x80 \"\\\t\x1b");
    flush(f);
    assert_int_equal(r.lines, 4);
    assert_non_null(strstr(r.text.data,
                           "\"line\":\"\xef\xbf\xbd\xef\xbf\xbd( \xe2\x82\xac "
                           "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd \\\"\\\\\\t\\u001b\"}"));
    nd_log_follow_stop(r.follower);
    nd_buf_fini(&r.text);
}

static void a_removed_log_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct reader r = {0};
    char *dir = nd_log_store_dir(f->store, 7);

    print(f, "one");
    flush(f);
    follow(f, &r, (struct nd_log_filter){0}, 0, true);
    print(f, "two");
    nd_log_app_remove(f->app);
    assert_true(r.ended);
    turn_until_idle(f);
    assert_int_not_equal(access(dir, F_OK), 0);
    nd_buf_fini(&r.text);
    free(dir);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(lines_are_found_by_what_they_are),
        TEST(numbers_go_on_after_a_restart),
        TEST(a_file_torn_at_any_byte_loses_its_last_write_at_most),
        TEST(a_damaged_byte_is_no_line),
        TEST(full_segments_are_sealed_and_read_as_before),
        TEST(the_oldest_go_when_it_is_too_much),
        TEST(a_lower_limit_holds_from_the_next_line_on),
        TEST(lines_the_disk_refuses_wait_and_then_are_counted),
        TEST(a_follower_gets_what_was_and_what_comes_without_a_gap),
        TEST(a_reader_who_stalls_is_told_exactly_how_much_it_missed),
        TEST(whatever_is_printed_is_told_as_json_in_frames_of_64_kib),
        TEST(a_removed_log_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
