/*
 * loop.h - the libuv loop, and its orderly end.
 *
 * One loop a process. `user` is for the layer above. nd_loop_fini runs the loop until every close
 * callback has run and then proves that no handle is left: what is, is named on stderr and the
 * process aborts, since a leaked handle is a bug that would otherwise show as a hang.
 *
 * From nd_loop_init on the process ignores SIGPIPE: a peer that went away is an error of the write.
 */
#ifndef ND_IO_LOOP_H
#define ND_IO_LOOP_H

#include <stdint.h>
#include <uv.h>

#include "base/err.h"

#define ND_LAG_BUCKETS 12

struct nd_handover;

/* How late the loop was, five times a second, since the start. */
struct nd_loop_lag {
    uint64_t counts[ND_LAG_BUCKETS + 1]; /* by nd_lag_bounds; the last: later than all of these */
    uint64_t count;                      /* of measurements */
    double sum;                          /* seconds */
};
extern const double nd_lag_bounds[ND_LAG_BUCKETS]; /* seconds, ascending */

struct nd_loop {
    uv_loop_t uv;
    struct nd_handover
        *handover;          /* borrowed; NULL: no listening socket is inherited or handed on */
    uv_timer_t lag_timer;   /* unreferenced; wakes five times a second to measure lag */
    uint64_t lag_due;       /* ns, monotonic: when lag_timer should have fired */
    uint64_t lag_last;      /* ns: how late it was the last time */
    uint64_t lag_most;      /* ns: the most since the last nd_loop_lag */
    struct nd_loop_lag lag; /* all of them */
};

int nd_loop_init(struct nd_loop *loop, struct nd_err *err);
void nd_loop_fini(struct nd_loop *loop);
int nd_loop_run(struct nd_loop *loop); /* until nothing referenced is left, or nd_loop_stop */
void nd_loop_stop(struct nd_loop *loop);

/* The most the loop was late, in milliseconds, since the last call. */
double nd_loop_lag(struct nd_loop *loop);

/* An nd_err from a libuv error code (negative); returns -1. */
int nd_loop_err(struct nd_err *err, int uv_code, const char *code, const char *hint,
                const char *doing);

#endif
