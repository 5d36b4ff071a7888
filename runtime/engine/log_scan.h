/*
 * log_scan.h - reads what is asked for from an app's segments, a piece at a time.
 *
 * It blocks: a job runs it, on a copy of the list of segments. A segment that the size cap has
 * removed meanwhile is passed over.
 */
#ifndef ND_ENGINE_LOG_SCAN_H
#define ND_ENGINE_LOG_SCAN_H

#include "engine/log_record.h"
#include "engine/log_segment.h"

#define ND_LOG_ALL UINT64_MAX

struct nd_log_scan {
    const char *dir;                   /* borrowed, as all until it ran */
    const struct nd_log_segment *list; /* owned by whoever made the copy */
    int count;
    const struct nd_log_filter *filter; /* where `after` is ignored */
    uint64_t after;                     /* seq; afterwards how far it came */
    uint64_t upto;                      /* seq of the last line to look at */
    uint64_t tail;                      /* only so many of the last lines; ND_LOG_ALL */
    size_t most;                        /* bytes of frames from which on it stops */
    struct nd_log_frames frames;        /* owned; with `app` set; ended */
    void (*each)(void *arg, const struct nd_log_record *record); /* instead of frames; or NULL */
    void *arg;
    bool ended; /* it came to `upto` */
};

void nd_log_scan_run(struct nd_log_scan *scan);

#endif
