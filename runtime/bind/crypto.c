/*
 * crypto.c - require "crypto". Bytes are Lua strings; nothing here waits but scrypt.
 *
 *   random(n) -> bytes                sha256(s) -> hex         hmac(key, s) -> hex (HMAC-SHA256)
 *   equal(a, b) -> boolean, in constant time                   uuid() -> version 7, lower case
 *   hex(s) unhex(text)   base64(s) unbase64(text)   base64url(s) unbase64url(text) (no padding)
 *       the decoders return nil for what isn't well-formed
 *   seal(key, purpose, plain) -> bytes    unseal(key, purpose, seal) -> plain | nil
 *   unseal_secret(key, purpose, seal) -> secret | nil
 *       authenticated encryption under a key of 32 bytes (engine/seal.h); keys, that of hmac too,
 *       and plain may be secrets (bind/secret.c)
 *   sign_public(seed) -> key     sign(seed, text) -> 64 bytes     signed(key, text, signature) ->
 *       boolean: Ed25519, seeds and keys of 32 bytes (engine/sign.h)
 *   scrypt(password, salt, log_n, r, p) -> 32 bytes     waits; raises bad_scrypt (engine/crypto.h)
 */
#include "engine/crypto.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "bind/job_op.h"
#include "bind/secret.h"
#include "engine/seal.h"
#include "engine/sign.h"

enum { RANDOM_MOST = 1024 * 1024, SEAL_MOST = 16 * 1024 * 1024 };

static int crypto_random(lua_State *L)
{
    lua_Integer n = luaL_checkinteger(L, 1);
    luaL_Buffer b;

    luaL_argcheck(L, n >= 0 && n <= RANDOM_MOST, 1, "not a number of bytes up to 1 MiB");
    nd_crypto_random(luaL_buffinitsize(L, &b, (size_t)n), (size_t)n);
    luaL_pushresultsize(&b, (size_t)n);
    return 1;
}

