/*
 * age_decrypt.c - the decryptor of age.h: finds out whether there is armor, reads the header, then
 * chunk by chunk.
 *
 * A full chunk is held back until another byte comes: only then is it known not to be the last one.
 */
#include <stdlib.h>
#include <string.h>

#include "base/locked.h"
#include "base/mem.h"
#include "engine/age.h"
#include "engine/age_header.h"
#include "engine/age_stream.h"

struct nd_age_decryptor {
    struct nd_age_identity *identities; /* owned; locked */
    size_t count;                       /* of them */
    nd_age_sink *sink;
    void *arg; /* borrowed */
    struct nd_err failed;
    bool begun;                    /* a byte has come */
    struct nd_age_armor *armor;    /* owned; NULL where there is none */
    struct nd_age_header header;   /* until the stream begins */
    struct nd_age_stream stream;   /* its cipher is NULL until then */
    uint8_t *plain;                /* owned; locked; a chunk, on its way to the sink */
    size_t have;                   /* of `sealed` */
    uint8_t sealed[ND_AGE_SEALED]; /* the nonce, then the chunk that isn't whole, or may be last */
};

static const char damaged[] = "get it again, or have it encrypted anew";

struct nd_age_decryptor *nd_age_decrypt_new(const struct nd_age_identity *identities, size_t count,
                                            nd_age_sink *sink, void *arg)
{
    struct nd_age_decryptor *d = nd_alloc(sizeof *d);
    size_t size = count * sizeof *identities;

    d->count = count;
    d->plain = nd_locked_new(ND_AGE_CHUNK + size);
    d->identities = (struct nd_age_identity *)(d->plain + ND_AGE_CHUNK);
    if (size)
        memcpy(d->identities, identities, size);
    d->sink = sink;
    d->arg = arg;
    return d;
}

/* ---- the payload ---- */

static int give(struct nd_age_decryptor *d, size_t length)
{
    int rc = length ? d->sink(d->arg, d->plain, length, &d->failed) : 0;

    nd_zero(d->plain, length);
    return rc;
}

static bool open_chunk(struct nd_age_decryptor *d, const uint8_t *sealed, size_t length, bool last)
{
    return nd_age_stream_open(&d->stream, sealed, length, last, d->plain);
}

static int tampered(struct nd_age_decryptor *d, const char *what)
{
    return nd_err_set(&d->failed, "age_tampered", damaged,
                      "the encrypted data isn't as it was written: chunk %llu %s",
                      (unsigned long long)d->stream.chunk, what);
}

/* A chunk that more bytes follow. */
static int open_middle(struct nd_age_decryptor *d, const uint8_t *sealed)
{
    if (open_chunk(d, sealed, ND_AGE_SEALED, false))
        return give(d, ND_AGE_CHUNK);
    if (!open_chunk(d, sealed, ND_AGE_SEALED, true))
        return tampered(d, "fails its authentication");
    if (give(d, ND_AGE_CHUNK) < 0)
        return -1;
    return nd_err_set(&d->failed, "age_tampered", damaged,
                      "something follows the end of the encrypted data");
}

static int feed_payload(struct nd_age_decryptor *d, const uint8_t *data, size_t length)
{
    while (length) {
        size_t take = ND_AGE_SEALED - d->have;

        if (!d->have && length > ND_AGE_SEALED) {
            if (open_middle(d, data) < 0)
                return -1;
        } else if (!take) {
            d->have = 0;
            if (open_middle(d, d->sealed) < 0)
                return -1;
        } else {
            take = take < length ? take : length;
            memcpy(d->sealed + d->have, data, take);
            d->have += take;
        }
        data += take;
        length -= take;
    }
    return 0;
}

static int end_payload(struct nd_age_decryptor *d)
{
    if (d->have < ND_AGE_TAG)
        return nd_err_set(&d->failed, "age_truncated", damaged,
                          "it ends in the middle of its encrypted data");
    if (open_chunk(d, d->sealed, d->have, true)) {
        if (d->have == ND_AGE_TAG && d->stream.chunk > 1)
            return tampered(d, "is empty");
        return give(d, d->have - ND_AGE_TAG);
    }
    if (d->have < ND_AGE_SEALED)
        return tampered(d, "fails its authentication: it was changed, or cut off");
    if (!open_chunk(d, d->sealed, ND_AGE_SEALED, false))
        return tampered(d, "fails its authentication");
    if (give(d, ND_AGE_CHUNK) < 0)
        return -1;
    return nd_err_set(&d->failed, "age_truncated", damaged,
                      "its end is missing: there is more to come after chunk %llu",
                      (unsigned long long)d->stream.chunk);
}

