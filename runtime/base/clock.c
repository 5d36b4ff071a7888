#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t shift; /* ms; only tests set it */

int64_t nd_clock_wall(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000 + shift;
}

int64_t nd_clock_monotonic(void)
{
    return (int64_t)(nd_clock_nanos() / 1000000);
}

uint64_t nd_clock_nanos(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void nd_clock_shift(int64_t ms)
{
    shift = ms;
}

void nd_clock_format(int64_t wall_ms, char *out, size_t size)
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm tm;
    char day[32];

    gmtime_r(&seconds, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, size, "%s.%03dZ", day, (int)(wall_ms % 1000));
}
