/*
 * task_lua.c - the Lua module `task`: the primitives; lua/nd/tasks.lua builds all, race, timeout.
 *
 *   spawn(name, fn, ...) -> t   t:join([ms]) -> results | raises   t:wait([ms]) -> ended?
 *   t:cancel()  t:alive()  t.name    current() -> name   sleep(ms)   yield()
 *   signal() -> s   s:notify()   s:wait([ms]) -> true | false after ms
 *   error{code=, message=, hint=, data=} -> the table, printable: error(task.error{...})
 */
#include <math.h>

#include "base/mem.h"
#include "script/host.h"

#define HANDLE_META "nd.task"
#define SIGNAL_META "nd.signal"

enum { FOREVER = -1 };

/* ---- waiting for something listed ---- */

static void on_wait_timeout(struct nd_timer *timer)
{
    struct nd_wait_op *op = ND_CONTAINER(timer, struct nd_wait_op, timer);

    op->timed_out = true;
    nd_wait_op_done(op);
}

void nd_wait_op_done(struct nd_wait_op *op)
{
    nd_list_remove(&op->link);
    nd_timer_stop(&op->timer);
    nd_op_done(op);
}

void nd_wait_op_cancel(void *arg)
{
    nd_wait_op_done(arg);
}

static int push_wait(lua_State *L, void *arg)
{
    struct nd_wait_op *op = arg;

    lua_pushboolean(L, !op->timed_out);
    return 1;
}

void *nd_wait_op_new_as(lua_State *L, const struct nd_op_type *type, struct nd_list *waiters,
                        int64_t ms)
{
    struct nd_wait_op *op = nd_op_new(L, type);

    nd_list_init(&op->link);
    nd_timer_init(&op->timer, on_wait_timeout);
    if (waiters)
        nd_list_append(waiters, &op->link);
    if (ms != FOREVER)
        nd_timer_start(&nd_host_of(L)->timers, &op->timer, ms);
    return op;
}

static const struct nd_op_type wait_type = {
    .name = "wait",
    .size = sizeof(struct nd_wait_op),
    .push = push_wait,
    .cancel = nd_wait_op_cancel,
};

struct nd_wait_op *nd_wait_op_new(lua_State *L, struct nd_list *waiters, int64_t ms)
{
    return nd_wait_op_new_as(L, &wait_type, waiters, ms);
}

static int64_t opt_ms(lua_State *L, int index)
{
    lua_Number ms = luaL_optnumber(L, index, FOREVER);

    return ms < 0 ? FOREVER : (int64_t)ceil((double)ms);
}

static int task_sleep(lua_State *L)
{
    lua_Number ms = luaL_checknumber(L, 1);

    luaL_argcheck(L, ms >= 0, 1, "milliseconds can't be negative");
    return nd_op_park(L, nd_wait_op_new(L, NULL, (int64_t)ceil((double)ms)));
}

/* ---- signals ---- */

static int task_signal(lua_State *L)
{
    struct nd_list *waiters = lua_newuserdatauv(L, sizeof *waiters, 0);

    nd_list_init(waiters);
    luaL_setmetatable(L, SIGNAL_META);
    return 1;
}

static int signal_notify(lua_State *L)
{
    struct nd_list *waiters = luaL_checkudata(L, 1, SIGNAL_META);

    while (!nd_list_empty(waiters))
        nd_wait_op_done(ND_CONTAINER(waiters->next, struct nd_wait_op, link));
    return 0;
}

static int signal_wait(lua_State *L)
{
    struct nd_list *waiters = luaL_checkudata(L, 1, SIGNAL_META);

    return nd_op_park(L, nd_wait_op_new(L, waiters, opt_ms(L, 2)));
}

/* A collected signal has no live waiters, but the lists must not point into it. */
static int signal_gc(lua_State *L)
{
    return signal_notify(L);
}

/* ---- task handles ---- */

static struct nd_task *check_task(lua_State *L)
{
    return *(struct nd_task **)luaL_checkudata(L, 1, HANDLE_META);
}

