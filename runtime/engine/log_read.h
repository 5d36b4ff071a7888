/*
 * log_read.h - what there is in an app's log now, as one JSON array.
 */
#ifndef ND_ENGINE_LOG_READ_H
#define ND_ENGINE_LOG_READ_H

#include "engine/log_store.h"

/* `text` may be taken. Called once, and not before nd_log_read_start has returned. */
typedef void nd_log_read_done(void *arg, struct nd_buf *text, uint64_t lines);

/* All that was taken in so far and passes the filter, whose contents it takes; of that the last
 * `tail` lines (ND_LOG_ALL); it stops where the text exceeds `most` bytes. */
void nd_log_read_start(struct nd_log_app *app, struct nd_log_filter *filter, uint64_t tail,
                       size_t most, nd_log_read_done *done, void *arg);

#endif
