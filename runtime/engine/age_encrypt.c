/*
 * age_encrypt.c - the encryptor of age.h: header, nonce, then chunk by chunk.
 *
 * A full chunk is held back until another byte comes, because only the last one is marked.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/age.h"
#include "engine/age_header.h"
#include "engine/age_stream.h"
#include "engine/crypto.h"

struct nd_age_encryptor {
    struct nd_age_stream stream;
    struct nd_age_armor *armor; /* owned; NULL without it */
    nd_age_sink *sink;
    void *arg; /* borrowed */
    struct nd_err failed;
    size_t have;                   /* of `plain` */
    uint8_t plain[ND_AGE_CHUNK];   /* what isn't a whole chunk yet, or may be the last one */
    uint8_t sealed[ND_AGE_SEALED]; /* for the sink */
};

static int give(struct nd_age_encryptor *e, const void *data, size_t length)
{
    return e->armor ? nd_age_armor_write(e->armor, data, length, &e->failed)
                    : e->sink(e->arg, data, length, &e->failed);
}

static int seal(struct nd_age_encryptor *e, const void *plain, size_t length, bool last)
{
    nd_age_stream_seal(&e->stream, plain, length, last, e->sealed);
    return give(e, e->sealed, length + ND_AGE_TAG);
}

static int answer(struct nd_age_encryptor *e, int rc, struct nd_err *err)
{
    if (rc < 0 && err)
        *err = e->failed;
    return rc;
}

struct nd_age_encryptor *nd_age_encrypt_new(const struct nd_age_recipient *recipients, size_t count,
                                            bool armor, nd_age_sink *sink, void *arg,
                                            struct nd_err *err)
{
    struct nd_age_encryptor *e = nd_alloc(sizeof *e);
    uint8_t file_key[ND_AGE_FILE_KEY], nonce[ND_AGE_NONCE];
    struct nd_buf header = {0};
    int rc;

    e->sink = sink;
    e->arg = arg;
    if (armor) {
        e->armor = nd_alloc(sizeof *e->armor);
        nd_age_armor_init(e->armor, sink, arg);
    }
    nd_crypto_random(file_key, sizeof file_key);
    nd_crypto_random(nonce, sizeof nonce);
    rc = nd_age_header_write(recipients, count, file_key, &header, &e->failed);
    if (rc == 0) {
        nd_age_stream_init(&e->stream, file_key, nonce, true);
        nd_buf_add(&header, nonce, sizeof nonce);
        rc = give(e, header.data, header.length);
    }
    nd_zero(file_key, sizeof file_key);
    nd_buf_fini(&header);
    if (answer(e, rc, err) == 0)
        return e;
    nd_age_encrypt_free(e);
    return NULL;
}

static int feed(struct nd_age_encryptor *e, const uint8_t *data, size_t length)
{
    while (length) {
        size_t take = ND_AGE_CHUNK - e->have;

        if (!e->have && length > ND_AGE_CHUNK) { /* a whole chunk, and not the last one */
            if (seal(e, data, ND_AGE_CHUNK, false) < 0)
                return -1;
        } else if (!take) {
            e->have = 0;
            if (seal(e, e->plain, ND_AGE_CHUNK, false) < 0)
                return -1;
        } else {
            take = take < length ? take : length;
            memcpy(e->plain + e->have, data, take);
            e->have += take;
        }
        data += take;
        length -= take;
    }
    return 0;
}

int nd_age_encrypt_feed(struct nd_age_encryptor *e, const void *data, size_t length,
                        struct nd_err *err)
{
    return answer(e, e->failed.code[0] ? -1 : feed(e, data, length), err);
}

int nd_age_encrypt_end(struct nd_age_encryptor *e, struct nd_err *err)
{
    int rc = e->failed.code[0] ? -1 : seal(e, e->plain, e->have, true);

    if (rc == 0 && e->armor)
        rc = nd_age_armor_write_end(e->armor, &e->failed);
    return answer(e, rc, err);
}

void nd_age_encrypt_free(struct nd_age_encryptor *e)
{
    if (!e)
        return;
    nd_age_stream_fini(&e->stream);
    free(e->armor);
    nd_zero(e->plain, sizeof e->plain);
    free(e);
}

int nd_age_encrypt(const struct nd_age_recipient *recipients, size_t count, bool armor,
                   const void *plain, size_t length, nd_age_sink *sink, void *arg,
                   struct nd_err *err)
{
    struct nd_age_encryptor *e = nd_age_encrypt_new(recipients, count, armor, sink, arg, err);
    int rc = e ? nd_age_encrypt_feed(e, plain, length, err) : -1;

    if (rc == 0)
        rc = nd_age_encrypt_end(e, err);
    nd_age_encrypt_free(e);
    return rc;
}
