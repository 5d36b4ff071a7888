#include "engine/age_header.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/crypto.h"

enum {
    COLUMNS = 64,       /* base64 characters on a full line */
    STANZA_BYTES = 100, /* at most, of an X25519 one */
    MAC_TEXT = 43,      /* base64 characters of the MAC, and of a share */
};

static const char version[] = "age-encryption.org/v1\n";
static const char damaged[] = "get it again, or have it encrypted anew";

void nd_age_header_fini(struct nd_age_header *h)
{
    nd_buf_fini(&h->text);
    nd_buf_fini(&h->body);
    free(h->stanzas);
    memset(h, 0, sizeof *h);
}

/* ---- lines ---- */

static int bad_line(const struct nd_age_header *h, const char *what, struct nd_err *err)
{
    return nd_err_set(err, "age_bad_header", damaged, "line %d of the age header: %s", h->lines,
                      what);
}

static int read_version(struct nd_age_header *h, const char *line, size_t length,
                        struct nd_err *err)
{
    size_t number = sizeof version - 3; /* where the version's number is: "1" */
    const char *found = line + number;

    h->next = ND_AGE_STANZA;
    if (length == number + 1 && memcmp(line, version, length) == 0)
        return 0;
    if (length > number && memcmp(line, version, number) == 0 && isdigit((unsigned char)*found) &&
        (*found != '1' || isdigit((unsigned char)found[1])))
        return nd_err_set(err, "age_unsupported", "encrypt it as age-encryption.org/v1",
                          "it is of another version of the age format");
    return nd_err_set(err, "age_bad_header", "an age file begins with age-encryption.org/v1",
                      "this isn't an age file");
}

/* The next word of a stanza's first line; false where there is none, or none that is allowed. */
static bool next_word(const char **at, const char *end, const char **word, size_t *length)
{
    const char *p = *at;

    *word = p;
    while (p < end && *p >= 33 && *p <= 126)
        p++;
    *length = (size_t)(p - *word);
    if (*length == 0 || (p < end && *p != ' ') || p + 1 == end)
        return false;
    *at = p < end ? p + 1 : end;
    return true;
}

static bool is(const char *word, size_t length, const char *name)
{
    return length == strlen(name) && memcmp(word, name, length) == 0;
}

/* "-> X25519 SHARE", or any other type with its arguments. */
static int read_stanza(struct nd_age_header *h, const char *line, size_t length, struct nd_err *err)
{
    const char *at = line + 3, *end = line + length, *type, *share = NULL;
    size_t type_length, share_length = 0;
    int words = 1;

    if (!next_word(&at, end, &type, &type_length))
        return bad_line(h, "not a stanza's type and arguments", err);
    for (; at < end; words++)
        if (!next_word(&at, end, &share, &share_length))
            return bad_line(h, "not a stanza's type and arguments", err);
    nd_buf_clear(&h->body);
    h->next = ND_AGE_BODY;
    h->ours = is(type, type_length, "X25519");
    if (!h->ours) {
        h->others++;
        h->scrypt |= is(type, type_length, "scrypt");
        h->post_quantum |= is(type, type_length, "mlkem768x25519");
        return 0;
    }
    if (words != 2 || share_length != MAC_TEXT ||
        nd_crypto_unbase64(ND_BASE64_RAW, share, share_length, &h->body) < 0)
        return bad_line(h, "an X25519 stanza has one argument, of 32 bytes in base64", err);
    if ((h->count & (h->count - 1)) == 0)
        h->stanzas = nd_realloc(h->stanzas, (h->count ? 2 * h->count : 1) * sizeof *h->stanzas);
    memcpy(h->stanzas[h->count].share, h->body.data, ND_AGE_KEY);
    nd_buf_clear(&h->body);
    return 0;
}

/* A line shorter than the full ones ends the body. */
static int read_body(struct nd_age_header *h, const char *line, size_t length, struct nd_err *err)
{
    if (length > COLUMNS)
        return bad_line(h, "more than 64 columns", err);
    if (!h->ours)
        nd_buf_clear(&h->body); /* of no use to us, but it has to be base64 */
    if (nd_crypto_unbase64(ND_BASE64_RAW, line, length, &h->body) < 0)
        return bad_line(h, "not canonical base64", err);
    if (length == COLUMNS)
        return 0;
    h->next = ND_AGE_STANZA;
    if (!h->ours)
        return 0;
    if (h->body.length != ND_AGE_WRAPPED)
        return bad_line(h, "an X25519 stanza's body is 32 bytes", err);
    memcpy(h->stanzas[h->count++].body, h->body.data, ND_AGE_WRAPPED);
    return 0;
}

/* "--- MAC", the last line. */
static int read_mac(struct nd_age_header *h, const char *line, size_t length, struct nd_err *err)
{
    nd_buf_clear(&h->body);
    if (length != 4 + MAC_TEXT || line[3] != ' ' ||
        nd_crypto_unbase64(ND_BASE64_RAW, line + 4, MAC_TEXT, &h->body) < 0)
        return bad_line(h, "not --- and 32 bytes in canonical base64", err);
    if (h->count + h->others == 0)
        return bad_line(h, "there is no recipient", err);
    if (h->scrypt && h->count + h->others > 1)
        return nd_err_set(err, "age_bad_header", damaged,
                          "the age header has other recipients beside a passphrase");
    memcpy(h->mac, h->body.data, ND_AGE_MAC);
    h->next = ND_AGE_WHOLE;
    return 0;
}

