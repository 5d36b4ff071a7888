/*
 * proc.c - require "proc": the host, a process, a container's connections, from /proc.
 *
 *   host{proc_root="/proc", sys_root="/sys", disk_path="/"} -> table        waits
 *       memory, disk (percent, one decimal), uptime ("1h42m"), uptime_seconds,
 *       load {1, 5, 15 min}, cores, memory_total, memory_available, swap_total, swap_free,
 *       disk_total, disk_free, network_received, network_sent, disk_read, disk_written (bytes),
 *       pressure {cpu, memory, io} (percent; absent without PSI), and what programs want beside:
 *       memory_free, disk_unused, waited {cpu, memory, io} (seconds since boot; as pressure),
 *       cpu_times {user, nice, system, idle, iowait, irq, softirq, steal} (seconds since boot),
 *       boot_time (UTC seconds)
 *   connections(pid[, port[, {proc_root=}]]) -> established, half           waits
 *       two lists of {peer="10.0.0.7:51234", local_port=, state="established"|"close_wait"}:
 *       whoever is in the second has stopped sending, but may still read. Code not_found.
 *   process(pid[, {proc_root=}]) -> {state, parent, start (ticks), rss (bytes)} | nil
 *   self() -> {cpu, start (seconds), rss, virtual (bytes), fds, fds_most}: this process
 *   duration(seconds) -> "1h42m"
 *   rest()   this process holds little memory for a while: see base/rest.h
 */
#include "engine/proc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rest.h"
#include "bind/bind.h"
#include "bind/job_op.h"

struct host_op {
    struct nd_job_op job;
    char *proc_root; /* owned, like the other two */
    char *sys_root;
    char *disk_path;
    struct nd_host_metrics metrics;
};

struct connections_op {
    struct nd_job_op job;
    char *proc_root; /* owned */
    pid_t pid;
    int port;
    struct nd_connections found;
};

/* The text of options[name], or `fallback`; stays on the stack. */
static const char *text_option(lua_State *L, int index, const char *name, const char *fallback)
{
    if (!lua_istable(L, index) || lua_getfield(L, index, name) == LUA_TNIL)
        return fallback;
    if (lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "%s must be a text", name);
    return lua_tostring(L, -1);
}

