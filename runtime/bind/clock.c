/*
 * clock.c - require "clock".
 *
 *   now() -> UTC milliseconds       monotonic() -> milliseconds from an arbitrary start
 *   format(ms) -> "2026-01-31T12:00:00.000Z" (RFC 3339)
 *   lag() -> {count, sum, bounds, counts}   how late the loop was, since its start: seconds;
 * `counts` by `bounds`, the last for what was later than all shift(ms)                        moves
 * what now() returns; for tests
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

static int clock_lag(lua_State *L)
{
    const struct nd_loop_lag *lag = &nd_host_loop(nd_host_of(L))->lag;

    lua_createtable(L, 0, 4);
    lua_pushinteger(L, (lua_Integer)lag->count);
    lua_setfield(L, -2, "count");
    lua_pushnumber(L, lag->sum);
    lua_setfield(L, -2, "sum");
    lua_createtable(L, ND_LAG_BUCKETS, 0);
    lua_createtable(L, ND_LAG_BUCKETS + 1, 0); // lag bounds counts
    for (int i = 0; i <= ND_LAG_BUCKETS; i++) {
        if (i < ND_LAG_BUCKETS) {
            lua_pushnumber(L, nd_lag_bounds[i]);
            lua_rawseti(L, -3, i + 1);
        }
        lua_pushinteger(L, (lua_Integer)lag->counts[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -3, "counts");
    lua_setfield(L, -2, "bounds");
    return 1;
}

static int clock_shift(lua_State *L)
{
    nd_clock_shift(luaL_checkinteger(L, 1));
    return 0;
}

static const luaL_Reg functions[] = {{"now", clock_now},       {"monotonic", clock_monotonic},
                                     {"format", clock_format}, {"lag", clock_lag},
                                     {"shift", clock_shift},   {NULL, NULL}};

int nd_open_clock(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}
