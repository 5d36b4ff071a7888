#include "engine/age_key.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>

#include "base/mem.h"
#include "engine/crypto.h"

enum {
    VALUES = 52, /* groups of five bits for 32 bytes */
    CHECKSUM = 6,
    CODED = VALUES + CHECKSUM,
};

static const char identity_prefix[] = "AGE-SECRET-KEY-";
static const char recipient_prefix[] = "age";
static const char letters[] = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"; /* BIP 173 */

/* ---- Bech32 ---- */

static uint32_t checksum_step(uint32_t sum, uint8_t value)
{
    static const uint32_t generator[] = {0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd,
                                         0x2a1462b3};
    uint32_t top = sum >> 25;

    sum = (sum & 0x1ffffff) << 5 ^ value;
    for (int i = 0; i < 5; i++)
        if (top >> i & 1)
            sum ^= generator[i];
    return sum;
}

/* Over the prefix, in small letters, and `count` values. */
static uint32_t checksum(const char *prefix, const uint8_t *values, size_t count)
{
    uint32_t sum = 1;

    for (const char *p = prefix; *p; p++)
        sum = checksum_step(sum, (uint8_t)(tolower((unsigned char)*p) >> 5));
    sum = checksum_step(sum, 0);
    for (const char *p = prefix; *p; p++)
        sum = checksum_step(sum, (uint8_t)(tolower((unsigned char)*p) & 31));
    for (size_t i = 0; i < count; i++)
        sum = checksum_step(sum, values[i]);
    return sum;
}

/* Writes prefix, "1" and the coded key, in the case of the prefix, and a NUL. */
static void encode(const char *prefix, const uint8_t key[ND_AGE_KEY], char *out)
{
    bool capitals = isupper((unsigned char)*prefix);
    uint8_t values[CODED] = {0};
    uint32_t sum;

    for (size_t bit = 0; bit < ND_AGE_KEY * 8; bit++)
        values[bit / 5] |= (uint8_t)((key[bit / 8] >> (7 - bit % 8) & 1) << (4 - bit % 5));
    sum = checksum(prefix, values, CODED) ^ 1;
    for (int i = 0; i < CHECKSUM; i++)
        values[VALUES + i] = sum >> 5 * (5 - i) & 31;
    out = stpcpy(out, prefix);
    *out++ = '1';
    for (int i = 0; i < CODED; i++)
        *out++ = (char)(capitals ? toupper((unsigned char)letters[values[i]]) : letters[values[i]]);
    *out = '\0';
    nd_zero(values, sizeof values);
}

/* -1 for all that `encode` wouldn't have written. */
static int decode(const char *prefix, const char *text, size_t length, uint8_t key[ND_AGE_KEY])
{
    size_t head = strlen(prefix);
    uint8_t values[CODED];
    char again[ND_AGE_IDENTITY_TEXT];
    int rc = -1;

    if (length != head + 1 + CODED || memcmp(text, prefix, head) != 0 || text[head] != '1')
        return -1;
    for (int i = 0; i < CODED; i++) {
        char c = text[head + 1 + (size_t)i];
        const char *found = c ? strchr(letters, tolower((unsigned char)c)) : NULL;

        if (!found)
            goto out;
        values[i] = (uint8_t)(found - letters);
    }
    if (checksum(prefix, values, CODED) != 1)
        goto out;
    memset(key, 0, ND_AGE_KEY);
    for (size_t bit = 0; bit < ND_AGE_KEY * 8; bit++)
        key[bit / 8] |= (uint8_t)((values[bit / 5] >> (4 - bit % 5) & 1) << (7 - bit % 8));
    encode(prefix, key, again); /* mixed case, stray bits at the end */
    rc = nd_crypto_equal(again, length, text, length) ? 0 : -1;
out:
    nd_zero(values, sizeof values);
    nd_zero(again, sizeof again);
    return rc;
}

/* ---- keys ---- */

static void derive_recipient(struct nd_age_identity *identity)
{
    EVP_PKEY *pair =
        EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, identity->secret, ND_AGE_KEY);
    size_t length = ND_AGE_KEY;

    nd_crypto_must(pair && EVP_PKEY_get_raw_public_key(pair, identity->recipient.key, &length) == 1,
                   "X25519");
    EVP_PKEY_free(pair);
}

void nd_age_keygen(struct nd_age_identity *out)
{
    nd_crypto_random(out->secret, ND_AGE_KEY);
    derive_recipient(out);
}

void nd_age_identity_of(const uint8_t secret[ND_AGE_KEY], struct nd_age_identity *out)
{
    memcpy(out->secret, secret, ND_AGE_KEY);
    derive_recipient(out);
}

static bool begins(const char *text, size_t length, const char *with)
{
    size_t n = strlen(with);

    return length >= n && strncasecmp(text, with, n) == 0;
}

int nd_age_identity_parse(const char *text, size_t length, struct nd_age_identity *out,
                          struct nd_err *err)
{
    static const char x25519_only[] = "make an X25519 one: ndctl crypt keygen";

    if (decode(identity_prefix, text, length, out->secret) == 0) {
        derive_recipient(out);
        return 0;
    }
    nd_zero(out, sizeof *out);
    if (begins(text, length, "AGE-SECRET-KEY-PQ-"))
        return nd_err_set(err, "age_unsupported", x25519_only,
                          "a post-quantum identity can't be used here");
    if (begins(text, length, "AGE-PLUGIN-"))
        return nd_err_set(err, "age_unsupported", x25519_only,
                          "an identity of an age plugin can't be used here");
    if (begins(text, length, "-----BEGIN "))
        return nd_err_set(err, "age_unsupported", x25519_only,
                          "an SSH key or an encrypted identity can't be used here");
    if (begins(text, length, "age1"))
        return nd_err_set(err, "age_bad_identity", "the identity begins with AGE-SECRET-KEY-1",
                          "this is a recipient, where an identity is needed");
    return nd_err_set(err, "age_bad_identity",
                      "it is 74 characters that begin with AGE-SECRET-KEY-1, all in capitals",
                      "this isn't an age identity, or it has a mistake in it");
}

int nd_age_recipient_parse(const char *text, size_t length, struct nd_age_recipient *out,
                           struct nd_err *err)
{
    static const char x25519_only[] = "use an X25519 recipient: age1 and 58 characters";
    int shown = length > 80 ? 80 : (int)length;

    if (decode(recipient_prefix, text, length, out->key) == 0)
        return 0;
    if (begins(text, length, "AGE-SECRET-KEY-"))
        return nd_err_set(err, "age_bad_recipient", "the recipient begins with age1",
                          "this is an identity, which is secret, where a recipient is needed");
    if (begins(text, length, "age1pq1") || begins(text, length, "age1tag"))
        return nd_err_set(err, "age_unsupported", x25519_only,
                          "%.*s is a recipient of a kind that can't be used here", shown, text);
    if (begins(text, length, "ssh-"))
        return nd_err_set(err, "age_unsupported", x25519_only,
                          "an SSH key can't be a recipient here");
    return nd_err_set(err, "age_bad_recipient", "it is age1 and 58 characters, all small",
                      "'%.*s' isn't an age recipient, or it has a mistake in it", shown, text);
}

void nd_age_identity_text(const struct nd_age_identity *identity, char out[ND_AGE_IDENTITY_TEXT])
{
    encode(identity_prefix, identity->secret, out);
}

void nd_age_recipient_text(const struct nd_age_recipient *recipient,
                           char out[ND_AGE_RECIPIENT_TEXT])
{
    encode(recipient_prefix, recipient->key, out);
}
