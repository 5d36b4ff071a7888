/*
 * clock.h - the two clocks, and the seam by which tests drive the first.
 *
 * Wall time is UTC milliseconds since 1970 (what the database stores); monotonic time is
 * milliseconds from an arbitrary start (what timers use).
 */
#ifndef ND_BASE_CLOCK_H
#define ND_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t nd_clock_wall(void);
int64_t nd_clock_monotonic(void);
uint64_t nd_clock_nanos(void); /* monotonic, for measuring */

/* Shifts what nd_clock_wall returns by `ms`; for tests. */
void nd_clock_shift(int64_t ms);

/* Writes "2026-01-31T12:00:00.000Z" (RFC 3339) for a wall time; `size` >= 25. */
void nd_clock_format(int64_t wall_ms, char *out, size_t size);

#endif
