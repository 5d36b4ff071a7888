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

#ifdef LUAJIT_VERSION
enum { LEVELS = 4 };

/* Half of the limit, three quarters, seven eighths ... */
static size_t level_begins(const struct nd_sandbox *box, unsigned level)
{
    return box->limit - (box->limit >> level);
}

/* The next collection is due when it has grown by half of what is left above this level. */
static void set_level(struct nd_sandbox *box, unsigned level)
{
    box->level = level;
    lua_gc(box->L, LUA_GCSETPAUSE, level ? 100 + 50 / ((1 << level) - 1) : 200);
}

/* Is there room for `more` bytes? Has the collector begun soon where they lead to another level. */
static bool has_room(struct nd_sandbox *box, size_t more)
{
    unsigned level = box->level;

    if (more > box->limit || box->used > box->limit - more)
        box->out_of_memory(box);
    while (level < LEVELS && box->used + more > level_begins(box, level + 1))
        level++;
    if (level > box->level && box->L) {
        set_level(box, level);
        lua_gc(box->L, LUA_GCRESTART, 0);
    }
    return true;
}

static void has_freed(struct nd_sandbox *box)
{
    unsigned level = box->level;

    while (box->L && level && box->used < level_begins(box, level) - (box->limit >> (level + 1)))
        level--;
    if (level != box->level)
        set_level(box, level);
}

/* What a new block is for isn't told: each may be an object. */
static bool is_object(size_t kind)
{
    (void)kind;
    return true;
}
#else
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

static void has_freed(struct nd_sandbox *box)
{
    (void)box;
}

static bool is_object(size_t kind)
{
    return kind >= LUA_TTABLE && kind <= LUA_TTHREAD;
}
#endif

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
        has_freed(box);
        return NULL;
    }
    if (size + HEAD > had && !has_room(box, size + HEAD - had))
        return NULL;
    head = realloc(head, size + HEAD);
    if (!head)
        box->out_of_memory(box);
    box->used += nd_sandbox_cost(head) - had;
    if (!ptr) {
        head->created = is_object(old_size) ? ++box->created : 0;
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

/* load(chunk, name, mode, env): never binary chunks, whatever the mode. Upvalue: the stock
 * function. */
static int box_load(lua_State *L)
{
    int with_env = lua_gettop(L) >= 4;
    const char *mode = luaL_optstring(L, 3, "t");

    if (!lua_isstring(L, 1))
        luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_optstring(L, 2, NULL);
    lua_settop(L, with_env ? 4 : 3);
    lua_pushstring(L, strchr(mode, 't') ? "t" : "");
    lua_replace(L, 3);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    /* Without our caller's handler: what that makes of an error in the chunk is no text. */
    if (lua_pcall(L, with_env ? 4 : 3, LUA_MULTRET, 0) != LUA_OK)
        return lua_error(L);
    return lua_gettop(L);
}

static void refuse_field(lua_State *L, const char *field, const char *why)
{
    lua_pushstring(L, field);
    if (lua_rawget(L, 2) != LUA_TNIL)
        luaL_error(L, "a metatable can't have '%s' in a recipe: %s", field, why);
    lua_pop(L, 1);
}

/* Whole, and not around the stock one, whose messages would name neither it nor the line. */
static int box_setmetatable(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argcheck(L, lua_isnil(L, 2) || lua_istable(L, 2), 2, "nil or table expected");
    lua_settop(L, 2);
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL)
        return luaL_error(L, "cannot change a protected metatable");
    if (lua_istable(L, 2)) {
        refuse_field(L, "__gc", "the garbage collector's timing is not part of a run");
        refuse_field(L, "__mode", "what a weak table holds depends on the garbage collector");
    }
    lua_setmetatable(L, 1);
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
#ifdef LUAJIT_VERSION /* which takes one number; a run's seed has 32 bits */
        lua_pushnumber(L, (double)round * 0x1p32 + lua_tonumber(L, lua_upvalueindex(2)));
#else
        lua_pushvalue(L, lua_upvalueindex(2));
        lua_pushinteger(L, round);
#endif
    }
    luaL_checkinteger(L, 1);
    luaL_optinteger(L, 2, 0);
    lua_settop(L, lua_isnoneornil(L, 2) ? 1 : 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
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

#ifdef LUAJIT_VERSION
/* What is compiled has to give what the interpreter gives, and make objects in the same order. */
static void open_compiler(lua_State *L)
{
    static const char *const off[] = {"-fold", "-sink"};

    lua_pushcfunction(L, luaopen_jit);
    lua_pushliteral(L, LUA_JITLIBNAME);
    lua_call(L, 1, 0);
    lua_getglobal(L, LUA_JITLIBNAME);
    lua_getfield(L, -1, "opt");
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        lua_getfield(L, -1, "start");
        lua_pushstring(L, off[i]);
        lua_call(L, 1, 0);
    }
    lua_pop(L, 2);
    lua_pushnil(L);
    lua_setglobal(L, LUA_JITLIBNAME);
    /* All of a collection at once: nobody waits for us. */
    lua_gc(L, LUA_GCSETSTEPMUL, 0);
}

/* coroutine.running and .isyieldable as Lua 5.4 has them. */
static int co_running(lua_State *L)
{
    lua_pushboolean(L, lua_pushthread(L));
    return 2;
}

static int co_isyieldable(lua_State *L)
{
    lua_pushboolean(L, lua_isyieldable(lua_isthread(L, 1) ? lua_tothread(L, 1) : L));
    return 1;
}

static void open_stock(lua_State *L)
{
    static const luaL_Reg libraries[] = {
        {"", luaopen_base},
        {LUA_TABLIBNAME, luaopen_table},
        {LUA_STRLIBNAME, luaopen_string},
        {LUA_MATHLIBNAME, luaopen_math},
        {LUA_BITLIBNAME, luaopen_bit},
    };
    static const char *const base_out[] = {"dofile",  "loadfile", "loadstring",
                                           "getfenv", "setfenv",  "newproxy",
                                           "gcinfo",  "unpack",   NULL};
    static const char *const table_out[] = {"foreach", "foreachi", "getn", "maxn", NULL};

    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        lua_pushcfunction(L, libraries[i].func);
        lua_pushstring(L, libraries[i].name);
        lua_call(L, 1, 0);
    }
    lua_getglobal(L, "table");
    lua_getglobal(L, "unpack");
    lua_setfield(L, -2, "unpack");
    lua_getglobal(L, LUA_COLIBNAME);
    lua_pushcfunction(L, co_running);
    lua_setfield(L, -2, "running");
    lua_pushcfunction(L, co_isyieldable);
    lua_setfield(L, -2, "isyieldable");
    lua_pop(L, 2);
    remove_all(L, "_G", base_out);
    remove_all(L, "table", table_out);
    open_compiler(L);
}
#else
static void open_stock(lua_State *L)
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

    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        luaL_requiref(L, libraries[i].name, libraries[i].func, 1);
        lua_pop(L, 1);
    }
    remove_all(L, "_G", base_out);
}
#endif

static int open_libraries(lua_State *L)
{
    static const char *const string_out[] = {"dump", NULL};

    open_stock(L);
    remove_all(L, "string", string_out);
    wrap(L, "_G", "load", box_load, 0);
    lua_register(L, "setmetatable", box_setmetatable);
    lua_register(L, "collectgarbage", box_collectgarbage);
    return 0;
}

lua_State *nd_sandbox_open(struct nd_sandbox *box)
{
    lua_State *L = lua_newstate(allocate, box);

    if (!L)
        return NULL;
    box->L = L;
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
