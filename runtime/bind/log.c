/*
 * log.c - require "log": the daemon's own log.
 *
 *   debug(format, ...) info(format, ...) warn(format, ...) error(format, ...)
 *       as string.format; a format alone is taken as it is
 *   failure(doing, err)      an error object (or anything that was raised), at level error
 *   setup{format="text"|"json", level="debug"|"info"|"warn"|"error"}
 *
 * Names only, never values of secrets.
 */
#include "base/log.h"

#include <string.h>

#include "bind/bind.h"

static int write_line(lua_State *L, enum nd_log_level level)
{
    luaL_checkstring(L, 1);
    if (lua_gettop(L) > 1) {
        lua_getfield(L, lua_upvalueindex(1), "format"); // format args... string.format
        lua_insert(L, 1);
        lua_call(L, lua_gettop(L) - 1, 1);
    }
    nd_log(level, "%s", lua_tostring(L, 1));
    return 0;
}

static int log_debug(lua_State *L)
{
    return write_line(L, ND_LOG_DEBUG);
}

static int log_info(lua_State *L)
{
    return write_line(L, ND_LOG_INFO);
}

static int log_warn(lua_State *L)
{
    return write_line(L, ND_LOG_WARN);
}

static int log_error(lua_State *L)
{
    return write_line(L, ND_LOG_ERROR);
}

static int log_failure(lua_State *L)
{
    const char *doing = luaL_checkstring(L, 1);
    struct nd_err err;

    luaL_checkany(L, 2);
    nd_err_from_lua(L, 2, &err);
    nd_log_err(doing, &err);
    return 0;
}

static int log_setup(lua_State *L)
{
    static const char *const formats[] = {"text", "json", NULL};
    static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
    int format, level;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_getfield(L, 1, "format"); // opts format
    lua_getfield(L, 1, "level");  // opts format level
    format = luaL_checkoption(L, 2, "text", formats);
    level = luaL_checkoption(L, 3, "info", levels);
    nd_log_setup(format == 1, (enum nd_log_level)level);
    return 0;
}

static const luaL_Reg functions[] = {
    {"debug", log_debug},     {"info", log_info},   {"warn", log_warn}, {"error", log_error},
    {"failure", log_failure}, {"setup", log_setup}, {NULL, NULL}};

int nd_open_log(lua_State *L)
{
    luaL_newlibtable(L, functions);
    lua_getglobal(L, "string");
    luaL_setfuncs(L, functions, 1);
    return 1;
}
