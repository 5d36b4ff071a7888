/*
 * tls.c - require "tls": certificates of our own.
 *
 *   self_signed{cert=PATH, key=PATH, names={name or numeric address...}}   writes both files
 *   check{cert=, key=[, ca=]}      raises where a server couldn't use these files
 *   pin(cert) -> text       what a client may know a certificate's key by (io/tls.h)
 *
 * Codes: tls_bad_certificate, tls_bad_key, tls_bad_ca, and those of writing files.
 */
#include "io/tls.h"

#include "bind/bind.h"

enum { NAMES_MOST = 32 };

ND_RAISES static const char *path_field(lua_State *L, const char *name, bool needed)
{
    const char *path;

    lua_getfield(L, 1, name);
    path = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    if (!path && (needed || !lua_isnil(L, -1)))
        luaL_error(L, "tls: '%s' must be a path", name);
    lua_pop(L, 1); /* the table keeps it */
    return path;
}

static int tls_self_signed(lua_State *L)
{
    struct nd_tls_files files = {0};
    const char *names[NAMES_MOST];
    struct nd_err err = {0};
    size_t count;

    luaL_checktype(L, 1, LUA_TTABLE);
    files.cert = path_field(L, "cert", true);
    files.key = path_field(L, "key", true);
    lua_getfield(L, 1, "names");
    luaL_checktype(L, -1, LUA_TTABLE);
    count = lua_rawlen(L, -1);
    luaL_argcheck(L, count > 0 && count <= NAMES_MOST, 1, "needs 1 to 32 names");
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, 1, "a name must be a text");
        names[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    return nd_tls_self_signed(&files, names, count, &err) < 0 ? nd_raise(L, &err) : 0;
}

static int tls_check(lua_State *L)
{
    struct nd_tls_files files;
    struct ssl_ctx_st *tls;
    struct nd_err err = {0};

    luaL_checktype(L, 1, LUA_TTABLE);
    files.cert = path_field(L, "cert", true);
    files.key = path_field(L, "key", true);
    files.ca = path_field(L, "ca", false);
    tls = nd_tls_server(&files, &err);
    nd_tls_context_free(tls);
    return tls ? 0 : nd_raise(L, &err);
}

static int tls_pin(lua_State *L)
{
    const char *cert = luaL_checkstring(L, 1);
    char pin[ND_TLS_PIN];
    struct nd_err err = {0};

    if (nd_tls_pin(cert, pin, &err) < 0)
        return nd_raise(L, &err);
    lua_pushstring(L, pin);
    return 1;
}

static const luaL_Reg functions[] = {
    {"self_signed", tls_self_signed}, {"check", tls_check}, {"pin", tls_pin}, {NULL, NULL}};

int nd_open_tls(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}