static int read_line(struct nd_age_header *h, const char *line, size_t length, struct nd_err *err)
{
    h->lines++;
    if (h->next == ND_AGE_VERSION)
        return read_version(h, line, length, err);
    if (h->next == ND_AGE_BODY)
        return read_body(h, line, length, err);
    if (length > 3 && memcmp(line, "-> ", 3) == 0)
        return read_stanza(h, line, length, err);
    if (length >= 3 && memcmp(line, "---", 3) == 0)
        return read_mac(h, line, length, err);
    return bad_line(h, "neither a stanza nor the MAC", err);
}

int nd_age_header_feed(struct nd_age_header *h, const char *data, size_t length, size_t *used,
                       struct nd_err *err)
{
    *used = 0;
    while (*used < length && h->next != ND_AGE_WHOLE) {
        const char *newline = memchr(data + *used, '\n', length - *used);
        size_t piece = newline ? (size_t)(newline + 1 - data) - *used : length - *used;

        if (h->text.length + piece > ND_AGE_HEADER_MOST)
            return nd_err_set(err, "age_bad_header", damaged,
                              "the age header is longer than %d KiB", ND_AGE_HEADER_MOST / 1024);
        nd_buf_add(&h->text, data + *used, piece);
        *used += piece;
        if (h->next == ND_AGE_VERSION && !newline && h->text.length > sizeof version)
            return read_version(h, h->text.data, h->text.length, err);
        if (newline && read_line(h, h->text.data + h->line, h->text.length - 1 - h->line, err) < 0)
            return -1;
        if (newline && h->next != ND_AGE_WHOLE)
            h->line = h->text.length;
    }
    return 0;
}

int nd_age_header_cut(const struct nd_age_header *h, struct nd_err *err)
{
    size_t have = h->text.length < sizeof version - 1 ? h->text.length : sizeof version - 1;

    if (!h->text.length)
        return nd_err_set(err, "age_bad_header", "", "there is nothing to decrypt: it is empty");
    if (memcmp(h->text.data, version, have) != 0)
        return nd_err_set(err, "age_bad_header", "an age file begins with age-encryption.org/v1",
                          "this isn't an age file");
    return nd_err_set(err, "age_truncated", damaged, "it ends in the middle of its age header");
}

/* ---- keys ---- */

static void mac_of(const char *text, size_t length, const uint8_t file_key[ND_AGE_FILE_KEY],
                   uint8_t out[ND_AGE_MAC])
{
    uint8_t key[32];

    nd_age_hkdf(file_key, ND_AGE_FILE_KEY, NULL, 0, "header", key);
    nd_crypto_hmac(key, sizeof key, text, length, out);
    nd_zero(key, sizeof key);
}

static int nobody(const struct nd_age_header *h, struct nd_err *err)
{
    size_t all = h->count + h->others;

    if (h->scrypt)
        return nd_err_set(err, "age_unsupported", "decrypt it with `age -d`, which asks for it",
                          "it is encrypted with a passphrase, which can't be used here");
    if (!h->count && h->post_quantum)
        return nd_err_set(err, "age_unsupported",
                          "have it encrypted to an X25519 recipient (age1...)",
                          "it is encrypted to post-quantum recipients, which can't be used here");
    return nd_err_set(err, "age_wrong_recipient",
                      "use the identity of one of its recipients, or have it encrypted to yours",
                      "it is encrypted to %zu recipient%s, none of which is yours", all,
                      all == 1 ? "" : "s");
}

int nd_age_header_open(const struct nd_age_header *h, const struct nd_age_identity *identities,
                       size_t count, uint8_t file_key[ND_AGE_FILE_KEY], struct nd_err *err)
{
    uint8_t mac[ND_AGE_MAC];
    int found = 0;

    for (size_t i = 0; !found && i < count; i++)
        for (size_t k = 0; !found && k < h->count; k++)
            found = nd_age_unwrap(&identities[i], &h->stanzas[k], file_key, err);
    if (found < 0)
        return -1;
    if (!found)
        return nobody(h, err);
    mac_of(h->text.data, h->line + 3, file_key, mac);
    if (nd_crypto_equal(mac, sizeof mac, h->mac, sizeof h->mac))
        return 0;
    nd_zero(file_key, ND_AGE_FILE_KEY);
    return nd_err_set(err, "age_tampered", damaged,
                      "the age header isn't as it was written: its MAC doesn't match");
}

int nd_age_header_write(const struct nd_age_recipient *recipients, size_t count,
                        const uint8_t file_key[ND_AGE_FILE_KEY], struct nd_buf *out,
                        struct nd_err *err)
{
    size_t begin = out->length;
    uint8_t mac[ND_AGE_MAC];

    if (count == 0)
        return nd_err_set(err, "age_bad_recipient", "name one: age1...", "there is no recipient");
    if (count > ND_AGE_HEADER_MOST / STANZA_BYTES - 2)
        return nd_err_set(err, "age_bad_recipient", "encrypt it to fewer",
                          "%zu recipients are more than a header holds", count);
    nd_buf_adds(out, version);
    for (size_t i = 0; i < count; i++) {
        struct nd_age_stanza stanza;

        if (nd_age_wrap(&recipients[i], file_key, &stanza, err) < 0)
            return -1;
        nd_buf_adds(out, "-> X25519 ");
        nd_crypto_base64(ND_BASE64_RAW, stanza.share, sizeof stanza.share, out);
        nd_buf_adds(out, "\n");
        nd_crypto_base64(ND_BASE64_RAW, stanza.body, sizeof stanza.body, out);
        nd_buf_adds(out, "\n");
    }
    nd_buf_adds(out, "---");
    mac_of(out->data + begin, out->length - begin, file_key, mac);
    nd_buf_adds(out, " ");
    nd_crypto_base64(ND_BASE64_RAW, mac, sizeof mac, out);
    nd_buf_adds(out, "\n");
    return 0;
}
