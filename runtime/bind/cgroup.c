/*
 * cgroup.c - require "cgroup": what containers use, from their control groups.
 *
 *   read(list[, {proc_root="/proc", sys_root="/sys"}]) -> list       waits
 *       of {pid=, id=}, any process of a container and the container's id; at the same place of the
 *       answer false where that process isn't the container's, or a table with what could be read:
 *       cpu, throttled (seconds), memory, memory_working, memory_limit (bytes; absent: none),
 *       oom_kills, read, written (bytes), reads, writes, pids, pids_limit, received, sent (bytes),
 *       dropped, errored (packets)
 */
#include "engine/cgroup.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "bind/job_op.h"

struct container {
    pid_t pid;
    bool gone;
    char id[72];
    struct nd_cgroup_usage usage;
};

struct read_op {
    struct nd_job_op job;
    char *proc_root, *sys_root; /* owned */
    struct container *items;    /* owned */
    size_t count;
};

static void read_fini(void *arg)
{
    struct read_op *op = arg;

    free(op->proc_root);
    free(op->sys_root);
    free(op->items);
}

static void read_work(void *arg)
{
    struct read_op *op = arg;

    for (size_t i = 0; i < op->count; i++) {
        struct container *c = &op->items[i];

        c->gone = nd_cgroup_read(op->proc_root, op->sys_root, c->pid, c->id, &c->usage, NULL) < 0;
    }
}

static void set_number(lua_State *L, const char *name, double value)
{
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

static void set_count(lua_State *L, const char *name, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

static void push_usage(lua_State *L, const struct nd_cgroup_usage *u)
{
    lua_createtable(L, 0, 20);
    if (u->have & ND_CGROUP_CPU) {
        set_number(L, "cpu", u->cpu);
        set_number(L, "throttled", u->throttled);
    }
    if (u->have & ND_CGROUP_MEMORY) {
        set_count(L, "memory", u->memory);
        set_count(L, "memory_working", u->memory_working);
        set_count(L, "oom_kills", u->oom_kills);
        if (u->memory_limit)
            set_count(L, "memory_limit", u->memory_limit);
    }
    if (u->have & ND_CGROUP_IO) {
        set_count(L, "read", u->read);
        set_count(L, "written", u->written);
        set_count(L, "reads", u->reads);
        set_count(L, "writes", u->writes);
    }
    if (u->have & ND_CGROUP_PIDS) {
        set_count(L, "pids", u->pids);
        if (u->pids_limit)
            set_count(L, "pids_limit", u->pids_limit);
    }
    if (u->have & ND_CGROUP_NETWORK) {
        set_count(L, "received", u->received);
        set_count(L, "sent", u->sent);
        set_count(L, "dropped", u->dropped);
        set_count(L, "errored", u->errored);
    }
}

static int read_push(lua_State *L, void *arg)
{
    struct read_op *op = arg;

    lua_createtable(L, (int)op->count, 0);
    for (size_t i = 0; i < op->count; i++) {
        if (op->items[i].gone)
            lua_pushboolean(L, 0);
        else
            push_usage(L, &op->items[i].usage);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static const struct nd_op_type read_type = {"cgroup.read", sizeof(struct read_op), read_push,
                                            nd_job_op_cancel, read_fini};

static const char *root_option(lua_State *L, const char *name, const char *fallback)
{
    if (lua_isnoneornil(L, 2) || lua_getfield(L, 2, name) == LUA_TNIL)
        return fallback;
    return luaL_checkstring(L, -1);
}

/* Reads item `i` (from 0); false where it isn't {pid=, id=}. Doesn't raise. */
static bool take_item(lua_State *L, size_t i, struct container *out)
{
    const char *id = NULL;

    if (lua_rawgeti(L, 1, (lua_Integer)i + 1) == LUA_TTABLE) {
        lua_pushliteral(L, "pid");
        lua_rawget(L, -2);
        lua_pushliteral(L, "id");
        lua_rawget(L, -3); // item pid id
        out->pid = (pid_t)lua_tointeger(L, -2);
        id = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
        snprintf(out->id, sizeof out->id, "%s", id ? id : "");
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
    return out->pid > 0 && out->id[0];
}

static int cgroup_read(lua_State *L)
{
    const char *proc_root, *sys_root;
    struct container item = {0};
    struct read_op *op;
    size_t count;

    luaL_checktype(L, 1, LUA_TTABLE);
    count = (size_t)lua_rawlen(L, 1);
    for (size_t i = 0; i < count; i++)
        luaL_argcheck(L, take_item(L, i, &item), 1, "each needs a pid and an id");
    proc_root = root_option(L, "proc_root", "/proc");
    sys_root = root_option(L, "sys_root", "/sys");
    op = nd_op_new(L, &read_type);
    op->proc_root = nd_strdup(proc_root);
    op->sys_root = nd_strdup(sys_root);
    op->items = nd_alloc((count + 1) * sizeof *op->items);
    op->count = count;
    for (size_t i = 0; i < count; i++)
        take_item(L, i, &op->items[i]);
    return nd_job_op_run(L, op, read_work);
}

static const luaL_Reg functions[] = {{"read", cgroup_read}, {NULL, NULL}};

int nd_open_cgroup(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}
