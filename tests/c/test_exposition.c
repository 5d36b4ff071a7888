/*
 * test_exposition.c - the text that Prometheus reads, and the rings that history is kept in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/exposition.h"
#include "engine/series.h"

static void test_names(void **state)
{
    static const char *const good[] = {"a", "_", "nextdeploy_host_cpus", "A9_b"};
    static const char *const bad[] = {"", "9a", "a-b", "a b", "a\n", "\xc3\xa9", "a\"", "a{"};

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(nd_exposition_name(good[i], false));
        assert_true(nd_exposition_name(good[i], true));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(nd_exposition_name(bad[i], false));
    assert_true(nd_exposition_name("a:b", false));
    assert_false(nd_exposition_name("a:b", true));
}

static void test_a_family_with_samples(void **state)
{
    struct nd_buf out = {0}, labels = {0};

    (void)state;
    nd_exposition_family(&out, "n_seconds", "histogram", "How \"long\",\nin C:\\.");
    nd_exposition_label(&labels, "app", "a\"b\\c\nd");
    nd_exposition_label(&labels, "le", "+Inf");
    nd_exposition_sample(&out, "n_seconds", "_bucket", labels.data, 3);
    nd_exposition_sample(&out, "n_seconds", "_count", "", 3);
    assert_string_equal(out.data, "# HELP n_seconds How \"long\",\\nin C:\\\\.\n"
                                  "# TYPE n_seconds histogram\n"
                                  "n_seconds_bucket{app=\"a\\\"b\\\\c\\nd\",le=\"+Inf\"} 3\n"
                                  "n_seconds_count 3\n");
    nd_buf_fini(&out);
    nd_buf_fini(&labels);
}

static void test_what_isn_t_utf8_in_a_label_is_replaced(void **state)
{
#define R "\xef\xbf\xbd"
    static const char *const pairs[][2] = {
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"a\xff", "a" R},
        {"\xc3", R},
        {"\xe2\x82", R R},
        {"\xc0\x80", R R},             /* a longer form than needed */
        {"\xed\xa0\x80", R R R},       /* a surrogate */
        {"\xf4\x90\x80\x80", R R R R}, /* above U+10FFFF */
    };
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct nd_buf labels = {0};
        char wanted[64];

        nd_exposition_label(&labels, "l", pairs[i][0]);
        snprintf(wanted, sizeof wanted, "l=\"%s\"", pairs[i][1]);
        assert_string_equal(labels.data, wanted);
        nd_buf_fini(&labels);
    }
}

static void test_numbers_are_read_as_they_were(void **state)
{
    static const double values[] = {0,
                                    1,
                                    -1,
                                    0.1,
                                    1.0 / 3,
                                    1e300,
                                    5e-324,
                                    9007199254740991.0,
                                    1e15,
                                    1e21,
                                    20.761606,
                                    0.000001,
                                    123456789.123456789};
    static const struct {
        double value;
        const char *text;
    } texts[] = {{NAN, "m NaN\n"},        {INFINITY, "m +Inf\n"},
                 {-INFINITY, "m -Inf\n"}, {25276063744.0, "m 25276063744\n"},
                 {0.25, "m 0.25\n"},      {-0.5, "m -0.5\n"}};
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct nd_buf out = {0};

        nd_exposition_sample(&out, "m", "", "", values[i]);
        assert_true(strtod(out.data + 2, NULL) == values[i]);
        nd_buf_fini(&out);
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct nd_buf out = {0};

        nd_exposition_sample(&out, "m", "", "", texts[i].value);
        assert_string_equal(out.data, texts[i].text);
        nd_buf_fini(&out);
    }
}

/* ---- rings ---- */

static void put(struct nd_series *s, int64_t time, double a, double b)
{
    nd_series_put(s, time, (double[]){a, b});
}

static double mean(struct nd_series *s, int column, int64_t from, int64_t to)
{
    return nd_series_mean(s, column, from, to).mean;
}

static void test_a_ring_keeps_its_last_rows(void **state)
{
    struct nd_series *s = nd_series_new(2, 1000, 100);

    (void)state;
    assert_int_equal(nd_series_end(s), 0);
    assert_true(isnan(mean(s, 0, 0, 1000000)));
    for (int i = 0; i < 250; i++)
        put(s, 5000000 + i * 1000, i, -i);
    assert_int_equal(nd_series_oldest(s), 5150000);
    assert_int_equal(nd_series_end(s), 5250000);
    assert_true(isnan(mean(s, 0, 5149000, 5150000)));
    for (int i = 150; i < 250; i++) {
        assert_true(mean(s, 0, 5000000 + i * 1000, 5001000 + i * 1000) == i);
        assert_true(mean(s, 1, 5000000 + i * 1000, 5001000 + i * 1000) == -i);
    }
    assert_true(mean(s, 0, 5240000, 5250000) == 244.5);
    assert_true(nd_series_mean(s, 0, 0, 9000000).most == 249);
    assert_true(nd_series_bytes(s) < 100 * 2 * 4 + 200);
    nd_series_free(s);
}

static void test_a_ring_grows_with_what_is_put_in(void **state)
{
    struct nd_series *s = nd_series_new(2, 1000, 10000);

    (void)state;
    put(s, 1000, 1, 1);
    assert_true(nd_series_bytes(s) < 1000);
    for (int i = 0; i < 777; i++)
        put(s, 1000 + i * 1000, i, i);
    for (int i = 0; i < 777; i++)
        assert_true(mean(s, 1, 1000 + i * 1000, 2000 + i * 1000) == i);
    nd_series_free(s);
}

static void test_gaps_are_unknown(void **state)
{
    struct nd_series *s = nd_series_new(2, 1000, 50);

    (void)state;
    put(s, 10000, 1, NAN);
    put(s, 13000, 4, 8);
    assert_true(isnan(mean(s, 0, 11000, 13000)));
    assert_true(mean(s, 0, 10000, 14000) == 2.5);
    assert_true(mean(s, 1, 10000, 14000) == 8);
    put(s, 11000, 7, 7); /* a little late */
    assert_true(mean(s, 0, 11000, 12000) == 7);
    put(s, 900000, 5, 5); /* after more than the ring holds */
    assert_true(isnan(mean(s, 0, 0, 900000)));
    assert_true(mean(s, 0, 0, 2000000) == 5);
    put(s, 20000, 6, 6); /* the clock was set back */
    assert_true(mean(s, 0, 0, 2000000) == 6);
    assert_int_equal(nd_series_end(s), 21000);
    nd_series_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_a_family_with_samples),
        cmocka_unit_test(test_what_isn_t_utf8_in_a_label_is_replaced),
        cmocka_unit_test(test_numbers_are_read_as_they_were),
        cmocka_unit_test(test_a_ring_keeps_its_last_rows),
        cmocka_unit_test(test_a_ring_grows_with_what_is_put_in),
        cmocka_unit_test(test_gaps_are_unknown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
