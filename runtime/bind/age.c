/*
 * age.c - require "age": encrypting to recipients, in the age format. Nothing here waits, so it is
 * for texts of a few MiB; `ndctl crypt` is for files.
 *
 *   keygen() -> identity, recipient      a new pair: AGE-SECRET-KEY-1..., age1...
 *   recipient(identity) -> recipient     what belongs to it
 *   check(recipient)                     raises for what isn't one that can be encrypted to
 *   encrypt({recipient...}, plain[, {armor = bool}]) -> text
 *   decrypt({identity...}, text) -> plain            text is armored or not
 *
 * Format: age-encryption.org/v1, X25519 recipients. Codes: age_bad_identity, age_bad_recipient,
 * age_bad_header, age_bad_armor, age_wrong_recipient, age_truncated, age_tampered, age_unsupported.
 */
#include "engine/age.h"

#include "base/buf.h"
#include "base/mem.h"
#include "bind/bind.h"

static int push_recipient(lua_State *L, const struct nd_age_recipient *recipient)
{
    char text[ND_AGE_RECIPIENT_TEXT];

    nd_age_recipient_text(recipient, text);
    lua_pushstring(L, text);
    return 1;
}

static int age_keygen(lua_State *L)
{
    struct nd_age_identity identity;
    char text[ND_AGE_IDENTITY_TEXT];

    nd_age_keygen(&identity);
    nd_age_identity_text(&identity, text);
    nd_zero(identity.secret, sizeof identity.secret);
    lua_pushstring(L, text);
    nd_zero(text, sizeof text);
    push_recipient(L, &identity.recipient);
    return 2;
}

static int age_recipient(lua_State *L)
{
    struct nd_age_identity identity;
    struct nd_err err = {0};
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);

    if (nd_age_identity_parse(text, length, &identity, &err) < 0)
        return nd_raise(L, &err);
    nd_zero(identity.secret, sizeof identity.secret);
    return push_recipient(L, &identity.recipient);
}

static int age_check(lua_State *L)
{
    struct nd_age_recipient recipient;
    struct nd_err err = {0};
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);

    if (nd_age_recipient_parse(text, length, &recipient, &err) < 0)
        return nd_raise(L, &err);
    return 0;
}

/* The k-th text of the list at `index`; valid while the list holds it. */
ND_RAISES static const char *text_at(lua_State *L, int index, lua_Integer k, size_t *length)
{
    const char *text;

    lua_rawgeti(L, index, k); // text
    luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, index, "not a list of texts");
    text = lua_tolstring(L, -1, length);
    lua_pop(L, 1);
    return text;
}

/* Appends to a struct nd_buf. */
static int take(void *arg, const void *data, size_t length, struct nd_err *err)
{
    (void)err;
    nd_buf_add(arg, data, length);
    return 0;
}

/* Pushes `out` or raises `err`; either way `out` is zeroed and freed. */
ND_RAISES static int finish(lua_State *L, struct nd_buf *out, int rc, const struct nd_err *err)
{
    if (rc == 0)
        lua_pushlstring(L, out->data ? out->data : "", out->length);
    if (out->data)
        nd_zero(out->data, out->capacity);
    nd_buf_fini(out);
    return rc == 0 ? 1 : nd_raise(L, err);
}

static int age_encrypt(lua_State *L)
{
    struct nd_age_recipient *recipients;
    struct nd_buf out = {0};
    struct nd_err err = {0};
    size_t count, length;
    const char *plain = luaL_checklstring(L, 2, &length);
    bool armor = false;
    int rc;

    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_isnoneornil(L, 3)) {
        luaL_checktype(L, 3, LUA_TTABLE);
        lua_getfield(L, 3, "armor");
        armor = lua_toboolean(L, -1);
    }
    count = lua_rawlen(L, 1);
    recipients = lua_newuserdatauv(L, count * sizeof *recipients, 0);
    for (size_t i = 0; i < count; i++) {
        size_t text_length;
        const char *text = text_at(L, 1, (lua_Integer)i + 1, &text_length);

        if (nd_age_recipient_parse(text, text_length, &recipients[i], &err) < 0)
            return nd_raise(L, &err);
    }
    rc = nd_age_encrypt(recipients, count, armor, plain, length, take, &out, &err);
    return finish(L, &out, rc, &err);
}

static int age_decrypt(lua_State *L)
{
    struct nd_age_identity *identities;
    struct nd_buf out = {0};
    struct nd_err err = {0};
    size_t count, length, size;
    const char *text = luaL_checklstring(L, 2, &length);
    int rc = 0;

    luaL_checktype(L, 1, LUA_TTABLE);
    count = lua_rawlen(L, 1);
    for (size_t i = 0; i < count; i++)
        text_at(L, 1, (lua_Integer)i + 1, &size); /* which may raise; from here on nothing does */
    size = count * sizeof *identities;
    identities = lua_newuserdatauv(L, size, 0);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        size_t key_length;
        const char *key = text_at(L, 1, (lua_Integer)i + 1, &key_length);

        rc = nd_age_identity_parse(key, key_length, &identities[i], &err);
    }
    if (rc == 0) {
        nd_buf_reserve(&out, length); /* at once: growing leaves copies behind */
        rc = nd_age_decrypt(identities, count, text, length, take, &out, &err);
    }
    nd_zero(identities, size);
    return finish(L, &out, rc, &err);
}

static const luaL_Reg functions[] = {{"keygen", age_keygen},   {"recipient", age_recipient},
                                     {"check", age_check},     {"encrypt", age_encrypt},
                                     {"decrypt", age_decrypt}, {NULL, NULL}};

int nd_open_age(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}
