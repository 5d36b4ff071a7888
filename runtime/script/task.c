#include "script/host.h"

#include <lualib.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define GUARD_META "nd.op"

/* ---- operations ---- */

static void op_drop(struct nd_op *op)
{
    if (--op->holders > 0)
        return;
    if (op->type->fini)
        op->type->fini(op);
    free(op);
}

static void make_ready(struct nd_task *task);
static void on_idle(uv_idle_t *idle);

/* Tells an unfinished operation, once, that nobody waits for it any more. */
static void leave(struct nd_op *op)
{
    op->task = NULL;
    if (op->done || op->left)
        return;
    op->left = true;
    if (op->type->cancel)
        op->type->cancel(op);
}

/* The guard lets go of an operation that nobody will collect any more. */
static int guard_gc(lua_State *L)
{
    struct nd_op **guard = lua_touserdata(L, 1);
    struct nd_op *op = *guard;

    *guard = NULL;
    if (!op)
        return 0;
    leave(op);
    op_drop(op);
    return 0;
}

void *nd_op_new(lua_State *L, const struct nd_op_type *type)
{
    struct nd_op **guard = lua_newuserdatauv(L, sizeof *guard, 0);
    struct nd_op *op;

    *guard = NULL;
    luaL_setmetatable(L, GUARD_META);
    op = nd_alloc(type->size);
    op->type = type;
    op->holders = 2;
    op->guard = guard;
    *guard = op;
    return op;
}

void nd_op_done(void *arg)
{
    struct nd_op *op = arg;

    op->done = true;
    if (op->task)
        make_ready(op->task);
    op_drop(op);
}

/* Pushes what the finished operation brought, or raises; either way lets go of it. */
static int collect(lua_State *L, struct nd_op *op)
{
    int count;

    if (op->err.code[0]) {
        struct nd_err err = op->err;

        *op->guard = NULL;
        op_drop(op);
        return nd_raise(L, &err);
    }
    count = op->type->push ? op->type->push(L, op) : 0;
    *op->guard = NULL;
    op_drop(op);
    return count;
}

static int raise_cancelled(lua_State *L, struct nd_task *task, struct nd_op *op)
{
    struct nd_err err;

    task->cancel = false;
    leave(op);
    *op->guard = NULL;
    op_drop(op);
    nd_err_set(&err, "cancelled", NULL, "the task '%s' was cancelled", task->name);
    return nd_raise(L, &err);
}

static int resumed(lua_State *L, int status, lua_KContext context)
{
    struct nd_op *op = (struct nd_op *)context;
    struct nd_task *task = nd_host_of(L)->current;

    (void)status;
    task->parked = NULL;
    op->task = NULL;
    if (task->cancel)
        return raise_cancelled(L, task, op);
    return collect(L, op);
}

int nd_op_park(lua_State *L, void *arg)
{
    struct nd_op *op = arg;
    struct nd_task *task = nd_host_of(L)->current;

    if (op->done)
        return collect(L, op);
    if (!task || task->co != L)
        return luaL_error(L, "%s can only wait inside a task", op->type->name);
    if (task->cancel)
        return raise_cancelled(L, task, op);
    op->task = task;
    task->parked = op;
    return lua_yieldk(L, 0, (lua_KContext)op, resumed);
}

/* ---- tasks ---- */

static void make_ready(struct nd_task *task)
{
    struct nd_host *host = task->host;

    nd_list_remove(&task->ready);
    nd_list_append(&host->ready, &task->ready);
    uv_idle_start(&host->idle, on_idle);
}

void nd_task_drop(struct nd_task *task)
{
    if (--task->holders > 0)
        return;
    if (task->host->L)
        luaL_unref(task->host->L, LUA_REGISTRYINDEX, task->result_ref);
    free(task->name);
    free(task);
}

static int add_traceback(lua_State *L)
{
    if (lua_isstring(L, 1)) {
        luaL_traceback(L, L, lua_tostring(L, 1), 1);
    } else if (lua_istable(L, 1) && lua_getfield(L, 1, "traceback") == LUA_TNIL) {
        luaL_traceback(L, L, NULL, 1);
        lua_setfield(L, 1, "traceback");
    }
    lua_settop(L, lua_isstring(L, 1) ? 2 : 1);
    return 1;
}

static int task_main_k(lua_State *L, int status, lua_KContext context)
{
    (void)context;
    if (status != LUA_OK && status != LUA_YIELD)
        return lua_error(L);
    return lua_gettop(L) - 1;
}

