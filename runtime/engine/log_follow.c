#include "engine/log_follow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/log_app.h"
#include "io/job.h"

enum {
    STEP_BYTES = 256 * 1024,      /* of frames read from disk at once */
    FRAMES_KEPT = 512 * 1024,     /* of an app's buffer for them */
    RECENT_MAX = 4 * 1024 * 1024, /* of an app's runs for those who are a little behind */
};

/*   FLUSH → READ ⇄ WAIT ⇄ LIVE, and from each of them OVER, which a job still at it outlives */
enum state {
    FLUSH, /* what was taken in before it came is being written */
    READ,  /* a job reads from disk */
    WAIT,  /* for the sink to have room */
    LIVE,
    OVER,
};

struct nd_log_follower {
    struct nd_list link;
    struct nd_log_app *app;
    struct nd_log_follow_call call;
    enum state state;
    bool job;         /* one reads for us */
    bool counting;    /* ... only to count what is dropped */
    bool lived;       /* it was LIVE: may be dropped from */
    bool flushing;    /* `flush` is listed */
    bool starting;    /* nd_log_follow_start has not returned */
    uint64_t dropped; /* lines, while a job counts them */
    uint64_t upto;    /* seq: where one that doesn't follow ends */
    struct nd_log_flush flush;
    struct nd_log_scan scan;
};

static void step(struct nd_log_follower *f);

static void free_follower(struct nd_log_follower *f)
{
    nd_log_filter_fini(&f->call.filter);
    nd_log_frames_fini(&f->scan.frames);
    free(f);
}

/* Frees what of `recent` is needed by nobody, or is too much. A follower for whom something in
 * between is gone already reads from disk, and needs none of it. */
static void trim_recent(struct nd_log_app *app)
{
    struct nd_log_run *oldest = ND_CONTAINER(app->recent.next, struct nd_log_run, link);
    uint64_t told = UINT64_MAX;

    if (nd_list_empty(&app->recent))
        return;
    ND_LIST_EACH (link, &app->followers) {
        struct nd_log_follower *f = ND_CONTAINER(link, struct nd_log_follower, link);
        uint64_t after = f->job ? f->scan.upto : f->call.filter.after;

        if (after + 1 >= oldest->first && after < told)
            told = after;
    }
    while (!nd_list_empty(&app->recent)) {
        oldest = ND_CONTAINER(app->recent.next, struct nd_log_run, link);
        if (oldest->last > told && app->recent_bytes <= RECENT_MAX &&
            app->store->gathered <= ND_LOG_GATHERED_MAX / 2)
            return;
        app->recent_bytes -= oldest->records.length;
        nd_log_run_free(oldest);
    }
}

static void set_state(struct nd_log_follower *f, enum state state)
{
    f->state = state;
    if (state == LIVE)
        trim_recent(f->app);
}

static void leave(struct nd_log_follower *f)
{
    f->state = OVER;
    nd_list_remove(&f->link);
    f->app->follower_count--;
    trim_recent(f->app);
    if (f->flushing)
        nd_list_remove(&f->flush.link);
    if (!f->job && !f->starting)
        free_follower(f);
}

static void end(struct nd_log_follower *f, const char *why)
{
    const struct nd_log_sink *sink = f->call.sink;
    void *io = f->call.io;

    leave(f);
    sink->end(io, why);
}

/* --- sending ---------------------------------------------------------------------------------- */

static void send_frame(struct nd_log_follower *f, const struct nd_log_frames *frames,
                       const struct nd_log_frame *frame)
{
    f->call.sink->send(f->call.io, frames->text.data + frame->at, frame->length);
}

static void send_frames(struct nd_log_follower *f, const struct nd_log_frames *frames)
{
    for (size_t i = 0; i < frames->count; i++)
        send_frame(f, frames, &frames->list[i]);
}

static void tell_dropped(struct nd_log_follower *f, uint64_t lines)
{
    char text[48];

    if (!lines)
        return;
    snprintf(text, sizeof text, "{\"dropped\":%llu}", (unsigned long long)lines);
    f->call.sink->send(f->call.io, text, strlen(text));
}

