/*
 * log_store.h - the logs of apps: taken in, written, told to followers, kept up to a size.
 *
 * Lines are gathered in memory; one job at a time for each app writes what has gathered as one
 * block (log_segment.h), and only then are its lines told to followers, so that nobody has seen
 * what a crash could take back or what would get another seq after it. The first line after a rest
 * is written at once; under load a write waits a few milliseconds to carry more.
 *
 * A container is never made to wait for us: the stream is always read. Where the disk can't keep
 * up, lines beyond ND_LOG_PENDING_MAX bytes are dropped and counted, and so are those of a write
 * that failed; the count is stored in the place of the lines. (Docker's own way, to stop reading,
 * would stop the app at its next print: a log is worth less than the service it tells about.)
 *
 * Sealing, one segment at a time on the whole host, runs beside, at most a quarter of the time on
 * one processor, and is never waited for: in a flood that outruns it, raw segments count against
 * the app's size like sealed ones, and the oldest go.
 */
#ifndef ND_ENGINE_LOG_STORE_H
#define ND_ENGINE_LOG_STORE_H

#include "base/list.h"
#include "engine/log_record.h"
#include "engine/log_redact.h"
#include "engine/log_segment.h"
#include "io/loop.h"

enum {
    ND_LOG_PENDING_MAX = 4 * 1024 * 1024,   /* bytes of an app's lines that wait for the disk */
    ND_LOG_GATHERED_MAX = 24 * 1024 * 1024, /* the same of all apps together, and being told */
    ND_LOG_SEGMENT_MAX = 4 * 1024 * 1024,   /* bytes of a raw segment */
    ND_LOG_KEEP = 64 * 1024 * 1024,         /* bytes on disk of an app, unless it is said */
};

struct nd_log_store;
struct nd_log_app;
struct nd_log_follower;

struct nd_log_store *nd_log_store_new(struct nd_loop *loop, const char *dir, size_t keep);
void nd_log_store_keep(struct nd_log_store *store, size_t keep); /* from an app's next write on */
/* Ends followers and streams; the rest goes when the last write is done. Lines that are gathered
 * are still written. */
void nd_log_store_free(struct nd_log_store *store);

/* What the disk has of an app, read by a job and then given to nd_log_store_app. */
struct nd_log_disk {
    char *dir;                   /* owned */
    struct nd_log_segment *list; /* owned */
    int count;
};

char *nd_log_store_dir(const struct nd_log_store *store, int64_t app); /* returns owned */
int nd_log_disk_read(struct nd_log_disk *disk, const char *dir, struct nd_err *err); /* blocks */
void nd_log_disk_fini(struct nd_log_disk *disk);

/* The app if it is open; else NULL without `disk`, or opened with what it takes from it. Borrowed:
 * it lives until nd_log_app_remove or the store's end. */
struct nd_log_app *nd_log_store_app(struct nd_log_store *store, int64_t id, const char *name,
                                    struct nd_log_disk *disk);
void nd_log_app_remove(struct nd_log_app *app); /* with its files; followers end */

/* What takes secrets out of all it is given from now on; borrowed. */
struct nd_redact *nd_log_app_redact(struct nd_log_app *app);

/* `done` is called once all that was taken in so far is written, or lost; at once if it is. */
struct nd_log_flush {
    struct nd_list link;
    uint64_t seq; /* private */
    void (*done)(void *arg);
    void *arg;
};

void nd_log_app_flush(struct nd_log_app *app, struct nd_log_flush *flush); /* borrows until done */

struct nd_log_stats {
    uint64_t first, last; /* seq of what is stored; 0, 0: nothing */
    uint64_t lost;        /* lines since the daemon started */
    size_t bytes;         /* on disk */
    int segments, followers, streams;
};

void nd_log_app_stats(const struct nd_log_app *app, struct nd_log_stats *stats);

/* --- those who print: one for each container and stream of it ----------------------------------
 */

struct nd_log_source {
    struct nd_list link; /* in the app's */
    struct nd_log_app *app;
    char *instance; /* owned */
    int64_t release;
    uint16_t number;
    uint64_t explained_in; /* number of the run that explains us */
    uint64_t lost;         /* lines not yet told as lost */
    int64_t lost_time;     /* of the last of them */
    bool lost_stderr;
};

struct nd_log_source *nd_log_source_new(struct nd_log_app *app, int64_t release,
                                        const char *instance);
void nd_log_source_free(struct nd_log_source *source); /* its lines stay */
/* A line, redacted. Call nd_log_app_kick after some of them. */
void nd_log_source_add(struct nd_log_source *source, int64_t time, bool is_stderr, const char *text,
                       size_t length);
void nd_log_source_lose(struct nd_log_source *source, int64_t time, bool is_stderr); /* a line */
void nd_log_app_kick(struct nd_log_app *app);
bool nd_log_app_is_full(const struct nd_log_app *app); /* half of ND_LOG_PENDING_MAX waits */

#endif
