/*
 * cron.c - require "cron": when a schedule is due. See engine/cron.h for what expressions mean.
 *
 *   parse(expr) -> {minutes={}, hours={}, days={}, months={}, weekdays={}, either_day=, fixed=}
 *   next(expr, from_ms, zone="UTC") -> the first time after from_ms, UTC milliseconds; nil: never
 *
 * Raise bad_schedule, which names the field, and bad_zone. Neither waits.
 */
#include "engine/cron.h"

#include "bind/bind.h"

ND_RAISES static struct nd_cron check_cron(lua_State *L, int index)
{
    struct nd_cron cron;
    struct nd_err err = {0};

    if (nd_cron_parse(&cron, luaL_checkstring(L, index), &err) < 0)
        nd_raise(L, &err);
    return cron;
}

/* Sets t[name] = the numbers of the set bits; t is on top. */
ND_RAISES static void set_numbers(lua_State *L, const char *name, uint64_t bits)
{
    lua_Integer count = 0;

    lua_newtable(L);
    for (int i = 0; i < 64; i++) {
        if (bits >> i & 1) {
            lua_pushinteger(L, i);
            lua_rawseti(L, -2, ++count);
        }
    }
    lua_setfield(L, -2, name);
}

static int cron_parse(lua_State *L)
{
    struct nd_cron cron = check_cron(L, 1);

    lua_newtable(L);
    set_numbers(L, "minutes", cron.minutes);
    set_numbers(L, "hours", cron.hours);
    set_numbers(L, "days", cron.days);
    set_numbers(L, "months", cron.months);
    set_numbers(L, "weekdays", cron.weekdays);
    lua_pushboolean(L, cron.either_day);
    lua_setfield(L, -2, "either_day");
    lua_pushboolean(L, cron.fixed);
    lua_setfield(L, -2, "fixed");
    return 1;
}

static int cron_next(lua_State *L)
{
    struct nd_cron cron = check_cron(L, 1);
    lua_Integer from = luaL_checkinteger(L, 2);
    struct nd_err err = {0};
    struct nd_zone *zone;
    int64_t due;

    /* The years 1 to 9999, so that no sum overflows. */
    luaL_argcheck(L, from >= -62135596800000 && from <= 253402300799999, 2, "not a time");
    zone = nd_zone_open(luaL_optstring(L, 3, "UTC"), &err);
    if (!zone)
        return nd_raise(L, &err);
    due = nd_cron_next(&cron, zone, from);
    nd_zone_free(zone);
    if (due == INT64_MAX)
        lua_pushnil(L);
    else
        lua_pushinteger(L, due);
    return 1;
}

static const luaL_Reg functions[] = {{"parse", cron_parse}, {"next", cron_next}, {NULL, NULL}};

int nd_open_cron(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}