/* The i-th frame of what of a run passes the filter (NULL: of all), made when it is asked for;
 * NULL: they are fewer. */
static const struct nd_log_frame *frame_of(struct nd_log_frames *frames, struct nd_log_walk *walk,
                                           const struct nd_log_filter *filter, size_t i)
{
    struct nd_log_record record;

    while (frames->count < i + 2 && nd_log_walk_next(walk, &record))
        if (!filter || nd_log_filter_match(filter, &record))
            nd_log_frames_add(frames, &record);
    if (frames->count < i + 2)
        nd_log_frames_end(frames);
    return i < frames->count ? &frames->list[i] : NULL;
}

/* Sends a run, as far as it is taken. */
static void tell(struct nd_log_follower *f, const struct nd_log_run *run,
                 struct nd_log_frames *frames, struct nd_log_walk *walk,
                 const struct nd_log_filter *filter)
{
    const struct nd_log_frame *frame;

    for (size_t i = 0; (frame = frame_of(frames, walk, filter, i)); i++) {
        if (f->call.sink->full(f->call.io)) {
            f->state = WAIT;
            return;
        }
        send_frame(f, frames, frame);
        f->call.filter.after = frame->last;
    }
    f->call.filter.after = run->last;
}

/* The same with frames for this one only. */
static void tell_alone(struct nd_log_follower *f, const struct nd_log_run *run)
{
    struct nd_log_walk walk = {.data = run->records.data, .length = run->records.length};
    struct nd_log_frames frames = {.app = f->app->name};

    tell(f, run, &frames, &walk, &f->call.filter);
    nd_log_frames_fini(&frames);
}

void nd_log_followers_tell(struct nd_log_app *app, struct nd_log_run *run)
{
    struct nd_log_walk walk = {.data = run->records.data, .length = run->records.length};

    nd_log_frames_clear(&app->frames);
    ND_LIST_EACH (link, &app->followers) {
        struct nd_log_follower *f = ND_CONTAINER(link, struct nd_log_follower, link);

        if (f->state == LIVE && nd_log_filter_is_open(&f->call.filter))
            tell(f, run, &app->frames, &walk, NULL);
        else if (f->state == LIVE)
            tell_alone(f, run);
    }
    if (app->frames.text.capacity > FRAMES_KEPT) {
        nd_log_frames_fini(&app->frames);
        app->frames.app = app->name;
    }
    nd_list_append(&app->recent, &run->link);
    app->recent_bytes += run->records.length;
    trim_recent(app);
}

/* --- catching up ------------------------------------------------------------------------------ */

static void scan_work(void *arg)
{
    nd_log_scan_run(&((struct nd_log_follower *)arg)->scan);
}

static void on_scanned(void *arg, bool ran)
{
    struct nd_log_follower *f = arg;
    struct nd_log_app *app = f->app;

    (void)ran;
    f->job = false;
    free((void *)(uintptr_t)f->scan.list);
    f->scan.list = NULL;
    if (f->state == OVER) {
        free_follower(f);
    } else {
        f->call.filter.after = f->scan.after;
        f->call.tail = ND_LOG_ALL;
        send_frames(f, &f->scan.frames);
        nd_log_frames_fini(&f->scan.frames);
        if (f->counting)
            tell_dropped(f, f->dropped);
        f->counting = false;
        step(f);
    }
    nd_log_app_job_done(app);
}

static void count_one(void *arg, const struct nd_log_record *record)
{
    struct nd_log_follower *f = arg;

    f->dropped += record->kind == ND_LOG_LOST ? record->lost : 1;
}

