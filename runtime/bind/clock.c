/*
 * clock.c - require "clock".
 *
 *   now() -> UTC milliseconds       monotonic() -> milliseconds from an arbitrary start
 *   format(ms) -> "2026-01-31T12:00:00.000Z" (RFC 3339)
 *   shift(ms)                        moves what now() returns; for tests
 */
#include "base/clock.h"

#include "bind/bind.h"

static int clock_now(lua_State *L)
{
    lua_pushinteger(L, nd_clock_wall());
    return 1;
}

static int clock_monotonic(lua_State *L)
{
    lua_pushinteger(L, nd_clock_monotonic());
    return 1;
}

static int clock_format(lua_State *L)
{
    /* Years 0 to 9999 are what RFC 3339 can write. */
    lua_Integer ms = luaL_checkinteger(L, 1);
    char text[32];

    luaL_argcheck(L, ms >= 0 && ms <= 253402300799999, 1, "not a time after 1970");
    nd_clock_format(ms, text, sizeof text);
    lua_pushstring(L, text);
    return 1;
}

static int clock_shift(lua_State *L)
{
    nd_clock_shift(luaL_checkinteger(L, 1));
    return 0;
}

static const luaL_Reg functions[] = {{"now", clock_now},
                                     {"monotonic", clock_monotonic},
                                     {"format", clock_format},
                                     {"shift", clock_shift},
                                     {NULL, NULL}};

int nd_open_clock(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}
