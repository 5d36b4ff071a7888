#include "bind/ws_object.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "script/chan.h"

#define WS_META "nd.ws"

enum { TEXT, BINARY, UNSENT_MOST = 256 * 1024 };

struct nd_ws_object {
    struct nd_ws *ws;           /* NULL before it is opened and after `closed` */
    struct nd_chan *chan;       /* messages; ended by `closed` */
    struct nd_list senders;     /* struct send_op */
    struct nd_task *task;       /* to cancel when the peer closes; NULL: none */
    lua_State *task_co;         /* its coroutine ... */
    lua_State *receiver;        /* ... and the one that is inside recv */
    void (*drained)(void *arg); /* of another binding; NULL: none */
    void *drained_arg;
    int holders; /* the userdata, and the nd_ws until `closed` */
    int code;    /* of the close; 0: open */
    size_t reason_length;
    char reason[124];
};

struct send_op {
    struct nd_op op;
    struct nd_list link; /* in senders */
};

static void drop(struct nd_ws_object *o)
{
    if (--o->holders == 0)
        free(o);
}

/* ---- from the loop ---- */

static void on_message(void *arg, bool binary, const void *data, size_t length)
{
    struct nd_ws_object *o = arg;

    nd_chan_add(o->chan, binary ? BINARY : TEXT, data, length);
}

static void wake_senders(struct nd_ws_object *o)
{
    while (!nd_list_empty(&o->senders)) {
        struct send_op *op = ND_CONTAINER(o->senders.next, struct send_op, link);

        nd_list_remove(&op->link);
        nd_op_done(&op->op);
    }
}

static void on_drained(void *arg)
{
    struct nd_ws_object *o = arg;

    wake_senders(o);
    if (o->drained)
        o->drained(o->drained_arg);
}

static void on_closed(void *arg, int code, const char *reason, size_t length)
{
    struct nd_ws_object *o = arg;
    struct nd_task *task = o->receiver && o->receiver == o->task_co ? NULL : o->task;

    o->ws = NULL;
    o->code = code;
    o->reason_length = length < sizeof o->reason ? length : sizeof o->reason;
    memcpy(o->reason, reason, o->reason_length);
    nd_chan_end(o->chan, NULL);
    o->chan = NULL;
    wake_senders(o);
    if (task)
        nd_task_cancel(task);
    drop(o);
}

const struct nd_ws_events nd_ws_object_events = {
    .message = on_message,
    .drained = on_drained,
    .closed = on_closed,
};

static void on_chan_pause(void *arg, bool stop)
{
    struct nd_ws_object *o = arg;

    if (o->ws)
        nd_ws_pause(o->ws, stop);
}

void nd_ws_object_hold(struct nd_ws_object *o)
{
    o->holders++;
}

void nd_ws_object_opened(struct nd_ws_object *o, struct nd_ws *ws)
{
    if (!ws) {
        on_closed(o, 1006, "", 0);
        return;
    }
    if (o->chan) /* else it was closed on opening */
        o->ws = ws;
}

void nd_ws_object_watch(struct nd_ws_object *o, struct nd_task *task, lua_State *co)
{
    o->task = task;
    o->task_co = co;
}

void nd_ws_object_close(struct nd_ws_object *o, int code, const char *reason)
{
    if (o->ws)
        nd_ws_close(o->ws, code, reason, strlen(reason));
}

struct nd_ws *nd_ws_object_ws(struct nd_ws_object *o)
{
    return o->ws;
}

void nd_ws_object_on_drained(struct nd_ws_object *o, void (*drained)(void *arg), void *arg)
{
    o->drained = drained;
    o->drained_arg = arg;
}

/* ---- from Lua ---- */

struct nd_ws_object *nd_ws_object_check(lua_State *L, int index)
{
    return *(struct nd_ws_object **)luaL_checkudata(L, index, WS_META);
}

static struct nd_ws_object *check_ws(lua_State *L)
{
    return nd_ws_object_check(L, 1);
}

ND_RAISES static int raise_closed(lua_State *L, const struct nd_ws_object *o)
{
    struct nd_err err = {0};

    nd_err_set(&err, "ws_closed", NULL, "the WebSocket is closed (%d%s%.*s)", o->code,
               o->reason_length ? ": " : "", (int)o->reason_length, o->reason);
    return nd_raise(L, &err);
}

static int push_sent(lua_State *L, void *arg)
{
    (void)L;
    (void)arg;
    return 0;
}

static void cancel_send(void *arg)
{
    struct send_op *op = arg;

    nd_list_remove(&op->link);
    nd_op_done(&op->op);
}

static const struct nd_op_type send_type = {
    .name = "ws:send",
    .size = sizeof(struct send_op),
    .push = push_sent,
    .cancel = cancel_send,
};

