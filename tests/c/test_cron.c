/*
 * test_cron.c - when schedules are due: fields, days, leap years, and clocks that change.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "engine/cron.h"

struct due {
    const char *expr, *zone, *after, *next; /* times in UTC, "2026-01-31 12:00:30" */
};

static int64_t ms_of(const char *text)
{
    int y, mo, d, h, mi, s;

    assert_int_equal(sscanf(text, "%d-%d-%d %d:%d:%d", &y, &mo, &d, &h, &mi, &s), 6);
    return ((nd_days_of(y, mo, d) * 24 + h) * 60 + mi) * 60000 + s * 1000;
}

static void hold(const struct due *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct due *c = &cases[i];
        struct nd_err err = {0};
        struct nd_cron cron;
        struct nd_zone *zone = nd_zone_open(c->zone, &err);
        char got[40];

        if (!zone || nd_cron_parse(&cron, c->expr, &err) < 0)
            fail_msg("%s in %s: %s", c->expr, c->zone, err.message);
        nd_clock_format(nd_cron_next(&cron, zone, ms_of(c->after)), got, sizeof got);
        got[10] = ' ';
        got[19] = '\0';
        if (strcmp(got, c->next) != 0)
            fail_msg("%s in %s after %s: %s, not %s", c->expr, c->zone, c->after, got, c->next);
        nd_zone_free(zone);
    }
}

#define HOLD(cases) hold(cases, sizeof(cases) / sizeof *(cases))

static void fields_mean_what_they_say(void **state)
{
    static const struct due cases[] = {
        {"* * * * *", "UTC", "2026-01-31 12:00:00", "2026-01-31 12:01:00"},
        {"* * * * *", "UTC", "2026-01-31 12:00:59", "2026-01-31 12:01:00"},
        {"* * * * *", "UTC", "2026-12-31 23:59:01", "2027-01-01 00:00:00"},
        {"*/5 * * * *", "UTC", "2026-01-31 12:01:00", "2026-01-31 12:05:00"},
        {"*/5 * * * *", "UTC", "2026-01-31 12:05:00", "2026-01-31 12:10:00"},
        {"*/7 * * * *", "UTC", "2026-01-31 12:56:00", "2026-01-31 13:00:00"},
        {"30 4 * * *", "UTC", "2026-01-31 04:30:00", "2026-02-01 04:30:00"},
        {"30 4 * * *", "UTC", "2026-01-31 04:29:59", "2026-01-31 04:30:00"},
        {"0 9-17/4 * * *", "UTC", "2026-01-31 09:00:00", "2026-01-31 13:00:00"},
        {"0 9-17/4 * * *", "UTC", "2026-01-31 17:00:00", "2026-02-01 09:00:00"},
        {"5,10,40-42 6 * * *", "UTC", "2026-01-31 06:10:00", "2026-01-31 06:40:00"},
        {"5,10,40-42 6 * * *", "UTC", "2026-01-31 06:42:00", "2026-02-01 06:05:00"},
        {"0 22-23,0-5 * * *", "UTC", "2026-01-31 05:00:00", "2026-01-31 22:00:00"},
        {"15 14 1 * *", "UTC", "2026-01-02 00:00:00", "2026-02-01 14:15:00"},
        {"0 0 1 jan *", "UTC", "2026-01-01 00:00:00", "2027-01-01 00:00:00"},
        {"0 0 1 Jan,JUL *", "UTC", "2026-01-01 00:00:00", "2026-07-01 00:00:00"},
        {"0 0 1 mar-may *", "UTC", "2026-05-01 00:00:00", "2027-03-01 00:00:00"},
        {"0 12 * * 1-5", "UTC", "2026-01-30 12:00:00", "2026-02-02 12:00:00"}, /* a Friday */
        {"0 12 * * mon-fri", "UTC", "2026-01-31 12:00:00", "2026-02-02 12:00:00"},
        {"0 12 * * 0", "UTC", "2026-01-31 12:00:00", "2026-02-01 12:00:00"},
        {"0 12 * * 7", "UTC", "2026-01-31 12:00:00", "2026-02-01 12:00:00"},
        {"0 12 * * sat-sun", "UTC", "2026-01-31 12:00:00", "2026-02-01 12:00:00"},
        {"0 12 * * 5-7", "UTC", "2026-02-01 12:00:00", "2026-02-06 12:00:00"},
        {"@yearly", "UTC", "2026-01-31 12:00:00", "2027-01-01 00:00:00"},
        {"@annually", "UTC", "2026-01-31 12:00:00", "2027-01-01 00:00:00"},
        {"@monthly", "UTC", "2026-01-31 12:00:00", "2026-02-01 00:00:00"},
        {"@weekly", "UTC", "2026-01-31 12:00:00", "2026-02-01 00:00:00"},
        {"@daily", "UTC", "2026-01-31 12:00:00", "2026-02-01 00:00:00"},
        {"@Midnight", "UTC", "2026-01-31 12:00:00", "2026-02-01 00:00:00"},
        {"@hourly", "UTC", "2026-01-31 12:00:00", "2026-01-31 13:00:00"},
        {"  0\t0  * * *  ", "UTC", "2026-01-31 12:00:00", "2026-02-01 00:00:00"},
    };

    (void)state;
    HOLD(cases);
}

