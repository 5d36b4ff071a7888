#include "engine/log_record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

/* --- records ---------------------------------------------------------------------------------- */

struct head {
    uint32_t length; /* of the text */
    uint8_t kind;
    uint8_t is_stderr;
    uint16_t source;
    int64_t time; /* of a SOURCE: its release */
    uint64_t seq;
};

enum { SOURCES = 64 };

void nd_log_record_add(struct nd_buf *run, const struct nd_log_record *record)
{
    struct head head = {
        .length = (uint32_t)record->length,
        .kind = (uint8_t)record->kind,
        .is_stderr = record->is_stderr,
        .source = record->source,
        .time = record->time,
        .seq = record->seq,
    };
    const void *text = record->text;

    if (record->kind == ND_LOG_SOURCE) {
        head.time = record->release;
        head.length = (uint32_t)record->instance_length;
        text = record->instance;
    } else if (record->kind == ND_LOG_LOST) {
        head.length = sizeof record->lost;
        text = &record->lost;
    }
    nd_buf_reserve(run, sizeof head + head.length);
    nd_buf_add(run, &head, sizeof head);
    nd_buf_add(run, text, head.length);
}

/* Reads the record at `at`; false where there is no whole one. */
static bool read_at(const struct nd_log_walk *walk, size_t at, struct head *head, const char **text)
{
    if (walk->length - at < sizeof *head)
        return false;
    memcpy(head, walk->data + at, sizeof *head);
    *text = walk->data + at + sizeof *head;
    return head->length <= walk->length - at - sizeof *head;
}

static void know_source(struct nd_log_walk *walk, size_t at, uint16_t source)
{
    walk->source_at[source % SOURCES] = at + 1;
}

/* Fills in the container that the record's number stands for. */
static void explain(struct nd_log_walk *walk, struct nd_log_record *record, size_t before)
{
    struct head head = {0};
    const char *text = "";
    size_t at = walk->source_at[record->source % SOURCES];

    if (!at || !read_at(walk, at - 1, &head, &text) || head.source != record->source) {
        /* Two numbers share a slot: look for it from the beginning. */
        head = (struct head){0};
        for (at = 0; at < before;) {
            struct head one;
            const char *its;

            if (!read_at(walk, at, &one, &its))
                break;
            if (one.kind == ND_LOG_SOURCE && one.source == record->source) {
                head = one;
                text = its;
                know_source(walk, at, one.source);
            }
            at += sizeof one + one.length;
        }
    }
    record->release = head.time;
    record->instance = text;
    record->instance_length = head.length;
}

bool nd_log_walk_next(struct nd_log_walk *walk, struct nd_log_record *record)
{
    struct head head;
    const char *text;

    while (read_at(walk, walk->at, &head, &text)) {
        size_t at = walk->at;

        walk->at += sizeof head + head.length;
        if (head.kind == ND_LOG_SOURCE) {
            know_source(walk, at, head.source);
            continue;
        }
        *record = (struct nd_log_record){.kind = head.kind,
                                         .is_stderr = head.is_stderr,
                                         .source = head.source,
                                         .time = head.time,
                                         .seq = head.seq,
                                         .text = text,
                                         .length = head.length};
        if (head.kind == ND_LOG_LOST) {
            if (head.length != sizeof record->lost)
                return false;
            memcpy(&record->lost, text, sizeof record->lost);
            record->length = 0;
        } else if (head.kind != ND_LOG_LINE) {
            return false;
        }
        explain(walk, record, at);
        return true;
    }
    return false;
}

/* --- filters ---------------------------------------------------------------------------------- */

void nd_log_filter_fini(struct nd_log_filter *filter)
{
    free(filter->instance);
    free(filter->grep);
    *filter = (struct nd_log_filter){0};
}

bool nd_log_filter_is_open(const struct nd_log_filter *f)
{
    return !f->since && !f->until && !f->release && !f->instance && !f->grep;
}

static bool is_instance(const char *wanted, const struct nd_log_record *record)
{
    size_t length = strlen(wanted);
    size_t before = record->instance_length - length;

    return record->instance_length >= length &&
           memcmp(record->instance + before, wanted, length) == 0 &&
           (before == 0 || record->instance[before - 1] == '-');
}

bool nd_log_filter_match(const struct nd_log_filter *f, const struct nd_log_record *record)
{
    return record->seq > f->after && record->time >= f->since &&
           (!f->until || record->time < f->until) &&
           (!f->release || f->release == record->release) &&
           (!f->instance || is_instance(f->instance, record)) &&
           (!f->grep || record->kind == ND_LOG_LOST ||
            memmem(record->text, record->length, f->grep, strlen(f->grep)));
}

/* --- JSON ------------------------------------------------------------------------------------- */

/* The length of the character at `text` if it is UTF-8 (RFC 3629: no surrogates, nothing overlong,
 * nothing above U+10FFFF), else 0. */