/* Runs the function under a protected call that may yield, so that `<close>` clean-up may wait. */
static int task_main(lua_State *L)
{
    int nargs = lua_gettop(L) - 1;

    lua_pushcfunction(L, add_traceback);
    lua_insert(L, 1);
    return task_main_k(L, lua_pcallk(L, nargs, LUA_MULTRET, 1, 0, task_main_k), 0);
}

/* Ends a burst that holds the loop for too long. */
static void end_burst(lua_State *L, lua_Debug *ar)
{
    struct nd_host *host = nd_host_of(L);

    (void)ar;
    if (!nd_burst_is_late(&host->burst)) /* the one that was has just ended by itself */
        lua_sethook(L, NULL, 0, 0);
    else if (host->current)
        luaL_error(L, "the task '%s' held the loop for over %d ms", host->current->name,
                   nd_burst_most());
}

/* ---- coroutines: those of ended tasks are used again ---- */

static void take_coroutine(struct nd_task *task, lua_State *L)
{
    struct nd_host *host = task->host;

    if (host->spares > 0) {
        host->spares--;
        task->co = host->spare[host->spares];
        task->co_ref = host->spare_ref[host->spares];
    } else {
        task->co = lua_newthread(L);
        task->co_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
}

static void give_coroutine(struct nd_task *task, int status)
{
    struct nd_host *host = task->host;
    lua_State *co = task->co;

    task->co = NULL;
    lua_sethook(co, NULL, 0, 0);
    if (status == LUA_OK && host->spares < ND_SPARE) {
        lua_settop(co, 0);
        host->spare[host->spares] = co;
        host->spare_ref[host->spares] = task->co_ref;
        host->spares++;
    } else {
        lua_resetthread(co);
        luaL_unref(host->L, LUA_REGISTRYINDEX, task->co_ref);
    }
}

/* ---- their life ---- */

struct nd_task *nd_task_spawn(struct nd_host *host, lua_State *L, int nargs, const char *name,
                              nd_task_end *on_end, void *arg)
{
    struct nd_task *task = nd_alloc(sizeof *task);

    task->host = host;
    task->name = nd_strdup(name);
    task->holders = 1;
    task->args = nargs + 1;
    task->result_ref = LUA_NOREF;
    task->on_end = on_end;
    task->arg = arg;
    nd_list_init(&task->ready);
    nd_list_init(&task->joiners);
    nd_list_append(&host->tasks, &task->all);
    host->count++;

    take_coroutine(task, L);
    lua_pushcfunction(task->co, task_main);
    lua_xmove(L, task->co, nargs + 1);
    make_ready(task);
    return task;
}

void nd_task_cancel(struct nd_task *task)
{
    struct nd_op *op = task->parked;

    if (!task->co)
        return;
    task->cancel = true;
    if (!op)
        return; /* raised at its next park point */
    leave(op);
    make_ready(task);
}

/* Moves the results (or the error object) into the registry for those who join. */
static void keep_results(struct nd_task *task, int status, int count)
{
    lua_State *co = task->co;

    if (status == LUA_OK) {
        lua_createtable(co, count, 1);
        lua_pushinteger(co, count);
        lua_setfield(co, -2, "n");
        for (int i = 1; i <= count; i++) {
            lua_pushvalue(co, -1 - count + i - 1);
            lua_rawseti(co, -2, i);
        }
    } else {
        lua_pushvalue(co, -1);
    }
    task->result_ref = luaL_ref(co, LUA_REGISTRYINDEX);
}

static void end_task(struct nd_task *task, int status, int count)
{
    struct nd_host *host = task->host;

    if (task->holders > 1) /* somebody may ask for them */
        keep_results(task, status, count);
    task->status = status;
    nd_list_remove(&task->all);
    nd_list_remove(&task->ready);
    host->count--;
    if (task->on_end)
        task->on_end(task->arg, task->co, status);
    give_coroutine(task, status);
    while (!nd_list_empty(&task->joiners))
        nd_wait_op_done(ND_CONTAINER(task->joiners.next, struct nd_wait_op, link));
    nd_task_drop(task);
}

static void log_long_burst(struct nd_task *task, int ms)
{
    const char *where;

    luaL_traceback(task->host->L, task->co, NULL, 0);
    where = lua_tostring(task->host->L, -1);
    nd_log(ND_LOG_WARN, "the task '%s' held the loop for over %d ms: %s", task->name, ms, where);
    lua_pop(task->host->L, 1);
}

static void run_task(struct nd_task *task)
{
    struct nd_host *host = task->host;
    int count = 0, nargs = task->started ? 0 : task->args;
    int status, ms;

    if (!task->started && task->cancel) {
        struct nd_err err = {0};

        nd_err_set(&err, "cancelled", NULL, "the task '%s' was cancelled", task->name);
        nd_push_err(task->co, &err);
        end_task(task, LUA_ERRRUN, 1);
        return;
    }
    task->started = true;
    host->current = task;
    nd_burst_begin(&host->burst, task->co);
    status = lua_resume(task->co, NULL, nargs, &count);
    ms = nd_burst_end(&host->burst);
    host->current = NULL;
    if (ms > 0)
        log_long_burst(task, ms);
    if (status != LUA_YIELD) {
        end_task(task, status, count);
        return;
    }
    lua_pop(task->co, count);
    if (!task->parked) /* a bare coroutine.yield: let the others run, then go on */
        make_ready(task);
    else if (task->parked->done)
        make_ready(task);
}

static void on_idle(uv_idle_t *idle)
{
    struct nd_host *host = ND_CONTAINER(idle, struct nd_host, idle);
    struct nd_list batch;

    nd_list_init(&batch);
    ND_LIST_EACH (link, &host->ready) {
        nd_list_remove(link);
        nd_list_append(&batch, link);
    }
    while (!nd_list_empty(&batch)) {
        struct nd_task *task = ND_CONTAINER(batch.next, struct nd_task, ready);

        nd_list_remove(&task->ready);
        run_task(task);
    }
    if (nd_list_empty(&host->ready))
        uv_idle_stop(idle);
}

/* ---- the host ---- */

struct nd_host *nd_host_of(lua_State *L)
{
    return *(struct nd_host **)lua_getextraspace(L);
}

lua_State *nd_host_lua(struct nd_host *host)
{
    return host->L;
}

struct nd_loop *nd_host_loop(struct nd_host *host)
{
    return host->loop;
}

int nd_host_tasks(struct nd_host *host)
{
    return host->count;
}

struct nd_host *nd_host_new(struct nd_loop *loop)
{
    struct nd_host *host = nd_alloc(sizeof *host);
    lua_State *L = lua_newstate(nd_pool_alloc, &host->pool);

    if (!L)
        abort();
    host->L = L;
    host->loop = loop;
    nd_list_init(&host->tasks);
    nd_list_init(&host->ready);
    uv_idle_init(&loop->uv, &host->idle);
    nd_timers_init(&host->timers, &loop->uv);
    *(struct nd_host **)lua_getextraspace(L) = host;
    nd_burst_init(&host->burst, end_burst);

    luaL_openlibs(L);
    luaL_newmetatable(L, GUARD_META);
    lua_pushcfunction(L, guard_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    luaL_requiref(L, "task", nd_open_task, 0);
    lua_pop(L, 1);
    return host;
}

static void on_closed(uv_handle_t *handle)
{
    struct nd_host *host = handle->type == UV_IDLE
                               ? ND_CONTAINER(handle, struct nd_host, idle)
                               : ND_CONTAINER(handle, struct nd_host, timers.handle);

    if (--host->closing == 0)
        free(host);
}

void nd_host_free(struct nd_host *host)
{
    int64_t deadline = nd_clock_monotonic() + 5000;

    ND_LIST_EACH (link, &host->tasks) {
        nd_task_cancel(ND_CONTAINER(link, struct nd_task, all));
    }
    while (host->count > 0 && nd_clock_monotonic() < deadline)
        uv_run(&host->loop->uv, UV_RUN_ONCE);
    ND_LIST_EACH (link, &host->tasks) {
        struct nd_task *task = ND_CONTAINER(link, struct nd_task, all);

        nd_log(ND_LOG_WARN, "the task '%s' did not end when it was told to", task->name);
        if (task->parked)
            task->parked->task = NULL;
        nd_list_remove(&task->all);
        nd_list_remove(&task->ready);
        nd_task_drop(task);
    }
    nd_burst_fini(&host->burst);
    lua_close(host->L);
    nd_pool_fini(&host->pool);
    host->L = NULL;
    host->closing = 2;
    uv_close((uv_handle_t *)&host->idle, on_closed);
    uv_close((uv_handle_t *)&host->timers.handle, on_closed);
}