static void days_of_month_and_week_combine_as_in_vixie_cron(void **state)
{
    static const struct due cases[] = {
        {"0 0 13 * 5", "UTC", "2026-01-31 12:00:00", "2026-02-06 00:00:00"}, /* either */
        {"0 0 13 * 5", "UTC", "2026-02-06 00:00:00", "2026-02-13 00:00:00"},
        {"0 0 */13 * 5", "UTC", "2026-01-31 12:00:00", "2026-02-27 00:00:00"}, /* both: 1, 14, 27 */
        {"0 0 13 * */5", "UTC", "2026-01-31 12:00:00", "2026-02-13 00:00:00"}, /* both: Sun, Fri */
        {"0 0 13 * *", "UTC", "2026-02-13 00:00:00", "2026-03-13 00:00:00"},
        {"0 0 * * 5", "UTC", "2026-02-13 00:00:00", "2026-02-20 00:00:00"},
        {"0 0 31 * 1", "UTC", "2026-02-02 00:00:00", "2026-02-09 00:00:00"},
    };

    (void)state;
    HOLD(cases);
}

static void months_and_leap_years_have_the_days_they_have(void **state)
{
    static const struct due cases[] = {
        {"0 0 31 * *", "UTC", "2026-01-31 00:00:00", "2026-03-31 00:00:00"},
        {"0 0 30 * *", "UTC", "2026-01-30 00:00:00", "2026-03-30 00:00:00"},
        {"0 0 29 2 *", "UTC", "2026-01-01 00:00:00", "2028-02-29 00:00:00"},
        {"0 0 29 2 *", "UTC", "2028-02-29 00:00:00", "2032-02-29 00:00:00"},
        {"0 0 29 2 *", "UTC", "2096-02-29 00:00:00", "2104-02-29 00:00:00"}, /* 2100 has none */
        {"0 0 29 2 *", "UTC", "1999-12-31 23:59:00", "2000-02-29 00:00:00"}, /* 2000 has one */
        {"0 0 29 * *", "UTC", "2027-01-29 00:00:00", "2027-03-29 00:00:00"},
        {"0 0 29 2 */7", "UTC", "2026-01-01 00:00:00", "2032-02-29 00:00:00"}, /* on a Sunday */
        {"59 23 31 12 *", "UTC", "2026-12-31 23:59:00", "2027-12-31 23:59:00"},
        {"0 0 1 1 *", "UTC", "2099-12-31 23:59:59", "2100-01-01 00:00:00"},
    };

    (void)state;
    HOLD(cases);
}

static void zones_move_the_clock(void **state)
{
    static const struct due cases[] = {
        {"0 9 * * *", "Europe/Berlin", "2026-01-15 00:00:00", "2026-01-15 08:00:00"},
        {"0 9 * * *", "Europe/Berlin", "2026-07-15 00:00:00", "2026-07-15 07:00:00"},
        {"0 9 * * *", "Europe/Berlin", "2060-07-15 00:00:00",
         "2060-07-15 07:00:00"}, /* by the rule */
        {"0 9 * * *", "America/New_York", "2026-01-15 00:00:00", "2026-01-15 14:00:00"},
        {"0 9 * * *", "Asia/Kolkata", "2026-01-15 00:00:00", "2026-01-15 03:30:00"},
        {"0 9 * * *", "Asia/Kathmandu", "2026-01-15 00:00:00", "2026-01-15 03:15:00"},
        {"0 0 1 * *", "Pacific/Auckland", "2026-01-15 00:00:00", "2026-01-31 11:00:00"},
        {"0 0 * * 1", "Pacific/Honolulu", "2026-01-31 00:00:00", "2026-02-02 10:00:00"},
        {"0 0 * * *", "Pacific/Kiritimati", "2026-01-31 00:00:00", "2026-01-31 10:00:00"},
        {"0 0 * * *", "Etc/GMT+12", "2026-01-31 00:00:00", "2026-01-31 12:00:00"},
        {"0 12 30 * *", "Pacific/Apia", "2011-12-01 00:00:00",
         "2012-01-29 22:00:00"}, /* no such day */
        {"0 3 * * *", "Africa/Casablanca", "2026-06-01 00:00:00", "2026-06-01 02:00:00"},
    };

    (void)state;
    HOLD(cases);
}

