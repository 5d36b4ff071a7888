#include "script/sandbox.h"

#include <lauxlib.h>
#include <lualib.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "script/order.h"

enum { HEAD = sizeof(struct nd_order_head) };

/* ---- memory ---- */

/* Is there room for `more` bytes? Refuses once, so that Lua collects garbage, then ends it all. */
static bool has_room(struct nd_sandbox *box, size_t more)
{
    if (more <= box->limit && box->used <= box->limit - more) {
        box->collecting = false;
        return true;
    }
    if (box->collecting || more > box->limit)
        box->out_of_memory(box);
    box->collecting = true;
    return false;
}

size_t nd_sandbox_cost(void *block)
{
    return block ? malloc_usable_size(block) + sizeof(size_t) : 0;
}

static void *allocate(void *ud, void *ptr, size_t old_size, size_t size)
{
    struct nd_sandbox *box = ud;
    struct nd_order_head *head = ptr ? (struct nd_order_head *)ptr - 1 : NULL;
    size_t had = nd_sandbox_cost(head);

    if (size == 0) {
        box->used -= had;
        free(head);
        return NULL;
    }
    if (size + HEAD > had && !has_room(box, size + HEAD - had))
        return NULL;
    head = realloc(head, size + HEAD);
    if (!head)
        box->out_of_memory(box);
    box->used += nd_sandbox_cost(head) - had;
    if (!ptr) {
        bool is_object = old_size >= LUA_TTABLE && old_size <= LUA_TTHREAD;

        head->created = is_object ? ++box->created : 0;
        head->shown = 0;
    }
    return head + 1;
}

/* Only reached when Lua itself is broken: no protected call is active. */
static int on_panic(lua_State *L)
{
    (void)L;
    abort();
}

/* ---- replaced functions ---- */

/* load(chunk, name, mode, env): text only, whatever the mode. Upvalue: the stock function. */
static int box_load(lua_State *L)
{
    int with_env = lua_gettop(L) >= 4;

    lua_settop(L, with_env ? 4 : 3);
    lua_pushliteral(L, "t");
    lua_replace(L, 3);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, with_env ? 4 : 3, LUA_MULTRET);
    return lua_gettop(L);
}

static void refuse_field(lua_State *L, const char *field, const char *why)
{
    lua_pushstring(L, field);
    if (lua_rawget(L, 2) != LUA_TNIL)
        luaL_error(L, "a metatable can't have '%s' in a recipe: %s", field, why);
    lua_pop(L, 1);
}

/* Upvalue: the stock function. */
static int box_setmetatable(lua_State *L)
{
    lua_settop(L, 2);
    if (lua_istable(L, 2)) {
        refuse_field(L, "__gc", "the garbage collector's timing is not part of a run");
        refuse_field(L, "__mode", "what a weak table holds depends on the garbage collector");
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 2, 1);
    return 1;
}

static int box_collectgarbage(lua_State *L)
{
    const char *what = luaL_optstring(L, 1, "collect");

    if (strcmp(what, "collect") != 0 && strcmp(what, "step") != 0)
        return luaL_error(L, "collectgarbage(\"%s\") isn't there in a recipe, only \"collect\"",
                          what);
    lua_gc(L, strcmp(what, "step") == 0 ? LUA_GCSTEP : LUA_GCCOLLECT, 0);
    lua_pushinteger(L, 0);
    return 1;
}

/* math.randomseed([a [, b]]): without a seed, the next one derived from the run's.
 * Upvalues: the stock function, the run's seed, how often it was called so. */
static int box_randomseed(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_Integer round = lua_tointeger(L, lua_upvalueindex(3)) + 1;

        lua_pushinteger(L, round);
        lua_replace(L, lua_upvalueindex(3));
        lua_settop(L, 0);
        lua_pushvalue(L, lua_upvalueindex(2));
        lua_pushinteger(L, round);
    }
    lua_settop(L, 2);
    if (lua_isnil(L, 2))
        lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 0);
    return 0;
}

/* ---- opening ---- */

static void remove_all(lua_State *L, const char *library, const char *const *names)
{
    lua_getglobal(L, library);
    for (; *names; names++) {
        lua_pushnil(L);
        lua_setfield(L, -2, *names);
    }
    lua_pop(L, 1);
}

/* Replaces library.name by a closure over the stock function and `more` values from the stack. */
static void wrap(lua_State *L, const char *library, const char *name, lua_CFunction function,
                 int more)
{
    lua_getglobal(L, library); // more... library
    lua_getfield(L, -1, name); // more... library stock
    lua_insert(L, -2 - more);
    lua_insert(L, -2 - more); // library stock more...
    lua_pushcclosure(L, function, 1 + more);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
}

static int open_libraries(lua_State *L)
{
    static const luaL_Reg libraries[] = {
        {"_G", luaopen_base},
        {LUA_COLIBNAME, luaopen_coroutine},
        {LUA_TABLIBNAME, luaopen_table},
        {LUA_STRLIBNAME, luaopen_string},
        {LUA_MATHLIBNAME, luaopen_math},
        {LUA_UTF8LIBNAME, luaopen_utf8},
    };
    static const char *const base_out[] = {"dofile", "loadfile", "warn", NULL};
    static const char *const string_out[] = {"dump", NULL};

    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        luaL_requiref(L, libraries[i].name, libraries[i].func, 1);
        lua_pop(L, 1);
    }
    remove_all(L, "_G", base_out);
    remove_all(L, "string", string_out);
    wrap(L, "_G", "load", box_load, 0);
    wrap(L, "_G", "setmetatable", box_setmetatable, 0);
    lua_pushcfunction(L, box_collectgarbage);
    lua_setglobal(L, "collectgarbage");
    return 0;
}

lua_State *nd_sandbox_open(struct nd_sandbox *box)
{
    lua_State *L = lua_newstate(allocate, box);

    if (!L)
        return NULL;
    lua_atpanic(L, on_panic);
    lua_pushcfunction(L, open_libraries);
    if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
        lua_close(L);
        return NULL;
    }
    return L;
}

void nd_sandbox_seal(lua_State *L, lua_Integer seed)
{
    lua_getglobal(L, "math");
    lua_getfield(L, -1, "randomseed");
    lua_pushinteger(L, seed);
    lua_call(L, 1, 0);
    lua_pop(L, 1);
    lua_pushinteger(L, seed);
    lua_pushinteger(L, 0);
    wrap(L, "math", "randomseed", box_randomseed, 2);
    nd_order_open(L);
}
