#include "engine/age_armor.h"

#include <openssl/evp.h>
#include <string.h>

static const char begin_line[] = "-----BEGIN AGE ENCRYPTED FILE-----";
static const char end_line[] = "-----END AGE ENCRYPTED FILE-----";

void nd_age_armor_init(struct nd_age_armor *a, nd_age_sink *sink, void *arg)
{
    memset(a, 0, sizeof *a - sizeof a->out);
    a->sink = sink;
    a->arg = arg;
}

static int flush(struct nd_age_armor *a, struct nd_err *err)
{
    size_t length = a->filled;

    a->filled = 0;
    return length ? a->sink(a->arg, a->out, length, err) : 0;
}

/* ---- writing ---- */

static int write_text(struct nd_age_armor *a, const char *text, struct nd_err *err)
{
    size_t length = strlen(text);

    if (sizeof a->out - a->filled < length && flush(a, err) < 0)
        return -1;
    memcpy(a->out + a->filled, text, length);
    a->filled += length;
    return 0;
}

/* At most a full line. */
static int write_line(struct nd_age_armor *a, const uint8_t *data, size_t length,
                      struct nd_err *err)
{
    /* OpenSSL adds a NUL, in the place of which comes the end of the line. */
    if (sizeof a->out - a->filled < ND_AGE_ARMOR_COLUMNS + 1 && flush(a, err) < 0)
        return -1;
    a->filled += (size_t)EVP_EncodeBlock((uint8_t *)a->out + a->filled, data, (int)length);
    a->out[a->filled++] = '\n';
    return 0;
}

static int write_begin(struct nd_age_armor *a, struct nd_err *err)
{
    if (a->state != ND_AGE_ARMOR_BEFORE)
        return 0;
    a->state = ND_AGE_ARMOR_FULL;
    return write_text(a, begin_line, err) < 0 ? -1 : write_text(a, "\n", err);
}

int nd_age_armor_write(struct nd_age_armor *a, const void *data, size_t length, struct nd_err *err)
{
    const uint8_t *bytes = data;

    if (write_begin(a, err) < 0)
        return -1;
    while (length) {
        size_t take = ND_AGE_ARMOR_LINE - a->have;

        if (a->have == 0 && length >= ND_AGE_ARMOR_LINE) {
            if (write_line(a, bytes, ND_AGE_ARMOR_LINE, err) < 0)
                return -1;
        } else {
            take = take < length ? take : length;
            memcpy(a->line + a->have, bytes, take);
            a->have += take;
            if (a->have == ND_AGE_ARMOR_LINE) {
                a->have = 0;
                if (write_line(a, (uint8_t *)a->line, ND_AGE_ARMOR_LINE, err) < 0)
                    return -1;
            }
        }
        bytes += take;
        length -= take;
    }
    return 0;
}

int nd_age_armor_write_end(struct nd_age_armor *a, struct nd_err *err)
{
    if (write_begin(a, err) < 0)
        return -1;
    if (a->have && write_line(a, (uint8_t *)a->line, a->have, err) < 0)
        return -1;
    if (write_text(a, end_line, err) < 0 || write_text(a, "\n", err) < 0)
        return -1;
    return flush(a, err);
}

/* ---- reading ---- */

