/*
 * age.h - encrypting to recipients and decrypting with identities, in the age format.
 *
 * An encryptor or decryptor is fed with bytes in any pieces and gives its result to a sink, so that
 * the caller chooses where plaintext lands. Streams of any length take the same memory, about
 * 300 KiB. A decryptor gives a chunk (64 KiB) to the sink once it was authenticated, and no byte
 * before; whether the whole is complete is known only when nd_age_decrypt_end returned 0. Its own
 * plaintext lies in locked memory, and that and all keys are zeroed.
 * After a failure an object only fails again, with the same error.
 *
 * X25519 recipients only (age_key.h); binary, or armored text, which a decryptor finds out.
 * Source: age-encryption.org/v1 (C2SP). Codes: age_bad_header, age_bad_armor, age_wrong_recipient,
 * age_tampered, age_truncated, age_unsupported, age_bad_recipient, and those of the sink.
 */
#ifndef ND_ENGINE_AGE_H
#define ND_ENGINE_AGE_H

#include <stdbool.h>

#include "engine/age_armor.h"
#include "engine/age_key.h"

struct nd_age_encryptor;
struct nd_age_decryptor;

/* Returns owned, or NULL for recipients that can't be encrypted to. Borrows `arg`. */
struct nd_age_encryptor *nd_age_encrypt_new(const struct nd_age_recipient *recipients, size_t count,
                                            bool armor, nd_age_sink *sink, void *arg,
                                            struct nd_err *err);
int nd_age_encrypt_feed(struct nd_age_encryptor *e, const void *data, size_t length,
                        struct nd_err *err);
int nd_age_encrypt_end(struct nd_age_encryptor *e, struct nd_err *err);
void nd_age_encrypt_free(struct nd_age_encryptor *e); /* NULL is fine */

/* Returns owned. Copies the identities; borrows `arg`. */
struct nd_age_decryptor *nd_age_decrypt_new(const struct nd_age_identity *identities, size_t count,
                                            nd_age_sink *sink, void *arg);
int nd_age_decrypt_feed(struct nd_age_decryptor *d, const void *data, size_t length,
                        struct nd_err *err);
int nd_age_decrypt_end(struct nd_age_decryptor *d, struct nd_err *err);
void nd_age_decrypt_free(struct nd_age_decryptor *d); /* NULL is fine */

/* The whole of it at once. */
int nd_age_encrypt(const struct nd_age_recipient *recipients, size_t count, bool armor,
                   const void *plain, size_t length, nd_age_sink *sink, void *arg,
                   struct nd_err *err);
int nd_age_decrypt(const struct nd_age_identity *identities, size_t count, const void *text,
                   size_t length, nd_age_sink *sink, void *arg, struct nd_err *err);

#endif