static int ws_send(lua_State *L)
{
    struct nd_ws_object *o = check_ws(L);
    size_t length;
    const char *data = luaL_checklstring(L, 2, &length);
    struct send_op *op;

    if (!o->ws || nd_ws_send(o->ws, lua_toboolean(L, 3), data, length) < 0)
        return raise_closed(L, o);
    if (!nd_ws_full(o->ws))
        return 0;
    op = nd_op_new(L, &send_type);
    nd_list_append(&o->senders, &op->link);
    return nd_op_park(L, op);
}

static int ws_try_send(lua_State *L)
{
    struct nd_ws_object *o = check_ws(L);
    size_t length;
    const char *data = luaL_checklstring(L, 2, &length), *why = NULL;

    if (o->ws && nd_ws_buffered(o->ws) + length > UNSENT_MOST)
        why = "full";
    else if (!o->ws || nd_ws_send(o->ws, lua_toboolean(L, 3), data, length) < 0)
        why = "closed";
    lua_pushboolean(L, !why);
    if (!why)
        return 1;
    lua_pushstring(L, why);
    return 2;
}

/* After the channel's recv: the kind's name, or what the close brought. */
static int received(lua_State *L, int status, lua_KContext context)
{
    struct nd_ws_object *o = check_ws(L);

    (void)context;
    o->receiver = NULL;
    if (status != LUA_OK && status != LUA_YIELD)
        return lua_error(L);
    if (lua_isnil(L, -2)) { // ... nil nil
        lua_pushnil(L);
        lua_pushinteger(L, o->code ? o->code : 1006);
        lua_pushlstring(L, o->reason, o->reason_length);
        return 3;
    }
    lua_pushstring(L, lua_tointeger(L, -1) == BINARY ? "binary" : "text"); // ... data kind name
    lua_replace(L, -2);
    return 2;
}

static int ws_recv(lua_State *L)
{
    struct nd_ws_object *o = check_ws(L);

    luaL_optnumber(L, 2, 0);
    lua_settop(L, 2);
    lua_getiuservalue(L, 1, 1); // ws ms chan
    lua_getfield(L, 3, "recv"); // ws ms chan recv
    lua_pushvalue(L, 3);
    lua_pushvalue(L, 2); // ws ms chan recv chan ms
    if (!o->receiver)
        o->receiver = L;
    return received(L, lua_pcallk(L, 2, 2, 0, 0, received), 0);
}

static int ws_close(lua_State *L)
{
    struct nd_ws_object *o = check_ws(L);
    lua_Integer code = luaL_optinteger(L, 2, 1000);
    const char *reason = luaL_optstring(L, 3, "");

    luaL_argcheck(L,
                  code == 1000 || code == 1001 || code == 1002 || code == 1003 ||
                      (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999),
                  2, "not a close code that may be sent");
    nd_ws_object_close(o, (int)code, reason);
    return 0;
}

static int ws_buffered(lua_State *L)
{
    struct nd_ws_object *o = check_ws(L);

    lua_pushinteger(L, o->ws ? (lua_Integer)nd_ws_buffered(o->ws) : 0);
    return 1;
}

static int ws_leave(lua_State *L)
{
    nd_ws_object_close(check_ws(L), 1000, "");
    return 0;
}

static int ws_gc(lua_State *L)
{
    struct nd_ws_object **slot = luaL_checkudata(L, 1, WS_META);
    struct nd_ws_object *o = *slot;

    *slot = NULL;
    if (!o)
        return 0;
    o->task = NULL;
    nd_ws_object_close(o, 1001, "");
    if (o->holders == 1 && o->chan) /* never opened */
        nd_chan_end(o->chan, NULL);
    drop(o);
    return 0;
}

static const luaL_Reg methods[] = {
    {"send", ws_send},   {"try_send", ws_try_send}, {"recv", ws_recv},
    {"close", ws_close}, {"buffered", ws_buffered}, {NULL, NULL},
};

struct nd_ws_object *nd_ws_object_new(lua_State *L)
{
    static const struct nd_chan_type chan_type = {.pause = on_chan_pause};
    struct nd_ws_object **slot = lua_newuserdatauv(L, sizeof *slot, 1); // ws
    struct nd_ws_object *o;

    *slot = NULL;
    if (luaL_newmetatable(L, WS_META)) {
        lua_newtable(L);
        luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, ws_gc);
        lua_setfield(L, -2, "__gc");
        lua_pushcfunction(L, ws_leave);
        lua_setfield(L, -2, "__close");
    }
    o = nd_alloc(sizeof *o);
    o->holders = 1;
    nd_list_init(&o->senders);
    *slot = o;
    lua_setmetatable(L, -2);
    o->chan = nd_chan_new(L, &chan_type, o); // ws chan
    lua_setiuservalue(L, -2, 1);
    return o;
}
