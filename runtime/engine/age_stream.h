/*
 * age_stream.h - the payload of an age file: chunks of 64 KiB, each authenticated by itself, in
 * order, the last one marked (the STREAM construction over ChaCha20-Poly1305).
 *
 * A stream seals or opens one chunk after the other; who uses it cuts the chunks, and knows which
 * one is last. Source: age-encryption.org/v1, "Payload".
 */
#ifndef ND_ENGINE_AGE_STREAM_H
#define ND_ENGINE_AGE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/age_wrap.h"

enum {
    ND_AGE_CHUNK = 64 * 1024, /* bytes of plaintext */
    ND_AGE_TAG = 16,
    ND_AGE_SEALED = ND_AGE_CHUNK + ND_AGE_TAG,
    ND_AGE_NONCE = 16, /* in front of the first chunk */
};

struct nd_age_stream {
    struct evp_cipher_ctx_st *cipher; /* owned; has the payload's key */
    uint64_t chunk;                   /* the number of the next one */
};

void nd_age_stream_init(struct nd_age_stream *s, const uint8_t file_key[ND_AGE_FILE_KEY],
                        const uint8_t nonce[ND_AGE_NONCE], bool encrypt);
void nd_age_stream_fini(struct nd_age_stream *s); /* also of a zeroed one */

/* Writes length + ND_AGE_TAG bytes. */
void nd_age_stream_seal(struct nd_age_stream *s, const void *plain, size_t length, bool last,
                        uint8_t *out);

/* Writes length - ND_AGE_TAG bytes (length is at least that tag), and goes on to the next chunk.
 * False, with these bytes zeroed and the same chunk still to come, where it isn't authentic. */
bool nd_age_stream_open(struct nd_age_stream *s, const void *sealed, size_t length, bool last,
                        uint8_t *out);

#endif
