#include "engine/zone.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "io/file.h"

#define ZONEINFO "/usr/share/zoneinfo/"

enum { HEAD = 44, FILE_MAX = 1024 * 1024, DAY = 86400, RULE_HOURS = 167 };

/* When a rule's change comes each year: Jn, n or Mm.w.d, and the local time of day. */
struct turn {
    char kind;    /* 'J', '0' or 'M' */
    int month;    /* of M */
    int week;     /* of M: 5 is the last */
    int day;      /* of M: weekday, Sunday 0; else the day of the year */
    int32_t time; /* s after midnight, by the clock before the change */
};

/* What holds after the last transition. */
struct rule {
    int32_t standard; /* s to be added to UTC */
    int32_t summer;   /* the same; meaningless unless `turns` */
    bool turns;       /* summer time comes and goes */
    struct turn begin, end;
};

struct nd_zone {
    int count;      /* of transitions */
    int64_t *times; /* owned; Unix s, ascending */
    int32_t *after; /* owned; the offset from each on */
    int32_t first;  /* the offset before all of them */
    struct rule rule;
    bool has_rule;
};

/* --- dates ------------------------------------------------------------------------------------ */

int64_t nd_days_of(int64_t year, int month, int day)
{
    /* A year that begins in March ends with its leap day. */
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t m = month <= 2 ? month + 9 : month - 3;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t of_era = y - era * 400;

    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * m + 2) / 5 + day - 1 -
           719468;
}

void nd_date_of(int64_t days, int64_t *year, int *month, int *day)
{
    int64_t since = days + 719468;
    int64_t era = (since >= 0 ? since : since - 146096) / 146097;
    int64_t d = since - era * 146097;
    int64_t y = (d - d / 1460 + d / 36524 - d / 146096) / 365;
    int64_t in_year = d - (365 * y + y / 4 - y / 100);
    int64_t m = (5 * in_year + 2) / 153;

    *day = (int)(in_year - (153 * m + 2) / 5 + 1);
    *month = (int)(m < 10 ? m + 3 : m - 9);
    *year = y + era * 400 + (*month <= 2 ? 1 : 0);
}

static bool leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* The day (since 1970) on which a turn falls in a year. */
static int64_t turn_day(const struct turn *t, int64_t year)
{
    int64_t first = nd_days_of(year, t->kind == 'M' ? t->month : 1, 1);
    int64_t next, day;

    if (t->kind == '0')
        return first + t->day;
    if (t->kind == 'J') /* February 29 has no number */
        return first + t->day - 1 + (leap(year) && t->day >= 60 ? 1 : 0);
    /* 1970-01-01 was a Thursday. */
    day = first + ((t->day - (first + 4) % 7) % 7 + 7) % 7 + (int64_t)(t->week - 1) * 7;
    next = t->month == 12 ? nd_days_of(year + 1, 1, 1) : nd_days_of(year, t->month + 1, 1);
    return day < next ? day : day - 7;
}

static int64_t turn_at(const struct turn *t, int64_t year, int32_t offset)
{
    return turn_day(t, year) * DAY + t->time - offset;
}

/* --- the rule's text (POSIX TZ) -----------------------------------------------------------------
 */

static bool read_number(const char **at, int least, int most, int *number)
{
    char *end;
    long n;

    if (!isdigit((unsigned char)**at))
        return false;
    n = strtol(*at, &end, 10);
    *at = end;
    *number = (int)n;
    return n >= least && n <= most;
}

/* [+-]hh[:mm[:ss]] in seconds. */
static bool read_time(const char **at, int32_t *seconds)
{
    int sign = **at == '-' ? -1 : 1;
    int part[3] = {0};

    if (**at == '-' || **at == '+')
        (*at)++;
    for (int i = 0; i < 3; i++) {
        if (i && **at != ':')
            break;
        *at += i ? 1 : 0;
        if (!read_number(at, 0, i ? 59 : RULE_HOURS, &part[i]))
            return false;
    }
    *seconds = sign * (part[0] * 3600 + part[1] * 60 + part[2]);
    return true;
}

