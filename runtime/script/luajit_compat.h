/*
 * luajit_compat.h - Lua 5.4's C interface as far as nd-worker uses it, over LuaJIT's, which
 * is 5.1's.
 *
 * nd-worker-luajit is built from the same sources as nd-worker with this header before each of
 * them; nothing else includes it. LuaJIT and Lua 5.4 have the same symbols: never both in one
 * process.
 *
 * Numbers are doubles. What counts as an integer here is a whole number up to 2^53, so that JSON
 * reads 1, not 1.0.
 */
#ifndef ND_SCRIPT_LUAJIT_COMPAT_H
#define ND_SCRIPT_LUAJIT_COMPAT_H

#include <lauxlib.h>
#include <luajit.h>
#include <lualib.h>
#include <math.h>
#include <stdbool.h>

#define LUA_OPLT 1
#define LUA_EXTRASPACE 0 /* bytes before a thread */

typedef int lua_KContext;

/* Reading a value gives its type. */

static inline int nd_lua_getfield(lua_State *L, int index, const char *name)
{
    lua_getfield(L, index, name);
    return lua_type(L, -1);
}
#define lua_getfield nd_lua_getfield

static inline int nd_lua_rawget(lua_State *L, int index)
{
    lua_rawget(L, index);
    return lua_type(L, -1);
}
#define lua_rawget nd_lua_rawget

static inline int nd_lua_rawgeti(lua_State *L, int index, lua_Integer i)
{
    lua_rawgeti(L, index, (int)i);
    return lua_type(L, -1);
}
#define lua_rawgeti nd_lua_rawgeti
#define lua_rawseti(L, index, i) (lua_rawseti)(L, index, (int)(i))

static inline int nd_lual_getmetafield(lua_State *L, int index, const char *name)
{
    return luaL_getmetafield(L, index, name) ? lua_type(L, -1) : LUA_TNIL;
}
#define luaL_getmetafield nd_lual_getmetafield

/* What 5.1 has under another name, or not at all. */

static inline int lua_absindex(lua_State *L, int index)
{
    return index > 0 || index <= LUA_REGISTRYINDEX ? index : lua_gettop(L) + index + 1;
}

static inline bool lua_isinteger(lua_State *L, int index)
{
    double number = lua_type(L, index) == LUA_TNUMBER ? lua_tonumber(L, index) : NAN;

    return floor(number) == number && fabs(number) <= 0x1p53;
}

static inline void lua_geti(lua_State *L, int index, lua_Integer i)
{
    index = lua_absindex(L, index);
    lua_pushinteger(L, i);
    lua_gettable(L, index);
}

static inline void lua_seti(lua_State *L, int index, lua_Integer i)
{
    index = lua_absindex(L, index);
    lua_pushinteger(L, i);
    lua_insert(L, -2);
    lua_settable(L, index);
}

/* Like luaL_newmetatable of 5.4, which names it too. */
static inline int nd_lual_newmetatable(lua_State *L, const char *name)
{
    int made = luaL_newmetatable(L, name);

    if (made) {
        lua_pushstring(L, name);
        lua_setfield(L, -2, "__name");
    }
    return made;
}
#define luaL_newmetatable nd_lual_newmetatable

static inline const char *luaL_tolstring(lua_State *L, int index, size_t *length)
{
    index = lua_absindex(L, index);
    if (!luaL_callmeta(L, index, "__tostring")) {
        if (lua_isnil(L, index))
            lua_pushliteral(L, "nil");
        else if (lua_isboolean(L, index))
            lua_pushstring(L, lua_toboolean(L, index) ? "true" : "false");
        else if (lua_isstring(L, index))
            lua_pushvalue(L, index);
        else
            lua_pushfstring(L, "%s: %p", luaL_typename(L, index), lua_topointer(L, index));
    }
    return lua_tolstring(L, -1, length);
}

#define lua_rawlen(L, index) lua_objlen(L, index)
#define luaL_len(L, index) ((lua_Integer)lua_objlen(L, index))
#define lua_compare(L, a, b, op) lua_lessthan(L, a, b)
#define lua_newuserdatauv(L, size, values) lua_newuserdata(L, size)
#define lua_pushglobaltable(L) lua_pushvalue(L, LUA_GLOBALSINDEX)
#define lua_callk(L, args, results, context, k) ((void)(k), lua_call(L, args, results))

#endif
