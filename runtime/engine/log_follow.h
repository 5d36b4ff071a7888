/*
 * log_follow.h - one who reads an app's log: what is stored first, then what comes.
 *
 * A follower that begins in the past reads from disk at its own pace. Once it has come to the end
 * it is *live*: what is written is told to it at once. One who doesn't take what it is told isn't
 * waited for. When it takes again it goes on with what the app keeps in memory for all who are a
 * little behind (4 MB at most, and only while somebody is), else it reads on from disk. But if by
 * then it is more than ND_LOG_BEHIND_MAX lines behind, these are dropped, it is told how many they
 * were, {"dropped":N}, and is live again. The count is exact; with a filter it is that of the lines
 * that pass it and which the size cap has not removed meanwhile.
 */
#ifndef ND_ENGINE_LOG_FOLLOW_H
#define ND_ENGINE_LOG_FOLLOW_H

#include "engine/log_scan.h"
#include "engine/log_store.h"

enum { ND_LOG_BEHIND_MAX = 100 * 1000 }; /* lines */

/* Where frames go. None of these may call the follower back, or end it. */
struct nd_log_sink {
    void (*send)(void *io, const char *frame, size_t length);
    bool (*full)(void *io); /* it doesn't take more now; nd_log_follow_drained will be called */
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

#endif
