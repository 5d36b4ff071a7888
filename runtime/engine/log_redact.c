#include "engine/log_redact.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/secret.h"

enum { TABLE = 4096 };

struct value {
    const char *text; /* in one of `held` */
    size_t length;
    int next; /* in the chain of those whose window ends in the same two bytes; -1: none */
};

struct nd_redact {
    struct nd_secret *held; /* owned: what was added */
    int held_count;
    struct value *values; /* owned; longest first once they are built */
    int count;
    size_t least; /* length of the shortest */
    size_t most;
    uint16_t shift[TABLE]; /* by two bytes: how far the window may move; 0: look at the chain */
    int chain[TABLE];      /* where shift is 0: index of the first value, longest first */
};

static unsigned slot(const char *two)
{
    return ((unsigned)(unsigned char)two[0] << 4 ^ (unsigned)(unsigned char)two[1]) % TABLE;
}

struct nd_redact *nd_redact_new(void)
{
    return nd_alloc(sizeof(struct nd_redact));
}

void nd_redact_free(struct nd_redact *r)
{
    if (!r)
        return;
    for (int i = 0; i < r->held_count; i++)
        nd_secret_fini(&r->held[i]);
    free(r->held);
    free(r->values);
    free(r);
}

bool nd_redact_is_empty(const struct nd_redact *r)
{
    return r->count == 0;
}

/* The window is as long as the shortest value; a value counts with its first bytes. */
static void build(struct nd_redact *r)
{
    size_t far = r->least - 1 < UINT16_MAX ? r->least - 1 : UINT16_MAX;

    for (int i = 0; i < TABLE; i++) {
        r->shift[i] = (uint16_t)far;
        r->chain[i] = -1;
    }
    for (int i = 0; i < r->count; i++) {
        struct value *v = &r->values[i];

        for (size_t at = 0; at + 2 <= r->least; at++) {
            unsigned s = slot(v->text + at);

            if (r->least - 2 - at < r->shift[s])
                r->shift[s] = (uint16_t)(r->least - 2 - at);
        }
    }
    for (int i = r->count; i-- > 0;) { /* the values are sorted, longest first */
        unsigned s = slot(r->values[i].text + r->least - 2);

        r->values[i].next = r->chain[s];
        r->chain[s] = i;
    }
}

static int by_length(const void *a, const void *b)
{
    const struct value *one = a, *other = b;

    if (one->length != other->length)
        return one->length < other->length ? 1 : -1;
    return memcmp(one->text, other->text, one->length);
}

static void add_line(struct nd_redact *r, const char *text, size_t length)
{
    if (length < ND_REDACT_LEAST)
        return;
    if ((r->count & (r->count - 1)) == 0) /* doubles */
        r->values =
            nd_realloc(r->values, (size_t)(r->count ? r->count * 2 : 1) * sizeof *r->values);
    r->values[r->count++] = (struct value){.text = text, .length = length};
}

/* Sorts them, each once. */
static void sort(struct nd_redact *r)
{
    int kept = 0;

    if (!r->count)
        return;
    qsort(r->values, (size_t)r->count, sizeof *r->values, by_length);
    for (int i = 1; i < r->count; i++)
        if (by_length(&r->values[kept], &r->values[i]) != 0)
            r->values[++kept] = r->values[i];
    r->count = kept + 1;
    r->most = r->values[0].length;
    r->least = r->values[kept].length;
    build(r);
}

int nd_redact_add(struct nd_redact *r, const char *value, size_t length, struct nd_err *err)
{
    struct nd_secret copy;

    if (length < ND_REDACT_LEAST)
        return 0;
    if (nd_secret_init(&copy, length, err) < 0)
        return -1;
    nd_secret_add(&copy, value, length, NULL);
    r->held = nd_realloc(r->held, (size_t)(r->held_count + 1) * sizeof *r->held);
    r->held[r->held_count++] = copy;
    value = (const char *)copy.data;
    while (length) {
        const char *end = memchr(value, '\n', length);
        size_t line = end ? (size_t)(end - value) : length;

        add_line(r, value, line && value[line - 1] == '\r' ? line - 1 : line);
        value += line;
        length -= line;
        if (length) {
            value++;
            length--;
        }
    }
    sort(r);
    return 0;
}

/* The longest value that begins at `text`, or NULL. */
static const struct value *value_at(const struct nd_redact *r, int chain, const char *text,
                                    size_t length)
{
    for (int i = chain; i >= 0; i = r->values[i].next)
        if (r->values[i].length <= length &&
            memcmp(r->values[i].text, text, r->values[i].length) == 0)
            return &r->values[i];
    return NULL;
}

/* Where from `from` on the beginning of a value begins that only the end of the text cuts off. */
static size_t begun_at(const struct nd_redact *r, const char *in, size_t length, size_t from)
{
    size_t at = length > r->most - 1 ? length - (r->most - 1) : 0;

    for (at = at > from ? at : from; at < length; at++)
        for (int i = 0; i < r->count; i++)
            if (r->values[i].length > length - at &&
                memcmp(r->values[i].text, in + at, length - at) == 0)
                return at;
    return length;
}

size_t nd_redact_text(const struct nd_redact *r, struct nd_buf *out, const char *in, size_t length,
                      bool more)
{
    size_t from = 0, to = 0; /* what is covered: values that overlap are covered as one */
    size_t copied = 0;       /* of `in`: what `out` has */
    size_t end;

    nd_buf_clear(out);
    for (size_t at = 0; r->count && at + r->least <= length;) {
        unsigned s = slot(in + at + r->least - 2);
        const struct value *v = r->shift[s] ? NULL : value_at(r, r->chain[s], in + at, length - at);

        if (v && at >= to) {
            if (to)
                nd_buf_adds(out, ND_REDACT_TEXT);
            nd_buf_add(out, in + copied, at - copied);
            from = at;
        }
        if (v && at + v->length > to)
            copied = to = at + v->length;
        at += r->shift[s] ? r->shift[s] : 1;
    }
    if (to > from)
        nd_buf_adds(out, ND_REDACT_TEXT);
    end = more && r->count ? begun_at(r, in, length, copied) : length;
    nd_buf_add(out, in + copied, end - copied);
    return length - end;
}