static void set_number(lua_State *L, const char *name, double value)
{
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

static void set_bytes(lua_State *L, const char *name, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

static void set_three(lua_State *L, const char *name, double cpu, double memory, double io)
{
    lua_createtable(L, 0, 3);
    set_number(L, "cpu", cpu);
    set_number(L, "memory", memory);
    set_number(L, "io", io);
    lua_setfield(L, -2, name);
}

static double one_decimal(double percent)
{
    return round(percent * 10) / 10;
}

/* ---- host ---- */

static void host_fini(void *arg)
{
    struct host_op *op = arg;

    free(op->proc_root);
    free(op->sys_root);
    free(op->disk_path);
}

static void host_work(void *arg)
{
    struct host_op *op = arg;

    nd_proc_host(op->proc_root, op->sys_root, op->disk_path, &op->metrics, &op->job.op.err);
}

static void push_metrics(lua_State *L, const struct nd_host_metrics *m)
{
    char uptime[32];

    lua_createtable(L, 0, 26);
    set_number(L, "memory", one_decimal(m->memory));
    set_number(L, "disk", one_decimal(m->disk));
    nd_proc_duration(m->uptime, uptime, sizeof uptime);
    lua_pushstring(L, uptime);
    lua_setfield(L, -2, "uptime");
    set_bytes(L, "uptime_seconds", (uint64_t)m->uptime);
    set_bytes(L, "cores", (uint64_t)m->cores);
    set_bytes(L, "memory_total", m->memory_total);
    set_bytes(L, "memory_available", m->memory_available);
    set_bytes(L, "swap_total", m->swap_total);
    set_bytes(L, "swap_free", m->swap_free);
    set_bytes(L, "memory_free", m->memory_free);
    set_bytes(L, "disk_unused", m->disk_unused);
    set_bytes(L, "disk_read", m->disk_read);
    set_bytes(L, "disk_written", m->disk_written);
    set_bytes(L, "boot_time", (uint64_t)m->boot_time);
    set_bytes(L, "disk_total", m->disk_total);
    set_bytes(L, "disk_free", m->disk_free);
    set_bytes(L, "network_received", m->network_received);
    set_bytes(L, "network_sent", m->network_sent);
    lua_createtable(L, 3, 0);
    for (int i = 0; i < 3; i++) {
        lua_pushnumber(L, m->load[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "load");
    lua_createtable(L, 0, ND_CPU_MODES);
    for (int i = 0; i < ND_CPU_MODES; i++)
        set_number(L, nd_cpu_modes[i], m->cpu_times[i]);
    lua_setfield(L, -2, "cpu_times");
    if (m->pressure_cpu < 0)
        return;
    set_three(L, "pressure", m->pressure_cpu, m->pressure_memory, m->pressure_io);
    set_three(L, "waited", m->waited_cpu, m->waited_memory, m->waited_io);
}

static int host_push(lua_State *L, void *arg)
{
    struct host_op *op = arg;

    push_metrics(L, &op->metrics);
    return 1;
}

static const struct nd_op_type host_type = {"proc.host", sizeof(struct host_op), host_push,
                                            nd_job_op_cancel, host_fini};

static int proc_host(lua_State *L)
{
    const char *proc_root = text_option(L, 1, "proc_root", "/proc");
    const char *sys_root = text_option(L, 1, "sys_root", "/sys");
    const char *disk_path = text_option(L, 1, "disk_path", "/");
    struct host_op *op = nd_op_new(L, &host_type);

    op->proc_root = nd_strdup(proc_root);
    op->sys_root = nd_strdup(sys_root);
    op->disk_path = nd_strdup(disk_path);
    return nd_job_op_run(L, op, host_work);
}

/* ---- connections ---- */

static void connections_fini(void *arg)
{
    struct connections_op *op = arg;

    free(op->proc_root);
    free(op->found.items);
}

static void connections_work(void *arg)
{
    struct connections_op *op = arg;

    nd_proc_connections(op->proc_root, op->pid, op->port, &op->found, &op->job.op.err);
}

static int connections_push(lua_State *L, void *arg)
{
    struct connections_op *op = arg;

    lua_newtable(L);
    lua_newtable(L); // established half
    for (size_t i = 0; i < op->found.count; i++) {
        const struct nd_connection *c = &op->found.items[i];
        int list = c->half ? -2 : -3;

        lua_createtable(L, 0, 3);
        lua_pushstring(L, c->peer);
        lua_setfield(L, -2, "peer");
        lua_pushinteger(L, c->local_port);
        lua_setfield(L, -2, "local_port");
        lua_pushstring(L, c->half ? "close_wait" : "established");
        lua_setfield(L, -2, "state");
        lua_rawseti(L, list, (lua_Integer)lua_rawlen(L, list) + 1);
    }
    return 2;
}

static const struct nd_op_type connections_type = {"proc.connections",
                                                   sizeof(struct connections_op), connections_push,
                                                   nd_job_op_cancel, connections_fini};

static int proc_connections(lua_State *L)
{
    lua_Integer pid = luaL_checkinteger(L, 1);
    lua_Integer port = luaL_optinteger(L, 2, 0);
    const char *root = text_option(L, 3, "proc_root", "/proc");
    struct connections_op *op;

    luaL_argcheck(L, port >= 0 && port <= 65535, 2, "not a port");
    op = nd_op_new(L, &connections_type);
    op->proc_root = nd_strdup(root);
    op->pid = (pid_t)pid;
    op->port = (int)port;
    return nd_job_op_run(L, op, connections_work);
}

/* ---- at once ---- */

static int proc_process(lua_State *L)
{
    lua_Integer pid = luaL_checkinteger(L, 1);
    const char *root = text_option(L, 2, "proc_root", "/proc");
    struct nd_proc_process process;
    struct nd_err err;

    if (nd_proc_process(root, (pid_t)pid, &process, &err) < 0) {
        if (strcmp(err.code, "not_found") == 0)
            return 0;
        return nd_raise(L, &err);
    }
    lua_createtable(L, 0, 4);
    lua_pushlstring(L, &process.state, 1);
    lua_setfield(L, -2, "state");
    set_bytes(L, "parent", (uint64_t)process.parent);
    set_bytes(L, "start", process.start);
    set_bytes(L, "rss", process.rss);
    return 1;
}

static int proc_self(lua_State *L)
{
    struct nd_proc_self self;
    struct nd_err err;

    if (nd_proc_self(&self, &err) < 0)
        return nd_raise(L, &err);
    lua_createtable(L, 0, 6);
    set_number(L, "cpu", self.cpu);
    set_number(L, "start", self.start);
    set_bytes(L, "rss", self.rss);
    set_bytes(L, "virtual", self.virtual);
    set_bytes(L, "fds", (uint64_t)self.fds);
    set_bytes(L, "fds_most", (uint64_t)self.fds_most);
    return 1;
}

static int proc_duration(lua_State *L)
{
    char text[32];

    nd_proc_duration(luaL_checknumber(L, 1), text, sizeof text);
    lua_pushstring(L, text);
    return 1;
}

static int proc_rest(lua_State *L)
{
    (void)L;
    nd_rest();
    return 0;
}

static const luaL_Reg functions[] = {
    {"host", proc_host}, {"connections", proc_connections}, {"process", proc_process},
    {"self", proc_self}, {"duration", proc_duration},       {"rest", proc_rest},
    {NULL, NULL}};

int nd_open_proc(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}
