/*
 * nextdeployd.c - the daemon's process: loop, Lua, signals, exit status. What it does is in
 * lua/nd/main.lua.
 */
#include <libgen.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "bind/bind.h"
#include "script/embed.h"

struct daemon {
    struct nd_loop loop;
    struct nd_host *host;
    uv_signal_t signals[2]; /* SIGTERM, SIGINT */
    int main_ref;           /* the table that lua/nd/main.lua returns */
    int status;             /* exit status */
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

static void on_signal(uv_signal_t *handle, int number)
{
    struct daemon *daemon = handle->data;
    lua_State *L = nd_host_lua(daemon->host);

    (void)number;
    lua_rawgeti(L, LUA_REGISTRYINDEX, daemon->main_ref);
    lua_getfield(L, -1, "stop");
    lua_remove(L, -2);
    nd_task_spawn(daemon->host, L, 0, "stop", NULL, NULL);
}

static void push_programs_dir(lua_State *L)
{
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);

    if (length < 0)
        length = 0;
    path[length] = '\0';
    lua_pushstring(L, dirname(path));
}

static int start(struct daemon *daemon, int argc, char **argv)
{
    lua_State *L = nd_host_lua(daemon->host);

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
    push_programs_dir(L);
    lua_pushliteral(L, ND_VERSION); // run argv dir version
    nd_task_spawn(daemon->host, L, 3, "main", on_main_end, daemon);
    return 0;
}

/* Gives large buffers back to the system when they are freed. By itself glibc raises both limits to
 * the largest buffer that it saw freed: after a flood of logs (4 MB at once) it kept 20 MB. */
static void keep_small(void)
{
    mallopt(M_MMAP_THRESHOLD, 256 * 1024);
    mallopt(M_TRIM_THRESHOLD, 1024 * 1024);
}

int main(int argc, char **argv)
{
    static const int numbers[] = {SIGTERM, SIGINT};
    struct daemon daemon = {.status = 1};
    struct nd_err err = {0};

    keep_small();
    signal(SIGPIPE, SIG_IGN);
    if (nd_loop_init(&daemon.loop, &err) < 0) {
        nd_log_err("nextdeployd", &err);
        return 1;
    }
    daemon.host = nd_host_new(&daemon.loop);
    for (int i = 0; i < 2; i++) {
        uv_signal_init(&daemon.loop.uv, &daemon.signals[i]);
        daemon.signals[i].data = &daemon;
        uv_signal_start(&daemon.signals[i], on_signal, numbers[i]);
    }
    if (start(&daemon, argc, argv) == 0)
        nd_loop_run(&daemon.loop);
    for (int i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&daemon.signals[i], NULL);
    nd_host_free(daemon.host);
    nd_loop_fini(&daemon.loop);
    return daemon.status;
}
