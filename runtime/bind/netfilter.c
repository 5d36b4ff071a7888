/*
 * netfilter.c - the Lua module `netfilter`: hearing of changes, and connections.
 *
 *   watch{kind="nft"|"legacy", bridges="nd3fa2-"} -> chan
 *        ch:recv() -> "12 34": the processes behind changes of the rules. While it is open,
 *        containers on bridges with that prefix can reach themselves (engine/hairpin.h)
 *   flows{within="10.1.0.0/24", proto=, open=} -> {["10.1.0.7"]=3, ...}   parks; connections to (or
 *        translated to) these addresses, counted; proto "tcp" | "udp"; open: not those ending
 *   forget{within=, proto=, ended=} -> number   parks; removed from conntrack; ended: only TCP ones
 *        that have ended already
 *   idle(pid, port[, ms=1000]) -> number   parks; established connections of a container's port on
 *        which nothing moved for so long after an answer (engine/sockdiag.h)
 *
 * Rules are written by nd.service.iptables. Errors: netfilter_watch, conntrack_failed, not_found,
 * sockdiag_failed.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "bind/job_op.h"
#include "engine/hairpin.h"
#include "engine/netfilter.h"
#include "engine/sockdiag.h"
#include "script/chan.h"

/* ---- watch ---- */

struct watch {
    struct nd_chan *chan;              /* owes it an end */
    struct nd_netfilter_watch *engine; /* owned */
    struct nd_hairpin *hairpin;        /* owned */
};

static void on_changed(void *arg, const char *pids)
{
    struct watch *w = arg;

    nd_chan_add(w->chan, 0, pids, strlen(pids));
}

static void on_left(void *arg)
{
    struct watch *w = arg;

    nd_netfilter_watch_close(w->engine);
    nd_hairpin_close(w->hairpin);
    nd_chan_end(w->chan, NULL);
    free(w);
}

static const struct nd_chan_type watch_type = {.close = on_left};

static int netfilter_watch(lua_State *L)
{
    static const char *const kinds[] = {"nft", "legacy", NULL};
    struct nd_loop *loop = nd_host_loop(nd_host_of(L));
    struct nd_err err = {0};
    const char *prefix;
    struct watch *w;
    int legacy;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_getfield(L, 1, "kind");    // o kind
    lua_getfield(L, 1, "bridges"); // o kind bridges
    legacy = luaL_checkoption(L, -2, "nft", kinds);
    prefix = luaL_checkstring(L, -1);
    w = nd_alloc(sizeof *w);
    w->chan = nd_chan_new(L, &watch_type, w); // o kind bridges chan
    w->hairpin = nd_hairpin_open(loop, prefix, &err);
    if (w->hairpin)
        w->engine = nd_netfilter_watch_open(loop, legacy, on_changed, w, &err);
    if (!w->engine) {
        if (w->hairpin)
            nd_hairpin_close(w->hairpin);
        nd_chan_end(w->chan, NULL);
        free(w);
        return nd_raise(L, &err);
    }
    return 1;
}

/* ---- flows ---- */

struct flow_op {
    struct nd_job_op job;
    struct nd_flow_filter filter;
    bool forget;
    struct nd_flow_count *list; /* owned */
    int count;                  /* of list, or how many were forgotten */
};

static int push_flows(lua_State *L, void *arg)
{
    struct flow_op *op = arg;

    if (op->forget) {
        lua_pushinteger(L, op->count);
        return 1;
    }
    lua_createtable(L, 0, op->count);
    for (int i = 0; i < op->count; i++) {
        char text[INET_ADDRSTRLEN];
        struct in_addr address = {.s_addr = htonl(op->list[i].address)};
        inet_ntop(AF_INET, &address, text, sizeof text);
        lua_pushinteger(L, op->list[i].count);
        lua_setfield(L, -2, text);
    }
    return 1;
}

static void fini_flows(void *arg)
{
    struct flow_op *op = arg;

    free(op->list);
}

static const struct nd_op_type flow_type = {.name = "netfilter.flows",
                                            .size = sizeof(struct flow_op),
                                            .push = push_flows,
                                            .cancel = nd_job_op_cancel,
                                            .fini = fini_flows};

