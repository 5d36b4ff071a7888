#include "engine/age_wrap.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <stdbool.h>
#include <string.h>

#include "base/mem.h"
#include "engine/crypto.h"

enum { TAG = ND_AGE_WRAPPED - ND_AGE_FILE_KEY };

static const uint8_t nonce[12]; /* zero: no wrapping key is used twice */

void nd_age_hkdf(const uint8_t *key, size_t key_length, const uint8_t *salt, size_t salt_length,
                 const char *info, uint8_t out[32])
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, "SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)key, key_length),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)(uintptr_t)info,
                                          strlen(info)),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)salt,
                                          salt_length),
        OSSL_PARAM_construct_end(),
    };

    if (!salt_length)
        params[3] = OSSL_PARAM_construct_end(); /* none: 32 zeroes, as the RFC says */
    nd_crypto_must(ctx && EVP_KDF_derive(ctx, out, 32, params) == 1, "HKDF");
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
}

/* X25519 (RFC 7748) of `secret` and the point `theirs`; -1 where the result is all zeroes. */
static int shared_secret(const uint8_t secret[ND_AGE_KEY], const uint8_t theirs[ND_AGE_KEY],
                         uint8_t out[ND_AGE_KEY])
{
    static const uint8_t zeroes[ND_AGE_KEY];
    EVP_PKEY *own = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, secret, ND_AGE_KEY);
    EVP_PKEY *peer = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, theirs, ND_AGE_KEY);
    EVP_PKEY_CTX *ctx = own ? EVP_PKEY_CTX_new(own, NULL) : NULL;
    size_t length = ND_AGE_KEY;
    bool derived;

    nd_crypto_must(peer && ctx && EVP_PKEY_derive_init(ctx) == 1, "X25519");
    derived = EVP_PKEY_derive_set_peer(ctx, peer) == 1 && EVP_PKEY_derive(ctx, out, &length) == 1 &&
              !nd_crypto_equal(out, ND_AGE_KEY, zeroes, ND_AGE_KEY);
    EVP_PKEY_CTX_free(ctx);
    EVP_PKEY_free(peer);
    EVP_PKEY_free(own);
    return derived ? 0 : -1;
}

/* The key that wraps: of the shared secret (which is zeroed) and of both public keys. */
static void wrapping_key(uint8_t shared[ND_AGE_KEY], const uint8_t share[ND_AGE_KEY],
                         const struct nd_age_recipient *recipient, uint8_t out[32])
{
    uint8_t salt[2 * ND_AGE_KEY];

    memcpy(salt, share, ND_AGE_KEY);
    memcpy(salt + ND_AGE_KEY, recipient->key, ND_AGE_KEY);
    nd_age_hkdf(shared, ND_AGE_KEY, salt, sizeof salt, "age-encryption.org/v1/X25519", out);
    nd_zero(shared, ND_AGE_KEY);
}

static EVP_CIPHER_CTX *cipher_new(const uint8_t key[32], bool encrypt)
{
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();

    nd_crypto_must(cipher && EVP_CipherInit_ex(cipher, EVP_chacha20_poly1305(), NULL, key, nonce,
                                               encrypt) == 1,
                   "ChaCha20-Poly1305");
    return cipher;
}

int nd_age_wrap(const struct nd_age_recipient *recipient, const uint8_t file_key[ND_AGE_FILE_KEY],
                struct nd_age_stanza *out, struct nd_err *err)
{
    struct nd_age_identity once;
    uint8_t shared[ND_AGE_KEY], key[32];
    EVP_CIPHER_CTX *cipher;
    int length, rc;

    nd_age_keygen(&once);
    memcpy(out->share, once.recipient.key, ND_AGE_KEY);
    rc = shared_secret(once.secret, recipient->key, shared);
    nd_zero(&once, sizeof once);
    if (rc < 0)
        return nd_err_set(err, "age_bad_recipient", "make a new identity: ndctl crypt keygen",
                          "the recipient is a point of low order: anybody could read the file");
    wrapping_key(shared, out->share, recipient, key);
    cipher = cipher_new(key, true);
    nd_zero(key, sizeof key);
    nd_crypto_must(EVP_EncryptUpdate(cipher, out->body, &length, file_key, ND_AGE_FILE_KEY) == 1 &&
                       EVP_EncryptFinal_ex(cipher, out->body + length, &length) == 1 &&
                       EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, TAG,
                                           out->body + ND_AGE_FILE_KEY) == 1,
                   "ChaCha20-Poly1305");
    EVP_CIPHER_CTX_free(cipher);
    return 0;
}

int nd_age_unwrap(const struct nd_age_identity *identity, const struct nd_age_stanza *stanza,
                  uint8_t file_key[ND_AGE_FILE_KEY], struct nd_err *err)
{
    uint8_t shared[ND_AGE_KEY], key[32], tag[TAG];
    EVP_CIPHER_CTX *cipher;
    int length;
    bool opened;

    if (shared_secret(identity->secret, stanza->share, shared) < 0)
        return nd_err_set(err, "age_bad_header", "somebody made it so on purpose: don't trust it",
                          "an X25519 stanza's share is a point of low order");
    wrapping_key(shared, stanza->share, &identity->recipient, key);
    cipher = cipher_new(key, false);
    nd_zero(key, sizeof key);
    memcpy(tag, stanza->body + ND_AGE_FILE_KEY, TAG);
    opened = EVP_DecryptUpdate(cipher, file_key, &length, stanza->body, ND_AGE_FILE_KEY) == 1 &&
             EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_SET_TAG, TAG, tag) == 1 &&
             EVP_DecryptFinal_ex(cipher, file_key + length, &length) == 1;
    EVP_CIPHER_CTX_free(cipher);
    if (!opened)
        nd_zero(file_key, ND_AGE_FILE_KEY);
    return opened;
}
