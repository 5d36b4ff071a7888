/*
 * host.h - what the files of the script layer share about a host; not for other layers.
 */
#ifndef ND_SCRIPT_HOST_H
#define ND_SCRIPT_HOST_H

#include "script/burst.h"
#include "script/pool.h"
#include "script/task.h"
#include "script/timer.h"

enum { ND_SPARE = 16 };

struct nd_task {
    struct nd_list all;     /* in nd_host.tasks while alive */
    struct nd_list ready;   /* in nd_host.ready while it may run */
    struct nd_list joiners; /* struct wait_op.link of those who wait for its end */
    struct nd_host *host;
    lua_State *co;        /* its coroutine; NULL after its end */
    int co_ref;           /* anchors `co` in the registry */
    char *name;           /* owned */
    struct nd_op *parked; /* the operation it waits for; NULL while it runs or is ready */
    int args;             /* on its stack for the first resume, the function aside */
    int holders;          /* the scheduler while alive, and each Lua handle */
    int result_ref;       /* after the end: table of results, or the error object */
    int status;           /* after the end: LUA_OK or the error's status */
    bool started;
    bool cancel; /* raise `cancelled` at the next park point */
    nd_task_end *on_end;
    void *arg;
};

struct nd_host {
    lua_State *L;
    struct nd_pool pool; /* its memory */
    struct nd_loop *loop;
    struct nd_list tasks;
    struct nd_list ready;
    struct nd_task *volatile current; /* running now; NULL outside tasks */
    struct nd_burst burst;            /* how long `current` has been running */
    int count;                        /* tasks alive */
    lua_State *spare[ND_SPARE];       /* coroutines of ended tasks, for the next ones */
    int spare_ref[ND_SPARE];          /* anchor them in the registry */
    int spares;                       /* how many */
    uv_idle_t idle;                   /* active while `ready` isn't empty */
    struct nd_timers timers;
    int closing; /* handles whose close callback is still due */
};

/* A wait with an optional time-out, listed by whoever will end it. push: true, or false on
 * time-out. */
struct nd_wait_op {
    struct nd_op op;
    struct nd_list link;
    struct nd_timer timer;
    bool timed_out;
};

ND_RAISES struct nd_wait_op *nd_wait_op_new(lua_State *L, struct nd_list *waiters, int64_t ms);
/* As above for a struct that begins with nd_wait_op and has a type of its own. */
ND_RAISES void *nd_wait_op_new_as(lua_State *L, const struct nd_op_type *type,
                                  struct nd_list *waiters, int64_t ms);
void nd_wait_op_cancel(void *op);
void nd_wait_op_done(struct nd_wait_op *op); /* unlinks, stops the timer, nd_op_done */

ND_RAISES int nd_open_task(lua_State *L); /* task_lua.c: the module `task` */
void nd_task_drop(struct nd_task *task);  /* gives up one hold */

#endif
