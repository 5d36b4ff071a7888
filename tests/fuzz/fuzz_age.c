/*
 * fuzz_age.c - whatever comes as an age file, it is decrypted or refused with a reason; and however
 * the bytes are divided, the same plaintext comes out and the same code.
 *
 * The first byte says in pieces of how many bytes the rest comes. What is in corpus/age is for the
 * identity below, so that the payload is reached too.
 */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "engine/age.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char key[] =
    "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZ9K4CN";

static int take(void *arg, const void *data, size_t length, struct nd_err *err)
{
    (void)err;
    nd_buf_add(arg, data, length);
    return 0;
}

static void decrypt(const struct nd_age_identity *identity, const uint8_t *data, size_t size,
                    size_t piece, struct nd_buf *out, struct nd_err *err)
{
    struct nd_age_decryptor *d = nd_age_decrypt_new(identity, 1, take, out);
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < size; at += piece)
        rc = nd_age_decrypt_feed(d, data + at, size - at < piece ? size - at : piece, err);
    if (rc == 0)
        rc = nd_age_decrypt_end(d, err);
    if ((rc < 0) != (err->code[0] != '\0') || (rc < 0 && !err->message[0]))
        abort();
    if (rc < 0 && nd_age_decrypt_feed(d, "x", 1, NULL) == 0)
        abort(); /* what failed goes on failing */
    nd_age_decrypt_free(d);
}

static void read_keys(const char *text, size_t size)
{
    struct nd_age_recipient recipient;
    struct nd_age_identity identity;
    char again[ND_AGE_RECIPIENT_TEXT];
    struct nd_err err = {0};

    nd_age_identity_parse(text, size, &identity, &err);
    if (nd_age_recipient_parse(text, size, &recipient, &err) < 0)
        return;
    nd_age_recipient_text(&recipient, again);
    if (strlen(again) != size || memcmp(again, text, size) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct nd_age_identity identity;
    static bool ready;
    struct nd_buf whole = {0}, divided = {0};
    struct nd_err one = {0}, other = {0};

    if (!ready && nd_age_identity_parse(key, sizeof key - 1, &identity, NULL) < 0)
        abort();
    ready = true;
    if (!size)
        return 0;
    read_keys((const char *)data + 1, size - 1);
    decrypt(&identity, data + 1, size - 1, size, &whole, &one);
    decrypt(&identity, data + 1, size - 1, data[0] + 1u, &divided, &other);
    if (whole.length != divided.length || strcmp(one.code, other.code) != 0 ||
        (whole.length && memcmp(whole.data, divided.data, whole.length) != 0))
        abort();
    nd_buf_fini(&whole);
    nd_buf_fini(&divided);
    return 0;
}
