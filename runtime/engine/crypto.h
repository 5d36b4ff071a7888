/*
 * crypto.h - random bytes, digests, comparison, identifiers and the text forms of bytes.
 *
 * OpenSSL does the cryptography. Without a source of randomness or with a library that can't hash
 * nothing can be trusted any more, so these functions abort instead of failing.
 */
#ifndef ND_ENGINE_CRYPTO_H
#define ND_ENGINE_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum { ND_SHA256_SIZE = 32, ND_UUID_TEXT = 37 };

/* Ends the process unless the library did what it always can: "nextdeploy: `what` doesn't work". */
void nd_crypto_must(bool worked, const char *what);
struct nd_crypto_bytes {
    const void *data; /* borrowed */
    size_t length;
};

void nd_crypto_random(void *out, size_t length);
void nd_crypto_sha256(const void *data, size_t length, uint8_t out[ND_SHA256_SIZE]);
void nd_crypto_hmac(const void *key, size_t key_length, const void *data, size_t length,
                    uint8_t out[ND_SHA256_SIZE]); /* HMAC-SHA256 */

/* scrypt (RFC 7914): a key from a password, in 128 * r * 2^log_n bytes and a time that grows with
 * p as well. It blocks for as long: for the thread pool. -1: bad_scrypt for parameters that aren't
 * the RFC's, or beyond 1 GiB. */
struct nd_scrypt {
    int log_n, r, p;
};
enum { ND_SCRYPT_SIZE = 32 };
int nd_crypto_scrypt(struct nd_scrypt cost, struct nd_crypto_bytes password,
                     struct nd_crypto_bytes salt, uint8_t out[ND_SCRYPT_SIZE], struct nd_err *err);
/* In a time that depends on the lengths only. */
bool nd_crypto_equal(const void *a, size_t a_length, const void *b, size_t b_length);

/* RFC 9562 version 7, lower case: later ones sort after earlier ones, to a quarter of a
 * microsecond; 62 bits are random. */
void nd_crypto_uuid(char out[ND_UUID_TEXT]);

/* Text forms (RFC 4648). The decoders append to `out` and return -1 for anything that the encoder
 * wouldn't have written (blanks, upper-case hex aside; stray bits; wrong padding). */
enum nd_base64 { ND_BASE64, ND_BASE64_RAW /* without padding */, ND_BASE64_URL /* likewise */ };
void nd_crypto_hex(const void *data, size_t length, struct nd_buf *out);
int nd_crypto_unhex(const char *text, size_t length, struct nd_buf *out);
void nd_crypto_base64(enum nd_base64 kind, const void *data, size_t length, struct nd_buf *out);
int nd_crypto_unbase64(enum nd_base64 kind, const char *text, size_t length, struct nd_buf *out);

#endif
