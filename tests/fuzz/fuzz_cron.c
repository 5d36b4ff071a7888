/*
 * fuzz_cron.c - whatever somebody writes as a schedule, it is refused with a reason, or it is due
 * later than any time it is asked for, at a time that the clocks of the zone can show.
 *
 * The first 8 bytes choose the time and the zone, the rest is the expression.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/cron.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"UTC", "Europe/Berlin", "America/New_York",
                                        "Australia/Lord_Howe"};
    static struct nd_zone *zones[4];
    struct nd_cron cron;
    struct nd_err err = {0};
    uint64_t chosen;
    int64_t after, due;
    char *text;

    if (size < sizeof chosen)
        return 0;
    memcpy(&chosen, data, sizeof chosen);
    for (int i = 0; i < 4; i++)
        if (!zones[i] && !(zones[i] = nd_zone_open(names[i], &err)))
            return 0;                            /* a host without tzdata */
    after = (int64_t)(chosen % 253402300800000); /* the years 1970 to 9999 */
    text = nd_strndup((const char *)data + sizeof chosen, size - sizeof chosen);
    if (nd_cron_parse(&cron, text, &err) < 0) {
        if (!err.message[0])
            abort();
    } else {
        due = nd_cron_next(&cron, zones[chosen >> 60 & 3], after);
        if (due <= after || (due != INT64_MAX && due % 1000))
            abort();
    }
    free(text);
    return 0;
}
