/*
 * docker_hijack.c - a method of a Docker connection for conversations: exec with input.
 *
 * d:hijack(path, body, {tty=}) -> stream, once Docker agrees. stream:recv([timeout_ms]) -> bytes,
 * "stdout"|"stderr"; nil at the end. stream:send(bytes) waits until they are written.
 * stream:finish() ends the input; stream:close() (also `<close>`) ends it all. The API's version
 * must be settled: make another call first, such as the one that creates the exec.
 */
#include "engine/docker_hijack.h"

#include <stdlib.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "bind/docker.h"
#include "script/chan.h"

#define TALK_META "nd.docker.talk"

enum { UV_CHAN = 1, UV_DOCKER = 2, AT_TALK = 5 };

/* One conversation: held by the userdata and by the engine. */
struct talk {
    struct nd_docker_hijack *engine; /* NULL once it has ended */
    struct nd_chan *chan;            /* we owe its end while the engine lives */
    struct open_op *opened;          /* NULL once Docker agreed */
    int holders;
};

struct open_op {
    struct nd_op op;
    struct talk *talk;
};

struct send_op {
    struct nd_op op;
};

static void let_go(struct talk *t)
{
    if (--t->holders == 0)
        free(t);
}

/* --- the engine's side ------------------------------------------------------------------------ */

static void on_open(void *arg)
{
    struct talk *t = arg;

    nd_op_done(&t->opened->op);
    t->opened = NULL;
}

static void on_data(void *arg, enum nd_docker_stream stream, const char *data, size_t length)
{
    nd_chan_add(((struct talk *)arg)->chan, (int)stream, data, length);
}

static void on_done(void *arg, const struct nd_err *err)
{
    struct talk *t = arg;
    struct nd_err none = {0};

    if (t->opened) {
        if (err)
            t->opened->op.err = *err;
        nd_op_done(&t->opened->op);
        t->opened = NULL;
    }
    t->engine = NULL;
    nd_chan_end(t->chan, err ? err : &none);
    let_go(t);
}

static void on_pause(void *arg, bool stop)
{
    struct talk *t = arg;

    if (t->engine)
        nd_docker_hijack_pause(t->engine, stop);
}

static void on_left(void *arg)
{
    struct talk *t = arg;

    if (t->engine)
        nd_docker_hijack_cancel(t->engine);
}

static const struct nd_chan_type talk_chan = {.pause = on_pause, .close = on_left};

/* --- Lua's side ------------------------------------------------------------------------------- */

static int push_talk(lua_State *L, void *arg)
{
    (void)arg;
    lua_pushvalue(L, AT_TALK);
    return 1;
}

static void cancel_open(void *arg)
{
    on_left(((struct open_op *)arg)->talk);
}

static const struct nd_op_type open_type = {
    .name = "docker.hijack",
    .size = sizeof(struct open_op),
    .push = push_talk,
    .cancel = cancel_open,
};

static int docker_hijack(lua_State *L)
{
    struct docker_box *box = docker_check(L);
    struct nd_docker_hijack_call call = {
        .on_open = on_open, .on_data = on_data, .on_done = on_done};
    struct talk **slot;
    struct talk *t;
    size_t length;

    lua_settop(L, 4);
    call.path = luaL_checkstring(L, 2);
    call.tty = docker_flag(L, 4, "tty", false);
    call.body = docker_push_json(L, 3, &length);
    lua_replace(L, 3);
    call.doing = "talk to a command";
    slot = lua_newuserdatauv(L, sizeof(struct talk *), 2); // ... talk
    *slot = NULL;
    luaL_setmetatable(L, TALK_META);
    *slot = t = nd_alloc(sizeof *t);
    t->holders = 1;
    t->chan = nd_chan_new(L, &talk_chan, t); // ... talk chan
    t->holders = 2;
    lua_setiuservalue(L, AT_TALK, UV_CHAN);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, AT_TALK, UV_DOCKER);
    t->opened = nd_op_new(L, &open_type);
    t->opened->talk = t;
    call.arg = t;
    t->engine = nd_docker_hijack_start(box->docker, &call);
    return nd_op_park(L, t->opened);
}

ND_RAISES static struct talk *check_talk(lua_State *L)
{
    return *(struct talk **)luaL_checkudata(L, 1, TALK_META);
}

static int received(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    if (lua_isnil(L, -2)) // bytes stream
        return 0;
    lua_pushstring(L, lua_tointeger(L, -1) < ND_DOCKER_STDERR ? "stdout" : "stderr");
    lua_replace(L, -2);
    return 2;
}

static int talk_recv(lua_State *L)
{
    check_talk(L);
    lua_settop(L, 2);
    lua_getiuservalue(L, 1, UV_CHAN); // self timeout chan
    lua_getfield(L, -1, "recv");
    lua_insert(L, -2);
    lua_pushvalue(L, 2); // self timeout recv chan timeout
    lua_callk(L, 2, 2, 0, received);
    return received(L, LUA_OK, 0);
}

static int push_nothing(lua_State *L, void *arg)
{
    (void)L;
    (void)arg;
    return 0;
}

static const struct nd_op_type send_type = {
    .name = "docker.send",
    .size = sizeof(struct send_op),
    .push = push_nothing,
};

static void on_written(void *arg)
{
    nd_op_done(arg);
}

static int talk_send(lua_State *L)
{
    struct talk *t = check_talk(L);
    size_t length;
    const char *data = luaL_checklstring(L, 2, &length);
    struct send_op *op = nd_op_new(L, &send_type);

    if (t->engine)
        nd_docker_hijack_write(t->engine, data, length, on_written, op);
    else
        nd_op_done(&op->op); /* the command has ended: nobody reads */
    return nd_op_park(L, op);
}

static int talk_finish(lua_State *L)
{
    struct talk *t = check_talk(L);

    if (t->engine)
        nd_docker_hijack_finish(t->engine);
    return 0;
}

static int talk_close(lua_State *L)
{
    check_talk(L);
    lua_getiuservalue(L, 1, UV_CHAN);
    lua_getfield(L, -1, "close");
    lua_insert(L, -2);
    lua_call(L, 1, 0);
    return 0;
}

static int talk_gc(lua_State *L)
{
    struct talk **slot = luaL_checkudata(L, 1, TALK_META);

    if (*slot)
        let_go(*slot);
    *slot = NULL;
    return 0;
}

void docker_add_hijack(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"recv", talk_recv},   {"send", talk_send},     {"finish", talk_finish},
        {"close", talk_close}, {"__close", talk_close}, {"__gc", talk_gc},
        {NULL, NULL},
    };

    nd_bind_class(L, TALK_META, methods);
    lua_pushcfunction(L, docker_hijack);
    lua_setfield(L, -2, "hijack");
}
