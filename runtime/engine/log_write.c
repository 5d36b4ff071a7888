/*
 * log_write.c - the jobs of a log: writing what has gathered, sealing what is full, removing what
 * is too much.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/log_app.h"
#include "io/job.h"

enum {
    REST_NS = 2 * 1000 * 1000, /* between two writes under load ... */
    FOLLOWERS_A_MS = 32,       /* ... and a millisecond more for so many followers */
    FULL_BYTES = 256 * 1024,   /* what doesn't wait */
    RETRY_MS = 1000,           /* after a write that failed */
};

/* --- what is too much ------------------------------------------------------------------------- */

struct removal {
    struct nd_log_app *app;
    uint64_t *first; /* owned */
    int count;
};

static void remove_work(void *arg)
{
    struct removal *r = arg;

    for (int i = 0; i < r->count; i++)
        nd_log_segment_remove(r->app->dir, r->first[i]);
}

static void on_removed(void *arg, bool ran)
{
    struct removal *r = arg;
    struct nd_log_app *app = r->app;

    (void)ran;
    free(r->first);
    free(r);
    nd_log_app_job_done(app);
}

/* Takes the oldest segments off the list, at most until one is being sealed, and has their files
 * removed. */
static void drop_oldest(struct nd_log_app *app, int count)
{
    struct removal *r;
    int most = 0;

    while (most < count && !app->list[most].busy)
        most++;
    if (!most)
        return;
    r = nd_alloc(sizeof *r);
    r->app = app;
    r->first = nd_alloc((size_t)most * sizeof *r->first);
    for (; r->count < most; r->count++)
        r->first[r->count] = app->list[r->count].first;
    app->count -= most;
    memmove(app->list, app->list + most, (size_t)app->count * sizeof *app->list);
    app->jobs++;
    nd_job_start(app->store->loop, remove_work, on_removed, r);
}

static void keep_to_size(struct nd_log_app *app)
{
    size_t bytes = 0;
    int kept = 0;

    for (int i = app->count; i-- > 0;) {
        bytes += app->list[i].bytes;
        if (kept && bytes > app->store->keep)
            break;
        kept++;
    }
    drop_oldest(app, app->count - kept);
}

/* --- sealing ---------------------------------------------------------------------------------- */

struct sealing {
    struct nd_log_app *app;
    uv_thread_t thread;
    uv_async_t ended;
    struct nd_log_segment segment; /* a copy, that the job works on */
    struct nd_err err;
    bool failed;
};

/* A thread of its own, for when a processor would be idle: nobody waits for it, and what apps and
 * followers need comes first. (One of the pool's could not be raised again.) */
static void seal_work(void *arg)
{
    struct sealing *s = arg;

    sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
    s->failed = nd_log_segment_seal(s->app->dir, &s->segment, &s->err) < 0;
    uv_async_send(&s->ended);
}

static void take_sealed(struct sealing *s)
{
    struct nd_log_app *app = s->app;

    for (int i = 0; i < app->count; i++) {
        struct nd_log_segment *segment = &app->list[i];

        if (segment->first != s->segment.first)
            continue;
        segment->busy = false;
        segment->broken = s->failed;
        segment->sealed = s->segment.sealed;
        segment->bytes = s->segment.bytes;
    }
    if (s->failed)
        nd_log(ND_LOG_WARN, "a log of '%s' stays as it is: %s", app->name, s->err.message);
}

static void on_sealed(uv_handle_t *handle)
{
    struct sealing *s = handle->data;
    struct nd_log_app *app = s->app;
    struct nd_log_store *store = app->store;

    take_sealed(s);
    free(s);
    store->sealing = NULL;
    keep_to_size(app);
    nd_log_app_seal(store);
    nd_log_app_job_done(app);
}

static void on_seal_ended(uv_async_t *async)
{
    struct sealing *s = async->data;

    uv_thread_join(&s->thread);
    uv_close((uv_handle_t *)async, on_sealed);
}

static bool seal_one(struct nd_log_app *app)
{
    struct sealing *s;

    /* The newest is being written to, or may be. */
    for (int i = 0; i + 1 < app->count; i++) {
        struct nd_log_segment *segment = &app->list[i];

        if (segment->sealed || segment->broken)
            continue;
        segment->busy = true;
        s = nd_alloc(sizeof *s);
        s->app = app;
        s->segment = *segment;
        s->ended.data = s;
        uv_async_init(&app->store->loop->uv, &s->ended, on_seal_ended);
        if (uv_thread_create(&s->thread, seal_work, s) != 0)
            abort(); /* a process that gets no thread can't do anything else either */
        app->jobs++;
        app->store->sealing = app;
        return true;
    }
    return false;
}

void nd_log_app_seal(struct nd_log_store *store)
{
    if (store->sealing || store->closing)
        return;
    ND_LIST_EACH (link, &store->apps) {
        struct nd_log_app *app = ND_CONTAINER(link, struct nd_log_app, link);

        if (!app->removed && seal_one(app)) {
            /* To the end: the next time another app comes first. */
            nd_list_remove(&app->link);
            nd_list_append(&store->apps, &app->link);
            return;
        }
    }
}

