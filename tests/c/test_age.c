/*
 * test_age.c - the age format as a stream: the same however the bytes are divided, in the same
 * memory however many there are, and nothing goes on once the sink or a chunk has failed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "engine/age.h"
#include "engine/age_stream.h"

struct sink {
    struct nd_buf got;
    size_t most; /* bytes after which it fails; 0: never */
};

static int take(void *arg, const void *data, size_t length, struct nd_err *err)
{
    struct sink *s = arg;

    if (s->most && s->got.length + length > s->most)
        return nd_err_set(err, "full", NULL, "no room");
    nd_buf_add(&s->got, data, length);
    return 0;
}

static struct nd_age_identity identity;

static int keygen(void **state)
{
    (void)state;
    nd_age_keygen(&identity);
    return 0;
}

static struct nd_buf noise(size_t length)
{
    struct nd_buf b = {0};
    uint32_t n = 1;

    nd_buf_reserve(&b, length);
    for (size_t i = 0; i < length; i++) {
        n = n * 1664525 + 1013904223;
        b.data[i] = (char)(n >> 24);
    }
    b.length = length;
    return b;
}

static int encrypt_in(const struct nd_buf *plain, size_t piece, bool armor, struct sink *s,
                      struct nd_err *err)
{
    struct nd_age_encryptor *e = nd_age_encrypt_new(&identity.recipient, 1, armor, take, s, err);
    int rc = e ? 0 : -1;

    for (size_t at = 0; rc == 0 && at < plain->length; at += piece)
        rc = nd_age_encrypt_feed(e, plain->data + at,
                                 plain->length - at < piece ? plain->length - at : piece, err);
    if (rc == 0)
        rc = nd_age_encrypt_end(e, err);
    nd_age_encrypt_free(e);
    return rc;
}

static int decrypt_in(const struct nd_buf *text, size_t piece, struct sink *s, struct nd_err *err)
{
    struct nd_age_decryptor *d = nd_age_decrypt_new(&identity, 1, take, s);
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < text->length; at += piece)
        rc = nd_age_decrypt_feed(d, text->data + at,
                                 text->length - at < piece ? text->length - at : piece, err);
    if (rc == 0)
        rc = nd_age_decrypt_end(d, err);
    if (rc < 0) { /* and so it stays */
        struct nd_err again;

        assert_int_equal(nd_age_decrypt_feed(d, "x", 1, &again), -1);
        assert_string_equal(again.message, err->message);
        assert_int_equal(nd_age_decrypt_end(d, &again), -1);
    }
    nd_age_decrypt_free(d);
    return rc;
}

static void divides(void **state)
{
    static const size_t lengths[] = {0,
                                     1,
                                     ND_AGE_CHUNK - 1,
                                     ND_AGE_CHUNK,
                                     ND_AGE_CHUNK + 1,
                                     2 * ND_AGE_CHUNK,
                                     3 * ND_AGE_CHUNK + 7};
    static const size_t pieces[] = {1, 7, 48, ND_AGE_CHUNK, ND_AGE_SEALED, 1 << 20};

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths * 2; i++) {
        struct nd_buf plain = noise(lengths[i / 2]);

        for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
            struct sink text = {0}, back = {0};
            struct nd_err err = {0};

            assert_int_equal(encrypt_in(&plain, pieces[k], i % 2, &text, &err), 0);
            if (decrypt_in(&text.got, pieces[sizeof pieces / sizeof *pieces - 1 - k], &back, &err) <
                0)
                fail_msg("%zu bytes: %s", plain.length, err.message);
            assert_int_equal(back.got.length, plain.length);
            if (plain.length)
                assert_memory_equal(back.got.data, plain.data, plain.length);
            nd_buf_fini(&text.got);
            nd_buf_fini(&back.got);
        }
        nd_buf_fini(&plain);
    }
}

