/*
 * log_app.h - what log_store.c, log_write.c and log_follow.c share about an app; for them only.
 */
#ifndef ND_ENGINE_LOG_APP_H
#define ND_ENGINE_LOG_APP_H

#include "engine/log_store.h"

struct nd_log_run {      /* lines that are written, and told, together */
    struct nd_list link; /* in the app's `recent` */
    struct nd_log_store *store;
    struct nd_buf records;
    uint64_t first, last;
    int64_t first_time, last_time;
    uint64_t lines; /* told to be lost included */
};

struct nd_log_store {
    struct nd_loop *loop;
    char *dir; /* owned */
    size_t keep;
    struct nd_list apps;
    struct nd_log_app *sealing; /* whose segment is being sealed; NULL: none's */
    size_t gathered;            /* bytes of records in runs */
    bool closing;
};

struct nd_log_app {
    struct nd_list link;
    struct nd_log_store *store;
    int64_t id;
    char *name;                  /* owned */
    char *dir;                   /* owned */
    struct nd_redact *redact;    /* owned; never NULL */
    struct nd_log_segment *list; /* owned; oldest first, the last may be written to */
    int count;
    uint64_t seq;             /* of the last line taken in */
    uint64_t written;         /* of the last line on disk */
    uint64_t lost;            /* lines since the start */
    struct nd_log_run *next;  /* owned; being filled */
    struct nd_log_run *write; /* owned; being written, or to be tried again; NULL: none */
    bool writing;             /* a job is at it */
    uint64_t runs;            /* how many were begun */
    uint64_t wrote_at;        /* ns, monotonic: when the last write began */
    uv_timer_t timer;         /* a write is due */
    bool timer_closed;
    bool failing;             /* the last write failed, which was logged */
    bool removed;             /* its files are to go */
    int jobs;                 /* under way */
    struct nd_list sources;   /* struct nd_log_source */
    uint16_t source_number;   /* the last given */
    struct nd_list followers; /* struct nd_log_follower */
    int follower_count;
    struct nd_list recent; /* struct nd_log_run, oldest first, up to `written`: for followers that
                              are not live and have been told all before */
    size_t recent_bytes;
    struct nd_log_frames frames; /* of the run being told, for all who want everything */
    struct nd_list flushes;      /* struct nd_log_flush */
};

/* log_write.c */
void nd_log_app_write(
    struct nd_log_app *app); /* starts a write if there is something and none is */
void nd_log_app_seal(struct nd_log_store *store); /* starts the next sealing */

/* log_store.c */
void nd_log_app_job_done(struct nd_log_app *app); /* may free it */
/* A copy of its newest `count` segments, which there are; owned by the caller. */
struct nd_log_segment *nd_log_app_newest(const struct nd_log_app *app, int count);
void nd_log_run_free(struct nd_log_run *run);
void nd_log_source_tell_lost(struct nd_log_source *source);

/* log_follow.c */
void nd_log_followers_tell(struct nd_log_app *app, struct nd_log_run *run); /* takes it */
void nd_log_followers_end(struct nd_log_app *app, const char *why);

#endif
