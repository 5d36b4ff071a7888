/*
 * docker_follow.c - methods of a Docker connection that listen: exec, logs, events.
 *
 * d:exec(id, argv, {timeout_ms=60000, env={}, user=, workdir=, tty=, max_output=1 MiB})
 *   -> {code=, output=, truncated=}: stdout and stderr in order of arrival. A command that takes
 *   longer is killed, and raises docker_timeout.
 * d:logs(id, {follow=, tail=, since=ms, until=ms, stdout=true, stderr=true, timestamps=true})
 *   -> stream; stream:recv([timeout_ms]) -> line, "stdout"|"stderr", time in UTC ms|nil; nil at the
 * end. Lines over 16 KiB come in pieces. d:events{since=ms, filters=, labels=} -> stream;
 * stream:recv([timeout_ms]) -> table as documented by the Engine API; when Docker ends the stream
 * or breaks, recv raises, and the caller lists anew. Both return when Docker has accepted the call.
 * stream:close() (also `<close>`) ends it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "bind/docker.h"
#include "engine/docker_exec.h"
#include "engine/docker_follow.h"
#include "script/chan.h"

#define STREAM_META "nd.docker.stream"

enum { EXEC_MS = 60000, AT_OPTS = 3 };

/* --- exec ------------------------------------------------------------------------------------- */

struct exec_op {
    struct nd_op op;
    struct nd_docker_exec *exec;
    int code;
    bool truncated;
    struct nd_buf output;
};

static int push_exec(lua_State *L, void *arg)
{
    struct exec_op *op = arg;

    lua_createtable(L, 0, 3);
    lua_pushinteger(L, op->code);
    lua_setfield(L, -2, "code");
    lua_pushlstring(L, op->output.data ? op->output.data : "", op->output.length);
    lua_setfield(L, -2, "output");
    lua_pushboolean(L, op->truncated);
    lua_setfield(L, -2, "truncated");
    return 1;
}

static void cancel_exec(void *arg)
{
    nd_docker_exec_cancel(((struct exec_op *)arg)->exec);
}

static void fini_exec(void *arg)
{
    nd_buf_fini(&((struct exec_op *)arg)->output);
}

static const struct nd_op_type exec_type = {
    .name = "docker.exec",
    .size = sizeof(struct exec_op),
    .push = push_exec,
    .cancel = cancel_exec,
    .fini = fini_exec,
};

static void on_exec_done(void *arg, struct nd_docker_exec_result *result, const struct nd_err *err)
{
    struct exec_op *op = arg;

    if (err) {
        op->op.err = *err;
    } else {
        op->code = result->code;
        op->truncated = result->truncated;
        op->output = *result->output;
        *result->output = (struct nd_buf){0};
    }
    nd_op_done(op);
}

/* Sets spec[name] = opts[field] where that is given; the spec is on top. */
ND_RAISES static void copy_text(lua_State *L, int opts, const char *field, const char *name)
{
    if (!lua_istable(L, opts))
        return;
    if (lua_getfield(L, opts, field) != LUA_TNIL) {
        luaL_checkstring(L, -1);
        lua_setfield(L, -2, name);
    } else {
        lua_pop(L, 1);
    }
}

/* Sets spec.Env = {"K=V", ...} from opts.env; the spec is on top. */
ND_RAISES static void copy_env(lua_State *L, int opts)
{
    int spec = lua_gettop(L);
    lua_Integer count = 0;

    if (!lua_istable(L, opts) || lua_getfield(L, opts, "env") == LUA_TNIL) {
        lua_settop(L, spec);
        return;
    }
    luaL_checktype(L, -1, LUA_TTABLE); // spec env
    lua_newtable(L);                   // spec env list
    for (lua_pushnil(L); lua_next(L, spec + 1); lua_settop(L, spec + 3)) {
        if (lua_type(L, spec + 3) != LUA_TSTRING)
            luaL_error(L, "docker: `env` is not name = value");
        luaL_tolstring(L, spec + 4, NULL);
        lua_pushfstring(L, "%s=%s", lua_tostring(L, spec + 3), lua_tostring(L, -1));
        lua_rawseti(L, spec + 2, ++count);
    }
    if (count)
        lua_setfield(L, spec, "Env");
    lua_settop(L, spec);
}