/* ---- what comes before it ---- */

/* Takes the nonce; once that is whole, the stream begins. */
static int feed_nonce(struct nd_age_decryptor *d, const uint8_t *data, size_t length, size_t *used)
{
    uint8_t file_key[ND_AGE_FILE_KEY];

    *used = ND_AGE_NONCE - d->have < length ? ND_AGE_NONCE - d->have : length;
    memcpy(d->sealed + d->have, data, *used);
    d->have += *used;
    if (d->have < ND_AGE_NONCE)
        return 0;
    if (nd_age_header_open(&d->header, d->identities, d->count, file_key, &d->failed) < 0)
        return -1;
    nd_age_stream_init(&d->stream, file_key, d->sealed, false);
    nd_zero(file_key, sizeof file_key);
    nd_age_header_fini(&d->header);
    d->have = 0;
    return 0;
}

static int feed_binary(void *arg, const void *data, size_t length, struct nd_err *err)
{
    struct nd_age_decryptor *d = arg;
    const uint8_t *bytes = data;
    size_t used = 0;

    (void)err; /* it is d->failed */
    if (!d->stream.cipher && d->header.next != ND_AGE_WHOLE) {
        if (nd_age_header_feed(&d->header, data, length, &used, &d->failed) < 0)
            return -1;
        bytes += used;
        length -= used;
    }
    if (!d->stream.cipher && length) {
        if (feed_nonce(d, bytes, length, &used) < 0)
            return -1;
        bytes += used;
        length -= used;
    }
    return feed_payload(d, bytes, length);
}

static int feed(struct nd_age_decryptor *d, const char *data, size_t length)
{
    if (length && !d->begun) {
        d->begun = true;
        if (memchr("- \t\r\n", *data, 5)) { /* as no binary file begins */
            d->armor = nd_alloc(sizeof *d->armor);
            nd_age_armor_init(d->armor, feed_binary, d);
        }
    }
    return d->armor ? nd_age_armor_read(d->armor, data, length, &d->failed)
                    : feed_binary(d, data, length, &d->failed);
}

static int end(struct nd_age_decryptor *d)
{
    if (d->armor && nd_age_armor_read_end(d->armor, &d->failed) < 0)
        return -1;
    if (d->stream.cipher)
        return end_payload(d);
    if (d->header.next != ND_AGE_WHOLE)
        return nd_age_header_cut(&d->header, &d->failed);
    return nd_err_set(&d->failed, "age_truncated", damaged, "it ends after its age header");
}

static int answer(struct nd_age_decryptor *d, int rc, struct nd_err *err)
{
    if (rc < 0 && err)
        *err = d->failed;
    return rc;
}

int nd_age_decrypt_feed(struct nd_age_decryptor *d, const void *data, size_t length,
                        struct nd_err *err)
{
    return answer(d, d->failed.code[0] ? -1 : feed(d, data, length), err);
}

int nd_age_decrypt_end(struct nd_age_decryptor *d, struct nd_err *err)
{
    return answer(d, d->failed.code[0] ? -1 : end(d), err);
}

void nd_age_decrypt_free(struct nd_age_decryptor *d)
{
    if (!d)
        return;
    nd_age_header_fini(&d->header);
    nd_age_stream_fini(&d->stream);
    free(d->armor);
    nd_locked_free(d->plain, ND_AGE_CHUNK + d->count * sizeof *d->identities);
    free(d);
}

int nd_age_decrypt(const struct nd_age_identity *identities, size_t count, const void *text,
                   size_t length, nd_age_sink *sink, void *arg, struct nd_err *err)
{
    struct nd_age_decryptor *d = nd_age_decrypt_new(identities, count, sink, arg);
    int rc = nd_age_decrypt_feed(d, text, length, err);

    if (rc == 0)
        rc = nd_age_decrypt_end(d, err);
    nd_age_decrypt_free(d);
    return rc;
}
