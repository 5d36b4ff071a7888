#include "engine/age_stream.h"

#include <openssl/evp.h>
#include <string.h>

#include "base/mem.h"
#include "engine/crypto.h"

enum { CHUNK_NONCE = 12 };

static void must(bool worked)
{
    nd_crypto_must(worked, "ChaCha20-Poly1305");
}

void nd_age_stream_init(struct nd_age_stream *s, const uint8_t file_key[ND_AGE_FILE_KEY],
                        const uint8_t nonce[ND_AGE_NONCE], bool encrypt)
{
    uint8_t key[32];

    nd_age_hkdf(file_key, ND_AGE_FILE_KEY, nonce, ND_AGE_NONCE, "payload", key);
    s->chunk = 0;
    s->cipher = EVP_CIPHER_CTX_new();
    must(s->cipher &&
         EVP_CipherInit_ex(s->cipher, EVP_chacha20_poly1305(), NULL, key, NULL, encrypt) == 1);
    nd_zero(key, sizeof key);
}

void nd_age_stream_fini(struct nd_age_stream *s)
{
    EVP_CIPHER_CTX_free(s->cipher); /* which zeroes the key */
    s->cipher = NULL;
}

/* The number of the chunk in 11 bytes, and whether it is the last one. */
static void begin(struct nd_age_stream *s, bool last)
{
    uint8_t nonce[CHUNK_NONCE] = {0};

    for (int i = 0; i < 8; i++)
        nonce[10 - i] = (uint8_t)(s->chunk >> 8 * i);
    nonce[11] = last;
    must(EVP_CipherInit_ex(s->cipher, NULL, NULL, NULL, nonce, -1) == 1);
}

void nd_age_stream_seal(struct nd_age_stream *s, const void *plain, size_t length, bool last,
                        uint8_t *out)
{
    int written = 0;

    begin(s, last);
    must(length == 0 || EVP_EncryptUpdate(s->cipher, out, &written, plain, (int)length) == 1);
    must(EVP_EncryptFinal_ex(s->cipher, out + written, &written) == 1);
    must(EVP_CIPHER_CTX_ctrl(s->cipher, EVP_CTRL_AEAD_GET_TAG, ND_AGE_TAG, out + length) == 1);
    s->chunk++;
}

bool nd_age_stream_open(struct nd_age_stream *s, const void *sealed, size_t length, bool last,
                        uint8_t *out)
{
    size_t plain = length - ND_AGE_TAG;
    uint8_t tag[ND_AGE_TAG];
    int written = 0;

    begin(s, last);
    memcpy(tag, (const uint8_t *)sealed + plain, ND_AGE_TAG);
    must(EVP_CIPHER_CTX_ctrl(s->cipher, EVP_CTRL_AEAD_SET_TAG, ND_AGE_TAG, tag) == 1);
    must(plain == 0 || EVP_DecryptUpdate(s->cipher, out, &written, sealed, (int)plain) == 1);
    if (EVP_DecryptFinal_ex(s->cipher, out + written, &written) != 1) {
        nd_zero(out, plain);
        return false;
    }
    s->chunk++;
    return true;
}
