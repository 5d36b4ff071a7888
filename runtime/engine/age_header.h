/*
 * age_header.h - the header of an age file: for whom it is, and what proves that it is whole.
 *
 * The reader is fed with bytes in any pieces and takes no byte beyond the header. It accepts what
 * the specification allows and nothing else: stanzas of unknown types are passed over, but have to
 * be well-formed; every X25519 stanza has to be right, whether it is for us or not. A header is at
 * most ND_AGE_HEADER_MOST bytes long. Source: age-encryption.org/v1, "Header".
 */
#ifndef ND_ENGINE_AGE_HEADER_H
#define ND_ENGINE_AGE_HEADER_H

#include <stdbool.h>

#include "base/buf.h"
#include "engine/age_wrap.h"

enum {
    ND_AGE_HEADER_MOST = 256 * 1024, /* bytes: 2,600 recipients */
    ND_AGE_MAC = 32,
};

enum nd_age_header_next { ND_AGE_VERSION, ND_AGE_STANZA, ND_AGE_BODY, ND_AGE_WHOLE };

struct nd_age_header {
    enum nd_age_header_next next;  /* what the next line is */
    struct nd_buf text;            /* as it was read: the MAC is over it */
    size_t line;                   /* where in `text` the next line begins */
    int lines;                     /* read so far */
    struct nd_age_stanza *stanzas; /* owned; the X25519 ones */
    size_t count;                  /* of them */
    size_t others;                 /* stanzas of other types */
    bool scrypt, post_quantum;     /* some of these are among them */
    struct nd_buf body;            /* of the stanza being read */
    bool ours;                     /* that one is of type X25519 */
    uint8_t mac[ND_AGE_MAC];       /* once it is whole */
};

/* `struct nd_age_header h = {0}` is one of which nothing was read. */
void nd_age_header_fini(struct nd_age_header *h);

/* Sets `used`; h->next is ND_AGE_WHOLE at its end. Codes: age_bad_header, age_unsupported (another
 * version of the format). */
int nd_age_header_feed(struct nd_age_header *h, const char *data, size_t length, size_t *used,
                       struct nd_err *err);

/* What a header that isn't whole lacks: sets `err` and returns -1. */
int nd_age_header_cut(const struct nd_age_header *h, struct nd_err *err);

/* The file key, with which the header was found to be as it was written. Codes:
 * age_wrong_recipient, age_unsupported (only for a passphrase, or for post-quantum recipients),
 * age_bad_header, age_tampered (the MAC). */
int nd_age_header_open(const struct nd_age_header *h, const struct nd_age_identity *identities,
                       size_t count, uint8_t file_key[ND_AGE_FILE_KEY], struct nd_err *err);

/* Appends a whole header for these recipients. Code: age_bad_recipient. */
int nd_age_header_write(const struct nd_age_recipient *recipients, size_t count,
                        const uint8_t file_key[ND_AGE_FILE_KEY], struct nd_buf *out,
                        struct nd_err *err);

#endif