/* --- writing ---------------------------------------------------------------------------------- */

struct writing {
    struct nd_log_app *app;
    struct nd_log_segment segment; /* a copy, that the job works on */
    struct nd_err err;
    bool failed;
};

static void write_work(void *arg)
{
    struct writing *w = arg;
    const struct nd_log_run *run = w->app->write;
    struct nd_log_block block = {.first = run->first,
                                 .last = run->last,
                                 .first_time = run->first_time,
                                 .last_time = run->last_time,
                                 .lines = run->lines,
                                 .raw = run->records.length,
                                 .stored = run->records.length,
                                 .payload = run->records.data};

    w->failed = nd_log_segment_append(w->app->dir, &w->segment, &block, &w->err) < 0;
}

static void tell_flushes(struct nd_log_app *app)
{
    ND_LIST_EACH (link, &app->flushes) {
        struct nd_log_flush *flush = ND_CONTAINER(link, struct nd_log_flush, link);

        if (flush->seq > app->written)
            continue;
        nd_list_remove(link);
        flush->done(flush->arg);
    }
}

static void written(struct nd_log_app *app)
{
    struct nd_log_run *run = app->write;

    app->write = NULL;
    app->written = run->last;
    if (app->failing)
        nd_log(ND_LOG_INFO, "the log of '%s' is written again", app->name);
    app->failing = false;
    nd_log_followers_tell(app, run);
    tell_flushes(app);
}

/* Makes room where that may help; what is to be written stays and is tried again. */
static void failed(struct nd_log_app *app, const struct nd_err *err)
{
    if (!app->failing)
        nd_log_err("logs", err);
    app->failing = true;
    if (strcmp(err->code, "log_full") == 0 && app->count > 2)
        drop_oldest(app, 1);
}

static void on_timer(uv_timer_t *timer)
{
    struct nd_log_app *app = timer->data;

    nd_log_app_write(app);
}

static void wait_for(struct nd_log_app *app, uint64_t ms)
{
    if (!app->removed && !app->store->closing && !uv_is_active((uv_handle_t *)&app->timer))
        uv_timer_start(&app->timer, on_timer, ms, 0);
}

static void on_written(void *arg, bool ran)
{
    struct writing *w = arg;
    struct nd_log_app *app = w->app;
    struct nd_log_segment *newest = &app->list[app->count - 1];

    (void)ran;
    app->writing = false;
    if (w->segment.bytes > newest->bytes && newest->first == w->segment.first)
        *newest = w->segment;
    newest->broken = w->segment.broken;
    if (w->failed && w->segment.bytes == 0)
        app->count--; /* it was to begin with this run */
    if (w->failed)
        failed(app, &w->err);
    else
        written(app);
    free(w);
    keep_to_size(app);
    if (app->write && (app->removed || app->store->closing)) {
        nd_log_run_free(app->write); /* the disk refuses, and we can't wait */
        app->write = NULL;
    } else if (app->write) {
        wait_for(app, RETRY_MS);
    } else if (app->next && app->store->closing) {
        nd_log_app_write(app);
    } else {
        nd_log_app_kick(app);
    }
    nd_log_app_seal(app->store);
    nd_log_app_job_done(app);
}

/* The segment to write to: the newest, unless it is full. */
static struct nd_log_segment *segment_for(struct nd_log_app *app, const struct nd_log_run *run)
{
    struct nd_log_segment *newest = app->count ? &app->list[app->count - 1] : NULL;

    if (newest && !newest->sealed && !newest->broken && newest->bytes < ND_LOG_SEGMENT_MAX)
        return newest;
    app->list = nd_realloc(app->list, (size_t)(app->count + 1) * sizeof *app->list);
    newest = &app->list[app->count++];
    *newest = (struct nd_log_segment){.first = run->first, .last = run->first};
    return newest;
}

void nd_log_app_write(struct nd_log_app *app)
{
    struct writing *w;

    if (app->writing)
        return;
    if (!app->write) {
        app->write = app->next;
        app->next = NULL;
        ND_LIST_EACH (link, &app->sources)
            nd_log_source_tell_lost(ND_CONTAINER(link, struct nd_log_source, link));
    }
    if (!app->write)
        return;
    uv_timer_stop(&app->timer);
    w = nd_alloc(sizeof *w);
    w->app = app;
    w->segment = *segment_for(app, app->write);
    app->wrote_at = nd_clock_nanos();
    app->writing = true;
    app->jobs++;
    nd_job_start(app->store->loop, write_work, on_written, w);
}

/* Writes at once after a rest, or when there is much; else soon. */
void nd_log_app_kick(struct nd_log_app *app)
{
    uint64_t rest = REST_NS + (uint64_t)(app->follower_count / FOLLOWERS_A_MS) * 1000 * 1000;
    uint64_t since = nd_clock_nanos() - app->wrote_at;

    if (!app->next || app->write || app->removed)
        return;
    if (since >= rest || app->next->records.length >= FULL_BYTES)
        nd_log_app_write(app);
    else
        wait_for(app, (rest - since) / 1000 / 1000 + 1);
}
