#include "engine/seal.h"

#include <openssl/evp.h>
#include <stdbool.h>

#include "base/mem.h"
#include "engine/crypto.h"

enum { VERSION = 1 };

static void must(bool worked)
{
    nd_crypto_must(worked, "AES-256-GCM");
}

/* Ready for the text, with the purpose taken in. */
static EVP_CIPHER_CTX *begin(const uint8_t *key, const uint8_t *nonce, struct nd_seal_text purpose,
                             bool encrypt)
{
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    int length = 0;

    must(cipher && EVP_CipherInit_ex(cipher, EVP_aes_256_gcm(), NULL, key, nonce, encrypt) == 1);
    must(purpose.length == 0 ||
         EVP_CipherUpdate(cipher, NULL, &length, purpose.data, (int)purpose.length) == 1);
    return cipher;
}

void nd_seal(const uint8_t key[ND_SEAL_KEY], struct nd_seal_text purpose, struct nd_seal_text plain,
             struct nd_buf *out)
{
    uint8_t head[1 + ND_SEAL_NONCE] = {VERSION};
    EVP_CIPHER_CTX *cipher;
    uint8_t *text;
    int length = 0;

    nd_crypto_random(head + 1, ND_SEAL_NONCE);
    nd_buf_reserve(out, ND_SEAL_OVERHEAD + plain.length);
    nd_buf_add(out, head, sizeof head);
    text = (uint8_t *)out->data + out->length;
    cipher = begin(key, head + 1, purpose, true);
    must(plain.length == 0 ||
         EVP_EncryptUpdate(cipher, text, &length, plain.data, (int)plain.length) == 1);
    must(EVP_EncryptFinal_ex(cipher, text + length, &length) == 1);
    must(EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_GET_TAG, ND_SEAL_TAG, text + plain.length) == 1);
    EVP_CIPHER_CTX_free(cipher);
    out->length += plain.length + ND_SEAL_TAG;
    out->data[out->length] = '\0';
}

int nd_unseal_into(const uint8_t key[ND_SEAL_KEY], struct nd_seal_text purpose,
                   struct nd_seal_text seal, uint8_t *out)
{
    const uint8_t *bytes = seal.data;
    size_t text_length = seal.length - ND_SEAL_OVERHEAD;
    uint8_t tag[ND_SEAL_TAG];
    EVP_CIPHER_CTX *cipher;
    int length = 0;
    bool good;

    if (seal.length < ND_SEAL_OVERHEAD || bytes[0] != VERSION)
        return -1;
    bytes += 1 + ND_SEAL_NONCE;
    for (int i = 0; i < ND_SEAL_TAG; i++)
        tag[i] = bytes[text_length + (size_t)i];
    cipher = begin(key, bytes - ND_SEAL_NONCE, purpose, false);
    must(text_length == 0 || EVP_DecryptUpdate(cipher, out, &length, bytes, (int)text_length) == 1);
    must(EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_SET_TAG, ND_SEAL_TAG, tag) == 1);
    good = EVP_DecryptFinal_ex(cipher, out + length, &length) == 1;
    EVP_CIPHER_CTX_free(cipher);
    if (!good)
        nd_zero(out, text_length);
    return good ? 0 : -1;
}

int nd_unseal(const uint8_t key[ND_SEAL_KEY], struct nd_seal_text purpose, struct nd_seal_text seal,
              struct nd_buf *out)
{
    size_t length = seal.length - ND_SEAL_OVERHEAD;

    if (seal.length < ND_SEAL_OVERHEAD)
        return -1;
    nd_buf_reserve(out, length);
    if (nd_unseal_into(key, purpose, seal, (uint8_t *)out->data + out->length) < 0)
        return -1;
    out->length += length;
    out->data[out->length] = '\0';
    return 0;
}
