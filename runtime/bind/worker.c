/*
 * worker.c - the Lua module `worker`: nd-worker processes.
 *
 *   spawn{path=, engine=, memory=bytes, cpu_seconds=, uid=, gid=} -> w
 *       raises worker_start; path: nd-worker beside this program, engine: "luajit" for the one
 * whose name ends so, memory: 64 MiB, cpu_seconds: 60 w:send(frame)           a table, or JSON text
 * as it is; doesn't wait raises worker_gone, worker_protocol (over 4 MiB) w:recv([timeout_ms]) ->
 * table | nil at the end; waits; raises timeout, worker_protocol w:kill()                SIGKILL
 *   w:wait() -> {status=, signal=}; waits for the end of the process
 *   w:pid() -> integer
 *
 * A worker that is closed (`<close>`) or collected is killed.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "script/chan.h"
#include "script/marshal.h"
#include "script/worker.h"

#define WORKER_META "nd.worker"

enum { QUEUED = 8 * 1024 * 1024 }; /* bytes of frames that may wait for recv */

struct bound {
    struct nd_worker *worker; /* NULL once it is closed */
    struct nd_chan *frames;   /* NULL once it ended */
    struct nd_list waiters;   /* struct wait_op.link */
    int64_t status;
    int signal;
    bool exited;
    int holders; /* the userdata, and the worker until it is closed */
};

struct wait_op {
    struct nd_op op;
    struct nd_list link;
    int64_t status;
    int signal;
};

static void drop(struct bound *b)
{
    if (--b->holders == 0)
        free(b);
}

/* ---- from the loop ---- */

static void on_frame(void *arg, const char *json, size_t length)
{
    struct bound *b = arg;

    if (b->frames)
        nd_chan_add(b->frames, 0, json, length);
}

static void on_end(void *arg, const struct nd_err *err)
{
    struct bound *b = arg;
    struct nd_chan *frames = b->frames;

    b->frames = NULL;
    if (frames)
        nd_chan_end(frames, err);
}

static void end_wait(struct bound *b, struct wait_op *op)
{
    op->status = b->status;
    op->signal = b->signal;
    nd_list_remove(&op->link);
    nd_op_done(op);
}

static void on_exited(void *arg, int64_t status, int signal)
{
    struct bound *b = arg;

    b->exited = true;
    b->status = status;
    b->signal = signal;
    ND_LIST_EACH (link, &b->waiters) {
        end_wait(b, ND_CONTAINER(link, struct wait_op, link));
    }
}

static void on_closed(void *arg)
{
    drop(arg);
}

static const struct nd_worker_events events = {on_frame, on_end, on_exited, on_closed};

static void on_pause(void *arg, bool stop)
{
    struct bound *b = arg;

    if (b->worker)
        nd_worker_pause(b->worker, stop);
}

static const struct nd_chan_type frames_type = {.pause = on_pause, .high = QUEUED};

/* ---- methods ---- */

static struct bound *check_worker(lua_State *L)
{
    struct bound *b = *(struct bound **)luaL_checkudata(L, 1, WORKER_META);

    if (!b->worker)
        luaL_error(L, "the worker is closed");
    return b;
}

static int worker_send(lua_State *L)
{
    struct bound *b = check_worker(L);
    struct nd_buf out = {0};
    struct nd_err err = {0};
    int rc = 0;

    if (lua_type(L, 2) == LUA_TSTRING) {
        size_t length;
        const char *text = lua_tolstring(L, 2, &length);

        rc = nd_worker_send(b->worker, text, length, &err);
    } else {
        luaL_checktype(L, 2, LUA_TTABLE);
        rc = nd_json_add(L, 2, &out, &err);
        if (rc == 0)
            rc = nd_worker_send(b->worker, out.data, out.length, &err);
        nd_buf_fini(&out);
    }
    return rc < 0 ? nd_raise(L, &err) : 0;
}

/* The frame, or nil, that the channel brought is on top. */
static int received(lua_State *L, int status, lua_KContext context)
{
    struct nd_err err = {0}, why = {0};
    struct bound *b = *(struct bound **)lua_touserdata(L, 1);
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);

    (void)status;
    (void)context;
    if (!text)
        return 0;
    if (nd_json_push(L, text, length, &why) == 0 && lua_istable(L, -1))
        return 1;
    if (b->worker)
        nd_worker_kill(b->worker);
    nd_err_set(&err, "worker_protocol", NULL, "the worker sent a frame that is no JSON object: %s",
               why.message);
    return nd_raise(L, &err);
}

