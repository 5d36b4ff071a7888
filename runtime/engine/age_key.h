/*
 * age_key.h - age's X25519 identities (secret) and recipients (public), and their texts.
 *
 * A text is Bech32 (BIP 173, the checksum of 1, any length) over the 32 bytes of the key:
 * AGE-SECRET-KEY-1... in capitals, age1... in small letters, nothing else. Texts of other kinds of
 * keys (SSH, plugins, post-quantum) are refused as age_unsupported. No error repeats an identity.
 * Source: age-encryption.org/v1, "The X25519 recipient type".
 */
#ifndef ND_ENGINE_AGE_KEY_H
#define ND_ENGINE_AGE_KEY_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    ND_AGE_KEY = 32,            /* bytes */
    ND_AGE_RECIPIENT_TEXT = 63, /* with the NUL */
    ND_AGE_IDENTITY_TEXT = 75,
};

struct nd_age_recipient {
    uint8_t key[ND_AGE_KEY]; /* a point of Curve25519 (RFC 7748) */
};

struct nd_age_identity {
    uint8_t secret[ND_AGE_KEY];        /* the owner zeroes it */
    struct nd_age_recipient recipient; /* what belongs to it */
};

void nd_age_keygen(struct nd_age_identity *out);
void nd_age_identity_of(const uint8_t secret[ND_AGE_KEY], struct nd_age_identity *out);

/* -1 with age_bad_identity, age_bad_recipient or age_unsupported. */
int nd_age_identity_parse(const char *text, size_t length, struct nd_age_identity *out,
                          struct nd_err *err);
int nd_age_recipient_parse(const char *text, size_t length, struct nd_age_recipient *out,
                           struct nd_err *err);

void nd_age_identity_text(const struct nd_age_identity *identity, char out[ND_AGE_IDENTITY_TEXT]);
void nd_age_recipient_text(const struct nd_age_recipient *recipient,
                           char out[ND_AGE_RECIPIENT_TEXT]);

#endif
