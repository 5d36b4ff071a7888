#include "engine/log_store.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/log_app.h"

struct nd_log_store *nd_log_store_new(struct nd_loop *loop, const char *dir, size_t keep)
{
    struct nd_log_store *store = nd_alloc(sizeof *store);

    store->loop = loop;
    store->dir = nd_strdup(dir);
    store->keep = keep ? keep : ND_LOG_KEEP;
    nd_list_init(&store->apps);
    return store;
}

void nd_log_store_keep(struct nd_log_store *store, size_t keep)
{
    store->keep = keep;
}

char *nd_log_store_dir(const struct nd_log_store *store, int64_t app)
{
    return nd_printf("%s/%lld", store->dir, (long long)app);
}

int nd_log_disk_read(struct nd_log_disk *disk, const char *dir, struct nd_err *err)
{
    disk->dir = nd_strdup(dir);
    disk->list = nd_log_segment_list(dir, &disk->count, err);
    return disk->count < 0 ? -1 : 0;
}

void nd_log_disk_fini(struct nd_log_disk *disk)
{
    free(disk->dir);
    free(disk->list);
    *disk = (struct nd_log_disk){0};
}

/* --- the end ---------------------------------------------------------------------------------- */

void nd_log_run_free(struct nd_log_run *run)
{
    if (!run)
        return;
    run->store->gathered -= run->records.length;
    nd_list_remove(&run->link);
    nd_buf_fini(&run->records);
    free(run);
}

static void free_app(struct nd_log_app *app)
{
    struct nd_log_store *store = app->store;

    ND_LIST_EACH (link, &app->sources) {
        nd_list_remove(link); /* it outlives us, and adds to nobody */
        ND_CONTAINER(link, struct nd_log_source, link)->app = NULL;
    }
    ND_LIST_EACH (link, &app->recent)
        nd_log_run_free(ND_CONTAINER(link, struct nd_log_run, link));
    nd_log_run_free(app->next);
    nd_log_frames_fini(&app->frames);
    nd_redact_free(app->redact);
    nd_list_remove(&app->link);
    free(app->list);
    free(app->name);
    free(app->dir);
    free(app);
    if (store->closing && nd_list_empty(&store->apps)) {
        free(store->dir);
        free(store);
    }
}

static void remove_files(struct nd_log_app *app)
{
    for (int i = 0; i < app->count; i++)
        nd_log_segment_remove(app->dir, app->list[i].first);
    rmdir(app->dir);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct nd_log_app *app = handle->data;

    app->timer_closed = true;
    nd_log_app_job_done(app);
}

static bool is_ending(const struct nd_log_app *app)
{
    return app->removed || app->store->closing;
}

/* Goes on with the end of an app once nothing is under way. */
struct nd_log_segment *nd_log_app_newest(const struct nd_log_app *app, int count)
{
    struct nd_log_segment *copy = nd_alloc((size_t)(count + 1) * sizeof *copy);

    if (count > 0)
        memcpy(copy, app->list + app->count - count, (size_t)count * sizeof *copy);
    return copy;
}

void nd_log_app_job_done(struct nd_log_app *app)
{
    app->jobs--;
    if (!is_ending(app) || app->write)
        return;
    while (!nd_list_empty(&app->flushes)) { /* nothing more will be written */
        struct nd_log_flush *flush = ND_CONTAINER(app->flushes.next, struct nd_log_flush, link);

        nd_list_remove(&flush->link);
        flush->done(flush->arg);
    }
    if (app->jobs)
        return;
    if (!app->timer_closed) {
        app->jobs++;
        uv_close((uv_handle_t *)&app->timer, on_timer_closed);
        return;
    }
    if (app->removed)
        remove_files(app);
    free_app(app);
}

static void end_app(struct nd_log_app *app)
{
    nd_log_followers_end(app, app->removed ? "the app was destroyed" : "the daemon stops");
    app->jobs++;
    if (!app->removed) {
        nd_log_app_write(app);
    } else if (!app->writing) {
        nd_log_run_free(app->write);
        app->write = NULL;
    }
    nd_log_app_job_done(app);
}

void nd_log_store_free(struct nd_log_store *store)
{
    struct nd_list apps;

    if (!store || store->closing)
        return;
    store->closing = true;
    nd_list_init(&apps);
    if (nd_list_empty(&store->apps)) {
        free(store->dir);
        free(store);
        return;
    }
    /* The last one to end frees the store: don't look at its list after that. */
    for (struct nd_list *link = store->apps.next, *next; link != &store->apps; link = next) {
        bool last = link->next == &store->apps;
        struct nd_log_app *app = ND_CONTAINER(link, struct nd_log_app, link);

        next = link->next;
        if (!app->removed)
            end_app(app);
        if (last)
            return;
    }
}

void nd_log_app_remove(struct nd_log_app *app)
{
    if (is_ending(app))
        return;
    app->removed = true;
    end_app(app);
}

/* --- apps ------------------------------------------------------------------------------------- */

static struct nd_log_app *new_app(struct nd_log_store *store, int64_t id, const char *name,
                                  struct nd_log_disk *disk)
{
    struct nd_log_app *app = nd_alloc(sizeof *app);

