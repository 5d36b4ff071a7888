#include "script/recipe.h"

#include <jansson.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/embed.h"
#include "base/list.h"
#include "base/mem.h"
#include "script/frame.h"
#include "script/marshal.h"
#include "script/sandbox.h"

#define LIBRARY "nd.recipe" /* chunks and modules of the library begin with it */

struct run {
    struct nd_sandbox box;
    struct nd_buf frame; /* the last one read */
    int fd;
};

static struct run *run_of(lua_State *L)
{
    void *box;

    lua_getallocf(L, &box);
    return ND_CONTAINER(box, struct run, box);
}

/* The state may not be touched any more; nor may this wait for a daemon that doesn't read. */
static void end_at_limit(const struct run *run, enum nd_worker_exit status, const char *code,
                         const char *message, const char *hint)
{
    char frame[512];
    int length = snprintf(frame + ND_FRAME_HEAD, sizeof frame - ND_FRAME_HEAD,
                          "{\"type\":\"failed\",\"error\":{\"code\":\"%s\",\"message\":\"%s\","
                          "\"hint\":\"%s\"}}",
                          code, message, hint);

    nd_frame_head((unsigned char *)frame, (size_t)length);
    if (send(run->fd, frame, (size_t)length + ND_FRAME_HEAD, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        _exit(status); /* the status says it as well */
    _exit(status);
}

static void out_of_memory(struct nd_sandbox *box)
{
    char message[96];

    snprintf(message, sizeof message, "the recipe needed more than its %zu MiB of memory",
             box->limit >> 20);
    end_at_limit(ND_CONTAINER(box, struct run, box), ND_WORKER_MEMORY, "recipe_memory", message,
                 "look for a table or a string in it that grows without end");
}

/* JSON on its way in or out counts as the recipe's memory. jansson gives its allocator no context.
 */
static struct nd_sandbox *counted;

static void *counted_alloc(size_t size)
{
    void *block;

    if (size > counted->limit || counted->used > counted->limit - size)
        out_of_memory(counted);
    block = malloc(size);
    if (!block)
        out_of_memory(counted);
    counted->used += nd_sandbox_cost(block);
    return block;
}

static void counted_free(void *block)
{
    counted->used -= nd_sandbox_cost(block);
    free(block);
}

/* Frames are bounded, and not counted; the process's own limit may meet them all the same. */
static void exhausted(void)
{
    out_of_memory(counted);
}

static int host_out_of_memory(lua_State *L)
{
    out_of_memory(&run_of(L)->box);
    return 0;
}

/* ---- frames ---- */

/* Pushes the next frame's value; ends the process where there is none. */
static void push_frame(lua_State *L, struct run *run)
{
    struct nd_err err = {0};
    int got = nd_frame_read(run->fd, &run->frame, &err);

    if (got == 0 || (got < 0 && strcmp(err.code, "worker_gone") == 0))
        _exit(ND_WORKER_ORPHANED);
    if (got < 0 || nd_json_push(L, run->frame.data, run->frame.length, &err) < 0 ||
        !lua_istable(L, -1))
        _exit(ND_WORKER_PROTOCOL);
}

static int host_recv(lua_State *L)
{
    push_frame(L, run_of(L));
    return 1;
}

static int host_send(lua_State *L)
{
    struct nd_err err = {0};
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);

    if (nd_frame_write(run_of(L)->fd, text, length, &err) == 0)
        return 0;
    if (strcmp(err.code, "worker_gone") == 0)
        _exit(ND_WORKER_ORPHANED);
    return luaL_error(L, "%s", err.message);
}

static int host_encode(lua_State *L)
{
    struct nd_buf out = {0};
    struct nd_err err = {0};
    int rc;

    luaL_checkany(L, 1);
    rc = nd_json_add(L, 1, &out, &err);
    if (rc < 0)
        lua_pushnil(L);
    lua_pushlstring(L, rc < 0 ? err.message : out.data, rc < 0 ? strlen(err.message) : out.length);
    nd_buf_fini(&out);
    return rc < 0 ? 2 : 1;
}

static int host_decode(lua_State *L)
{
    struct nd_err err = {0};
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);

    if (nd_json_push(L, text, length, &err) == 0)
        return 1;
    lua_pushnil(L);
    lua_pushstring(L, err.message);
    return 2;
}

/* ---- where a recipe is ---- */

static bool in_library(const char *source)
{
    return strncmp(source, "=" LIBRARY, sizeof LIBRARY) == 0;
}

static int host_where(lua_State *L)
{
    lua_Debug ar;

    if (lua_isfunction(L, 1)) {
        lua_settop(L, 1);
        lua_getinfo(L, ">S", &ar);
        if (ar.linedefined <= 0 || in_library(ar.source))
            return 0;
        lua_pushfstring(L, "%s:%d", ar.short_src, ar.linedefined);
        return 1;
    }
    for (int level = 1; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline <= 0 || in_library(ar.source))
            continue;
        lua_pushfstring(L, "%s:%d", ar.short_src, ar.currentline);
        return 1;
    }
    return 0;
}

/* traceback(text) -> text and a line for each level that is the recipe's */
static int host_traceback(lua_State *L)
{
    const char *line, *end;
    luaL_Buffer out;

    luaL_traceback(L, L, NULL, 1);
    line = lua_tostring(L, -1);
    luaL_buffinit(L, &out);
    luaL_addstring(&out, luaL_checkstring(L, 1));
    for (; line && *line; line = *end ? end + 1 : end) {
        end = strchrnul(line, '\n');
        if (strncmp(line, "\t" LIBRARY, sizeof LIBRARY) == 0 || strncmp(line, "\t[C]", 4) == 0 ||
            strncmp(line, "\t[builtin#", 10) == 0) /* LuaJIT's */
            continue;
        luaL_addchar(&out, '\n');
        luaL_addlstring(&out, line, (size_t)(end - line));
    }
    luaL_pushresult(&out);
    return 1;
}

