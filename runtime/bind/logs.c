/*
 * logs.c - the Lua module `logs`: what containers print, kept, searched and followed.
 *
 *   logs.open{dir=, keep=bytes of an app on disk} -> store
 *   store:app(id, name)        waits -> app; the same as long as it isn't removed
 *   store:keep(bytes)          of an app on disk, from its next write on
 *   store:close()              ends followers; what is gathered is still written
 *   app:attach(docker, {container=, instance=, release=, tty=, attach=true, fill=false}) -> tap
 *       opens the container's output, and waits until Docker accepted. fill: takes what was missed
 *       from Docker's own log; attach = false: does nothing else, and doesn't wait
 *   tap:wait()                 waits for its end -> nil, or the error object that ended it
 *   tap:close()
 *   app:follow(ws, query)      sends frames to a WebSocket, and closes it when all is told; waits
 *   app:read(query)            waits -> JSON text of an array, number of lines; up to 16 MiB
 *       query: after= (seq), since=, until= (UTC ms), release=, instance=, grep=, tail=, follow=
 *   app:secrets{value, ...}    takes these texts or secrets, too, out of all that is printed
 *   app:flush()                waits until all that was taken in is on disk
 *   app:stats()                -> {first=, last=, lost=, bytes=, segments=, followers=, streams=}
 *   app:remove()               with its files
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "bind/docker.h"
#include "bind/job_op.h"
#include "bind/redact.h"
#include "bind/ws_object.h"
#include "engine/log_follow.h"
#include "engine/log_read.h"
#include "engine/log_tap.h"

#define STORE_META "nd.logs.store"
#define APP_META "nd.logs.app"
#define TAP_META "nd.logs.tap"

enum { READ_MOST = 16 * 1024 * 1024, TAIL_MOST = 1000000 };

/* ---- stores ---- */

static struct nd_log_store *check_store(lua_State *L)
{
    struct nd_log_store **slot = luaL_checkudata(L, 1, STORE_META);

    luaL_argcheck(L, *slot, 1, "the store is closed");
    return *slot;
}

static int logs_open(lua_State *L)
{
    struct nd_log_store **slot;
    const char *dir;
    lua_Integer keep;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_getfield(L, 1, "dir");
    lua_getfield(L, 1, "keep");
    dir = luaL_checkstring(L, -2);
    keep = luaL_optinteger(L, -1, 0);
    slot = lua_newuserdatauv(L, sizeof *slot, 0);
    *slot = NULL;
    luaL_setmetatable(L, STORE_META);
    *slot = nd_log_store_new(nd_host_loop(nd_host_of(L)), dir, (size_t)keep);
    return 1;
}

static int store_keep(lua_State *L)
{
    lua_Integer keep = luaL_checkinteger(L, 2);

    luaL_argcheck(L, keep > 0, 2, "not a number of bytes");
    nd_log_store_keep(check_store(L), (size_t)keep);
    return 0;
}

static int store_close(lua_State *L)
{
    struct nd_log_store **slot = luaL_checkudata(L, 1, STORE_META);

    nd_log_store_free(*slot);
    *slot = NULL;
    return 0;
}

/* ---- apps ---- */

struct app_op {
    struct nd_job_op job;
    struct nd_log_store **store; /* the userdata at 1 */
    lua_Integer id;
    char *dir; /* owned */
    struct nd_log_disk disk;
};

/* An app's userdata keeps its store's; the app itself belongs to the store. */
struct app_box {
    struct nd_log_store **store; /* in the user value */
    lua_Integer id;
};

ND_RAISES static struct nd_log_app *check_app(lua_State *L)
{
    struct app_box *box = luaL_checkudata(L, 1, APP_META);
    struct nd_log_app *app = *box->store ? nd_log_store_app(*box->store, box->id, "", NULL) : NULL;

    if (!app)
        luaL_error(L, "the log is closed or was removed");
    return app;
}

ND_RAISES static int push_box(lua_State *L, struct nd_log_store **store, lua_Integer id)
{
    struct app_box *box = lua_newuserdatauv(L, sizeof *box, 1);

    box->store = store;
    box->id = id;
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    luaL_setmetatable(L, APP_META);
    return 1;
}

static void read_disk(void *arg)
{
    struct app_op *op = arg;

    nd_log_disk_read(&op->disk, op->dir, &op->job.op.err);
}

static int push_app(lua_State *L, void *arg)
{
    struct app_op *op = arg;

    if (!*op->store)
        return luaL_error(L, "the store was closed meanwhile");
    nd_log_store_app(*op->store, op->id, lua_tostring(L, 3), &op->disk);
    return push_box(L, op->store, op->id);
}