static size_t utf8_length(const unsigned char *text, size_t length)
{
    static const struct {
        unsigned char lead, lead_last, next, next_last, count;
    } forms[] = {
        {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
        {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
        {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };

    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (text[0] < forms[i].lead || text[0] > forms[i].lead_last)
            continue;
        if (length < forms[i].count || text[1] < forms[i].next || text[1] > forms[i].next_last)
            return 0;
        for (size_t j = 2; j < forms[i].count; j++)
            if ((text[j] & 0xc0) != 0x80)
                return 0;
        return forms[i].count;
    }
    return 0;
}

static size_t escape_one(char *out, const unsigned char *text, size_t length, size_t *used)
{
    static const char hex[] = "0123456789abcdef";
    static const char shorts[] = "\"\"\\\\\nn\tt\rr\bb\ff";
    size_t count;

    *used = 1;
    for (size_t i = 0; i < sizeof shorts - 1; i += 2)
        if (*text == (unsigned char)shorts[i]) {
            out[0] = '\\';
            out[1] = shorts[i + 1];
            return 2;
        }
    if (*text < 0x20) {
        memcpy(out, "\\u00", 4);
        out[4] = hex[*text >> 4];
        out[5] = hex[*text & 15];
        return 6;
    }
    count = utf8_length(text, length);
    if (!count) {
        memcpy(out, "\xef\xbf\xbd", 3);
        return 3;
    }
    memcpy(out, text, count);
    *used = count;
    return count;
}

/* What stands in a JSON string as it is: ASCII but for controls, quotes and backslashes. */
static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

void nd_log_json_text(struct nd_buf *out, const char *text, size_t length)
{
    const unsigned char *in = (const unsigned char *)text;
    char *to;

    nd_buf_reserve(out, 6 * length);
    to = out->data + out->length;
    for (size_t i = 0; i < length;) {
        size_t from = i, used;

        while (i < length && is_plain(in[i]))
            i++;
        memcpy(to, in + from, i - from);
        to += i - from;
        if (i == length)
            break;
        to += escape_one(to, in + i, length - i, &used);
        i += used;
    }
    *to = '\0';
    out->length = (size_t)(to - out->data);
}

/* Everything of an object that lines printed one after the other have in common. */
static void make_head(struct nd_log_frames *f, const struct nd_log_record *r)
{
    char time[32];

    nd_clock_format(r->time, time, sizeof time);
    nd_buf_clear(&f->head);
    nd_buf_addf(&f->head, ",\"time\":\"%s\",\"app\":\"%s\",\"release\":%lld,\"instance\":\"", time,
                f->app, (long long)r->release);
    nd_log_json_text(&f->head, r->instance,
                     r->instance_length < ND_LOG_INSTANCE_MAX ? r->instance_length
                                                              : ND_LOG_INSTANCE_MAX);
    nd_buf_addf(&f->head, "\",\"stream\":\"%s\"", r->is_stderr ? "stderr" : "stdout");
    f->head_time = r->time;
    f->head_release = r->release;
    f->head_source = r->source;
    f->head_stderr = r->is_stderr;
}

static void add_number(struct nd_buf *out, uint64_t value)
{
    char digits[24];
    size_t at = sizeof digits;

    do
        digits[--at] = (char)('0' + value % 10);
    while (value /= 10);
    nd_buf_add(out, digits + at, sizeof digits - at);
}

static void make_item(struct nd_log_frames *f, const struct nd_log_record *r)
{
    if (!f->head.length || f->head_time != r->time || f->head_release != r->release ||
        f->head_source != r->source || f->head_stderr != r->is_stderr)
        make_head(f, r);
    nd_buf_clear(&f->item);
    nd_buf_adds(&f->item, "{\"seq\":");
    add_number(&f->item, r->seq);
    nd_buf_add(&f->item, f->head.data, f->head.length);
    if (r->kind == ND_LOG_LOST) {
        nd_buf_adds(&f->item, ",\"dropped\":");
        add_number(&f->item, r->lost);
        nd_buf_adds(&f->item, "}");
    } else {
        nd_buf_adds(&f->item, ",\"line\":\"");
        nd_log_json_text(&f->item, r->text, r->length);
        nd_buf_adds(&f->item, "\"}");
    }
}

void nd_log_frames_add(struct nd_log_frames *f, const struct nd_log_record *r)
{
    struct nd_log_frame *frame = f->count ? &f->list[f->count - 1] : NULL;

    make_item(f, r);
    /* Room for the brackets around, and a comma. */
    if (!frame || frame->length + f->item.length + 3 > ND_LOG_FRAME_MAX) {
        nd_log_frames_end(f);
        if (f->count == f->room) {
            f->room = f->room ? 2 * f->room : 8;
            f->list = nd_realloc(f->list, f->room * sizeof *f->list);
        }
        frame = &f->list[f->count++];
        *frame = (struct nd_log_frame){.at = f->text.length + 1};
        nd_buf_adds(&f->text, "["); /* left out of a frame that stays alone */
    } else {
        if (!f->array) {
            frame->at--;
            frame->length++;
            f->array = true;
        }
        nd_buf_adds(&f->text, ",");
        frame->length++;
    }
    nd_buf_add(&f->text, f->item.data, f->item.length);
    frame->length += f->item.length;
    frame->lines += r->kind == ND_LOG_LOST ? r->lost : 1;
    frame->last = r->seq;
}

void nd_log_frames_end(struct nd_log_frames *f)
{
    if (f->array) {
        nd_buf_adds(&f->text, "]");
        f->list[f->count - 1].length++;
    }
    f->array = false;
}

void nd_log_frames_clear(struct nd_log_frames *f)
{
    nd_buf_clear(&f->text);
    nd_buf_clear(&f->head);
    f->count = 0;
    f->array = false;
}

void nd_log_frames_fini(struct nd_log_frames *f)
{
    nd_buf_fini(&f->text);
    nd_buf_fini(&f->item);
    nd_buf_fini(&f->head);
    free(f->list);
    *f = (struct nd_log_frames){0};
}