static void start_scan(struct nd_log_follower *f)
{
    struct nd_log_app *app = f->app;

    f->scan = (struct nd_log_scan){.dir = app->dir,
                                   .list = nd_log_app_newest(app, app->count),
                                   .count = app->count,
                                   .filter = &f->call.filter,
                                   .after = f->call.filter.after,
                                   .upto = app->written < f->upto ? app->written : f->upto,
                                   .tail = f->call.tail,
                                   .most = STEP_BYTES,
                                   .frames = {.app = app->name}};
    if (f->counting) {
        f->dropped = 0;
        f->scan.each = count_one;
        f->scan.arg = f;
    }
    f->job = true;
    app->jobs++;
    nd_job_start(app->store->loop, scan_work, on_scanned, f);
}

/* Gives up what the size cap has removed before it was read, and all of what is too much; true when
 * a job counts it. */
static bool drop_behind(struct nd_log_follower *f)
{
    struct nd_log_app *app = f->app;
    uint64_t after = f->call.filter.after;
    uint64_t first = app->count ? app->list[0].first : app->written + 1;
    bool open = nd_log_filter_is_open(&f->call.filter);

    if (f->lived && app->written - after > ND_LOG_BEHIND_MAX) {
        f->counting = !open;
        if (open) {
            tell_dropped(f, app->written - after);
            f->call.filter.after = app->written;
        }
    } else if (open && after > 0 && first > after + 1) {
        tell_dropped(f, first - after - 1);
        f->call.filter.after = first - 1;
    }
    return f->counting;
}

/* Sends the next of what was written while it read from disk; false where that isn't in memory. */
static bool take_recent(struct nd_log_follower *f)
{
    struct nd_log_app *app = f->app;

    ND_LIST_EACH (link, &app->recent) {
        struct nd_log_run *run = ND_CONTAINER(link, struct nd_log_run, link);

        if (run->last <= f->call.filter.after)
            continue;
        if (run->first > f->call.filter.after + 1)
            return false;
        tell_alone(f, run);
        return true;
    }
    return false;
}

static void step(struct nd_log_follower *f)
{
    set_state(f, READ);
    for (;;) {
        if (f->call.sink->full(f->call.io)) {
            set_state(f, WAIT);
            return;
        }
        if (f->call.tail == ND_LOG_ALL && drop_behind(f)) {
            start_scan(f);
            return;
        }
        if (f->call.filter.after >= f->upto) {
            end(f, NULL);
            return;
        }
        if (f->call.filter.after >= f->app->written) {
            f->call.filter.since = 0; /* all that comes is later */
            f->lived = true;
            set_state(f, LIVE);
            return;
        }
        if (f->call.tail != ND_LOG_ALL || !take_recent(f)) {
            start_scan(f);
            return;
        }
    }
}

static void begin(void *arg)
{
    struct nd_log_follower *f = arg;
    uint64_t last = f->app->written;

    f->flushing = false;
    if (f->call.filter.after > last || f->call.tail == 0)
        f->call.filter.after = last; /* what is yet to come gets no number below that */
    if (f->call.tail == 0)
        f->call.tail = ND_LOG_ALL;
    f->upto = f->call.follow ? UINT64_MAX : last;
    step(f);
}

struct nd_log_follower *nd_log_follow_start(struct nd_log_app *app, struct nd_log_follow_call *call)
{
    struct nd_log_follower *f = nd_alloc(sizeof *f);

    f->app = app;
    f->call = *call;
    call->filter = (struct nd_log_filter){0};
    f->flush.done = begin;
    f->flush.arg = f;
    f->flushing = f->starting = true;
    nd_list_append(&app->followers, &f->link);
    app->follower_count++;
    nd_log_app_flush(app, &f->flush);
    f->starting = false;
    if (f->state != OVER)
        return f;
    if (!f->job)
        free_follower(f);
    return NULL;
}

void nd_log_follow_drained(struct nd_log_follower *f)
{
    if (f->state == WAIT)
        step(f);
}

void nd_log_follow_stop(struct nd_log_follower *f)
{
    leave(f);
}

void nd_log_followers_end(struct nd_log_app *app, const char *why)
{
    while (!nd_list_empty(&app->followers))
        end(ND_CONTAINER(app->followers.next, struct nd_log_follower, link), why);
}
