/*
 * zone.h - a time zone of the host's tzdata: what its clocks show at an instant.
 *
 * Reads /usr/share/zoneinfo/NAME (RFC 8536, version 2 or later) into memory: the transitions listed
 * there, and the rule behind them for all later years. Nothing global is touched: neither TZ nor
 * what localtime() sees. "UTC" needs no file.
 */
#ifndef ND_ENGINE_ZONE_H
#define ND_ENGINE_ZONE_H

#include <stdint.h>

#include "base/err.h"

struct nd_zone;

/* Returns owned, or NULL: bad_zone. `name` as in Europe/Berlin. */
struct nd_zone *nd_zone_open(const char *name, struct nd_err *err);
void nd_zone_free(struct nd_zone *zone);

/* Seconds to be added to UTC at this instant (Unix seconds). */
int32_t nd_zone_offset(const struct nd_zone *zone, int64_t at);

/* The first instant after `at` from which another offset may hold; INT64_MAX: there is none. */
int64_t nd_zone_next_change(const struct nd_zone *zone, int64_t at);

/* Days since 1970-01-01 of a date of the Gregorian calendar, and back. Months from 1. */
int64_t nd_days_of(int64_t year, int month, int day);
void nd_date_of(int64_t days, int64_t *year, int *month, int *day);

#endif
