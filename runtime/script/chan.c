#include "script/chan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "script/host.h"

#define CHAN_META "nd.chan"

enum { DEFAULT_HIGH = 256 * 1024 };

struct item {
    struct nd_list link;
    size_t length;
    int kind;
    char data[];
};

struct nd_chan {
    const struct nd_chan_type *type;
    void *arg;              /* the producer's; not used after it ended */
    struct nd_list items;   /* struct item, the oldest first */
    struct nd_list waiters; /* at most one nd_wait_op */
    struct nd_err err;      /* raised after the last item when its code is set */
    size_t waiting;         /* bytes in items */
    int holders;            /* userdata, producer, and each recv in flight */
    bool ended, closed, paused;
};

struct recv_op {
    struct nd_wait_op wait;
    struct nd_chan *chan; /* held */
};

static void chan_drop(struct nd_chan *ch)
{
    if (--ch->holders > 0)
        return;
    ND_LIST_EACH (link, &ch->items) {
        free(ND_CONTAINER(link, struct item, link));
    }
    free(ch);
}

static void wake(struct nd_chan *ch)
{
    if (!nd_list_empty(&ch->waiters))
        nd_wait_op_done(ND_CONTAINER(ch->waiters.next, struct nd_wait_op, link));
}

static void set_paused(struct nd_chan *ch, bool stop)
{
    if (ch->paused == stop || ch->ended || !ch->type->pause)
        return;
    ch->paused = stop;
    ch->type->pause(ch->arg, stop);
}

static size_t high_mark(const struct nd_chan *ch)
{
    return ch->type->high ? ch->type->high : DEFAULT_HIGH;
}

/* ---- the producer's side ---- */

void nd_chan_add(struct nd_chan *ch, int kind, const void *data, size_t length)
{
    struct item *item;

    if (ch->closed || ch->ended)
        return;
    item = nd_alloc(sizeof *item + length);
    item->kind = kind;
    item->length = length;
    if (length)
        memcpy(item->data, data, length);
    nd_list_append(&ch->items, &item->link);
    ch->waiting += length;
    wake(ch);
    if (ch->waiting > high_mark(ch))
        set_paused(ch, true);
}

void nd_chan_end(struct nd_chan *ch, const struct nd_err *err)
{
    if (err)
        ch->err = *err;
    ch->ended = true;
    wake(ch);
    chan_drop(ch);
}

bool nd_chan_closed(const struct nd_chan *ch)
{
    return ch->closed;
}

size_t nd_chan_waiting(const struct nd_chan *ch)
{
    return ch->waiting;
}

/* ---- Lua's side ---- */

static struct nd_chan **check_slot(lua_State *L)
{
    return luaL_checkudata(L, 1, CHAN_META);
}

static int push_item(lua_State *L, struct nd_chan *ch)
{
    struct item *item;

    if (nd_list_empty(&ch->items)) {
        if (ch->err.code[0])
            return nd_raise(L, &ch->err);
        return 0;
    }
    item = ND_CONTAINER(ch->items.next, struct item, link);
    lua_pushlstring(L, item->data, item->length);
    lua_pushinteger(L, item->kind);
    nd_list_remove(&item->link);
    ch->waiting -= item->length;
    free(item);
    if (ch->waiting < high_mark(ch) / 2)
        set_paused(ch, false);
    return 2;
}

static int push_recv(lua_State *L, void *arg)
{
    struct recv_op *op = arg;

    if (op->wait.timed_out && nd_list_empty(&op->chan->items) && !op->chan->ended) {
        struct nd_err err = {0};

        nd_err_set(&err, "timeout", NULL, "nothing arrived in time");
        return nd_raise(L, &err);
    }
    return push_item(L, op->chan);
}

static void fini_recv(void *arg)
{
    chan_drop(((struct recv_op *)arg)->chan);
}

static const struct nd_op_type recv_type = {
    .name = "recv",
    .size = sizeof(struct recv_op),
    .push = push_recv,
    .cancel = nd_wait_op_cancel,
    .fini = fini_recv,
};

static int chan_recv(lua_State *L)
{
    struct nd_chan *ch = *check_slot(L);
    lua_Number ms = luaL_optnumber(L, 2, -1);
    struct recv_op *op;

    if (!ch)
        return 0;
    if (!nd_list_empty(&ch->items) || ch->ended)
        return push_item(L, ch);
    if (!nd_list_empty(&ch->waiters))
        return luaL_error(L, "another task waits on this channel");
    op = nd_wait_op_new_as(L, &recv_type, &ch->waiters, ms < 0 ? -1 : (int64_t)ceil((double)ms));
    op->chan = ch;
    ch->holders++;
    return nd_op_park(L, op);
}

static int chan_close(lua_State *L)
{
    struct nd_chan **slot = check_slot(L);
    struct nd_chan *ch = *slot;

    *slot = NULL;
    if (!ch)
        return 0;
    ch->closed = true;
    wake(ch);
    if (!ch->ended && ch->type->close)
        ch->type->close(ch->arg);
    chan_drop(ch);
    return 0;
}

static const luaL_Reg methods[] = {
    {"recv", chan_recv},
    {"close", chan_close},
    {NULL, NULL},
};

struct nd_chan *nd_chan_new(lua_State *L, const struct nd_chan_type *type, void *arg)
{
    struct nd_chan **slot = lua_newuserdatauv(L, sizeof *slot, 0);
    struct nd_chan *ch;

    *slot = NULL;
    if (luaL_newmetatable(L, CHAN_META)) {
        lua_newtable(L);
        luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, chan_close);
        lua_setfield(L, -2, "__gc");
        lua_pushcfunction(L, chan_close);
        lua_setfield(L, -2, "__close");
    }
    lua_setmetatable(L, -2);
    ch = nd_alloc(sizeof *ch);
    ch->type = type;
    ch->arg = arg;
    ch->holders = 2;
    nd_list_init(&ch->items);
    nd_list_init(&ch->waiters);
    *slot = ch;
    return ch;
}
