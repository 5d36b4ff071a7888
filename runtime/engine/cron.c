#include "engine/cron.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

enum {
    FIELDS = 5,
    MINUTE_S = 60,
    HOUR_S = 3600,
    DAY_MIN = 1440,
    CHANGE_MAX_S = 3 * HOUR_S, /* larger ones are corrections of the clock, as Vixie cron has it */
    TEXT_MAX = 256,
    MONTHS_AHEAD = 12 * 48 /* February 29 on one weekday comes every 28 or 40 years */
};

#define NEVER INT64_MAX

static const char *const months[] = {"jan", "feb", "mar", "apr", "may", "jun",
                                     "jul", "aug", "sep", "oct", "nov", "dec"};
static const char *const weekdays[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};

static const struct field {
    const char *name;
    int least, most;
    const char *const *words; /* NULL: numbers only */
    int word_count;
} fields[FIELDS] = {
    {"minute", 0, 59, NULL, 0},         {"hour", 0, 23, NULL, 0},
    {"day of month", 1, 31, NULL, 0},   {"month", 1, 12, months, 12},
    {"day of week", 0, 7, weekdays, 7},
};

static const struct {
    const char *name, *means;
} nicknames[] = {
    {"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}, {"@monthly", "0 0 1 * *"},
    {"@weekly", "0 0 * * 0"}, {"@daily", "0 0 * * *"},    {"@midnight", "0 0 * * *"},
    {"@hourly", "0 * * * *"},
};

/* --- reading ------------------------------------------------------------------------------------
 */

/* One field while it is read. */
struct reader {
    const struct field *field;
    const char *text; /* the whole field, for messages */
    const char *at;
    struct nd_err *err;
};

static int refuse(struct reader *r, const char *hint, const char *what)
{
    return nd_err_set(r->err, "bad_schedule", hint, "%s: %s in \"%s\"", r->field->name, what,
                      r->text);
}

/* A number or a name; -1: neither, and said so. */
static int read_value(struct reader *r, bool ends_range)
{
    const struct field *f = r->field;
    size_t length = 0;
    char *end;
    long n;

    while (isalpha((unsigned char)r->at[length]))
        length++;
    for (int i = 0; length == 3 && i < f->word_count; i++) {
        if (strncasecmp(r->at, f->words[i], 3) == 0) {
            r->at += 3;
            /* sat-sun ends at the Sunday after it */
            return ends_range && f->least == 0 && i == 0 ? 7 : i + f->least;
        }
    }
    if (!isdigit((unsigned char)*r->at)) {
        char *what = nd_printf("'%s' is not %s", *r->at ? r->at : "nothing",
                               f->words ? "a number or a name" : "a number");
        refuse(r, strpbrk(r->at, "?LW#") ? "?, L, W and # are of other schedulers" : "", what);
        free(what);
        return -1;
    }
    n = strtol(r->at, &end, 10);
    if (end - r->at > 4 || n < f->least || n > f->most) {
        char *what =
            nd_printf("%.*s is not within %d-%d", (int)(end - r->at), r->at, f->least, f->most);
        refuse(r, "", what);
        free(what);
        return -1;
    }
    r->at = end;
    return (int)n;
}

/* One part of a list: *, a or a-b, the first and last with a step. */
static int read_part(struct reader *r, uint64_t *bits)
{
    int from = r->field->least;
    int to = r->field->most;
    int step = 1;
    bool many = true;

    if (*r->at == '*') {
        r->at++;
    } else {
        if ((from = read_value(r, false)) < 0)
            return -1;
        to = from;
        many = *r->at == '-';
        if (many) {
            r->at++;
            if ((to = read_value(r, true)) < 0)
                return -1;
        }
        if (to < from)
            return refuse(r, "write two ranges, as in 22-23,0-5", "a range ends before it begins");
    }
    if (*r->at == '/') {
        char *end;

        if (!many)
            return refuse(r, "write a range, as in 5-59/15", "a step needs a range");
        step = (int)strtol(r->at + 1, &end, 10);
        if (!isdigit((unsigned char)r->at[1]) || end - r->at > 5 || step < 1)
            return refuse(r, "as in */5", "the step is not a number from 1");
        r->at = end;
    }
    for (int i = from; i <= to; i += step)
        *bits |= (uint64_t)1 << i;
    return 0;
}

static int read_field(struct reader *r, uint64_t *bits)
{
    for (*bits = 0;; r->at++) {
        if (read_part(r, bits) < 0)
            return -1;
        if (*r->at == '\0')
            return 0;
        if (*r->at != ',')
            return refuse(r, strpbrk(r->at, "?LW#") ? "?, L, W and # are of other schedulers" : "",
                          "what follows is no list, range or step");
    }
}

/* Is there a date that has one of the days in one of the months? */
static bool possible(const struct nd_cron *c)
{
    static const int longest[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    for (int m = 1; m <= 12; m++) {
        uint32_t there = (uint32_t)(((uint64_t)1 << (longest[m - 1] + 1)) - 2);

        if ((c->months >> m & 1) && (c->either_day || (c->days & there)))
            return true;
    }
    return false;
}

static const char *spelt_out(const char *text, struct nd_err *err)
{
    for (size_t i = 0; i < sizeof nicknames / sizeof *nicknames; i++)
        if (strcasecmp(text, nicknames[i].name) == 0)
            return nicknames[i].means;
    nd_err_set(err, "bad_schedule",
               "there are @yearly, @monthly, @weekly, @daily, @midnight and @hourly",
               "\"%s\" is no schedule", text);
    return NULL;
}

int nd_cron_parse(struct nd_cron *cron, const char *text, struct nd_err *err)
{
    char copy[TEXT_MAX];
    char *rest = copy;
    char *part[FIELDS + 1];
    uint64_t bits[FIELDS];
    int count = 0;

    *cron = (struct nd_cron){0};
    while (isspace((unsigned char)*text))
        text++;
    if (*text == '@' && !(text = spelt_out(text, err)))
        return -1;
    if (strlen(text) >= sizeof copy)
        return nd_err_set(err, "bad_schedule", "", "a schedule of %zu bytes is too long",
                          strlen(text));
    memcpy(copy, text, strlen(text) + 1);
    while (count <= FIELDS && (part[count] = strtok_r(rest, " \t\r\n", &rest)))
        count++;
    if (count != FIELDS)
        return nd_err_set(err, "bad_schedule",
                          "the five are minute, hour, day of month, month, day of week, as in "
                          "\"*/5 * * * *\"; there are no seconds and no years",
                          "\"%s\" has %s%d fields, not five", text, count > FIELDS ? "over " : "",
                          count > FIELDS ? FIELDS : count);
    for (int i = 0; i < FIELDS; i++) {
        struct reader r = {&fields[i], part[i], part[i], err};

        if (read_field(&r, &bits[i]) < 0)
            return -1;
    }
    cron->minutes = bits[0];
    cron->hours = (uint32_t)bits[1];
    cron->days = (uint32_t)bits[2];
    cron->months = (uint16_t)bits[3];
    cron->weekdays = (uint8_t)((bits[4] | bits[4] >> 7) & 0x7f);
    cron->either_day = *part[2] != '*' && *part[4] != '*';
    cron->fixed = *part[0] != '*' && *part[1] != '*';
    if (!possible(cron))
        return nd_err_set(err, "bad_schedule", "look at the day and the month",
                          "\"%s\" is never due: no such day is in such a month", text);
    return 0;
}

/* --- by one clock --------------------------------------------------------------------------------
 */

static bool day_matches(const struct nd_cron *c, int64_t days, int day)
{
    bool of_month = c->days >> day & 1;
    bool of_week = c->weekdays >> (((days + 4) % 7 + 7) % 7) & 1; /* day 0 was a Thursday */

    return c->either_day ? of_month || of_week : of_month && of_week;
}

/* The first matching day from `days` on; NEVER: none for years. */
static int64_t next_day(const struct nd_cron *c, int64_t days)
{
    int64_t year;
    int month, day;

    nd_date_of(days, &year, &month, &day);
    for (int ahead = 0; ahead < MONTHS_AHEAD; ahead++) {
        int64_t first = nd_days_of(year, month, 1);
        int64_t next = month == 12 ? nd_days_of(year + 1, 1, 1) : nd_days_of(year, month + 1, 1);

        if (c->months >> month & 1)
            for (; first + day - 1 < next; day++)
                if (day_matches(c, first + day - 1, day))
                    return first + day - 1;
        day = 1;
        year += month == 12;
        month = month == 12 ? 1 : month + 1;
    }
    return NEVER;
}

/* The first set bit from `from` on; -1: none. */
static int next_bit(uint64_t bits, int from)
{
    uint64_t left = from < 64 ? bits >> from << from : 0;

    return left ? __builtin_ctzll(left) : -1;
}

/* The first matching minute of a day from `minute` on; -1: none. */
static int next_minute(const struct nd_cron *c, int minute)
{
    int hour = minute / 60;
    int m;

    if ((c->hours >> hour & 1) && (m = next_bit(c->minutes, minute % 60)) >= 0)
        return hour * 60 + m;
    hour = next_bit(c->hours, hour + 1);
    return hour < 0 ? -1 : hour * 60 + next_bit(c->minutes, 0);
}

/* The first matching minute from `from` on, both in minutes of local time since 1970; NEVER. */
static int64_t next_local(const struct nd_cron *c, int64_t from)
{
    int64_t days = from >= 0 ? from / DAY_MIN : (from - (DAY_MIN - 1)) / DAY_MIN;
    int64_t day = next_day(c, days);
    int minute;

    if (day == NEVER)
        return NEVER;
    minute = next_minute(c, day == days ? (int)(from - days * DAY_MIN) : 0);
    if (minute < 0) {
        if ((day = next_day(c, day + 1)) == NEVER)
            return NEVER;
        minute = next_minute(c, 0);
    }
    return day * DAY_MIN + minute;
}

/* --- by clocks that change
 * ------------------------------------------------------------------------ */

static int64_t up_to_minute(int64_t s)
{
    int64_t minutes = s >= 0 ? (s + MINUTE_S - 1) / MINUTE_S : s / MINUTE_S;

    return minutes;
}

/* The latest change at or before `at` whose echo may matter: clocks within it repeat or leave out.
 */
struct change {
    int64_t at;     /* Unix s; INT64_MIN: none lately */
    int32_t before; /* the offset before it, s */
};

static struct change change_before(const struct nd_zone *zone, int64_t at)
{
    struct change found = {INT64_MIN, 0};
    int64_t next = at - CHANGE_MAX_S - MINUTE_S;

    while ((next = nd_zone_next_change(zone, next)) <= at)
        found = (struct change){next, nd_zone_offset(zone, next - 1)};
    return found;
}

int64_t nd_cron_next(const struct nd_cron *cron, const struct nd_zone *zone, int64_t after)
{
    int64_t minute = after >= 0 ? after / 60000 : (after - 59999) / 60000;
    int64_t begin = (minute + 1) * MINUTE_S; /* the first whole minute after it, Unix s */
    struct change last = change_before(zone, begin);

    for (;;) {
        int32_t offset = nd_zone_offset(zone, begin);
        int64_t end = nd_zone_next_change(zone, begin);
        int64_t local = up_to_minute(begin + offset);
        int64_t due;

        if (cron->fixed && last.at != INT64_MIN &&
            labs((long)offset - last.before) <= CHANGE_MAX_S) {
            int64_t shown =
                up_to_minute(last.at + last.before); /* by the clock before the change */
            int64_t left_out = next_local(cron, shown);

            if (begin == last.at && left_out < up_to_minute(last.at + offset))
                return begin * 1000;
            if (local < shown)
                local = shown; /* what the clock has shown before */
        }
        due = next_local(cron, local);
        if (due == NEVER)
            return NEVER;
        if (due * MINUTE_S - offset < end)
            return (due * MINUTE_S - offset) * 1000;
        last = (struct change){end, offset};
        begin = end;
    }
}
