/*
 * cert.c - require "cert": X.509 certificates, as PEM text. Nothing here waits.
 *
 *   read(bundle) -> {{subject, issuer, issuer_name, serial (hex), names={...}, not_before,
 * not_after (UTC ms), key="EC 256", weak=why|nil, authority, self_signed, issued_by_next}, ...}
 *   fits(bundle, key)        raises unless the key is that of the first certificate
 *   make{common_name=, names={...}, not_before=, not_after=, authority=boolean, issuer=pem,
 *       issuer_key=pem} -> certificate, key     by itself without an issuer
 *   request{names={...}} -> request, key
 * Codes: bad_certificate, bad_key, cert_failed.
 */
#include "engine/cert.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"

enum { PEM_MOST = 1024 * 1024, NAMES_MOST = 100, COMMON_NAME_MOST = 64 };

ND_RAISES static struct nd_pem check_pem(lua_State *L, int index)
{
    struct nd_pem pem;

    pem.data = luaL_checklstring(L, index, &pem.length);
    luaL_argcheck(L, pem.length <= PEM_MOST, index, "longer than 1 MiB");
    return pem;
}

static void set_text(lua_State *L, const char *name, const char *text)
{
    lua_pushstring(L, text);
    lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, int64_t value)
{
    lua_pushinteger(L, value);
    lua_setfield(L, -2, name);
}

static void set_boolean(lua_State *L, const char *name, bool value)
{
    lua_pushboolean(L, value);
    lua_setfield(L, -2, name);
}

static void push_certificate(lua_State *L, const struct nd_cert *cert)
{
    lua_Integer count = 0;

    lua_createtable(L, 0, 12);
    set_text(L, "subject", cert->subject);
    set_text(L, "issuer", cert->issuer);
    set_text(L, "issuer_name", cert->common_name);
    set_text(L, "serial", cert->serial);
    set_text(L, "key", cert->key);
    if (cert->weak)
        set_text(L, "weak", cert->weak);
    set_integer(L, "not_before", cert->not_before);
    set_integer(L, "not_after", cert->not_after);
    set_boolean(L, "authority", cert->authority);
    set_boolean(L, "self_signed", cert->self_signed);
    set_boolean(L, "issued_by_next", cert->issued_by_next);
    lua_newtable(L); // list info names
    for (size_t at = 0; at < cert->names.length; at += strlen(cert->names.data + at) + 1) {
        lua_pushstring(L, cert->names.data + at);
        lua_rawseti(L, -2, ++count);
    }
    lua_setfield(L, -2, "names");
}

/* A list lives in a userdata, so that an error of Lua's leaks nothing. */
static int list_gc(lua_State *L)
{
    nd_cert_fini(lua_touserdata(L, 1));
    return 0;
}

static int cert_read(lua_State *L)
{
    struct nd_pem pem = check_pem(L, 1);
    struct nd_cert_list *list = lua_newuserdatauv(L, sizeof *list, 0);
    struct nd_err err;

    list->count = 0;
    luaL_setmetatable(L, "nd.cert.list");
    if (nd_cert_read(pem, list, &err) < 0)
        return nd_raise(L, &err);
    lua_createtable(L, list->count, 0);
    for (int i = 0; i < list->count; i++) {
        push_certificate(L, &list->at[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int cert_fits(lua_State *L)
{
    struct nd_err err;

    return nd_cert_fits(check_pem(L, 1), check_pem(L, 2), &err) < 0 ? nd_raise(L, &err) : 0;
}

static int64_t time_field(lua_State *L, const char *name)
{
    int64_t value;

    lua_getfield(L, 1, name);
    value = luaL_optinteger(L, -1, 0);
    lua_pop(L, 1);
    return value;
}

/* A text stays on the stack, and so with its table, until the call ends. */
ND_RAISES static struct nd_pem pem_field(lua_State *L, const char *name)
{
    struct nd_pem pem = {0};

    if (lua_getfield(L, 1, name) != LUA_TNIL)
        pem.data = luaL_checklstring(L, -1, &pem.length);
    return pem;
}

/* names[NAMES_MOST + 1] */
ND_RAISES static void check_wish(lua_State *L, struct nd_cert_wish *wish, const char **names)
{
    lua_Integer count;
    size_t length;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    luaL_checkstack(L, NAMES_MOST + 10, NULL);
    lua_getfield(L, 1, "common_name");
    wish->common_name = luaL_optlstring(L, 2, "", &length);
    luaL_argcheck(L, length <= COMMON_NAME_MOST, 1, "common_name is longer than 64");
    wish->names = names;
    names[0] = NULL;
    if (lua_getfield(L, 1, "names") == LUA_TNIL)
        return;
    luaL_checktype(L, 3, LUA_TTABLE);
    count = luaL_len(L, 3);
    luaL_argcheck(L, count <= NAMES_MOST, 1, "more than 100 names");
    for (lua_Integer i = 0; i < count; i++) {
        lua_rawgeti(L, 3, i + 1);
        names[i] = luaL_checkstring(L, -1);
        /* One that could be taken for more than a name would become more of the extension. */
        luaL_argcheck(L, !names[i][strspn(names[i], "abcdefghijklmnopqrstuvwxyz0123456789.-*")], 1,
                      "a name has other characters than a host's");
        names[i + 1] = NULL;
    }
}

static int push_both(lua_State *L, int rc, struct nd_buf *text, struct nd_buf *key,
                     const struct nd_err *err)
{
    if (rc == 0) {
        lua_pushlstring(L, text->data, text->length);
        lua_pushlstring(L, key->data, key->length);
    }
    if (key->data)
        nd_zero(key->data, key->capacity);
    nd_buf_fini(key);
    nd_buf_fini(text);
    return rc == 0 ? 2 : nd_raise(L, err);
}

static int cert_make(lua_State *L)
{
    const char *names[NAMES_MOST + 1];
    struct nd_cert_wish wish = {0};
    struct nd_buf text = {0}, key = {0};
    struct nd_err err;
    int rc;

    check_wish(L, &wish, names);
    wish.not_before = time_field(L, "not_before");
    wish.not_after = time_field(L, "not_after");
    wish.issuer = pem_field(L, "issuer");
    wish.issuer_key = pem_field(L, "issuer_key");
    lua_getfield(L, 1, "authority");
    wish.authority = lua_toboolean(L, -1);
    rc = nd_cert_make(&wish, &text, &key, &err);
    return push_both(L, rc, &text, &key, &err);
}

static int cert_request(lua_State *L)
{
    const char *names[NAMES_MOST + 1];
    struct nd_cert_wish wish = {0};
    struct nd_buf text = {0}, key = {0};
    struct nd_err err;
    int rc;

    check_wish(L, &wish, names);
    rc = nd_cert_request(names, &text, &key, &err);
    return push_both(L, rc, &text, &key, &err);
}

static const luaL_Reg list_methods[] = {{"__gc", list_gc}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"read", cert_read},
                                     {"fits", cert_fits},
                                     {"make", cert_make},
                                     {"request", cert_request},
                                     {NULL, NULL}};

int nd_open_cert(lua_State *L)
{
    nd_bind_class(L, "nd.cert.list", list_methods);
    luaL_newlib(L, functions);
    return 1;
}