static int worker_recv(lua_State *L)
{
    lua_Number ms = luaL_optnumber(L, 2, -1);

    check_worker(L);
    lua_settop(L, 1);
    lua_getiuservalue(L, 1, 1); // w chan
    lua_getfield(L, 2, "recv");
    lua_insert(L, 2); // w recv chan
    lua_pushnumber(L, ms);
    lua_callk(L, 2, 1, 0, received);
    return received(L, LUA_OK, 0);
}

static int worker_kill(lua_State *L)
{
    nd_worker_kill(check_worker(L)->worker);
    return 0;
}

static int push_end(lua_State *L, void *arg)
{
    struct wait_op *op = arg;

    lua_createtable(L, 0, 2);
    lua_pushinteger(L, op->status);
    lua_setfield(L, -2, "status");
    lua_pushinteger(L, op->signal);
    lua_setfield(L, -2, "signal");
    return 1;
}

static void cancel_wait(void *arg)
{
    struct wait_op *op = arg;

    nd_list_remove(&op->link);
    nd_op_done(op);
}

static const struct nd_op_type wait_type = {
    .name = "worker.wait",
    .size = sizeof(struct wait_op),
    .push = push_end,
    .cancel = cancel_wait,
};

static int worker_wait(lua_State *L)
{
    struct bound *b = check_worker(L);
    struct wait_op *op = nd_op_new(L, &wait_type);

    nd_list_init(&op->link);
    nd_list_append(&b->waiters, &op->link);
    if (b->exited)
        end_wait(b, op);
    return nd_op_park(L, op);
}

static int worker_pid(lua_State *L)
{
    lua_pushinteger(L, nd_worker_pid(check_worker(L)->worker));
    return 1;
}

static int worker_close(lua_State *L)
{
    struct bound **slot = luaL_checkudata(L, 1, WORKER_META);
    struct bound *b = *slot;

    if (!b || !b->worker)
        return 0;
    on_end(b, NULL);
    nd_worker_close(b->worker);
    b->worker = NULL;
    return 0;
}

static int worker_gc(lua_State *L)
{
    struct bound **slot = luaL_checkudata(L, 1, WORKER_META);
    struct bound *b = *slot;

    worker_close(L);
    *slot = NULL;
    if (!b)
        return 0;
    ND_LIST_EACH (link, &b->waiters) /* parked tasks that are collected with it */
    {
        end_wait(b, ND_CONTAINER(link, struct wait_op, link));
    }
    drop(b);
    return 0;
}

/* ---- spawn ---- */

static lua_Integer option(lua_State *L, const char *name, lua_Integer otherwise)
{
    lua_Integer value;

    lua_getfield(L, 1, name);
    if (!lua_isnil(L, -1) && !lua_isinteger(L, -1))
        luaL_error(L, "worker.spawn: %s must be an integer", name);
    value = lua_isnil(L, -1) ? otherwise : lua_tointeger(L, -1);
    lua_pop(L, 1);
    return value;
}

static int worker_spawn(lua_State *L)
{
    struct nd_worker_options o = {0};
    struct nd_err err = {0};
    struct bound **slot, *b;

    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    o.memory = (size_t)option(L, "memory", 0);
    o.cpu_seconds = option(L, "cpu_seconds", 0);
    o.uid = (long)option(L, "uid", -1);
    o.gid = (long)option(L, "gid", -1);
    lua_getfield(L, 1, "path");
    o.path = luaL_optstring(L, -1, NULL);
    lua_getfield(L, 1, "engine");
    o.engine = luaL_optstring(L, -1, NULL); // options path engine

    slot = lua_newuserdatauv(L, sizeof *slot, 1);
    *slot = b = nd_alloc(sizeof *b);
    nd_list_init(&b->waiters);
    b->holders = 1;
    luaL_setmetatable(L, WORKER_META);
    b->frames = nd_chan_new(L, &frames_type, b); // options path engine w chan
    lua_setiuservalue(L, -2, 1);
    b->worker = nd_worker_start(nd_host_loop(nd_host_of(L)), &o, &events, b, &err);
    if (!b->worker) {
        on_end(b, NULL);
        return nd_raise(L, &err);
    }
    b->holders++;
    return 1;
}

static const luaL_Reg methods[] = {
    {"send", worker_send},     {"recv", worker_recv}, {"kill", worker_kill},
    {"wait", worker_wait},     {"pid", worker_pid},   {"close", worker_close},
    {"__close", worker_close}, {"__gc", worker_gc},   {NULL, NULL},
};

static const luaL_Reg functions[] = {
    {"spawn", worker_spawn},
    {NULL, NULL},
};

int nd_open_worker(lua_State *L)
{
    nd_bind_class(L, WORKER_META, methods);
    luaL_newlib(L, functions);
    return 1;
}
