/*
 * test_log_redact.c - a secret that would be stored: at an edge, beside another, or cut in two.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/log_redact.h"

static struct nd_redact *with(const char *const *values)
{
    struct nd_redact *r = nd_redact_new();

    for (; *values; values++)
        assert_int_equal(nd_redact_add(r, *values, strlen(*values), NULL), 0);
    return r;
}

static void expect(const char *const *values, const char *in, const char *want)
{
    struct nd_redact *r = with(values);
    struct nd_buf out = {0};

    assert_int_equal(nd_redact_text(r, &out, in, strlen(in), false), 0);
    assert_string_equal(out.data ? out.data : "", want);
    nd_buf_fini(&out);
    nd_redact_free(r);
}

static void values_are_taken_out_wherever_they_stand(void **state)
{
    static const char *const one[] = {"hunter2", NULL};
    static const char *const two[] = {"abcdef", "cdefgh", "secret-long", "secret", NULL};

    (void)state;
    expect(one, "hunter2", "[redacted]");
    expect(one, "hunter", "hunter");
    expect(one, "", "");
    expect(one, "a hunter2", "a [redacted]");
    expect(one, "hunter2 b", "[redacted] b");
    expect(one, "hunter2hunter2,hunter2", "[redacted][redacted],[redacted]");
    expect(one, "hhunter2", "h[redacted]");
    expect(two, "xabcdefghx", "x[redacted]x");
    expect(two, "secret-long secret-lon", "[redacted] [redacted]-lon");
    expect(two, "abcdefabcdef", "[redacted][redacted]");
}

static void a_value_of_several_lines_counts_as_its_lines(void **state)
{
    static const char *const key[] = {"-----BEGIN KEY\r\nMIIBVgIB\nADANB\n\n--", NULL};

    (void)state;
    expect(key, "MIIBVgIB", "[redacted]");
    expect(key, "-----BEGIN KEY", "[redacted]");
    expect(key, "x ADANB y", "x [redacted] y");
    expect(key, "--", "--"); /* shorter than ND_REDACT_LEAST */
}

static void values_too_short_to_be_secrets_are_left(void **state)
{
    static const char *const shorts[] = {"abc", "", "1", NULL};
    struct nd_redact *r = with(shorts);

    (void)state;
    assert_true(nd_redact_is_empty(r));
    nd_redact_free(r);
    expect(shorts, "abc 1", "abc 1");
}

/* A long text in pieces of every size, cut anywhere, is redacted as in one. */
static void a_value_cut_in_two_is_found(void **state)
{
    static const char *const values[] = {"hunter2", "correct horse battery", "horse-", NULL};
    static const char in[] = "x correct horse battery hunter2hunter correct horse- batter hunter2 "
                             "correct horse batterhunter2";
    static const char want[] = "x [redacted] [redacted]hunter correct [redacted] batter [redacted] "
                               "correct horse batter[redacted]";
    struct nd_redact *r = with(values);

    (void)state;
    for (size_t size = 1; size < sizeof in; size++) {
        struct nd_buf carry = {0}, clean = {0}, all = {0};

        for (size_t at = 0; at < sizeof in - 1; at += size) {
            size_t n = sizeof in - 1 - at < size ? sizeof in - 1 - at : size;
            bool more = at + n < sizeof in - 1;
            size_t held;

            nd_buf_add(&carry, in + at, n);
            held = nd_redact_text(r, &clean, carry.data, carry.length, more);
            assert_true(more || held == 0);
            nd_buf_drop(&carry, carry.length - held);
            nd_buf_add(&all, clean.data, clean.length);
        }
        assert_string_equal(all.data, want);
        nd_buf_fini(&carry);
        nd_buf_fini(&clean);
        nd_buf_fini(&all);
    }
    nd_redact_free(r);
}

/* Against a search that looks at every byte. */
static void any_text_is_redacted_as_by_looking_at_every_byte(void **state)
{
    static const char *const values[] = {"abab", "babba", "aaaaab", "bbbbbb", "abcabcabc", NULL};
    struct nd_redact *r = with(values);
    struct nd_buf out = {0};
    char in[64];

    (void)state;
    srand(1);
    for (int round = 0; round < 20000; round++) {
        struct nd_buf want = {0};
        size_t length = (size_t)rand() % sizeof in;
        size_t from = 0, to = 0, copied = 0;

        for (size_t i = 0; i < length; i++)
            in[i] = "aaabbbc"[rand() % 7];
        for (size_t at = 0; at < length; at++)
            for (size_t i = 0; values[i]; i++) {
                size_t n = strlen(values[i]);

                if (n > length - at || memcmp(in + at, values[i], n) != 0 || at + n <= to)
                    continue;
                if (at >= to) {
                    if (to > from)
                        nd_buf_adds(&want, ND_REDACT_TEXT);
                    nd_buf_add(&want, in + copied, at - copied);
                    from = at;
                }
                copied = to = at + n;
            }
        if (to > from)
            nd_buf_adds(&want, ND_REDACT_TEXT);
        nd_buf_add(&want, in + copied, length - copied);
        nd_redact_text(r, &out, in, length, false);
        assert_string_equal(out.data, want.data);
        nd_buf_fini(&want);
    }
    nd_buf_fini(&out);
    nd_redact_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_taken_out_wherever_they_stand),
        cmocka_unit_test(a_value_of_several_lines_counts_as_its_lines),
        cmocka_unit_test(values_too_short_to_be_secrets_are_left),
        cmocka_unit_test(a_value_cut_in_two_is_found),
        cmocka_unit_test(any_text_is_redacted_as_by_looking_at_every_byte),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
