#include "engine/sign.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

static void must(bool worked)
{
    if (worked)
        return;
    fprintf(stderr, "nextdeploy: Ed25519 doesn't work\n");
    abort();
}

static EVP_PKEY *key_of(const uint8_t seed[ND_SIGN_KEY])
{
    return nd_checked(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, ND_SIGN_KEY));
}

void nd_sign_public(const uint8_t seed[ND_SIGN_KEY], uint8_t public_key[ND_SIGN_KEY])
{
    EVP_PKEY *key = key_of(seed);
    size_t length = ND_SIGN_KEY;

    must(EVP_PKEY_get_raw_public_key(key, public_key, &length) == 1 && length == ND_SIGN_KEY);
    EVP_PKEY_free(key);
}

void nd_sign(const uint8_t seed[ND_SIGN_KEY], const void *text, size_t length,
             uint8_t signature[ND_SIGNATURE])
{
    EVP_PKEY *key = key_of(seed);
    EVP_MD_CTX *ctx = nd_checked(EVP_MD_CTX_new());
    size_t written = ND_SIGNATURE;

    must(EVP_DigestSignInit(ctx, NULL, NULL, NULL, key) == 1 &&
         EVP_DigestSign(ctx, signature, &written, text, length) == 1 && written == ND_SIGNATURE);
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
}

bool nd_sign_check(const uint8_t public_key[ND_SIGN_KEY], const void *text, size_t length,
                   const uint8_t signature[ND_SIGNATURE])
{
    EVP_PKEY *key =
        nd_checked(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, ND_SIGN_KEY));
    EVP_MD_CTX *ctx = nd_checked(EVP_MD_CTX_new());
    bool good;

    must(EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1);
    good = EVP_DigestVerify(ctx, signature, ND_SIGNATURE, text, length) == 1;
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
    return good;
}
