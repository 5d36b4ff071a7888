/*
 * series.h - the recent past of some numbers: a ring of rows, one a time step.
 *
 * A row holds `columns` values as float (24 bits of them are true; NAN: unknown). Its slot follows
 * from its time, so a pause leaves a gap and no row is ever moved. The ring begins small and grows
 * to `slots` rows, never beyond: 6 h of 10 s steps and ten columns take 86 KB.
 */
#ifndef ND_ENGINE_SERIES_H
#define ND_ENGINE_SERIES_H

#include <stddef.h>
#include <stdint.h>

struct nd_series;

struct nd_series_mean {
    double mean; /* NAN: no value in that time */
    double most;
};

struct nd_series *nd_series_new(int columns, int64_t step_ms, int slots); /* returns owned */
void nd_series_free(struct nd_series *s);

int nd_series_columns(const struct nd_series *s);
int64_t nd_series_step(const struct nd_series *s);   /* ms */
size_t nd_series_bytes(const struct nd_series *s);   /* of memory, this struct included */
int64_t nd_series_oldest(const struct nd_series *s); /* ms: where the first row held begins */
int64_t nd_series_end(const struct nd_series *s);    /* ms: where the last one ends; 0: empty */

/* Sets the row of `time_ms`; what lies between the newest row and it becomes unknown. A time
 * before all that is held (the clock was set back) starts anew. */
void nd_series_put(struct nd_series *s, int64_t time_ms, const double *values);

/* Over the rows that begin in [from, to). */
struct nd_series_mean nd_series_mean(const struct nd_series *s, int column, int64_t from,
                                     int64_t to);

#endif
