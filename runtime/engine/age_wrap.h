/*
 * age_wrap.h - the key of one age file, wrapped for one recipient.
 *
 * Source: age-encryption.org/v1, "The X25519 recipient type"; HKDF-SHA-256 is RFC 5869.
 */
#ifndef ND_ENGINE_AGE_WRAP_H
#define ND_ENGINE_AGE_WRAP_H

#include "engine/age_key.h"

enum { ND_AGE_FILE_KEY = 16, ND_AGE_WRAPPED = 32 };

/* What an X25519 stanza holds. */
struct nd_age_stanza {
    uint8_t share[ND_AGE_KEY];    /* the public key made for this stanza */
    uint8_t body[ND_AGE_WRAPPED]; /* the file key and its tag */
};

/* -1 with age_bad_recipient for a point of low order, which would wrap it for everybody. */
int nd_age_wrap(const struct nd_age_recipient *recipient, const uint8_t file_key[ND_AGE_FILE_KEY],
                struct nd_age_stanza *out, struct nd_err *err);

/* 1: it was for this identity; 0: it wasn't; -1 with age_bad_header: its share is of low order. */
int nd_age_unwrap(const struct nd_age_identity *identity, const struct nd_age_stanza *stanza,
                  uint8_t file_key[ND_AGE_FILE_KEY], struct nd_err *err);

/* HKDF-SHA-256 of `key` to 32 bytes. */
void nd_age_hkdf(const uint8_t *key, size_t key_length, const uint8_t *salt, size_t salt_length,
                 const char *info, uint8_t out[32]);

#endif
