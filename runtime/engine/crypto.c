#include "engine/crypto.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

enum { SCRYPT_MOST = 1 << 30 };

static const char hex_digits[] = "0123456789abcdef";
static const char *const alphabets[] = {
    [ND_BASE64] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    [ND_BASE64_RAW] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    [ND_BASE64_URL] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
};

void nd_crypto_must(bool worked, const char *what)
{
    if (worked)
        return;
    fprintf(stderr, "nextdeploy: %s doesn't work\n", what);
    abort();
}

void nd_crypto_random(void *out, size_t length)
{
    nd_crypto_must(length == 0 || RAND_priv_bytes(out, (int)length) == 1, "the random generator");
}

void nd_crypto_sha256(const void *data, size_t length, uint8_t out[ND_SHA256_SIZE])
{
    /* Of the thread, for its life: finding an implementation takes longer than a short digest. */
    static _Thread_local EVP_MD_CTX *ctx;

    if (!ctx) {
        ctx = EVP_MD_CTX_new();
        nd_crypto_must(ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1, "SHA-256");
    }
    nd_crypto_must(EVP_DigestInit_ex(ctx, NULL, NULL) == 1 &&
                       EVP_DigestUpdate(ctx, data, length) == 1 &&
                       EVP_DigestFinal_ex(ctx, out, NULL) == 1,
                   "SHA-256");
}

void nd_crypto_hmac(const void *key, size_t key_length, const void *data, size_t length,
                    uint8_t out[ND_SHA256_SIZE])
{
    unsigned written = 0;

    /* OpenSSL takes a NULL key for "the one from before". */
    nd_crypto_must(
        HMAC(EVP_sha256(), key ? key : "", (int)key_length, data, length, out, &written) &&
            written == ND_SHA256_SIZE,
        "HMAC-SHA-256");
}

int nd_crypto_scrypt(struct nd_scrypt cost, struct nd_crypto_bytes password,
                     struct nd_crypto_bytes salt, uint8_t out[ND_SCRYPT_SIZE], struct nd_err *err)
{
    bool fits = cost.log_n > 0 && cost.log_n <= 20 && cost.r > 0 && cost.r <= 32 && cost.p > 0 &&
                cost.p <= 16;

    /* OpenSSL takes a NULL password for "none given", which is another thing than an empty one. */
    if (fits && EVP_PBE_scrypt(password.data ? password.data : "", password.length, salt.data,
                               salt.length, UINT64_C(1) << cost.log_n, (uint64_t)cost.r,
                               (uint64_t)cost.p, SCRYPT_MOST, out, ND_SCRYPT_SIZE) == 1)
        return 0;
    nd_err_set(err, "bad_scrypt", NULL, "scrypt with ln=%d, r=%d, p=%d can't be done", cost.log_n,
               cost.r, cost.p);
    return -1;
}

bool nd_crypto_equal(const void *a, size_t a_length, const void *b, size_t b_length)
{
    return a_length == b_length && CRYPTO_memcmp(a, b, a_length) == 0;
}

/* Milliseconds of the wall clock, and the nanoseconds within the same one. */
static uint64_t wall_with_fraction(uint32_t *nanos)
{
    struct timespec t;
    int64_t before;

    do {
        before = nd_clock_wall();
        clock_gettime(CLOCK_REALTIME, &t);
    } while (nd_clock_wall() != before);
    *nanos = (uint32_t)(t.tv_nsec % 1000000);
    return (uint64_t)before;
}

void nd_crypto_uuid(char out[ND_UUID_TEXT])
{
    uint32_t nanos;
    uint64_t ms = wall_with_fraction(&nanos);
    uint32_t fraction = (uint32_t)((uint64_t)nanos * 4096 / 1000000); /* RFC 9562 §6.2, method 3 */
    uint8_t id[16];
    int at = 0;

    nd_crypto_random(id, sizeof id);
    for (int i = 0; i < 6; i++)
        id[i] = (uint8_t)(ms >> (40 - 8 * i));
    id[6] = (uint8_t)(0x70 | fraction >> 8);
    id[7] = (uint8_t)fraction;
    id[8] = (uint8_t)(0x80 | (id[8] & 0x3f));
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            out[at++] = '-';
        out[at++] = hex_digits[id[i] >> 4];
        out[at++] = hex_digits[id[i] & 15];
    }
    out[at] = '\0';
}

void nd_crypto_hex(const void *data, size_t length, struct nd_buf *out)
{
    const uint8_t *bytes = data;

    nd_buf_reserve(out, length * 2);
    for (size_t i = 0; i < length; i++) {
        char pair[2] = {hex_digits[bytes[i] >> 4], hex_digits[bytes[i] & 15]};

        nd_buf_add(out, pair, 2);
    }
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int nd_crypto_unhex(const char *text, size_t length, struct nd_buf *out)
{
    if (length % 2)
        return -1;
    for (size_t i = 0; i < length; i += 2) {
        int high = hex_value(text[i]), low = hex_value(text[i + 1]);
        uint8_t byte = (uint8_t)((unsigned)high << 4 | (unsigned)low);

        if (high < 0 || low < 0)
            return -1;
        nd_buf_add(out, &byte, 1);
    }
    return 0;
}

void nd_crypto_base64(enum nd_base64 kind, const void *data, size_t length, struct nd_buf *out)
{
    const uint8_t *in = data;
    const char *alphabet = alphabets[kind];

    nd_buf_reserve(out, (length + 2) / 3 * 4);
    for (size_t i = 0; i < length; i += 3) {
        size_t have = length - i < 3 ? length - i : 3;
        uint32_t bits = (uint32_t)in[i] << 16 | (uint32_t)(have > 1 ? in[i + 1] : 0) << 8 |
                        (have > 2 ? in[i + 2] : 0);
        char four[4] = {alphabet[bits >> 18], alphabet[bits >> 12 & 63], alphabet[bits >> 6 & 63],
                        alphabet[bits & 63]};

        if (have < 3 && kind == ND_BASE64)
            memset(four + have + 1, '=', 3 - have);
        nd_buf_add(out, four, kind == ND_BASE64 ? 4 : have + 1);
    }
}

static int base64_value(const char *alphabet, char c)
{
    const char *found = c ? strchr(alphabet, c) : NULL;

    return found ? (int)(found - alphabet) : -1;
}

int nd_crypto_unbase64(enum nd_base64 kind, const char *text, size_t length, struct nd_buf *out)
{
    if (kind == ND_BASE64) {
        if (length % 4)
            return -1;
        for (int i = 0; i < 2 && length && text[length - 1] == '='; i++)
            length--;
    }
    if (length % 4 == 1)
        return -1;
    for (size_t i = 0; i < length; i += 4) {
        size_t have = length - i < 4 ? length - i : 4;
        uint32_t bits = 0;
        uint8_t bytes[3];

        for (size_t k = 0; k < 4; k++) {
            int value = k < have ? base64_value(alphabets[kind], text[i + k]) : 0;

            if (value < 0)
                return -1;
            bits = bits << 6 | (uint32_t)value;
        }
        if (bits & (0xffffffu >> 8 * (have - 1) & 0xffffffu))
            return -1; /* bits that belong to no byte */
        bytes[0] = (uint8_t)(bits >> 16);
        bytes[1] = (uint8_t)(bits >> 8);
        bytes[2] = (uint8_t)bits;
        nd_buf_add(out, bytes, have - 1);
    }
    return 0;
}
