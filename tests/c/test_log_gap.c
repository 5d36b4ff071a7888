/*
 * test_log_gap.c - a line told twice, or not at all, after the daemon was away.
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
#include "engine/log_gap.h"

/* "10 one|11 !err|...": time and text; '!' is stderr. */
static struct nd_log_lines lines_of(const char *text)
{
    struct nd_log_lines lines = {0};
    char *copy = nd_strdup(text), *save = NULL;

    for (char *item = strtok_r(copy, "|", &save); item; item = strtok_r(NULL, "|", &save)) {
        char *word;
        long time = strtol(item, &word, 10);

        word += *word == ' ';
        nd_log_lines_add(&lines, time, *word == '!', word + (*word == '!'),
                         strlen(word) - (*word == '!'));
    }
    free(copy);
    return lines;
}

static void join(const char *stored, const char *docker, const char *live, long opened,
                 const char *want)
{
    struct nd_log_lines s = lines_of(stored), d = lines_of(docker), l = lines_of(live);
    struct nd_buf got = {0};

    nd_log_gap_join(&s, &d, &l, opened);
    for (size_t i = 0; i < d.count + l.count; i++) {
        const struct nd_log_lines *lines = i < d.count ? &d : &l;
        const struct nd_log_entry *e = &lines->list[i < d.count ? i : i - d.count];

        if (e->known)
            continue;
        nd_buf_adds(&got, got.length ? "|" : "");
        nd_buf_add(&got, lines->text.data + e->at, e->length);
    }
    assert_string_equal(got.data ? got.data : "", want);
    nd_buf_fini(&got);
    nd_log_lines_fini(&s);
    nd_log_lines_fini(&d);
    nd_log_lines_fini(&l);
}

static void what_is_stored_is_not_told_again(void **state)
{
    (void)state;
    join("10 a|11 b|12 c", "9 a|10 b|11 c|20 d|21 e", "", 100, "d|e");
    join("10 a|11 b|12 c", "11 c", "", 100, "");
    join("10 a|11 b|12 c", "9 x|10 y", "", 100, "x|y");
    join("", "9 x|10 y", "", 100, "x|y");
    join("12 c", "9 a|10 b|11 c|20 d", "", 100, "d"); /* what was looked at begins later */
    join("10 a|11 !e|12 b", "10 a|12 b|11 !e|13 !f|14 c", "", 100, "f|c");
}

static void lines_that_are_alike_are_told_apart_by_time(void **state)
{
    (void)state;
    join("1000 tick|2000 tick|3000 tick", "1999 tick|2999 tick|3999 tick|4999 tick", "", 9000,
         "tick|tick");
    join("1000 tick|2000 tick|3000 tick", "2999 tick", "", 9000, "");
}

static void what_the_stream_brings_too_is_told_once(void **state)
{
    (void)state;
    join("10 a", "9 a|20 b|101 c|102 d", "103 c|104 d|105 e", 100, "b|c|d|e");
    join("10 a", "9 a|20 b", "103 c", 100, "b|c");
    join("10 a", "9 a|101 b|102 c", "102 c", 100, "b|c");
    join("10 a", "9 a|101 b|102 b", "103 b|104 b|105 b", 100, "b|b|b");
    /* Opened within a line: its end comes by the stream, the whole of it is in Docker's log. */
    join("10 a", "9 a|101 number 17|102 number 18", "101 er 17|102 number 18|103 x", 100,
         "number 17|number 18|x");
    /* Not by accident: what was logged before the stream was asked for can't be in it. */
    join("10 a", "9 a|50 b|60 c", "101 b|102 c", 100, "b|c|b|c");
}

static void a_line_that_was_lost_once_does_not_bring_back_those_before(void **state)
{
    (void)state;
    join("10 a|11 b|14 e|15 f", "10 a|11 b|12 c|13 d|14 e|15 f|16 g", "", 100, "g");
    join("10 a|14 e|15 e", "10 a|13 d|14 e|15 e|16 e", "", 100, "e");
}

static bool reaches(const char *docker, const char *live)
{
    struct nd_log_lines s = {0}, d = lines_of(docker), l = lines_of(live);
    bool joined = nd_log_gap_join(&s, &d, &l, 100);

    nd_log_lines_fini(&d);
    nd_log_lines_fini(&l);
    return joined;
}

static void a_log_that_does_not_reach_up_to_the_stream_is_noticed(void **state)
{
    (void)state;
    assert_true(reaches("10 a|101 b", "102 b|103 c"));
    assert_true(reaches("10 a|101 b", ""));
    assert_false(reaches("10 a|101 b", "105 d"));
    assert_false(reaches("10 a|101 b", "102 b|103 !err"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_stored_is_not_told_again),
        cmocka_unit_test(lines_that_are_alike_are_told_apart_by_time),
        cmocka_unit_test(what_the_stream_brings_too_is_told_once),
        cmocka_unit_test(a_line_that_was_lost_once_does_not_bring_back_those_before),
        cmocka_unit_test(a_log_that_does_not_reach_up_to_the_stream_is_noticed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
