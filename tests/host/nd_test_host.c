/*
 * nd_test_host.c - runs busted specs inside a loop, with every binding of the daemon.
 *
 * One module more: require "children"() -> {cpu_ms, peak_kb}, of all child processes that have
 * ended the CPU time and the size of the largest (getrusage).
 *
 * `nd-test-host SPEC...` exits with busted's verdict. At the end it frees the Lua state and closes
 * the loop, which aborts if a spec left a handle open.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "bind/bind.h"
#include "script/embed.h"
#include "script/task.h"

/* busted and its C modules are found where Lua usually looks; our own modules come first. */
static const char prepare[] = "local usual = package.searchers\n"
                              "return function()\n"
                              "  for i = 2, #usual do\n"
                              "    package.searchers[#package.searchers + 1] = usual[i]\n"
                              "  end\n"
                              "end\n";

static const char runner[] = "require('busted.runner')({standalone = false})\n";

static void on_end(void *arg, lua_State *L, int status)
{
    int *exit_status = arg;

    if (status != LUA_OK) {
        fprintf(stderr, "nd-test-host: %s\n", luaL_tolstring(L, -1, NULL));
        *exit_status = 1;
    }
    nd_loop_stop(nd_host_loop(nd_host_of(L)));
}

/* busted ends by os.exit, which would skip our own end: raise instead and remember the status. */
static int leave(lua_State *L)
{
    int *exit_status = lua_touserdata(L, lua_upvalueindex(1));

    if (lua_isboolean(L, 1))
        *exit_status = lua_toboolean(L, 1) ? 0 : 1;
    else
        *exit_status = (int)luaL_optinteger(L, 1, 0);
    nd_loop_stop(nd_host_loop(nd_host_of(L)));
    return lua_yield(L, 0);
}

static lua_Integer milliseconds(struct timeval t)
{
    return (lua_Integer)t.tv_sec * 1000 + t.tv_usec / 1000;
}

static int children(lua_State *L)
{
    struct rusage used;

    getrusage(RUSAGE_CHILDREN, &used);
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, milliseconds(used.ru_utime) + milliseconds(used.ru_stime));
    lua_setfield(L, -2, "cpu_ms");
    lua_pushinteger(L, used.ru_maxrss);
    lua_setfield(L, -2, "peak_kb");
    return 1;
}

static int open_children(lua_State *L)
{
    lua_pushcfunction(L, children);
    return 1;
}

int main(int argc, char **argv)
{
    struct nd_loop loop;
    struct nd_err err = {0};
    struct nd_host *host;
    lua_State *L;
    int status = 0;

    if (nd_loop_init(&loop, &err) < 0) {
        fprintf(stderr, "nd-test-host: %s\n", err.message);
        return 1;
    }
    host = nd_host_new(&loop);
    L = nd_host_lua(host);
    if (luaL_dostring(L, prepare) != LUA_OK)
        return 1;
    nd_embed_open(L);
    nd_bind_open(host);
    lua_call(L, 0, 0);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, open_children);
    lua_setfield(L, -2, "children");
    lua_pop(L, 2);
    lua_newtable(L);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_setglobal(L, "arg");
    lua_getglobal(L, "os");
    lua_pushlightuserdata(L, &status);
    lua_pushcclosure(L, leave, 1);
    lua_setfield(L, -2, "exit");
    lua_pop(L, 1);
    if (luaL_loadbuffer(L, runner, sizeof runner - 1, "=runner") != LUA_OK) {
        fprintf(stderr, "nd-test-host: %s\n", lua_tostring(L, -1));
        return 1;
    }
    nd_task_spawn(host, L, 0, "busted", on_end, &status);
    nd_loop_run(&loop);
    nd_host_free(host);
    nd_loop_fini(&loop);
    return status;
}