static int bad(const struct nd_age_armor *a, const char *what, struct nd_err *err)
{
    return nd_err_set(err, "age_bad_armor", "get it again; mail and web pages change text",
                      "line %ld of the armor: %s", a->lines, what);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Appends the bytes of a line: what encodes to exactly this text again. */
static int decode_line(struct nd_age_armor *a, const char *line, size_t length, struct nd_err *err)
{
    uint8_t *out = (uint8_t *)a->out + a->filled;
    char again[ND_AGE_ARMOR_COLUMNS + 1];
    int decoded = -1;

    if (length && length <= ND_AGE_ARMOR_COLUMNS && length % 4 == 0)
        decoded = EVP_DecodeBlock(out, (const uint8_t *)line, (int)length);
    if (decoded > 0)
        decoded -= (line[length - 1] == '=') + (line[length - 2] == '=');
    if (decoded <= 0 || EVP_EncodeBlock((uint8_t *)again, out, decoded) != (int)length ||
        memcmp(again, line, length) != 0)
        return bad(a, "not 1 to 64 columns of canonical base64", err);
    a->filled += (size_t)decoded;
    /* Room for a line that was decoded together with its padding. */
    return sizeof a->out - a->filled < ND_AGE_ARMOR_COLUMNS ? flush(a, err) : 0;
}

/* A whole line without its end. */
static int read_line(struct nd_age_armor *a, const char *line, size_t length, struct nd_err *err)
{
    a->lines++;
    if (length && line[length - 1] == '\r')
        length--;
    if (a->state == ND_AGE_ARMOR_BEGIN) {
        if (length != sizeof begin_line - 1 || memcmp(line, begin_line, length) != 0)
            return bad(a, "not -----BEGIN AGE ENCRYPTED FILE-----", err);
        a->state = ND_AGE_ARMOR_FULL;
        return 0;
    }
    if (length == sizeof end_line - 1 && memcmp(line, end_line, length) == 0) {
        a->state = ND_AGE_ARMOR_AFTER;
        a->blank = 0;
        return 0;
    }
    if (a->state == ND_AGE_ARMOR_END)
        return bad(a, "not -----END AGE ENCRYPTED FILE-----, after a short line", err);
    if (length != ND_AGE_ARMOR_COLUMNS)
        a->state = ND_AGE_ARMOR_END;
    return decode_line(a, line, length, err);
}

/* White space around the armor; `used` says how much of `data` it is. */
static int skip_blank(struct nd_age_armor *a, const char *data, size_t length, size_t *used,
                      struct nd_err *err)
{
    bool at_start = a->blank == 0 || a->line[0] == '\n';
    size_t i = 0;

    for (; i < length && is_blank(data[i]); i++) {
        at_start = data[i] == '\n';
        a->line[0] = data[i];
        a->lines += at_start;
    }
    a->blank += i;
    *used = i;
    if (a->blank > ND_AGE_ARMOR_BLANK)
        return bad(a, "more than 1024 bytes of white space around it", err);
    if (i == length)
        return 0;
    if (a->state == ND_AGE_ARMOR_AFTER)
        return bad(a, "something follows -----END AGE ENCRYPTED FILE-----", err);
    if (!at_start)
        return bad(a, "it begins with white space", err);
    a->state = ND_AGE_ARMOR_BEGIN;
    return 0;
}

/* A line, or the part of one that is there; `used` says how much. */
static int take_line(struct nd_age_armor *a, const char *data, size_t length, size_t *used,
                     struct nd_err *err)
{
    const char *newline = memchr(data, '\n', length);
    size_t piece = newline ? (size_t)(newline - data) : length;

    *used = newline ? piece + 1 : piece;
    if (newline && !a->have)
        return read_line(a, data, piece, err);
    if (a->have + piece > sizeof a->line) {
        a->lines++;
        return bad(a, "longer than 64 columns", err);
    }
    memcpy(a->line + a->have, data, piece);
    a->have += piece;
    if (!newline)
        return 0;
    piece = a->have;
    a->have = 0;
    return read_line(a, a->line, piece, err);
}

int nd_age_armor_read(struct nd_age_armor *a, const void *data, size_t length, struct nd_err *err)
{
    const char *bytes = data;
    size_t used;

    while (length) {
        bool outside = a->state == ND_AGE_ARMOR_BEFORE || a->state == ND_AGE_ARMOR_AFTER;
        int rc = outside ? skip_blank(a, bytes, length, &used, err)
                         : take_line(a, bytes, length, &used, err);

        if (rc < 0) {
            flush(a, err); /* what came before it is heard first, however the bytes are divided */
            return -1;
        }
        bytes += used;
        length -= used;
    }
    return flush(a, err);
}

int nd_age_armor_read_end(struct nd_age_armor *a, struct nd_err *err)
{
    size_t length = a->have;

    a->have = 0;
    if (length && read_line(a, a->line, length, err) < 0)
        return -1;
    if (flush(a, err) < 0)
        return -1;
    if (a->state == ND_AGE_ARMOR_AFTER)
        return 0;
    return nd_err_set(err, "age_truncated", "get it again, or have it encrypted anew",
                      "its last line, -----END AGE ENCRYPTED FILE-----, is missing");
}