static void fini_app(void *arg)
{
    struct app_op *op = arg;

    free(op->dir);
    nd_log_disk_fini(&op->disk);
}

static const struct nd_op_type app_type = {
    .name = "logs.app",
    .size = sizeof(struct app_op),
    .push = push_app,
    .cancel = nd_job_op_cancel,
    .fini = fini_app,
};

static int store_app(lua_State *L)
{
    struct nd_log_store *store = check_store(L);
    lua_Integer id = luaL_checkinteger(L, 2);
    struct nd_log_store **slot = lua_touserdata(L, 1);
    struct app_op *op;

    luaL_checkstring(L, 3);
    lua_settop(L, 3);
    if (nd_log_store_app(store, id, "", NULL))
        return push_box(L, slot, id);
    op = nd_op_new(L, &app_type);
    op->store = slot;
    op->id = id;
    op->dir = nd_log_store_dir(store, id);
    return nd_job_op_run(L, op, read_disk);
}

static int app_remove(lua_State *L)
{
    nd_log_app_remove(check_app(L));
    return 0;
}

ND_RAISES static void set_number(lua_State *L, const char *name, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

static int app_stats(lua_State *L)
{
    struct nd_log_stats stats;

    nd_log_app_stats(check_app(L), &stats);
    lua_createtable(L, 0, 7);
    set_number(L, "first", stats.first);
    set_number(L, "last", stats.last);
    set_number(L, "lost", stats.lost);
    set_number(L, "bytes", stats.bytes);
    set_number(L, "segments", (uint64_t)stats.segments);
    set_number(L, "followers", (uint64_t)stats.followers);
    set_number(L, "streams", (uint64_t)stats.streams);
    return 1;
}

static int app_secrets(lua_State *L)
{
    nd_redact_add_list(L, 2, nd_log_app_redact(check_app(L)));
    return 0;
}

/* ---- flush ---- */

struct flush_op {
    struct nd_op op;
    struct nd_log_flush flush;
};

static int push_nothing(lua_State *L, void *arg)
{
    (void)L;
    (void)arg;
    return 0;
}

static void cancel_flush(void *arg)
{
    struct flush_op *op = arg;

    nd_list_remove(&op->flush.link);
    nd_op_done(op);
}

static const struct nd_op_type flush_type = {
    .name = "logs.flush",
    .size = sizeof(struct flush_op),
    .push = push_nothing,
    .cancel = cancel_flush,
};

static int app_flush(lua_State *L)
{
    struct nd_log_app *app = check_app(L);
    struct flush_op *op = nd_op_new(L, &flush_type);

    op->flush.done = nd_op_done;
    op->flush.arg = op;
    nd_log_app_flush(app, &op->flush);
    return nd_op_park(L, op);
}

/* ---- taps ---- */

struct tap {                   /* held by the userdata, and by the engine until its end */
    struct nd_log_tap *engine; /* NULL: it has ended */
    struct nd_err err;
    struct tap_op *opening; /* waits for on_open; NULL: nobody */
    struct nd_list waiting; /* struct tap_op */
    int holders;
};

struct tap_op {
    struct nd_op op;
    struct nd_list link;
    struct tap *tap;
};

enum { AT_TAP = 4 };

static void drop_tap(struct tap *tap)
{
    if (--tap->holders == 0)
        free(tap);
}

static void on_tap_open(void *arg)
{
    struct tap *tap = arg;
    struct tap_op *op = tap->opening;

    tap->opening = NULL;
    if (op)
        nd_op_done(op);
}

static void on_tap_done(void *arg, const struct nd_err *err)
{
    struct tap *tap = arg;

    tap->engine = NULL;
    if (err)
        tap->err = *err;
    if (tap->opening && err)
        tap->opening->op.err = *err;
    on_tap_open(tap);
    while (!nd_list_empty(&tap->waiting)) {
        struct tap_op *op = ND_CONTAINER(tap->waiting.next, struct tap_op, link);

        nd_list_remove(&op->link);
        nd_op_done(op);
    }
    drop_tap(tap);
}

static int push_tap(lua_State *L, void *arg)
{
    (void)arg;
    lua_pushvalue(L, AT_TAP);
    return 1;
}

static void cancel_attach(void *arg)
{
    struct tap *tap = ((struct tap_op *)arg)->tap;

    tap->opening = NULL;
    if (tap->engine)
        nd_log_tap_cancel(tap->engine);
    nd_op_done(arg);
}

static const struct nd_op_type attach_type = {
    .name = "logs.attach",
    .size = sizeof(struct tap_op),
    .push = push_tap,
    .cancel = cancel_attach,
};

ND_RAISES static const char *text_option(lua_State *L, int index, const char *name)
{
    const char *text = NULL;

    if (lua_getfield(L, index, name) != LUA_TNIL)
        text = luaL_checkstring(L, -1);
    lua_pop(L, 1); /* the table keeps it */
    return text;
}

ND_RAISES static lua_Integer number_option(lua_State *L, int index, const char *name,
                                           lua_Integer otherwise)
{
    lua_Integer value = otherwise;

    if (lua_getfield(L, index, name) != LUA_TNIL)
        value = luaL_checkinteger(L, -1);
    lua_pop(L, 1);
    return value;
}

static int app_attach(lua_State *L)
{
    struct nd_log_app *app = check_app(L);
    struct docker_box *docker = docker_check_at(L, 2);
    struct nd_log_tap_call call = {.on_open = on_tap_open, .on_done = on_tap_done};
    struct tap **slot, *tap;
    struct tap_op *op;

    luaL_checktype(L, 3, LUA_TTABLE);
    lua_settop(L, 3);
    call.container = text_option(L, 3, "container");
    call.instance = text_option(L, 3, "instance");
    luaL_argcheck(L, call.container && call.instance, 3, "container and instance are needed");
    call.release = number_option(L, 3, "release", 0);
    call.tty = docker_flag(L, 3, "tty", false);
    call.attach = docker_flag(L, 3, "attach", true);
    call.fill = docker_flag(L, 3, "fill", false);
    slot = lua_newuserdatauv(L, sizeof *slot, 1); // app docker options tap
    *slot = NULL;
    luaL_setmetatable(L, TAP_META);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, AT_TAP, 1);
    *slot = call.arg = tap = nd_alloc(sizeof *tap);
    nd_list_init(&tap->waiting);
    tap->holders = 2;
    tap->engine = nd_log_tap_start(docker->docker, app, &call);
    if (!call.attach)
        return 1;
    op = nd_op_new(L, &attach_type);
    op->tap = tap;
    nd_list_init(&op->link);
    tap->opening = op;
    return nd_op_park(L, op);
}