static int docker_exec(lua_State *L)
{
    struct docker_box *box = docker_check(L);
    struct nd_docker_exec_call call = {.on_done = on_exec_done};
    struct exec_op *op;

    lua_settop(L, 4);
    docker_push_name(L, 2, "container");
    call.container = lua_tostring(L, 2);
    luaL_checktype(L, 3, LUA_TTABLE);
    luaL_argcheck(L, lua_rawlen(L, 3) > 0, 3, "the command is empty");
    call.tty = docker_flag(L, 4, "tty", false);
    lua_newtable(L); // spec
    lua_pushvalue(L, 3);
    lua_setfield(L, -2, "Cmd");
    lua_pushboolean(L, true);
    lua_setfield(L, -2, "AttachStdout");
    lua_pushboolean(L, true);
    lua_setfield(L, -2, "AttachStderr");
    lua_pushboolean(L, call.tty);
    lua_setfield(L, -2, "Tty");
    copy_text(L, 4, "user", "User");
    copy_text(L, 4, "workdir", "WorkingDir");
    copy_env(L, 4);
    call.spec = docker_push_json(L, lua_gettop(L), &call.spec_length);
    call.timeout_ms = docker_timeout(L, 4, box, EXEC_MS, 0);
    if (lua_istable(L, 4) && lua_getfield(L, 4, "max_output") != LUA_TNIL)
        call.max_output = (size_t)luaL_checkinteger(L, -1);
    call.arg = op = nd_op_new(L, &exec_type);
    op->exec = nd_docker_exec_start(box->docker, &call);
    return nd_op_park(L, op);
}

/* --- streams: the engine's side --------------------------------------------------------------- */

struct follow {
    struct nd_docker_follow *engine;
    struct nd_chan *chan;     /* we owe its end */
    struct follow_op *opened; /* NULL once Docker accepted */
};

struct follow_op {
    struct nd_op op;
    struct follow *follow; /* valid until the op is done */
};

enum { AT_STREAM = 4 }; /* where the methods keep what they return */

static int push_stream(lua_State *L, void *arg)
{
    (void)arg;
    lua_pushvalue(L, AT_STREAM);
    return 1;
}

static void cancel_follow(void *arg)
{
    nd_docker_follow_cancel(((struct follow_op *)arg)->follow->engine);
}

static const struct nd_op_type follow_type = {
    .name = "docker.follow",
    .size = sizeof(struct follow_op),
    .push = push_stream,
    .cancel = cancel_follow,
};

static void on_pause(void *arg, bool stop)
{
    nd_docker_follow_pause(((struct follow *)arg)->engine, stop);
}

static void on_left(void *arg)
{
    nd_docker_follow_cancel(((struct follow *)arg)->engine);
}

static const struct nd_chan_type follow_chan = {.pause = on_pause, .close = on_left};

static void on_open(void *arg)
{
    struct follow *f = arg;

    nd_op_done(f->opened);
    f->opened = NULL;
}

/* An item of a log is the line's time (8 bytes) and its text; its kind is the stream's number. */
static void on_line(void *arg, const struct nd_docker_line *line)
{
    struct follow *f = arg;
    char item[sizeof line->time + ND_DOCKER_LINE_MAX + 64];
    size_t room = sizeof item - sizeof line->time;
    size_t length = line->length < room ? line->length : room;

    memcpy(item, &line->time, sizeof line->time);
    if (length)
        memcpy(item + sizeof line->time, line->text, length);
    nd_chan_add(f->chan, (int)line->stream, item, sizeof line->time + length);
}

static void on_event(void *arg, const char *json, size_t length)
{
    nd_chan_add(((struct follow *)arg)->chan, 0, json, length);
}

static void on_follow_done(void *arg, const struct nd_err *err)
{
    struct follow *f = arg;
    struct nd_err none = {0};

    if (f->opened) {
        if (err)
            f->opened->op.err = *err;
        nd_op_done(f->opened);
    }
    nd_chan_end(f->chan, err ? err : &none);
    free(f);
}

/* --- streams: Lua's side ---------------------------------------------------------------------- */

/* A userdata with three user values: the channel, the connection it keeps alive, and whether it
 * carries events. */
enum { UV_CHAN = 1, UV_DOCKER = 2, UV_EVENTS = 3 };

ND_RAISES static void push_chan(lua_State *L)
{
    luaL_checkudata(L, 1, STREAM_META);
    lua_getiuservalue(L, 1, UV_CHAN);
}

static int stream_close(lua_State *L)
{
    push_chan(L);
    lua_getfield(L, -1, "close");
    lua_insert(L, -2);
    lua_call(L, 1, 0);
    return 0;
}

ND_RAISES static int push_event(lua_State *L)
{
    size_t length;
    struct nd_buf text = {.data = (char *)lua_tolstring(L, -2, &length)};

    text.length = length;
    docker_push_value(L, &text, "follow Docker's events");
    return 1;
}

static int received(lua_State *L, int status, lua_KContext context)
{
    const char *item;
    size_t length;
    int64_t time;

    (void)status;
    if (lua_isnil(L, -2)) // item kind
        return 0;
    if (context)
        return push_event(L);
    item = lua_tolstring(L, -2, &length);
    memcpy(&time, item, sizeof time);
    lua_pushlstring(L, item + sizeof time, length - sizeof time);
    lua_pushstring(L, lua_tointeger(L, -2) < ND_DOCKER_STDERR ? "stdout" : "stderr");
    if (time < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, time);
    return 3;
}

