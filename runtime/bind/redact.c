/*
 * redact.c - require "redact": takes secret values out of texts (engine/log_redact.h).
 *
 *   redact.new() -> r              knows no values
 *   r:add{value, ...}              texts or secrets (bind/secret.c), which are copied, beside those
 *                                  it knows; raises secret_memory
 *   r:text(s) -> text              each value replaced by [redacted]; `s` itself where it has none
 *   r:part(s, more) -> text, rest  the same for a piece of a stream, of which there is `more`:
 *                                  `rest` is to be given again, before what follows it
 *   r:close()                      forgets the values
 */
#include "bind/redact.h"

#include "bind/secret.h"

#define REDACT_META "nd.redact"

static bool value_at(lua_State *L, int index, const char **value, size_t *length)
{
    const struct nd_secret *secret = nd_test_secret(L, index);

    if (secret) {
        *value = (const char *)secret->data;
        *length = secret->length;
    } else if (lua_type(L, index) == LUA_TSTRING) {
        *value = lua_tolstring(L, index, length);
    } else {
        return false;
    }
    return true;
}

void nd_redact_add_list(lua_State *L, int index, struct nd_redact *redact)
{
    struct nd_err err = {0};
    lua_Integer count;
    const char *value;
    size_t length;
    int rc = 0;

    luaL_checktype(L, index, LUA_TTABLE);
    count = (lua_Integer)lua_rawlen(L, index);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, index, i);
        luaL_argcheck(L, value_at(L, -1, &value, &length), index,
                      "a value is neither a text nor a secret");
        lua_pop(L, 1);
    }
    for (lua_Integer i = 1; i <= count && rc == 0; i++) {
        lua_rawgeti(L, index, i);
        value_at(L, -1, &value, &length);
        rc = nd_redact_add(redact, value, length, &err);
        lua_pop(L, 1);
    }
    if (rc < 0)
        nd_raise(L, &err);
}

static int redact_new(lua_State *L)
{
    struct nd_redact **box = lua_newuserdatauv(L, sizeof *box, 0);

    *box = NULL;
    luaL_setmetatable(L, REDACT_META);
    *box = nd_redact_new();
    return 1;
}

ND_RAISES static struct nd_redact *check(lua_State *L)
{
    struct nd_redact **box = luaL_checkudata(L, 1, REDACT_META);

    luaL_argcheck(L, *box, 1, "it is closed");
    return *box;
}

static int redact_add(lua_State *L)
{
    nd_redact_add_list(L, 2, check(L));
    return 0;
}

static int redact_close(lua_State *L)
{
    struct nd_redact **box = luaL_checkudata(L, 1, REDACT_META);

    nd_redact_free(*box);
    *box = NULL;
    return 0;
}

static int redact_part(lua_State *L)
{
    const struct nd_redact *redact = check(L);
    size_t length, rest;
    const char *text = luaL_checklstring(L, 2, &length);
    bool more = lua_toboolean(L, 3);
    struct nd_buf out = {0};

    if (nd_redact_is_empty(redact)) {
        lua_settop(L, 2);
        lua_pushliteral(L, "");
        return 2;
    }
    rest = nd_redact_text(redact, &out, text, length, more);
    lua_pushlstring(L, out.data ? out.data : "", out.length);
    nd_buf_fini(&out);
    lua_pushlstring(L, text + length - rest, rest);
    return 2;
}

static int redact_text(lua_State *L)
{
    lua_settop(L, 2);
    redact_part(L);
    lua_pop(L, 1);
    return 1;
}

static const luaL_Reg functions[] = {{"new", redact_new}, {NULL, NULL}};

static const luaL_Reg methods[] = {{"add", redact_add},
                                   {"text", redact_text},
                                   {"part", redact_part},
                                   {"close", redact_close},
                                   {"__close", redact_close},
                                   {"__gc", redact_close},
                                   {NULL, NULL}};

int nd_open_redact(lua_State *L)
{
    nd_bind_class(L, REDACT_META, methods);
    luaL_newlib(L, functions);
    return 1;
}