static void cancel_wait(void *arg)
{
    struct tap_op *op = arg;

    nd_list_remove(&op->link);
    nd_op_done(op);
}

static int push_end(lua_State *L, void *arg)
{
    struct tap_op *op = arg;

    if (op->tap->err.code[0])
        nd_push_err(L, &op->tap->err);
    else
        lua_pushnil(L);
    return 1;
}

static const struct nd_op_type wait_type = {
    .name = "logs.wait",
    .size = sizeof(struct tap_op),
    .push = push_end,
    .cancel = cancel_wait,
};

static int tap_wait(lua_State *L)
{
    struct tap *tap = *(struct tap **)luaL_checkudata(L, 1, TAP_META);
    struct tap_op *op = nd_op_new(L, &wait_type);

    op->tap = tap; /* the userdata is on the stack of the task that waits */
    nd_list_init(&op->link);
    if (tap->engine)
        nd_list_append(&tap->waiting, &op->link);
    else
        nd_op_done(op);
    return nd_op_park(L, op);
}

static int tap_close(lua_State *L)
{
    struct tap *tap = *(struct tap **)luaL_checkudata(L, 1, TAP_META);

    if (tap && tap->engine)
        nd_log_tap_cancel(tap->engine);
    return 0;
}

static int tap_gc(lua_State *L)
{
    struct tap **slot = luaL_checkudata(L, 1, TAP_META);
    struct tap *tap = *slot;

    tap_close(L);
    *slot = NULL;
    if (tap)
        drop_tap(tap);
    return 0;
}

/* ---- queries ---- */

/* The table at `index`: checks it whole before anything is allocated. */
ND_RAISES static void read_query(lua_State *L, int index, struct nd_log_filter *filter,
                                 uint64_t *tail)
{
    const char *instance, *grep;
    lua_Integer last;

    luaL_checktype(L, index, LUA_TTABLE);
    instance = text_option(L, index, "instance");
    grep = text_option(L, index, "grep");
    filter->after = (uint64_t)number_option(L, index, "after", 0);
    filter->since = number_option(L, index, "since", 0);
    filter->until = number_option(L, index, "until", 0);
    filter->release = number_option(L, index, "release", 0);
    last = number_option(L, index, "tail", -1);
    *tail = last < 0 ? ND_LOG_ALL : last < TAIL_MOST ? (uint64_t)last : TAIL_MOST;
    filter->instance = instance ? nd_strdup(instance) : NULL;
    filter->grep = grep && *grep ? nd_strdup(grep) : NULL;
}