static int task_spawn(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    struct nd_task **handle;
    int nargs = lua_gettop(L) - 2;

    luaL_checktype(L, 2, LUA_TFUNCTION);
    handle = lua_newuserdatauv(L, sizeof *handle, 0);
    *handle = NULL;
    lua_insert(L, 1); // handle name fn args...
    *handle = nd_task_spawn(nd_host_of(L), L, nargs, name, NULL, NULL);
    (*handle)->holders++;
    lua_settop(L, 1);
    luaL_setmetatable(L, HANDLE_META);
    return 1;
}

static int push_joined(lua_State *L, struct nd_task *task)
{
    int top = lua_gettop(L), count;

    lua_rawgeti(L, LUA_REGISTRYINDEX, task->result_ref);
    if (task->status != LUA_OK)
        return lua_error(L);
    lua_getfield(L, -1, "n");
    count = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    luaL_checkstack(L, count, "too many results");
    for (int i = 1; i <= count; i++)
        lua_rawgeti(L, top + 1, i);
    return count;
}

struct join_op {
    struct nd_wait_op wait;
    struct nd_task *task; /* held */
};

static int push_join(lua_State *L, void *arg)
{
    struct join_op *op = arg;

    if (op->wait.timed_out) {
        struct nd_err err = {0};

        nd_err_set(&err, "timeout", NULL, "the task '%s' did not end in time", op->task->name);
        return nd_raise(L, &err);
    }
    return push_joined(L, op->task);
}

static void fini_join(void *arg)
{
    nd_task_drop(((struct join_op *)arg)->task);
}

static const struct nd_op_type join_type = {
    .name = "join",
    .size = sizeof(struct join_op),
    .push = push_join,
    .cancel = nd_wait_op_cancel,
    .fini = fini_join,
};

static int handle_join(lua_State *L)
{
    struct nd_task *task = check_task(L);
    struct join_op *op;

    if (!task->co)
        return push_joined(L, task);
    op = nd_wait_op_new_as(L, &join_type, &task->joiners, opt_ms(L, 2));
    op->task = task;
    task->holders++;
    return nd_op_park(L, op);
}

static int handle_wait(lua_State *L)
{
    struct nd_task *task = check_task(L);

    if (!task->co) {
        lua_pushboolean(L, true);
        return 1;
    }
    return nd_op_park(L, nd_wait_op_new(L, &task->joiners, opt_ms(L, 2)));
}

static int handle_cancel(lua_State *L)
{
    nd_task_cancel(check_task(L));
    return 0;
}

static int handle_alive(lua_State *L)
{
    lua_pushboolean(L, check_task(L)->co != NULL);
    return 1;
}

static int handle_name(lua_State *L)
{
    lua_pushstring(L, check_task(L)->name);
    return 1;
}

static int handle_gc(lua_State *L)
{
    struct nd_task **handle = luaL_checkudata(L, 1, HANDLE_META);

    if (*handle)
        nd_task_drop(*handle);
    *handle = NULL;
    return 0;
}

static int task_current(lua_State *L)
{
    struct nd_task *task = nd_host_of(L)->current;

    if (!task)
        return 0;
    lua_pushstring(L, task->name);
    return 1;
}

static int task_yield(lua_State *L)
{
    return nd_op_park(L, nd_wait_op_new(L, NULL, 0));
}

/* ---- registration ---- */

static void new_class(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc)
{
    luaL_newmetatable(L, name);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
}

static const luaL_Reg handle_methods[] = {
    {"join", handle_join},   {"wait", handle_wait}, {"cancel", handle_cancel},
    {"alive", handle_alive}, {"name", handle_name}, {NULL, NULL},
};

static const luaL_Reg signal_methods[] = {
    {"notify", signal_notify},
    {"wait", signal_wait},
    {NULL, NULL},
};

static const luaL_Reg functions[] = {
    {"spawn", task_spawn},
    {"sleep", task_sleep},
    {"yield", task_yield},
    {"signal", task_signal},
    {"current", task_current},
    {"error", nd_error_new},
    {NULL, NULL},
};

int nd_open_task(lua_State *L)
{
    new_class(L, HANDLE_META, handle_methods, handle_gc);
    new_class(L, SIGNAL_META, signal_methods, signal_gc);
    luaL_newlib(L, functions);
    return 1;
}
