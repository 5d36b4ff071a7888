/*
 * secret.c - require "secret": bytes that are never a Lua string (base/secret.h). Nothing here
 * waits.
 *
 *   secret.random(n) -> s          for a key
 *   secret.read(path, max) -> s    a file of at most `max` bytes
 *   secret.of(text) -> s           for what comes from tests
 *   secret.recipient(s) -> age1... of 32 bytes as an age identity (engine/age_key.h)
 *   secret.decrypt({s, ...}, text, max) -> s
 *                                  an age file, armored or not, encrypted to one of these
 * identities; raises age_... (engine/age.h) #s                             bytes s:is_text() ->
 * boolean         no zero byte is in it: an environment variable can hold it s:equal(other) ->
 * boolean      in a time that depends on the lengths only s:derive(label) -> s HMAC-SHA256 under
 * it: 32 bytes s:put(path, mode) -> written?  into a file on a tmpfs, by rename; false where it
 * held that already; raises not_in_memory on any other file system s:save(path) into a file of
 * root's alone, durably s:close()                      zeroes it; so do <close> and the collector
 * Codes: secret_memory, secret_too_large, not_in_memory, fs_not_found, fs_too_large, fs_full,
 * fs_io.
 */
#include "bind/secret.h"

#include <string.h>

#include "base/mem.h"
#include "engine/age.h"
#include "engine/crypto.h"
#include "io/file.h"

#define SECRET_META "nd.secret"

struct nd_secret *nd_test_secret(lua_State *L, int index)
{
    struct nd_secret *s = luaL_testudata(L, index, SECRET_META);

    return s && s->data ? s : NULL;
}

struct nd_secret *nd_check_secret(lua_State *L, int index)
{
    struct nd_secret *s = luaL_checkudata(L, index, SECRET_META);

    luaL_argcheck(L, s->data, index, "the secret was closed");
    return s;
}

struct nd_secret *nd_push_secret(lua_State *L, size_t capacity)
{
    struct nd_secret *s = lua_newuserdatauv(L, sizeof *s, 0);
    struct nd_err err = {0};

    memset(s, 0, sizeof *s);
    luaL_setmetatable(L, SECRET_META);
    if (nd_secret_init(s, capacity, &err) < 0)
        nd_raise(L, &err);
    return s;
}

static int secret_random(lua_State *L)
{
    lua_Integer n = luaL_checkinteger(L, 1);
    struct nd_secret *s;

    luaL_argcheck(L, n >= 0 && n <= 4096, 1, "not a number of bytes up to 4096");
    s = nd_push_secret(L, (size_t)n);
    nd_crypto_random(s->data, (size_t)n);
    s->length = (size_t)n;
    return 1;
}

static int secret_read(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    lua_Integer most = luaL_checkinteger(L, 2);
    struct nd_err err = {0};
    struct nd_secret *s;

    luaL_argcheck(L, most >= 0 && most <= ND_SECRET_MOST, 2, "not a size");
    s = nd_push_secret(L, (size_t)most);
    return nd_secret_read(s, path, &err) < 0 ? nd_raise(L, &err) : 1;
}

static int secret_of(lua_State *L)
{
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    struct nd_err err = {0};
    struct nd_secret *s = nd_push_secret(L, length);

    return nd_secret_add(s, text, length, &err) < 0 ? nd_raise(L, &err) : 1;
}

ND_RAISES static void check_identity(lua_State *L, int index, struct nd_age_identity *out)
{
    const struct nd_secret *s = nd_check_secret(L, index);

    luaL_argcheck(L, s->length == ND_AGE_KEY, index, "not a secret of 32 bytes");
    nd_age_identity_of(s->data, out);
}

static int secret_recipient(lua_State *L)
{
    char text[ND_AGE_RECIPIENT_TEXT];
    struct nd_age_identity identity;

    check_identity(L, 1, &identity);
    nd_zero(identity.secret, sizeof identity.secret);
    nd_age_recipient_text(&identity.recipient, text);
    lua_pushstring(L, text);
    return 1;
}