struct follow_op {
    struct nd_op op;
    struct nd_ws_object *ws;          /* borrowed: the userdata is on the task's stack */
    struct nd_log_follower *follower; /* NULL: it has ended */
};

static void sink_send(void *io, const char *frame, size_t length)
{
    struct nd_ws *ws = nd_ws_object_ws(((struct follow_op *)io)->ws);

    if (ws)
        nd_ws_send(ws, false, frame, length);
}

static bool sink_full(void *io)
{
    struct nd_ws *ws = nd_ws_object_ws(((struct follow_op *)io)->ws);

    return ws && nd_ws_full(ws);
}

static void sink_end(void *io, const char *why)
{
    struct follow_op *op = io;

    op->follower = NULL;
    nd_ws_object_on_drained(op->ws, NULL, NULL);
    nd_ws_object_close(op->ws, why ? 1001 : 1000, why ? why : "that was all");
    nd_op_done(op);
}

static const struct nd_log_sink sink = {.send = sink_send, .full = sink_full, .end = sink_end};

static void on_drained(void *arg)
{
    struct follow_op *op = arg;

    if (op->follower)
        nd_log_follow_drained(op->follower);
}

static void cancel_follow(void *arg)
{
    struct follow_op *op = arg;

    nd_ws_object_on_drained(op->ws, NULL, NULL);
    if (op->follower)
        nd_log_follow_stop(op->follower);
    nd_op_done(op);
}

static const struct nd_op_type follow_type = {
    .name = "logs.follow",
    .size = sizeof(struct follow_op),
    .push = push_nothing,
    .cancel = cancel_follow,
};

static int app_follow(lua_State *L)
{
    struct nd_log_app *app = check_app(L);
    struct nd_ws_object *ws = nd_ws_object_check(L, 2);
    struct nd_log_follow_call call = {.sink = &sink};
    struct follow_op *op;

    call.follow = docker_flag(L, 3, "follow", true);
    read_query(L, 3, &call.filter, &call.tail);
    call.io = op = nd_op_new(L, &follow_type);
    op->ws = ws;
    nd_ws_object_on_drained(ws, on_drained, op);
    op->follower = nd_log_follow_start(app, &call);
    return nd_op_park(L, op);
}

struct read_op {
    struct nd_op op;
    struct nd_buf text;
    uint64_t lines;
};

static void on_read(void *arg, struct nd_buf *text, uint64_t lines)
{
    struct read_op *op = arg;

    op->text = *text;
    *text = (struct nd_buf){0};
    op->lines = lines;
    nd_op_done(op);
}

static int push_read(lua_State *L, void *arg)
{
    struct read_op *op = arg;

    lua_pushlstring(L, op->text.data, op->text.length);
    lua_pushinteger(L, (lua_Integer)op->lines);
    return 2;
}

static void fini_read(void *arg)
{
    nd_buf_fini(&((struct read_op *)arg)->text);
}

static const struct nd_op_type read_type = {
    .name = "logs.read",
    .size = sizeof(struct read_op),
    .push = push_read,
    .fini = fini_read,
};

static int app_read(lua_State *L)
{
    struct nd_log_app *app = check_app(L);
    struct nd_log_filter filter = {0};
    uint64_t tail;
    struct read_op *op;

    read_query(L, 2, &filter, &tail);
    op = nd_op_new(L, &read_type);
    nd_log_read_start(app, &filter, tail, READ_MOST, on_read, op);
    return nd_op_park(L, op);
}

/* ---- the module ---- */

int nd_open_logs(lua_State *L)
{
    static const luaL_Reg store_methods[] = {
        {"app", store_app},    {"keep", store_keep}, {"close", store_close},
        {"__gc", store_close}, {NULL, NULL},
    };
    static const luaL_Reg app_methods[] = {
        {"attach", app_attach},   {"follow", app_follow}, {"read", app_read},
        {"secrets", app_secrets}, {"flush", app_flush},   {"stats", app_stats},
        {"remove", app_remove},   {NULL, NULL},
    };
    static const luaL_Reg tap_methods[] = {
        {"wait", tap_wait},
        {"close", tap_close},
        {"__gc", tap_gc},
        {NULL, NULL},
    };

    nd_bind_class(L, STORE_META, store_methods);
    nd_bind_class(L, APP_META, app_methods);
    nd_bind_class(L, TAP_META, tap_methods);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, logs_open);
    lua_setfield(L, -2, "open");
    return 1;
}