static void the_hour_that_is_left_out_is_made_up_for_once(void **state)
{
    static const struct due cases[] = {
        /* 2026-03-29 02:00 becomes 03:00 (01:00 UTC). */
        {"30 2 * * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 01:00:00"},
        {"30 2 * * *", "Europe/Berlin", "2026-03-29 01:00:00", "2026-03-30 00:30:00"},
        {"0,15,30 2 * * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 01:00:00"},
        {"0,15,30 2 * * *", "Europe/Berlin", "2026-03-29 01:00:00", "2026-03-30 00:00:00"},
        {"0 2,3 * * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 01:00:00"},
        {"0 2,3 * * *", "Europe/Berlin", "2026-03-29 01:00:00", "2026-03-30 00:00:00"},
        {"30 2 29 3 *", "Europe/Berlin", "2026-01-01 00:00:00", "2026-03-29 01:00:00"},
        {"0 3 * * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 01:00:00"},
        {"30 1 * * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 00:30:00"},
        /* With a *, what the clock shows. */
        {"*/20 2 * * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-30 00:00:00"},
        {"30 * * * *", "Europe/Berlin", "2026-03-29 00:30:00", "2026-03-29 01:30:00"},
        {"*/30 * * * *", "Europe/Berlin", "2026-03-29 00:30:00", "2026-03-29 01:00:00"},
        {"0 */2 * * *", "Europe/Berlin", "2026-03-28 23:30:00", "2026-03-29 02:00:00"},
        /* 2026-03-08 02:00 becomes 03:00 (07:00 UTC). */
        {"30 2 * * *", "America/New_York", "2026-03-07 12:00:00", "2026-03-08 07:00:00"},
        {"30 2 * * *", "America/New_York", "2026-03-08 07:00:00", "2026-03-09 06:30:00"},
        /* 2026-10-04 02:00 becomes 02:30 (2026-10-03 15:30 UTC). */
        {"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00:00", "2026-10-03 15:30:00"},
        {"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 15:30:00", "2026-10-04 15:15:00"},
        {"30 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00:00", "2026-10-03 15:30:00"},
        {"*/10 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00:00", "2026-10-03 15:30:00"},
        /* 2026-09-06 00:00 becomes 01:00 in Chile (04:00 UTC). */
        {"0 0 * * *", "America/Santiago", "2026-09-05 12:00:00", "2026-09-06 04:00:00"},
    };

    (void)state;
    HOLD(cases);
}