/* ---- the library ---- */

static int host_embedded(lua_State *L)
{
    const char *path = luaL_gsub(L, luaL_checkstring(L, 1), ".", "/");

    for (const struct nd_embed *e = nd_embedded_lua; e->path; e++) {
        if (strncmp(e->path, "lua/", 4) != 0 || strncmp(e->path + 4, path, strlen(path)) != 0 ||
            strcmp(e->path + 4 + strlen(path), ".lua") != 0)
            continue;
        lua_pushlstring(L, e->text, (size_t)(e->end - e->text));
        return 1;
    }
    return 0;
}

static void push_host(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"recv", host_recv},
        {"send", host_send},
        {"encode", host_encode},
        {"decode", host_decode},
        {"where", host_where},
        {"traceback", host_traceback},
        {"embedded", host_embedded},
        {"out_of_memory", host_out_of_memory},
        {NULL, NULL},
    };

    luaL_newlib(L, functions);
    nd_open_json(L);
    lua_setfield(L, -2, "json");
    lua_pushliteral(L, ND_ENGINE);
    lua_setfield(L, -2, "engine");
}

/* Pushes the chunk of main.lua; the start frame is at `start`. */
static void load_main(lua_State *L, int start)
{
    static const char name[] = LIBRARY ".main";

    if (lua_getfield(L, start, "files") != LUA_TTABLE ||
        lua_getfield(L, -1, "lua/nd/recipe/main.lua") != LUA_TSTRING) {
        lua_pushcfunction(L, host_embedded);
        lua_pushstring(L, name);
        lua_call(L, 1, 1);
    }
    if (!lua_isstring(L, -1))
        luaL_error(L, "the recipe library has no module '%s'", name);
    if (luaL_loadbufferx(L, lua_tostring(L, -1), lua_rawlen(L, -1), "=" LIBRARY ".main", "t"))
        lua_error(L);
}

static int run_main(lua_State *L)
{
    push_frame(L, run_of(L)); // start
    lua_getfield(L, 1, "seed");
    nd_sandbox_seal(L, lua_tointeger(L, -1));
    lua_settop(L, 1);
    load_main(L, 1);
    push_host(L);
    lua_pushvalue(L, 1);
    lua_call(L, 2, 0);
    return 0;
}

static int add_traceback(lua_State *L)
{
    luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
    return 1;
}

/* The library failed: says so as the run's end. */
static void report_broken(lua_State *L, struct run *run)
{
    struct nd_buf out = {0}, text = {0};
    struct nd_err err = {0};

    nd_json_add(L, -1, &text, &err);
    nd_buf_addf(&out, "{\"type\":\"failed\",\"error\":{\"code\":\"worker_broken\",\"message\":%s}}",
                text.data);
    nd_frame_write(run->fd, out.data, out.length, &err);
    nd_buf_fini(&text);
    nd_buf_fini(&out);
}

#ifdef LUAJIT_VERSION
/* LuaJIT has no limit of its own for calls from C functions, such as string.gsub's of what it is
 * given: the process's stack is theirs. What the handler finds beyond it ends the run. */
static char *stack_top;

enum { STACK = 2 * 1024 * 1024, BEYOND = 1024 * 1024, HANDLER_STACK = 64 * 1024 };

static void on_fault(int number, siginfo_t *info, void *context)
{
    char *at = info->si_addr;

    (void)context;
    if (counted && at < stack_top && at > stack_top - STACK - BEYOND)
        end_at_limit(ND_CONTAINER(counted, struct run, box), ND_WORKER_STACK, "recipe_stack",
                     "calls in the recipe were nested too deep",
                     "look for a function that calls itself without end");
    signal(number, SIG_DFL);
}

static void watch_stack(void)
{
    static char other[HANDLER_STACK];
    const stack_t stack = {.ss_sp = other, .ss_size = sizeof other};
    const struct rlimit size = {STACK, STACK};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    stack_top = __builtin_frame_address(0);
    if (setrlimit(RLIMIT_STACK, &size) == 0 && sigaltstack(&stack, NULL) == 0)
        sigaction(SIGSEGV, &action, NULL);
}

static int raise_once(lua_State *L)
{
    return lua_error(L);
}

/* LuaJIT raises by the C library's unwinder, which sets itself up under a lock. */
static void raise_first_error(void)
{
    lua_State *L = luaL_newstate();

    if (!L)
        return;
    lua_pushcfunction(L, raise_once);
    lua_pcall(L, 0, 0, 0);
    lua_close(L);
}
#endif

void nd_recipe_prepare(void)
{
    json_object_seed(0); /* reads /dev/urandom */
#ifdef LUAJIT_VERSION
    raise_first_error();
    watch_stack();
#endif
}

enum nd_worker_exit nd_recipe_run(int fd, size_t memory)
{
    struct run run = {.box = {.limit = memory, .out_of_memory = out_of_memory}, .fd = fd};
    lua_State *L = nd_sandbox_open(&run.box);
    enum nd_worker_exit status = ND_WORKER_OK;

    if (!L)
        return ND_WORKER_MEMORY;
    counted = &run.box;
    json_set_alloc_funcs(counted_alloc, counted_free);
    nd_mem_on_exhausted(exhausted);
    lua_pushcfunction(L, add_traceback);
    lua_pushcfunction(L, run_main);
    if (lua_pcall(L, 0, 0, 1) != LUA_OK) {
        report_broken(L, &run);
        status = ND_WORKER_BROKEN;
    }
    run.box.L = NULL;
    lua_close(L);
    nd_buf_fini(&run.frame);
    return status;
}