static bool skip_name(const char **at)
{
    const char *from = *at;

    if (**at == '<') {
        *at = strchr(*at, '>');
        return *at && (*at)++;
    }
    while (isalpha((unsigned char)**at))
        (*at)++;
    return *at - from >= 3;
}

static bool read_turn(const char **at, struct turn *t)
{
    t->time = 2 * 3600;
    t->kind = **at == 'M' || **at == 'J' ? *(*at)++ : '0';
    if (t->kind == 'M') {
        if (!read_number(at, 1, 12, &t->month) || *(*at)++ != '.' ||
            !read_number(at, 1, 5, &t->week) || *(*at)++ != '.' || !read_number(at, 0, 6, &t->day))
            return false;
    } else if (!read_number(at, t->kind == 'J' ? 1 : 0, 365, &t->day)) {
        return false;
    }
    if (**at != '/')
        return true;
    (*at)++;
    return read_time(at, &t->time);
}

static bool read_rule(const char *text, struct rule *rule)
{
    const char *at = text;
    int32_t west;

    if (!skip_name(&at) || !read_time(&at, &west))
        return false;
    rule->standard = -west;
    if (!*at)
        return true;
    rule->turns = true;
    rule->summer = rule->standard + 3600;
    if (!skip_name(&at))
        return false;
    if (*at && *at != ',') {
        if (!read_time(&at, &west))
            return false;
        rule->summer = -west;
    }
    if (*at++ != ',' || !read_turn(&at, &rule->begin))
        return false;
    return *at++ == ',' && read_turn(&at, &rule->end) && !*at;
}

/* --- the file (RFC 8536) ------------------------------------------------------------------------
 */

