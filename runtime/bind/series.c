/*
 * series.c - require "series": rings of recent numbers.
 *
 *   series.new(columns, step_ms, slots) -> s
 *   s:put(time_ms, values)          a list of `columns` numbers; anything else in it is unknown
 *   s:range(column, from, to, step) -> means, mosts: a value for each `step` ms from `from` (ms) to
 *                                   before `to`; false where nothing is known
 *   s:span() -> oldest, end (ms)    nil while empty
 *   s:bytes()                       of memory
 * Columns count from 1.
 */
#include "engine/series.h"

#include <math.h>

#include "bind/bind.h"

#define SERIES_META "nd.series"

enum { COLUMNS_MOST = 64, SLOTS_MOST = 100000, POINTS_MOST = 100000 };

static struct nd_series *check(lua_State *L)
{
    return *(struct nd_series **)luaL_checkudata(L, 1, SERIES_META);
}

static int series_new(lua_State *L)
{
    lua_Integer columns = luaL_checkinteger(L, 1), step = luaL_checkinteger(L, 2);
    lua_Integer slots = luaL_checkinteger(L, 3);
    struct nd_series **box;

    luaL_argcheck(L, columns >= 1 && columns <= COLUMNS_MOST, 1, "not so many columns");
    luaL_argcheck(L, step >= 1, 2, "not a step");
    luaL_argcheck(L, slots >= 1 && slots <= SLOTS_MOST, 3, "not so many slots");
    box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    luaL_setmetatable(L, SERIES_META);
    *box = nd_series_new((int)columns, step, (int)slots);
    return 1;
}

static int series_gc(lua_State *L)
{
    struct nd_series **box = luaL_checkudata(L, 1, SERIES_META);

    nd_series_free(*box);
    *box = NULL;
    return 0;
}

static int series_put(lua_State *L)
{
    struct nd_series *s = check(L);
    lua_Integer time = luaL_checkinteger(L, 2);
    double values[COLUMNS_MOST];

    luaL_checktype(L, 3, LUA_TTABLE);
    for (int i = 0; i < nd_series_columns(s); i++) {
        lua_rawgeti(L, 3, i + 1);
        values[i] = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : NAN;
        lua_pop(L, 1);
    }
    nd_series_put(s, time, values);
    return 0;
}

static void push_value(lua_State *L, double value)
{
    if (isnan(value))
        lua_pushboolean(L, 0);
    else
        lua_pushnumber(L, value);
}

static int series_range(lua_State *L)
{
    struct nd_series *s = check(L);
    lua_Integer column = luaL_checkinteger(L, 2), from = luaL_checkinteger(L, 3);
    lua_Integer to = luaL_checkinteger(L, 4), step = luaL_checkinteger(L, 5), n = 0;

    luaL_argcheck(L, column >= 1 && column <= nd_series_columns(s), 2, "no such column");
    luaL_argcheck(L, step >= 1 && (to - from) / step <= POINTS_MOST, 5, "too many points");
    lua_newtable(L);
    lua_newtable(L); // means mosts
    for (lua_Integer at = from; at < to; at += step) {
        struct nd_series_mean m = nd_series_mean(s, (int)column - 1, at, at + step);

        n++;
        push_value(L, m.mean);
        lua_rawseti(L, -3, n);
        push_value(L, m.most);
        lua_rawseti(L, -2, n);
    }
    return 2;
}

static int series_span(lua_State *L)
{
    struct nd_series *s = check(L);

    if (nd_series_end(s) == 0)
        return 0;
    lua_pushinteger(L, nd_series_oldest(s));
    lua_pushinteger(L, nd_series_end(s));
    return 2;
}

static int series_bytes(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)nd_series_bytes(check(L)));
    return 1;
}

static const luaL_Reg methods[] = {{"put", series_put},   {"range", series_range},
                                   {"span", series_span}, {"bytes", series_bytes},
                                   {"__gc", series_gc},   {NULL, NULL}};
static const luaL_Reg functions[] = {{"new", series_new}, {NULL, NULL}};

int nd_open_series(lua_State *L)
{
    nd_bind_class(L, SERIES_META, methods);
    luaL_newlib(L, functions);
    return 1;
}
