/*
 * stats.c - counting; see stats.h.
 */
#include "stats.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *const kind_names[KINDS] = {
#define X(name, text) #name,
    LOAD_KINDS(X)
#undef X
};
const char *const kind_texts[KINDS] = {
#define X(name, text) text,
    LOAD_KINDS(X)
#undef X
};
const char *const cause_names[CAUSES] = {
#define X(name) #name,
    LOAD_CAUSES(X)
#undef X
};

int64_t wall_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Below 64 µs a bucket each; above, 64 for each doubling. */
static size_t bucket_of(uint64_t us)
{
    int octave;
    size_t i;

    if (us < 64)
        return (size_t)us;
    octave = 63 - __builtin_clzll(us) - 6;
    i = (size_t)(octave + 1) * 64 + (size_t)(us >> octave) - 64;
    return i < BUCKETS ? i : BUCKETS - 1;
}

static uint64_t bucket_top(size_t i)
{
    if (i < 64)
        return i;
    return ((uint64_t)(i % 64 + 65) << (i / 64 - 1)) - 1;
}

static void histogram_add(struct histogram *h, uint64_t us)
{
    h->count++;
    h->bucket[bucket_of(us)]++;
    if (us > h->max)
        h->max = us;
}

uint64_t histogram_at(const struct histogram *h, double quantile)
{
    uint64_t wanted = (uint64_t)((double)h->count * quantile);
    uint64_t seen = 0;

    for (size_t i = 0; i < BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > wanted) {
            uint64_t top = bucket_top(i);

            return top < h->max ? top : h->max;
        }
    }
    return h->max;
}

static void saw_version(struct stats *s, const char *name)
{
    struct version *v = NULL;
    int64_t now = wall_ms();

    /* The newest is the likeliest. */
    for (size_t i = s->versions_count; i-- > 0 && v == NULL;)
        if (strcmp(s->versions[i].name, name) == 0)
            v = &s->versions[i];
    if (v == NULL) {
        if (s->versions_count == VERSIONS_MOST)
            return;
        v = &s->versions[s->versions_count++];
        snprintf(v->name, sizeof v->name, "%s", name);
        v->first = now;
    }
    v->answers++;
    v->last = now;
}

static void end_gap(struct stats *s, uint64_t now)
{
    if (s->last_ok != 0 && now - s->last_ok > s->gap) {
        s->gap = now - s->last_ok;
        s->gap_at = wall_ms();
    }
}

void stats_ok(struct stats *s, enum kind kind, uint64_t nanos, const char *version)
{
    s->ok[kind]++;
    histogram_add(&s->latency[kind], nanos / 1000);
    if (version[0] != '\0')
        saw_version(s, version);
    if (kind == KIND_get || kind == KIND_post || kind == KIND_new) {
        uint64_t now = now_ns();

        histogram_add(&s->of_second, nanos / 1000);
        s->second_ok++;
        end_gap(s, now);
        s->last_ok = now;
    }
}

void stats_end(struct stats *s)
{
    end_gap(s, now_ns());
}

uint64_t stats_total_failed(const struct stats *s)
{
    uint64_t n = 0;

    for (int kind = 0; kind < KINDS; kind++)
        n += s->failed[kind];
    return n;
}

void stats_failed(struct stats *s, enum kind kind, enum cause cause, int status)
{
    uint64_t n = stats_total_failed(s);

    if (n < FAILURES_MOST)
        s->failures[n] = (struct failure){wall_ms(), kind, cause, status};
    s->failed[kind]++;
    s->causes[kind][cause]++;
    s->second_failed++;
}

void stats_cut(struct stats *s, int code, int64_t age, const char *version)
{
    if (s->cuts_count < CUTS_MOST) {
        struct cut *c = &s->cuts[s->cuts_count];

        c->at = wall_ms();
        c->age = age;
        c->code = code;
        snprintf(c->version, sizeof c->version, "%s", version);
    }
    s->cuts_count++;
}

void stats_second(struct stats *s)
{
    if (s->seconds_count < SECONDS_MOST) {
        struct second *row = &s->seconds[s->seconds_count++];

        row->ok = s->second_ok;
        row->failed = s->second_failed;
        row->p50 = (uint32_t)histogram_at(&s->of_second, 0.50);
        row->p99 = (uint32_t)histogram_at(&s->of_second, 0.99);
        row->max = (uint32_t)s->of_second.max;
    }
    memset(&s->of_second, 0, sizeof s->of_second);
    s->second_ok = s->second_failed = 0;
}