static int push_digest(lua_State *L, const uint8_t digest[ND_SHA256_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    char text[ND_SHA256_SIZE * 2];

    for (int i = 0; i < ND_SHA256_SIZE; i++) {
        text[2 * i] = digits[digest[i] >> 4];
        text[2 * i + 1] = digits[digest[i] & 15];
    }
    lua_pushlstring(L, text, sizeof text);
    return 1;
}

static int crypto_sha256(lua_State *L)
{
    uint8_t digest[ND_SHA256_SIZE];
    size_t length;
    const char *data = luaL_checklstring(L, 1, &length);

    nd_crypto_sha256(data, length, digest);
    return push_digest(L, digest);
}

static int crypto_hmac(lua_State *L)
{
    uint8_t digest[ND_SHA256_SIZE];
    const struct nd_secret *secret = nd_test_secret(L, 1);
    size_t key_length = secret ? secret->length : 0, length;
    const char *key = secret ? (const char *)secret->data : luaL_checklstring(L, 1, &key_length);
    const char *data = luaL_checklstring(L, 2, &length);

    nd_crypto_hmac(key, key_length, data, length, digest);
    return push_digest(L, digest);
}

static int crypto_equal(lua_State *L)
{
    size_t a_length, b_length;
    const char *a = luaL_checklstring(L, 1, &a_length);
    const char *b = luaL_checklstring(L, 2, &b_length);

    lua_pushboolean(L, nd_crypto_equal(a, a_length, b, b_length));
    return 1;
}

static int crypto_uuid(lua_State *L)
{
    char text[ND_UUID_TEXT];

    nd_crypto_uuid(text);
    lua_pushstring(L, text);
    return 1;
}

/* Pushes `out` (taken), or nil where `rc` is -1. */
static int push_text(lua_State *L, struct nd_buf *out, int rc)
{
    if (rc < 0)
        lua_pushnil(L);
    else
        lua_pushlstring(L, out->data ? out->data : "", out->length);
    nd_buf_fini(out);
    return 1;
}

static int crypto_hex(lua_State *L)
{
    size_t length;
    const char *data = luaL_checklstring(L, 1, &length);
    struct nd_buf out = {0};

    nd_crypto_hex(data, length, &out);
    return push_text(L, &out, 0);
}

static int crypto_unhex(lua_State *L)
{
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    struct nd_buf out = {0};
    int rc = nd_crypto_unhex(text, length, &out);

    return push_text(L, &out, rc);
}

static int encode(lua_State *L, enum nd_base64 kind)
{
    size_t length;
    const char *data = luaL_checklstring(L, 1, &length);
    struct nd_buf out = {0};

    nd_crypto_base64(kind, data, length, &out);
    return push_text(L, &out, 0);
}

static int decode(lua_State *L, enum nd_base64 kind)
{
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    struct nd_buf out = {0};
    int rc = nd_crypto_unbase64(kind, text, length, &out);

    return push_text(L, &out, rc);
}

static int crypto_base64(lua_State *L)
{
    return encode(L, ND_BASE64);
}

static int crypto_unbase64(lua_State *L)
{
    return decode(L, ND_BASE64);
}

static int crypto_base64url(lua_State *L)
{
    return encode(L, ND_BASE64_URL);
}

static int crypto_unbase64url(lua_State *L)
{
    return decode(L, ND_BASE64_URL);
}

ND_RAISES static const uint8_t *check_key(lua_State *L, int index)
{
    const struct nd_secret *secret = nd_test_secret(L, index);
    size_t length = secret ? secret->length : 0;
    const char *key = secret ? (const char *)secret->data : luaL_checklstring(L, index, &length);

    luaL_argcheck(L, length == ND_SEAL_KEY, index, "not a key of 32 bytes");
    return (const uint8_t *)key;
}

ND_RAISES static struct nd_seal_text check_text(lua_State *L, int index)
{
    const struct nd_secret *secret = nd_test_secret(L, index);
    struct nd_seal_text text;

    if (secret)
        return (struct nd_seal_text){secret->data, secret->length};
    text.data = luaL_checklstring(L, index, &text.length);
    luaL_argcheck(L, text.length <= SEAL_MOST, index, "longer than 16 MiB");
    return text;
}

static int crypto_seal(lua_State *L)
{
    const uint8_t *key = check_key(L, 1);
    struct nd_seal_text purpose = check_text(L, 2), plain = check_text(L, 3);
    struct nd_buf out = {0};

    nd_seal(key, purpose, plain, &out);
    return push_text(L, &out, 0);
}

static int crypto_unseal(lua_State *L)
{
    const uint8_t *key = check_key(L, 1);
    struct nd_seal_text purpose = check_text(L, 2), seal = check_text(L, 3);
    struct nd_buf out = {0};
    int rc = nd_unseal(key, purpose, seal, &out);

    if (rc < 0)
        lua_pushnil(L);
    else
        lua_pushlstring(L, out.data, out.length);
    if (out.data)
        nd_zero(out.data, out.capacity);
    nd_buf_fini(&out);
    return 1;
}

static int crypto_sign_public(lua_State *L)
{
    uint8_t public_key[ND_SIGN_KEY];

    nd_sign_public(check_key(L, 1), public_key);
    lua_pushlstring(L, (const char *)public_key, sizeof public_key);
    return 1;
}

static int crypto_sign(lua_State *L)
{
    const uint8_t *seed = check_key(L, 1);
    struct nd_seal_text text = check_text(L, 2);
    uint8_t signature[ND_SIGNATURE];

    nd_sign(seed, text.data, text.length, signature);
    lua_pushlstring(L, (const char *)signature, sizeof signature);
    return 1;
}

static int crypto_signed(lua_State *L)
{
    const uint8_t *key = check_key(L, 1);
    struct nd_seal_text text = check_text(L, 2);
    size_t length;
    const char *signature = luaL_checklstring(L, 3, &length);

    lua_pushboolean(L, length == ND_SIGNATURE &&
                           nd_sign_check(key, text.data, text.length, (const uint8_t *)signature));
    return 1;
}

static int crypto_unseal_secret(lua_State *L)
{
    const uint8_t *key = check_key(L, 1);
    struct nd_seal_text purpose = check_text(L, 2), seal = check_text(L, 3);
    size_t length = seal.length < ND_SEAL_OVERHEAD ? 0 : seal.length - ND_SEAL_OVERHEAD;
    struct nd_secret *out = nd_push_secret(L, length);

    out->length = length;
    if (nd_unseal_into(key, purpose, seal, out->data) == 0)
        return 1;
    nd_secret_fini(out);
    lua_pushnil(L);
    return 1;
}

/* ---- scrypt ---- */

struct scrypt_op {
    struct nd_job_op job;
    struct nd_scrypt cost;
    char *password, *salt; /* owned; the password is zeroed */
    size_t password_length, salt_length;
    uint8_t out[ND_SCRYPT_SIZE];
};

static void scrypt_work(void *arg)
{
    struct scrypt_op *op = arg;
    struct nd_crypto_bytes password = {op->password, op->password_length};
    struct nd_crypto_bytes salt = {op->salt, op->salt_length};

    nd_crypto_scrypt(op->cost, password, salt, op->out, &op->job.op.err);
}

static int scrypt_push(lua_State *L, void *arg)
{
    struct scrypt_op *op = arg;

    lua_pushlstring(L, (const char *)op->out, sizeof op->out);
    return 1;
}

static void scrypt_fini(void *arg)
{
    struct scrypt_op *op = arg;

    if (op->password)
        nd_zero(op->password, op->password_length);
    nd_zero(op->out, sizeof op->out);
    free(op->password);
    free(op->salt);
}

static const struct nd_op_type scrypt_type = {"crypto.scrypt", sizeof(struct scrypt_op),
                                              scrypt_push, nd_job_op_cancel, scrypt_fini};

static int crypto_scrypt(lua_State *L)
{
    size_t password_length, salt_length;
    const char *password = luaL_checklstring(L, 1, &password_length);
    const char *salt = luaL_checklstring(L, 2, &salt_length);
    struct nd_scrypt cost = {(int)luaL_checkinteger(L, 3), (int)luaL_checkinteger(L, 4),
                             (int)luaL_checkinteger(L, 5)};
    struct scrypt_op *op = nd_op_new(L, &scrypt_type);

    op->cost = cost;
    op->password = nd_alloc(password_length + 1);
    memcpy(op->password, password, password_length);
    op->password_length = password_length;
    op->salt = nd_alloc(salt_length + 1);
    memcpy(op->salt, salt, salt_length);
    op->salt_length = salt_length;
    return nd_job_op_run(L, op, scrypt_work);
}

static const luaL_Reg functions[] = {{"random", crypto_random},
                                     {"sha256", crypto_sha256},
                                     {"hmac", crypto_hmac},
                                     {"equal", crypto_equal},
                                     {"uuid", crypto_uuid},
                                     {"hex", crypto_hex},
                                     {"unhex", crypto_unhex},
                                     {"base64", crypto_base64},
                                     {"unbase64", crypto_unbase64},
                                     {"base64url", crypto_base64url},
                                     {"unbase64url", crypto_unbase64url},
                                     {"seal", crypto_seal},
                                     {"unseal", crypto_unseal},
                                     {"unseal_secret", crypto_unseal_secret},
                                     {"sign_public", crypto_sign_public},
                                     {"sign", crypto_sign},
                                     {"signed", crypto_signed},
                                     {"scrypt", crypto_scrypt},
                                     {NULL, NULL}};

int nd_open_crypto(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}
