/*
 * burst.h - no task may hold the loop: a clock for bursts of Lua that costs nothing while they are
 * short.
 *
 * A timer on the loop thread's own CPU clock ticks every 10 ms that the thread has *run*, so an
 * idle daemon isn't woken, and a busy machine ends nobody. Beginning a burst is reading a counter.
 * From the tick on at which a burst is over its time, each gives its coroutine a hook that ends it.
 */
#ifndef ND_SCRIPT_BURST_H
#define ND_SCRIPT_BURST_H

#include <lua.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

struct nd_burst {
    timer_t timer;
    bool ticking;                /* the timer exists */
    volatile sig_atomic_t ticks; /* of the thread's CPU time */
    volatile sig_atomic_t begun; /* at which tick the burst began */
    lua_State *volatile running; /* the coroutine of the burst; NULL between bursts */
    lua_Hook end;                /* what ends one */
};

/* Of the thread that calls it. */
void nd_burst_init(struct nd_burst *burst, lua_Hook end);
void nd_burst_fini(struct nd_burst *burst);
void nd_burst_begin(struct nd_burst *burst, lua_State *co);
int nd_burst_end(
    struct nd_burst *burst); /* ms that it took at least, where those are worth telling */
bool nd_burst_is_late(const struct nd_burst *burst); /* it is over its time */
int nd_burst_most(void);                             /* ms: that time */

#endif
