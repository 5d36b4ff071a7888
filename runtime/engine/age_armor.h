/*
 * age_armor.h - age files as text: strict PEM (RFC 7468) between the lines BEGIN and END AGE
 * ENCRYPTED FILE.
 *
 * Lines of 64 columns, a last one of 1 to 64, canonical padded base64. A reader takes LF or CRLF,
 * and up to ND_AGE_ARMOR_BLANK bytes of white space before and after; nothing else.
 * Source: age-encryption.org/v1, "ASCII armor".
 */
#ifndef ND_ENGINE_AGE_ARMOR_H
#define ND_ENGINE_AGE_ARMOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    ND_AGE_ARMOR_COLUMNS = 64,
    ND_AGE_ARMOR_LINE = 48,    /* bytes in a full line */
    ND_AGE_ARMOR_BLOCK = 1024, /* lines given to the sink at once */
    ND_AGE_ARMOR_BLANK = 1024,
    ND_AGE_ARMOR_BUFFER = ND_AGE_ARMOR_BLOCK * 66,
};

/* Takes bytes as they come; -1 with `err` ends what feeds it. */
typedef int nd_age_sink(void *arg, const void *data, size_t length, struct nd_err *err);

enum nd_age_armor_state {
    ND_AGE_ARMOR_BEFORE,
    ND_AGE_ARMOR_BEGIN,
    ND_AGE_ARMOR_FULL,
    ND_AGE_ARMOR_END,
    ND_AGE_ARMOR_AFTER
};

struct nd_age_armor {
    nd_age_sink *sink;
    void *arg;                     /* borrowed */
    enum nd_age_armor_state state; /* of a reader: what comes next */
    char line[80];                 /* the line that isn't whole yet, or bytes that are no line */
    size_t have;                   /* of it */
    size_t blank;                  /* white space passed over */
    long lines;                    /* read so far */
    size_t filled;                 /* of `out` */
    char out[ND_AGE_ARMOR_BUFFER]; /* for the sink */
};

void nd_age_armor_init(struct nd_age_armor *a, nd_age_sink *sink, void *arg);

int nd_age_armor_write(struct nd_age_armor *a, const void *data, size_t length, struct nd_err *err);
int nd_age_armor_write_end(struct nd_age_armor *a, struct nd_err *err);

/* What is decoded is with the sink when this returns. Code: age_bad_armor, age_truncated. */
int nd_age_armor_read(struct nd_age_armor *a, const void *data, size_t length, struct nd_err *err);
int nd_age_armor_read_end(struct nd_age_armor *a, struct nd_err *err);

#endif