    app->store = store;
    app->id = id;
    app->name = nd_strdup(name);
    app->frames.app = app->name;
    app->dir = disk->dir;
    app->list = disk->list;
    app->count = disk->count;
    *disk = (struct nd_log_disk){0};
    app->seq = app->written = app->count ? app->list[app->count - 1].last : 0;
    app->redact = nd_redact_new();
    nd_list_init(&app->sources);
    nd_list_init(&app->followers);
    nd_list_init(&app->recent);
    nd_list_init(&app->flushes);
    uv_timer_init(&store->loop->uv, &app->timer);
    app->timer.data = app;
    nd_list_append(&store->apps, &app->link);
    nd_log_app_seal(store); /* what the last daemon had not come to */
    return app;
}

struct nd_log_app *nd_log_store_app(struct nd_log_store *store, int64_t id, const char *name,
                                    struct nd_log_disk *disk)
{
    ND_LIST_EACH (link, &store->apps) {
        struct nd_log_app *app = ND_CONTAINER(link, struct nd_log_app, link);

        if (app->id == id && !app->removed)
            return app;
    }
    return disk ? new_app(store, id, name, disk) : NULL;
}

struct nd_redact *nd_log_app_redact(struct nd_log_app *app)
{
    return app->redact;
}

void nd_log_app_flush(struct nd_log_app *app, struct nd_log_flush *flush)
{
    flush->seq = app->seq;
    if (app->written >= flush->seq || is_ending(app)) {
        nd_list_init(&flush->link);
        flush->done(flush->arg);
        return;
    }
    nd_list_append(&app->flushes, &flush->link);
    nd_log_app_write(app);
}

void nd_log_app_stats(const struct nd_log_app *app, struct nd_log_stats *stats)
{
    *stats = (struct nd_log_stats){
        .first = app->count ? app->list[0].first : 0,
        .last = app->written,
        .lost = app->lost,
        .segments = app->count,
        .followers = app->follower_count,
    };
    for (int i = 0; i < app->count; i++)
        stats->bytes += app->list[i].bytes;
    for (const struct nd_list *link = app->sources.next; link != &app->sources; link = link->next)
        stats->streams++;
}

/* --- sources ---------------------------------------------------------------------------------- */

struct nd_log_source *nd_log_source_new(struct nd_log_app *app, int64_t release,
                                        const char *instance)
{
    struct nd_log_source *source = nd_alloc(sizeof *source);

    source->app = app;
    source->release = release;
    source->instance = nd_strndup(instance, strnlen(instance, ND_LOG_INSTANCE_MAX));
    source->number = ++app->source_number;
    nd_list_append(&app->sources, &source->link);
    return source;
}

void nd_log_source_free(struct nd_log_source *source)
{
    if (!source)
        return;
    if (source->app)
        nd_log_source_tell_lost(source);
    nd_list_remove(&source->link);
    free(source->instance);
    free(source);
}

static struct nd_log_run *run_of(struct nd_log_app *app)
{
    if (!app->next) {
        app->next = nd_alloc(sizeof *app->next);
        app->next->store = app->store;
        nd_list_init(&app->next->link);
        app->runs++;
    }
    return app->next;
}

static void add_record(struct nd_log_source *source, struct nd_log_record *record)
{
    struct nd_log_app *app = source->app;
    struct nd_log_run *run = run_of(app);
    uint64_t lines = record->kind == ND_LOG_LOST ? record->lost : 1;
    size_t before = run->records.length;

    record->source = source->number;
    if (source->explained_in != app->runs) {
        nd_log_record_add(&run->records,
                          &(struct nd_log_record){.kind = ND_LOG_SOURCE,
                                                  .source = source->number,
                                                  .release = source->release,
                                                  .instance = source->instance,
                                                  .instance_length = strlen(source->instance)});
        source->explained_in = app->runs;
    }
    if (!run->lines)
        run->first = app->seq + 1;
    if (!run->lines || record->time < run->first_time)
        run->first_time = record->time;
    if (!run->lines || record->time > run->last_time)
        run->last_time = record->time;
    run->lines += lines;
    run->last = record->seq = app->seq += lines;
    nd_log_record_add(&run->records, record);
    app->store->gathered += run->records.length - before;
}

void nd_log_source_tell_lost(struct nd_log_source *source)
{
    struct nd_log_record record = {.kind = ND_LOG_LOST,
                                   .time = source->lost_time,
                                   .is_stderr = source->lost_stderr,
                                   .lost = source->lost};

    if (!source->lost)
        return;
    source->lost = 0;
    add_record(source, &record);
}

void nd_log_source_lose(struct nd_log_source *source, int64_t time, bool is_stderr)
{
    source->lost++;
    source->lost_time = time;
    source->lost_stderr = is_stderr;
    if (source->app)
        source->app->lost++;
}

void nd_log_source_add(struct nd_log_source *source, int64_t time, bool is_stderr, const char *text,
                       size_t length)
{
    struct nd_log_record record = {
        .kind = ND_LOG_LINE, .time = time, .is_stderr = is_stderr, .text = text, .length = length};
    struct nd_log_app *app = source->app;

    if (!app || is_ending(app))
        return;
    if (app->next && (app->next->records.length + length > ND_LOG_PENDING_MAX ||
                      app->store->gathered > ND_LOG_GATHERED_MAX)) {
        nd_log_source_lose(source, time, is_stderr);
        return;
    }
    nd_log_source_tell_lost(source);
    add_record(source, &record);
}

bool nd_log_app_is_full(const struct nd_log_app *app)
{
    return app->next && (app->next->records.length > ND_LOG_PENDING_MAX / 2 ||
                         app->store->gathered > ND_LOG_GATHERED_MAX / 2);
}
