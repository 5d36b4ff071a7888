/*
 * errors.c - errors between C and Lua: tables {code, message, hint, data?} with a __tostring.
 */
#include <stdio.h>
#include <string.h>

#include "script/task.h"

#define ERROR_META "nd.error"

static int error_tostring(lua_State *L)
{
    lua_getfield(L, 1, "message"); // e message
    lua_getfield(L, 1, "code");    // e message code
    lua_pushfstring(L, "%s (%s)", luaL_tolstring(L, 2, NULL), luaL_tolstring(L, 3, NULL));
    return 1;
}

static void set_meta(lua_State *L)
{
    if (luaL_newmetatable(L, ERROR_META)) {
        lua_pushcfunction(L, error_tostring);
        lua_setfield(L, -2, "__tostring");
        lua_pushstring(L, ERROR_META);
        lua_setfield(L, -2, "__name");
    }
    lua_setmetatable(L, -2);
}

void nd_push_err(lua_State *L, const struct nd_err *err)
{
    lua_createtable(L, 0, 3);
    lua_pushstring(L, err->code);
    lua_setfield(L, -2, "code");
    lua_pushstring(L, err->message);
    lua_setfield(L, -2, "message");
    if (err->hint[0]) {
        lua_pushstring(L, err->hint);
        lua_setfield(L, -2, "hint");
    }
    set_meta(L);
}

int nd_raise(lua_State *L, const struct nd_err *err)
{
    nd_push_err(L, err);
    return lua_error(L);
}

static void copy_field(lua_State *L, int index, const char *name, char *out, size_t size)
{
    lua_getfield(L, index, name);
    if (lua_type(L, -1) == LUA_TSTRING)
        snprintf(out, size, "%s", lua_tostring(L, -1));
    lua_pop(L, 1);
}

void nd_err_from_lua(lua_State *L, int index, struct nd_err *err)
{
    memset(err, 0, sizeof *err);
    index = lua_absindex(L, index);
    if (lua_istable(L, index)) {
        copy_field(L, index, "code", err->code, sizeof err->code);
        copy_field(L, index, "message", err->message, sizeof err->message);
        copy_field(L, index, "hint", err->hint, sizeof err->hint);
    }
    if (!err->code[0])
        snprintf(err->code, sizeof err->code, "lua_error");
    if (!err->message[0]) {
        snprintf(err->message, sizeof err->message, "%s", luaL_tolstring(L, index, NULL));
        lua_pop(L, 1);
    }
}

int nd_error_new(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    set_meta(L);
    return 1;
}
