/*
 * nextdeployd.c - the daemon's process: loop, Lua, signals, exit status, and its replacement by the
 * program that is on disk by then. What it does is in lua/nd/main.lua.
 */
#include <libgen.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "bind/bind.h"
#include "engine/memory.h"
#include "io/handover.h"
#include "script/embed.h"

enum { REPLACE = -1 }; /* what main returns for: the program on disk is to go on */

/* What a signal calls of main. */
struct on_signal {
    int number;
    const char *function;
};

static const struct on_signal ends[] = {{SIGTERM, "stop"}, {SIGINT, "stop"}};
/* These are blocked in every thread, for the life of the process and over its replacement, and read
 * from a descriptor: one that comes at any moment of that waits for the program that can take it.
 */
static const struct on_signal held[] = {{SIGUSR2, "upgrade"}, {SIGHUP, "reload"}};

enum { ENDS = sizeof ends / sizeof ends[0], HELD = sizeof held / sizeof held[0] };

struct daemon {
    struct nd_loop loop;
    struct nd_host *host;
    struct nd_handover handover;
    uv_signal_t ends[ENDS];
    uv_poll_t held;
    int held_fd;        /* owned; a signalfd */
    char program[4096]; /* the path it was started by: an upgrade finds the new one there */
    int main_ref;       /* the table that lua/nd/main.lua returns */
    int status;         /* exit status, or REPLACE */
};

static void on_main_end(void *arg, lua_State *L, int status)
{
    struct daemon *daemon = arg;

    if (status == LUA_OK) {
        daemon->status = (int)lua_tointeger(L, -1);
    } else {
        struct nd_err err;

        nd_err_from_lua(L, -1, &err);
        nd_log_err("nextdeployd", &err);
        daemon->status = 1;
    }
    nd_loop_stop(&daemon->loop);
}

static void call(struct daemon *daemon, const struct on_signal *known, int count, int number)
{
    lua_State *L = nd_host_lua(daemon->host);

    for (int i = 0; i < count; i++) {
        if (known[i].number != number)
            continue;
        lua_rawgeti(L, LUA_REGISTRYINDEX, daemon->main_ref);
        lua_getfield(L, -1, known[i].function);
        lua_remove(L, -2);
        nd_task_spawn(daemon->host, L, 0, known[i].function, NULL, NULL);
    }
}

static void on_end_signal(uv_signal_t *handle, int number)
{
    call(handle->data, ends, ENDS, number);
}

static void on_held_signal(uv_poll_t *handle, int status, int events)
{
    struct daemon *daemon = handle->data;
    struct signalfd_siginfo info;

    (void)status;
    (void)events;
    while (read(daemon->held_fd, &info, sizeof info) == sizeof info)
        call(daemon, held, HELD, (int)info.ssi_signo);
}

/* Before the first thread is made: they inherit it. */
static void hold_signals(struct daemon *daemon)
{
    sigset_t set;

    sigemptyset(&set);
    for (int i = 0; i < HELD; i++)
        sigaddset(&set, held[i].number);
    sigprocmask(SIG_BLOCK, &set, NULL);
    daemon->held_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void watch_signals(struct daemon *daemon)
{
    for (int i = 0; i < ENDS; i++) {
        uv_signal_init(&daemon->loop.uv, &daemon->ends[i]);
        daemon->ends[i].data = daemon;
        uv_signal_start(&daemon->ends[i], on_end_signal, ends[i].number);
    }
    uv_poll_init(&daemon->loop.uv, &daemon->held, daemon->held_fd);
    daemon->held.data = daemon;
    uv_poll_start(&daemon->held, UV_READABLE, on_held_signal);
}

static void unwatch_signals(struct daemon *daemon)
{
    for (int i = 0; i < ENDS; i++)
        uv_close((uv_handle_t *)&daemon->ends[i], NULL);
    uv_close((uv_handle_t *)&daemon->held, NULL);
}

/* The file that runs now; "" when it can't be told. */
static void find_self(char *path, size_t size)
{
    ssize_t length = readlink("/proc/self/exe", path, size - 1);

    path[length < 0 ? 0 : length] = '\0';
}

static int start(struct daemon *daemon, int argc, char **argv)
{
    lua_State *L = nd_host_lua(daemon->host);
    char self[4096];

    find_self(self, sizeof self);
    /* Its own name, and not where a link leads: the link may lead to the next version by then. */
    snprintf(daemon->program, sizeof daemon->program, "%s", strchr(argv[0], '/') ? argv[0] : self);
    nd_embed_open(L);
    nd_bind_open(daemon->host);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "nd.main");
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
        fprintf(stderr, "nextdeployd: %s\n", luaL_tolstring(L, -1, NULL));
        return -1;
    }
    lua_pushvalue(L, -1);
    daemon->main_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, "run"); // main run
    lua_remove(L, -2);
    lua_createtable(L, argc - 1, 0);
    for (int i = 1; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_pushstring(L, dirname(self));
    lua_pushliteral(L, ND_VERSION);
    lua_pushstring(L, daemon->program); // run argv dir version program
    nd_task_spawn(daemon->host, L, 4, "main", on_main_end, daemon);
    return 0;
}

/* Gives large buffers back to the system when they are freed. By itself glibc raises both limits to
 * the largest buffer that it saw freed: after a flood of logs (4 MB at once) it kept 20 MB. */
static void keep_small(void)
{
    mallopt(M_MMAP_THRESHOLD, 256 * 1024);
    mallopt(M_TRIM_THRESHOLD, 1024 * 1024);
}

/* Secrets pass through here: no core, and none of our user's other processes may look in. */
static void keep_to_itself(void)
{
    const struct rlimit none = {0, 0};

    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0);
}

int main(int argc, char **argv)
{
    struct daemon daemon = {.status = 1};
    struct nd_err err = {0};

    keep_to_itself();
    hold_signals(&daemon);
    nd_handover_init(&daemon.handover);
    keep_small();
    nd_memory_firm();
    signal(SIGPIPE, SIG_IGN);
    if (nd_loop_init(&daemon.loop, &err) < 0) {
        nd_log_err("nextdeployd", &err);
        return 1;
    }
    daemon.loop.handover = &daemon.handover;
    daemon.host = nd_host_new(&daemon.loop);
    watch_signals(&daemon);
    if (start(&daemon, argc, argv) == 0)
        nd_loop_run(&daemon.loop);
    unwatch_signals(&daemon);
    nd_host_free(daemon.host);
    nd_loop_fini(&daemon.loop);
    close(daemon.held_fd);
    if (daemon.status == REPLACE) {
        nd_handover_exec(&daemon.handover, daemon.program, argv, &err);
        nd_log_err("nextdeployd", &err);
        daemon.status = 1;
    }
    nd_handover_drop(&daemon.handover);
    return daemon.status;
}
