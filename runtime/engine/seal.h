/*
 * seal.h - authenticated encryption of what is stored: small secrets under the agent's own key.
 *
 * A seal is a version byte (1), a random nonce (12 bytes), the ciphertext of AES-256-GCM and its
 * tag (16 bytes). `purpose` is bound to it without being part of it: what was sealed for one
 * purpose ("registry ghcr.io") opens for no other, so that stored seals can't be exchanged. Nonces
 * are random: one key is good for 2^32 seals (NIST SP 800-38D, 8.3).
 */
#ifndef ND_ENGINE_SEAL_H
#define ND_ENGINE_SEAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum { ND_SEAL_KEY = 32, ND_SEAL_NONCE = 12, ND_SEAL_TAG = 16 };
enum { ND_SEAL_OVERHEAD = 1 + ND_SEAL_NONCE + ND_SEAL_TAG };

struct nd_seal_text {
    const void *data; /* borrowed */
    size_t length;    /* bytes, below 2^31 */
};

/* Appends the seal to `out`. */
void nd_seal(const uint8_t key[ND_SEAL_KEY], struct nd_seal_text purpose, struct nd_seal_text plain,
             struct nd_buf *out);

/* Appends what was sealed, or returns -1, having appended nothing, for all that this key didn't
 * seal for this purpose. What is appended is the caller's to zero. */
int nd_unseal(const uint8_t key[ND_SEAL_KEY], struct nd_seal_text purpose, struct nd_seal_text seal,
              struct nd_buf *out);

/* The same into memory of the caller's, which has room for seal.length - ND_SEAL_OVERHEAD bytes:
 * after a -1 they are zeroes. */
int nd_unseal_into(const uint8_t key[ND_SEAL_KEY], struct nd_seal_text purpose,
                   struct nd_seal_text seal, uint8_t *out);

#endif