static int add_plain(void *arg, const void *data, size_t length, struct nd_err *err)
{
    return nd_secret_add(arg, data, length, err);
}

static int secret_decrypt(lua_State *L)
{
    struct nd_age_identity identities[2];
    size_t count = 0, length;
    const char *text = luaL_checklstring(L, 2, &length);
    lua_Integer most = luaL_checkinteger(L, 3);
    struct nd_err err = {0};
    struct nd_secret *s;
    int rc;

    luaL_argcheck(L, most >= 0 && most <= ND_SECRET_MOST, 3, "not a size");
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 3);
    s = nd_push_secret(L, length < (size_t)most ? length : (size_t)most);
    while (count < 2 && lua_rawgeti(L, 1, (lua_Integer)count + 1) != LUA_TNIL)
        check_identity(L, -1, &identities[count++]);
    rc = nd_age_decrypt(identities, count, text, length, add_plain, s, &err);
    nd_zero(identities, sizeof identities);
    if (rc < 0) {
        nd_secret_fini(s);
        return nd_raise(L, &err);
    }
    lua_pushvalue(L, 4);
    return 1;
}

static int secret_length(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)nd_check_secret(L, 1)->length);
    return 1;
}

static int secret_is_text(lua_State *L)
{
    const struct nd_secret *s = nd_check_secret(L, 1);

    lua_pushboolean(L, !memchr(s->data, '\0', s->length));
    return 1;
}

static int secret_equal(lua_State *L)
{
    const struct nd_secret *a = nd_check_secret(L, 1), *b = nd_check_secret(L, 2);

    lua_pushboolean(L, nd_crypto_equal(a->data, a->length, b->data, b->length));
    return 1;
}

static int secret_derive(lua_State *L)
{
    const struct nd_secret *key = nd_check_secret(L, 1);
    size_t length;
    const char *label = luaL_checklstring(L, 2, &length);
    struct nd_secret *out = nd_push_secret(L, ND_SHA256_SIZE);

    nd_crypto_hmac(key->data, key->length, label, length, out->data);
    out->length = ND_SHA256_SIZE;
    return 1;
}

static int secret_put(lua_State *L)
{
    const struct nd_secret *s = nd_check_secret(L, 1);
    const char *path = luaL_checkstring(L, 2);
    unsigned mode = (unsigned)luaL_checkinteger(L, 3);
    struct nd_err err = {0};
    int rc = nd_secret_put(s, path, mode, &err);

    if (rc < 0)
        return nd_raise(L, &err);
    lua_pushboolean(L, rc);
    return 1;
}

/* Of a key, once in its life: the few bytes are worth no thread. */
static int secret_save(lua_State *L)
{
    const struct nd_secret *s = nd_check_secret(L, 1);
    const char *path = luaL_checkstring(L, 2);
    struct nd_err err = {0};

    return nd_file_write(path, s->data, s->length, 0600, &err) < 0 ? nd_raise(L, &err) : 0;
}

static int secret_close(lua_State *L)
{
    nd_secret_fini(luaL_checkudata(L, 1, SECRET_META));
    return 0;
}

static int secret_tostring(lua_State *L)
{
    lua_pushliteral(L, "secret");
    return 1;
}

static const luaL_Reg functions[] = {{"random", secret_random},   {"read", secret_read},
                                     {"of", secret_of},           {"recipient", secret_recipient},
                                     {"decrypt", secret_decrypt}, {NULL, NULL}};

static const luaL_Reg methods[] = {{"is_text", secret_is_text},
                                   {"equal", secret_equal},
                                   {"derive", secret_derive},
                                   {"put", secret_put},
                                   {"save", secret_save},
                                   {"close", secret_close},
                                   {"__len", secret_length},
                                   {"__close", secret_close},
                                   {"__gc", secret_close},
                                   {"__tostring", secret_tostring},
                                   {NULL, NULL}};

int nd_open_secret(lua_State *L)
{
    nd_bind_class(L, SECRET_META, methods);
    luaL_newlib(L, functions);
    return 1;
}
