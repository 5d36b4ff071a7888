/*
 * timer.h - deadlines of a host, all on one libuv timer.
 *
 * A sorted list: a daemon has tens of them, and starting or stopping one needs no handle to close.
 * The owner embeds a `struct nd_timer`; stopping one that isn't running is harmless.
 */
#ifndef ND_SCRIPT_TIMER_H
#define ND_SCRIPT_TIMER_H

#include <stdint.h>
#include <uv.h>

#include "base/list.h"

struct nd_timer {
    struct nd_list link; /* in nd_timers.list while running */
    int64_t due;         /* ms, monotonic */
    void (*fire)(struct nd_timer *timer);
};

struct nd_timers {
    struct nd_list list; /* by `due`, the soonest first */
    uv_timer_t handle;   /* set to the soonest */
};

void nd_timers_init(struct nd_timers *timers, uv_loop_t *loop);
void nd_timer_init(struct nd_timer *timer, void (*fire)(struct nd_timer *timer));
void nd_timer_start(struct nd_timers *timers, struct nd_timer *timer, int64_t ms);
void nd_timer_stop(struct nd_timer *timer);

#endif