static int stream_recv(lua_State *L)
{
    int events;

    lua_settop(L, 2);
    push_chan(L); // self timeout chan
    lua_getiuservalue(L, 1, UV_EVENTS);
    events = lua_toboolean(L, -1);
    lua_pop(L, 1);
    lua_getfield(L, -1, "recv");
    lua_insert(L, -2);
    lua_pushvalue(L, 2); // self timeout recv chan timeout
    lua_callk(L, 2, 2, events, received);
    return received(L, LUA_OK, events);
}

/* Makes the stream at AT_STREAM and the operation that waits for Docker's consent on top. */
ND_RAISES static struct follow *new_follow(lua_State *L, bool events)
{
    struct follow *f;

    lua_settop(L, AT_STREAM - 1);
    lua_newuserdatauv(L, 0, 3); // ... stream
    luaL_setmetatable(L, STREAM_META);
    f = nd_alloc(sizeof *f);
    f->chan = nd_chan_new(L, &follow_chan, f);
    lua_setiuservalue(L, AT_STREAM, UV_CHAN);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, AT_STREAM, UV_DOCKER);
    lua_pushboolean(L, events);
    lua_setiuservalue(L, AT_STREAM, UV_EVENTS);
    f->opened = nd_op_new(L, &follow_type);
    f->opened->follow = f;
    return f;
}

/* Appends "&name=seconds.millis" where opts[name] is a time in ms; the query is on top. */
ND_RAISES static void add_time(lua_State *L, int opts, const char *name)
{
    lua_Integer ms;

    if (!lua_istable(L, opts))
        return;
    if (lua_getfield(L, opts, name) == LUA_TNIL) {
        lua_pop(L, 1);
        return;
    }
    ms = (lua_Integer)luaL_checknumber(L, -1);
    lua_pop(L, 1);
    lua_pushfstring(L, "&%s=%I.%s%d", name, ms / 1000,
                    ms % 1000 < 10    ? "00"
                    : ms % 1000 < 100 ? "0"
                                      : "",
                    (int)(ms % 1000));
    lua_concat(L, 2);
}

static int docker_logs(lua_State *L)
{
    struct docker_box *box = docker_check(L);
    struct nd_docker_logs_call call = {
        .on_open = on_open, .on_line = on_line, .on_done = on_follow_done};
    struct follow *f;

    lua_settop(L, AT_OPTS);
    docker_push_name(L, 2, "container");
    call.container = lua_tostring(L, 2);
    call.follow = docker_flag(L, AT_OPTS, "follow", false);
    call.timestamps = docker_flag(L, AT_OPTS, "timestamps", true);
    call.timeout_ms = docker_timeout(L, AT_OPTS, box, 0, 0);
    if (!call.timeout_ms)
        call.timeout_ms = box->timeout_ms;
    lua_pushfstring(L, "follow=%d&timestamps=%d&stdout=%d&stderr=%d", call.follow, call.timestamps,
                    docker_flag(L, AT_OPTS, "stdout", true),
                    docker_flag(L, AT_OPTS, "stderr", true));
    if (lua_istable(L, AT_OPTS) && lua_getfield(L, AT_OPTS, "tail") != LUA_TNIL) {
        lua_pushfstring(L, "&tail=%I", luaL_checkinteger(L, -1));
        lua_remove(L, -2);
        lua_concat(L, 2);
    } else {
        lua_settop(L, AT_OPTS + 2);
    }
    add_time(L, AT_OPTS, "since");
    add_time(L, AT_OPTS, "until");
    call.query = lua_tostring(L, -1);
    lua_insert(L, AT_OPTS); /* new_follow keeps what is below AT_STREAM */
    f = call.arg = new_follow(L, false);
    f->engine = nd_docker_logs_start(box->docker, &call);
    return nd_op_park(L, f->opened);
}

static int docker_events(lua_State *L)
{
    struct docker_box *box = docker_check(L);
    struct nd_docker_events_call call = {
        .on_open = on_open, .on_event = on_event, .on_done = on_follow_done};
    struct follow *f;

    lua_settop(L, 2);
    call.timeout_ms = docker_timeout(L, 2, box, 0, 0);
    if (!call.timeout_ms)
        call.timeout_ms = box->timeout_ms;
    docker_push_filters(L, 2);
    add_time(L, 2, "since");
    if (lua_rawlen(L, -1))
        lua_pushstring(L, lua_tostring(L, -1) + 1);
    call.query = lua_tostring(L, -1);
    lua_replace(L, AT_OPTS);
    f = call.arg = new_follow(L, true);
    f->engine = nd_docker_events_start(box->docker, &call);
    return nd_op_park(L, f->opened);
}

void docker_add_follow(lua_State *L)
{
    static const luaL_Reg stream_methods[] = {
        {"recv", stream_recv},
        {"close", stream_close},
        {"__close", stream_close},
        {NULL, NULL},
    };

    nd_bind_class(L, STREAM_META, stream_methods);
    lua_pushcfunction(L, docker_exec);
    lua_setfield(L, -2, "exec");
    lua_pushcfunction(L, docker_logs);
    lua_setfield(L, -2, "logs");
    lua_pushcfunction(L, docker_events);
    lua_setfield(L, -2, "events");
}
