/*
 * cron.h - cron expressions: five fields, and when they are due next.
 *
 *     minute  hour  day of month  month    day of week
 *     0-59    0-23  1-31          1-12     0-7 (0 and 7: Sunday)
 *             each: * | a | a-b, with a step as in "*" "/5" or 9-17/2, in lists 1,15,30-40
 *
 * Months and weekdays may be named (jan, mon); @yearly, @annually, @monthly, @weekly, @daily,
 * @midnight, @hourly stand for their five fields. Where both days are restricted (neither field
 * begins with *), either will do; else both must hold: as in Vixie cron.
 *
 * Where clocks change by up to three hours, also as in Vixie cron: an expression of fixed times
 * (neither minute nor hour begins with *) that was due in the hour that is left out is due once at
 * its end, and in the hour that comes twice only the first time; one with a * goes by what the
 * clock shows.
 *
 * The next time is computed field by field, never by trying minutes.
 */
#ifndef ND_ENGINE_CRON_H
#define ND_ENGINE_CRON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/zone.h"

struct nd_cron {
    uint64_t minutes; /* bit n: minute n */
    uint32_t hours;   /* bit n: hour n */
    uint32_t days;    /* bit n: day n of the month */
    uint16_t months;  /* bit n: month n */
    uint8_t weekdays; /* bit n: weekday n, Sunday 0 */
    bool either_day;  /* both kinds of days are restricted: one of them is enough */
    bool fixed;       /* neither minute nor hour begins with * */
};

/* 0, or -1: bad_schedule, naming the field. One that is never due (February 30) is bad. */
int nd_cron_parse(struct nd_cron *cron, const char *text, struct nd_err *err);

/* The first time after `after` (Unix ms) at which it is due by the zone's clocks; Unix ms, a whole
 * minute. INT64_MAX where that is more than 48 years away. */
int64_t nd_cron_next(const struct nd_cron *cron, const struct nd_zone *zone, int64_t after);

#endif
