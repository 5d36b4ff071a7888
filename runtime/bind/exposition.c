/*
 * exposition.c - require "exposition": metrics as text for Prometheus.
 *
 *   exposition.labels{{name, value}, ...} -> text     for `add`; escaped
 *   exposition.new() -> x
 *   x:family(name, type, help)       type: counter, gauge, histogram, summary, untyped
 *   x:add(value[, labels[, suffix]]) a sample of it
 *   x:text()                         all of it; x is empty then
 * Errors: bad_metric (a name that can't be one, or one that was there before).
 */
#include "engine/exposition.h"

#include <stdlib.h>
#include <string.h>

#include "bind/bind.h"

#define EXPOSITION_META "nd.exposition"

struct exposition {
    struct nd_buf text;
    char family[128]; /* the one that is open; "": none */
};

static struct exposition *check(lua_State *L)
{
    return luaL_checkudata(L, 1, EXPOSITION_META);
}

static int bad_metric(lua_State *L, const char *why, const char *name)
{
    struct nd_err err = {0};

    nd_err_set(&err, "bad_metric", NULL, "the metric %.100s %s", name, why);
    return nd_raise(L, &err);
}

static int exposition_labels(lua_State *L)
{
    struct nd_buf text = {0};
    const char *name, *bad = NULL;

    luaL_checktype(L, 1, LUA_TTABLE);
    for (lua_Integer i = 1; !bad && lua_rawgeti(L, 1, i) == LUA_TTABLE; i++) {
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2); // pair name value
        name = lua_tostring(L, -2);
        if (!name || !nd_exposition_name(name, true) || !lua_tostring(L, -1))
            bad = "a label needs a name and a text";
        else
            nd_exposition_label(&text, name, lua_tostring(L, -1));
        lua_pop(L, 3);
    }
    lua_pushlstring(L, text.data ? text.data : "", text.length);
    nd_buf_fini(&text);
    luaL_argcheck(L, !bad, 1, bad);
    return 1;
}

static int exposition_new(lua_State *L)
{
    struct exposition *x = lua_newuserdatauv(L, sizeof *x, 1);

    memset(x, 0, sizeof *x);
    luaL_setmetatable(L, EXPOSITION_META);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1); // the names there were
    return 1;
}

static int exposition_gc(lua_State *L)
{
    nd_buf_fini(&check(L)->text);
    return 0;
}

static int exposition_family(lua_State *L)
{
    static const char *const types[] = {"counter", "gauge",   "histogram",
                                        "summary", "untyped", NULL};
    struct exposition *x = check(L);
    const char *name = luaL_checkstring(L, 2), *help = luaL_checkstring(L, 4);
    const char *type = types[luaL_checkoption(L, 3, NULL, types)];

    if (strlen(name) >= sizeof x->family || !nd_exposition_name(name, false))
        return bad_metric(L, "has no possible name", name);
    lua_getiuservalue(L, 1, 1);
    if (lua_getfield(L, -1, name) != LUA_TNIL)
        return bad_metric(L, "is there already", name);
    lua_pushboolean(L, 1);
    lua_setfield(L, -3, name);
    strcpy(x->family, name);
    nd_exposition_family(&x->text, name, type, help);
    return 0;
}

static int exposition_add(lua_State *L)
{
    static const char *const suffixes[] = {"", "_bucket", "_sum", "_count", NULL};
    struct exposition *x = check(L);
    double value = luaL_checknumber(L, 2);
    const char *labels = luaL_optstring(L, 3, "");

    if (!x->family[0])
        return bad_metric(L, "has no family", "");
    nd_exposition_sample(&x->text, x->family, suffixes[luaL_checkoption(L, 4, "", suffixes)],
                         labels, value);
    return 0;
}

static int exposition_text(lua_State *L)
{
    struct exposition *x = check(L);

    lua_pushlstring(L, x->text.data ? x->text.data : "", x->text.length);
    nd_buf_fini(&x->text);
    return 1;
}

static const luaL_Reg methods[] = {{"family", exposition_family},
                                   {"add", exposition_add},
                                   {"text", exposition_text},
                                   {"__gc", exposition_gc},
                                   {NULL, NULL}};
static const luaL_Reg functions[] = {
    {"labels", exposition_labels}, {"new", exposition_new}, {NULL, NULL}};

int nd_open_exposition(lua_State *L)
{
    nd_bind_class(L, EXPOSITION_META, methods);
    luaL_newlib(L, functions);
    return 1;
}