static void releases_whole_chunks_only(void **state)
{
    struct nd_buf plain = noise(3 * ND_AGE_CHUNK);
    struct sink text = {0};
    struct nd_err err = {0};
    size_t head;

    (void)state;
    assert_int_equal(encrypt_in(&plain, 1 << 20, false, &text, &err), 0);
    head = text.got.length - 3 * ND_AGE_SEALED;
    for (size_t i = 0; i < 3; i++) { /* the last bit of each chunk in turn */
        struct sink back = {0};
        size_t at = head + (i + 1) * ND_AGE_SEALED - ND_AGE_TAG - 1;

        text.got.data[at] ^= 1;
        assert_int_equal(decrypt_in(&text.got, 1000, &back, &err), -1);
        assert_string_equal(err.code, "age_tampered");
        assert_int_equal(back.got.length, i * ND_AGE_CHUNK);
        text.got.data[at] ^= 1;
        nd_buf_fini(&back.got);
    }
    nd_buf_fini(&text.got);
    nd_buf_fini(&plain);
}

static void fails_with_its_sink(void **state)
{
    struct nd_buf plain = noise(3 * ND_AGE_CHUNK);
    struct sink text = {0}, back = {.most = ND_AGE_CHUNK + 1};
    struct nd_err err = {0};

    (void)state;
    assert_int_equal(encrypt_in(&plain, 1 << 20, true, &text, &err), 0);
    assert_int_equal(decrypt_in(&text.got, 1 << 20, &back, &err), -1);
    assert_string_equal(err.code, "full");
    assert_int_equal(back.got.length, ND_AGE_CHUNK);
    for (size_t most = 1; most < plain.length; most += 9973) {
        struct sink small = {.most = most};

        assert_int_equal(encrypt_in(&plain, 1 << 20, most % 2, &small, &err), -1);
        assert_string_equal(err.code, "full");
        nd_buf_fini(&small.got);
    }
    nd_buf_fini(&text.got);
    nd_buf_fini(&back.got);
    nd_buf_fini(&plain);
}

static int forget(void *arg, const void *data, size_t length, struct nd_err *err)
{
    return arg ? nd_age_decrypt_feed(arg, data, length, err) : 0;
}

/* 64 MiB through both, at once: neither grows. */
static void holds_little(void **state)
{
    struct nd_buf piece = noise(100000);
    struct nd_age_decryptor *d = nd_age_decrypt_new(&identity, 1, forget, NULL);
    struct nd_err err = {0};
    struct nd_age_encryptor *e = nd_age_encrypt_new(&identity.recipient, 1, false, forget, d, &err);
    size_t before = 0;

    (void)state;
    for (int i = 0; i < 671; i++) {
        if (i == 3)
            before = mallinfo2().uordblks;
        assert_int_equal(nd_age_encrypt_feed(e, piece.data, piece.length, &err), 0);
    }
    assert_true(mallinfo2().uordblks < before + 4096);
    assert_int_equal(nd_age_encrypt_end(e, &err), 0);
    assert_int_equal(nd_age_decrypt_end(d, &err), 0);
    nd_age_encrypt_free(e);
    nd_age_decrypt_free(d);
    nd_buf_fini(&piece);
}

/* A header without an end isn't kept for ever. */
static void limits_the_header(void **state)
{
    struct nd_buf text = {0};
    struct sink back = {0};
    struct nd_err err = {0};

    (void)state;
    nd_buf_adds(&text, "age-encryption.org/v1\n");
    while (text.length < 1000000)
        nd_buf_adds(&text, "-> x\n\n");
    assert_int_equal(decrypt_in(&text, 4096, &back, &err), -1);
    assert_string_equal(err.code, "age_bad_header");
    nd_buf_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divides),
        cmocka_unit_test(releases_whole_chunks_only),
        cmocka_unit_test(fails_with_its_sink),
        cmocka_unit_test(holds_little),
        cmocka_unit_test(limits_the_header),
    };

    return cmocka_run_group_tests(tests, keygen, NULL);
}