static void work_flows(void *arg)
{
    struct flow_op *op = arg;

    op->count = op->forget ? nd_flow_forget(&op->filter, &op->job.op.err)
                           : nd_flow_list(&op->filter, &op->list, &op->job.op.err);
}

/* Reads "10.1.0.0/24" or one address from the table's field `within`. */
static void check_within(lua_State *L, struct nd_flow_filter *filter)
{
    const char *text, *slash;
    char address[INET_ADDRSTRLEN];
    struct in_addr in;
    unsigned long bits = 32;
    uint32_t mask;

    lua_getfield(L, 1, "within");
    text = luaL_checkstring(L, -1);
    slash = strchr(text, '/');
    if (slash)
        bits = strtoul(slash + 1, NULL, 10);
    snprintf(address, sizeof address, "%.*s", slash ? (int)(slash - text) : 15, text);
    luaL_argcheck(L, inet_pton(AF_INET, address, &in) == 1 && bits >= 1 && bits <= 32, 1,
                  "`within` must be an IPv4 address or range");
    mask = bits == 32 ? 0 : UINT32_MAX >> bits;
    filter->first = ntohl(in.s_addr) & ~mask;
    filter->last = filter->first | mask;
    lua_pop(L, 1);
}

static void check_filter(lua_State *L, struct nd_flow_filter *filter)
{
    static const char *const protos[] = {"any", "tcp", "udp", NULL};
    static const uint8_t numbers[] = {0, IPPROTO_TCP, IPPROTO_UDP};

    luaL_checktype(L, 1, LUA_TTABLE);
    check_within(L, filter);
    lua_getfield(L, 1, "proto");
    filter->proto = numbers[luaL_checkoption(L, -1, "any", protos)];
    lua_getfield(L, 1, "open");
    filter->open = lua_toboolean(L, -1);
    lua_getfield(L, 1, "ended");
    filter->ended = lua_toboolean(L, -1);
    lua_pop(L, 3);
}

static int start(lua_State *L, bool forget)
{
    struct nd_flow_filter filter = {0};
    struct flow_op *op;

    check_filter(L, &filter);
    op = nd_op_new(L, &flow_type);
    op->filter = filter;
    op->forget = forget;
    return nd_job_op_run(L, op, work_flows);
}

static int netfilter_flows(lua_State *L)
{
    return start(L, false);
}

static int netfilter_forget(lua_State *L)
{
    return start(L, true);
}

/* ---- idle ---- */

struct idle_op {
    struct nd_job_op job;
    pid_t pid;
    uint16_t port;
    uint32_t quiet_ms;
    int count;
};

static int push_idle(lua_State *L, void *arg)
{
    struct idle_op *op = arg;

    lua_pushinteger(L, op->count);
    return 1;
}

static void work_idle(void *arg)
{
    struct idle_op *op = arg;

    op->count = nd_sockdiag_idle(op->pid, op->port, op->quiet_ms, &op->job.op.err);
}

static const struct nd_op_type idle_type = {.name = "netfilter.idle",
                                            .size = sizeof(struct idle_op),
                                            .push = push_idle,
                                            .cancel = nd_job_op_cancel};

static int netfilter_idle(lua_State *L)
{
    lua_Integer pid = luaL_checkinteger(L, 1), port = luaL_checkinteger(L, 2),
                ms = luaL_optinteger(L, 3, 1000);
    struct idle_op *op;

    luaL_argcheck(L, pid > 0 && pid <= INT32_MAX, 1, "not a process id");
    luaL_argcheck(L, port > 0 && port <= 65535, 2, "not a port");
    luaL_argcheck(L, ms >= 0 && ms <= UINT32_MAX, 3, "not milliseconds");
    op = nd_op_new(L, &idle_type);
    op->pid = (pid_t)pid;
    op->port = (uint16_t)port;
    op->quiet_ms = (uint32_t)ms;
    return nd_job_op_run(L, op, work_idle);
}

static const luaL_Reg functions[] = {
    {"watch", netfilter_watch},
    {"flows", netfilter_flows},
    {"forget", netfilter_forget},
    {"idle", netfilter_idle},
    {NULL, NULL},
};

int nd_open_netfilter(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}
