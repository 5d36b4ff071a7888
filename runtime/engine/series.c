#include "engine/series.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

enum { SLOTS_FIRST = 32 };

struct nd_series {
    int columns;
    int64_t step;     /* ms */
    int64_t slots;    /* rows it may hold */
    int64_t capacity; /* rows allocated */
    int64_t count;    /* rows held: the newest and those before it */
    int64_t newest;   /* slot number: time / step */
    float *rows;      /* owned; slot n is at n % capacity */
};

struct nd_series *nd_series_new(int columns, int64_t step_ms, int slots)
{
    struct nd_series *s = nd_alloc(sizeof *s);

    s->columns = columns;
    s->step = step_ms;
    s->slots = slots;
    return s;
}

void nd_series_free(struct nd_series *s)
{
    if (s)
        free(s->rows);
    free(s);
}

int nd_series_columns(const struct nd_series *s)
{
    return s->columns;
}

int64_t nd_series_step(const struct nd_series *s)
{
    return s->step;
}

size_t nd_series_bytes(const struct nd_series *s)
{
    return sizeof *s + (size_t)s->capacity * (size_t)s->columns * sizeof *s->rows;
}

int64_t nd_series_oldest(const struct nd_series *s)
{
    return s->count ? (s->newest - s->count + 1) * s->step : 0;
}

int64_t nd_series_end(const struct nd_series *s)
{
    return s->count ? (s->newest + 1) * s->step : 0;
}

static float *row(const struct nd_series *s, int64_t slot)
{
    return s->rows + slot % s->capacity * s->columns;
}

/* Room for `wanted` rows: what is held moves to where the larger ring has it. */
static void grow(struct nd_series *s, int64_t wanted)
{
    struct nd_series larger = *s;

    if (wanted <= s->capacity || s->capacity == s->slots)
        return;
    if (larger.capacity == 0)
        larger.capacity = SLOTS_FIRST;
    while (larger.capacity < wanted)
        larger.capacity *= 2;
    if (larger.capacity > s->slots)
        larger.capacity = s->slots;
    larger.rows = nd_alloc((size_t)larger.capacity * (size_t)s->columns * sizeof *s->rows);
    for (int64_t slot = s->newest - s->count + 1; slot <= s->newest && s->count; slot++)
        for (int i = 0; i < s->columns; i++)
            row(&larger, slot)[i] = row(s, slot)[i];
    free(s->rows);
    *s = larger;
}

static void forget(struct nd_series *s, int64_t slot)
{
    for (int i = 0; i < s->columns; i++)
        row(s, slot)[i] = NAN;
}

static void advance(struct nd_series *s, int64_t slot)
{
    int64_t gap = slot - s->newest;

    if (s->count == 0 || gap >= s->slots || slot <= s->newest - s->count) {
        s->count = 0;
        grow(s, 1);
        s->count = 1;
        s->newest = slot;
        return;
    }
    if (gap <= 0)
        return;
    grow(s, s->count + gap);
    for (int64_t between = s->newest + 1; between < slot; between++)
        forget(s, between);
    s->newest = slot;
    s->count += gap;
    if (s->count > s->capacity)
        s->count = s->capacity;
}

void nd_series_put(struct nd_series *s, int64_t time_ms, const double *values)
{
    int64_t slot = time_ms / s->step;

    advance(s, slot);
    for (int i = 0; i < s->columns; i++)
        row(s, slot)[i] = (float)values[i];
}

struct nd_series_mean nd_series_mean(const struct nd_series *s, int column, int64_t from,
                                     int64_t to)
{
    struct nd_series_mean out = {NAN, NAN};
    int64_t first = (from + s->step - 1) / s->step, last = (to - 1) / s->step, n = 0;
    double sum = 0;

    if (first <= s->newest - s->count)
        first = s->newest - s->count + 1;
    if (last > s->newest)
        last = s->newest;
    for (int64_t slot = first; slot <= last && s->count; slot++) {
        double value = (double)row(s, slot)[column];

        if (isnan(value))
            continue;
        sum += value;
        if (n++ == 0 || value > out.most)
            out.most = value;
    }
    if (n)
        out.mean = sum / (double)n;
    return out;
}
