/*
 * sign.h - signatures: Ed25519 (RFC 8032), by OpenSSL.
 *
 * The private key is its seed of 32 random bytes; from it follow the public key and, for the same
 * text, always the same signature. With a library that can't sign nothing is worth going on for, so
 * these functions abort as those of crypto.h do.
 */
#ifndef ND_ENGINE_SIGN_H
#define ND_ENGINE_SIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ND_SIGN_KEY = 32, ND_SIGNATURE = 64 };

void nd_sign_public(const uint8_t seed[ND_SIGN_KEY], uint8_t public_key[ND_SIGN_KEY]);
void nd_sign(const uint8_t seed[ND_SIGN_KEY], const void *text, size_t length,
             uint8_t signature[ND_SIGNATURE]);
/* False for all that the key's owner didn't sign, and for 32 bytes that are no key. */
bool nd_sign_check(const uint8_t public_key[ND_SIGN_KEY], const void *text, size_t length,
                   const uint8_t signature[ND_SIGNATURE]);

#endif