static void the_hour_that_comes_twice_counts_once(void **state)
{
    static const struct due cases[] = {
        /* 2026-10-25 03:00 becomes 02:00 (01:00 UTC). */
        {"30 2 * * *", "Europe/Berlin", "2026-10-24 12:00:00", "2026-10-25 00:30:00"},
        {"30 2 * * *", "Europe/Berlin", "2026-10-25 00:30:00", "2026-10-26 01:30:00"},
        {"30 2 * * *", "Europe/Berlin", "2026-10-25 01:10:00", "2026-10-26 01:30:00"},
        {"0 2,3 * * *", "Europe/Berlin", "2026-10-25 00:00:00", "2026-10-25 02:00:00"},
        {"0 3 * * *", "Europe/Berlin", "2026-10-25 00:30:00", "2026-10-25 02:00:00"},
        {"0 4 * * *", "Europe/Berlin", "2026-10-25 01:30:00", "2026-10-25 03:00:00"},
        /* With a *, both times. */
        {"30 * * * *", "Europe/Berlin", "2026-10-25 00:30:00", "2026-10-25 01:30:00"},
        {"*/30 2 * * *", "Europe/Berlin", "2026-10-25 00:30:00", "2026-10-25 01:00:00"},
        {"*/30 2 * * *", "Europe/Berlin", "2026-10-25 01:30:00", "2026-10-26 01:00:00"},
        /* 2026-11-01 02:00 becomes 01:00 (06:00 UTC). */
        {"30 1 * * *", "America/New_York", "2026-10-31 12:00:00", "2026-11-01 05:30:00"},
        {"30 1 * * *", "America/New_York", "2026-11-01 05:30:00", "2026-11-02 06:30:00"},
        {"0 1 1 11 *", "America/New_York", "2026-11-01 05:00:00", "2027-11-01 05:00:00"},
        /* 2026-04-05 02:00 becomes 01:30 (2026-04-04 15:00 UTC). */
        {"45 1 * * *", "Australia/Lord_Howe", "2026-04-04 00:00:00", "2026-04-04 14:45:00"},
        {"45 1 * * *", "Australia/Lord_Howe", "2026-04-04 14:45:00", "2026-04-05 15:15:00"},
        {"*/15 1 * * *", "Australia/Lord_Howe", "2026-04-04 14:45:00", "2026-04-04 15:00:00"},
        {"*/15 1 * * *", "Australia/Lord_Howe", "2026-04-04 15:15:00", "2026-04-05 14:30:00"},
    };

    (void)state;
    HOLD(cases);
}

static void bad_expressions_are_named(void **state)
{
    static const struct {
        const char *expr, *names;
    } cases[] = {
        {"60 * * * *", "minute: 60 is not within 0-59"},
        {"* 24 * * *", "hour: 24 is not within 0-23"},
        {"* * 0 * *", "day of month: 0 is not within 1-31"},
        {"* * 32 * *", "day of month: 32"},
        {"* * * 13 *", "month: 13"},
        {"* * * foo *", "month: 'foo' is not a number or a name"},
        {"* * * * 8", "day of week: 8 is not within 0-7"},
        {"* * * * monday", "day of week"},
        {"mon * * * *", "minute: 'mon' is not a number"},
        {"*/0 * * * *", "minute: the step"},
        {"*/ * * * *", "minute: the step"},
        {"5/15 * * * *", "minute: a step needs a range"},
        {"30-10 * * * *", "minute: a range ends before it begins"},
        {"1, * * * *", "minute: 'nothing'"},
        {"1--5 * * * *", "minute"},
        {"-1 * * * *", "minute"},
        {"1.5 * * * *", "minute"},
        {"99999999999999999999 * * * *", "minute"},
        {"0 0 ? * *", "day of month"},
        {"0 0 L * *", "day of month"},
        {"0 0 * * 5#2", "day of week"},
        {"* * * *", "4 fields, not five"},
        {"", "0 fields"},
        {"0 0 12 * * ?", "over 5 fields"},
        {"* * * * * 2026", "over 5 fields"},
        {"@reboot", "\"@reboot\" is no schedule"},
        {"@every 5m", "is no schedule"},
        {"0 0 31 2 *", "never due"},
        {"0 0 30 feb *", "never due"},
        {"0 0 31 4,6,9,11 *", "never due"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct nd_err err = {0};
        struct nd_cron cron;

        assert_int_equal(nd_cron_parse(&cron, cases[i].expr, &err), -1);
        assert_string_equal(err.code, "bad_schedule");
        if (!strstr(err.message, cases[i].names))
            fail_msg("%s: %s", cases[i].expr, err.message);
    }
}

static void unknown_zones_are_named(void **state)
{
    static const char *const names[] = {"Europe/Berln", "",    "/etc/passwd", "../../etc/passwd",
                                        "Europe",       "a b", "tzdata.zi"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct nd_err err = {0};

        assert_null(nd_zone_open(names[i], &err));
        assert_string_equal(err.code, "bad_zone");
        assert_non_null(strstr(err.message, names[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_mean_what_they_say),
        cmocka_unit_test(days_of_month_and_week_combine_as_in_vixie_cron),
        cmocka_unit_test(months_and_leap_years_have_the_days_they_have),
        cmocka_unit_test(zones_move_the_clock),
        cmocka_unit_test(the_hour_that_is_left_out_is_made_up_for_once),
        cmocka_unit_test(the_hour_that_comes_twice_counts_once),
        cmocka_unit_test(bad_expressions_are_named),
        cmocka_unit_test(unknown_zones_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
