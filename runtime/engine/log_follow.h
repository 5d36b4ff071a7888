/*
 * log_follow.h - one who reads an app's log: what is stored first, then what comes.
 *
 * A follower that begins in the past reads from disk at its own pace, and loses nothing. Once it
 * has come to the end it is *live*: what is written is told to it at once. A live follower who
 * doesn't take what it is told isn't waited for, and nothing is kept for it: lines beyond
 * ND_LOG_UNSENT_MAX are dropped, and when it takes again it is first told how many they were:
 * {"dropped":N}.
 */
#ifndef ND_ENGINE_LOG_FOLLOW_H
#define ND_ENGINE_LOG_FOLLOW_H

#include "engine/log_scan.h"
#include "engine/log_store.h"

enum { ND_LOG_UNSENT_MAX = 512 * 1024 }; /* bytes told and not yet taken */

/* Where frames go. None of these may call the follower back, or end it. */
struct nd_log_sink {
    void (*send)(void *io, const char *frame, size_t length);
    size_t (*unsent)(void *io);
    bool (*full)(void *io); /* nd_log_follow_drained will be called */
    /* It is over: all was told (why is NULL), or why not. The follower is dead afterwards. */
    void (*end)(void *io, const char *why);
};

struct nd_log_follow_call {
    struct nd_log_filter filter; /* takes what it owns */
    uint64_t tail;               /* begin with so many of the last lines; ND_LOG_ALL */
    bool follow;                 /* go on with what comes */
    const struct nd_log_sink *sink;
    void *io;
};

/* NULL: it is over already, and `end` was called. */
struct nd_log_follower *nd_log_follow_start(struct nd_log_app *app,
                                            struct nd_log_follow_call *call);
void nd_log_follow_drained(struct nd_log_follower *f);
void nd_log_follow_stop(struct nd_log_follower *f); /* nothing is sent any more, nor `end` called */
uint64_t nd_log_follow_dropped(const struct nd_log_follower *f); /* lines, ever */

#endif