static uint32_t u32(const char *at)
{
    const unsigned char *b = (const unsigned char *)at;

    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static int64_t i64(const char *at)
{
    return (int64_t)((uint64_t)u32(at) << 32 | u32(at + 4));
}

/* The counts of a header: isutc, isstd, leap, time, type, char. */
struct counts {
    uint32_t isutc, isstd, leap, time, type, chars;
};

static bool read_head(const char *data, size_t length, struct counts *c)
{
    if (length < HEAD || memcmp(data, "TZif", 4) != 0 || data[4] < '2')
        return false;
    *c = (struct counts){u32(data + 20), u32(data + 24), u32(data + 28),
                         u32(data + 32), u32(data + 36), u32(data + 40)};
    return c->isutc < 4096 && c->isstd < 4096 && c->leap < 4096 && c->time < 65536 &&
           c->type >= 1 && c->type <= 256 && c->chars < 65536;
}

static size_t body_size(const struct counts *c, size_t wide)
{
    return c->time * (wide + 1) + c->type * 6 + c->chars + c->leap * (wide + 4) + c->isstd +
           c->isutc;
}

static bool read_body(struct nd_zone *z, const char *data, const struct counts *c)
{
    const char *kinds = data + (size_t)c->time * 8;
    const char *types = kinds + c->time;

    z->first = (int32_t)u32(types);
    z->times = nd_alloc((c->time + 1) * sizeof *z->times);
    z->after = nd_alloc((c->time + 1) * sizeof *z->after);
    for (uint32_t i = 0; i < c->time; i++) {
        unsigned kind = (unsigned char)kinds[i];

        if (kind >= c->type)
            return false;
        z->times[i] = i64(data + (size_t)i * 8);
        z->after[i] = (int32_t)u32(types + (size_t)kind * 6);
        if (i && z->times[i] <= z->times[i - 1])
            return false;
    }
    z->count = (int)c->time;
    return true;
}

static bool read_file(struct nd_zone *z, const char *data, size_t length)
{
    struct counts c;
    const char *end = data + length;
    const char *at = data;
    char *rule;

    if (!read_head(at, length, &c) || body_size(&c, 4) > length - HEAD)
        return false;
    at += HEAD + body_size(&c, 4); /* the part for old readers */
    if (!read_head(at, (size_t)(end - at), &c) || body_size(&c, 8) > (size_t)(end - at) - HEAD)
        return false;
    if (!read_body(z, at + HEAD, &c))
        return false;
    at += HEAD + body_size(&c, 8);
    if (end - at < 2 || *at != '\n' || !memchr(at + 1, '\n', (size_t)(end - at - 1)))
        return false;
    at++;
    rule = nd_strndup(at, (size_t)((const char *)memchr(at, '\n', (size_t)(end - at)) - at));
    z->has_rule = *rule != '\0';
    if (z->has_rule && !read_rule(rule, &z->rule)) {
        free(rule);
        return false;
    }
    free(rule);
    return true;
}

static bool good_name(const char *name)
{
    if (!*name || *name == '/' || strstr(name, "..") || strlen(name) > 100)
        return false;
    return name[strspn(
               name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-/")] == '\0';
}

struct nd_zone *nd_zone_open(const char *name, struct nd_err *err)
{
    struct nd_zone *z = nd_alloc(sizeof *z);
    struct nd_buf data = {0};
    char *path = NULL;
    bool ok = false;

    if (strcmp(name, "UTC") == 0)
        return z;
    if (good_name(name)) {
        path = nd_printf(ZONEINFO "%s", name);
        ok = nd_file_read(path, FILE_MAX, &data, NULL) == 0 &&
             read_file(z, data.data ? data.data : "", data.length);
    }
    free(path);
    nd_buf_fini(&data);
    if (ok)
        return z;
    nd_err_set(err, "bad_zone",
               "write it as Europe/Berlin or UTC; zones come from the package tzdata",
               "there is no time zone '%s' on this host", name);
    nd_zone_free(z);
    return NULL;
}

void nd_zone_free(struct nd_zone *zone)
{
    if (!zone)
        return;
    free(zone->times);
    free(zone->after);
    free(zone);
}

/* --- asking -------------------------------------------------------------------------------------
 */

static int64_t year_of(int64_t at)
{
    int64_t year;
    int month, day;

    nd_date_of((at >= 0 ? at : at - (DAY - 1)) / DAY, &year, &month, &day);
    return year;
}

/* The last transition of the list at or before `at`; -1: none. */
static int last_before(const struct nd_zone *z, int64_t at)
{
    int low = 0;
    int high = z->count;

    while (low < high) {
        int middle = (low + high) / 2;

        if (z->times[middle] <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low - 1;
}

int32_t nd_zone_offset(const struct nd_zone *z, int64_t at)
{
    int i = last_before(z, at);
    const struct rule *r = &z->rule;
    int64_t year, begin, end;

    if (i < z->count - 1 || !z->has_rule)
        return i < 0 ? z->first : z->after[i];
    if (!r->turns)
        return r->standard;
    year = year_of(at + r->standard);
    begin = turn_at(&r->begin, year, r->standard);
    end = turn_at(&r->end, year, r->summer);
    if (begin < end)
        return at >= begin && at < end ? r->summer : r->standard;
    return at >= end && at < begin ? r->standard : r->summer;
}

int64_t nd_zone_next_change(const struct nd_zone *z, int64_t at)
{
    int i = last_before(z, at);
    const struct rule *r = &z->rule;
    int64_t year, next = INT64_MAX;

    if (i < z->count - 1)
        return z->times[i + 1];
    if (!z->has_rule || !r->turns)
        return INT64_MAX;
    year = year_of(at);
    for (int64_t y = year - 1; y <= year + 2; y++) {
        int64_t begin = turn_at(&r->begin, y, r->standard);
        int64_t end = turn_at(&r->end, y, r->summer);

        if (begin > at && begin < next)
            next = begin;
        if (end > at && end < next)
            next = end;
    }
    return next;
}
