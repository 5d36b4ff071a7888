#include "engine/docker_stream.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { STAMP_MAX = 40 }; /* bytes of an RFC 3339 time with nanoseconds, and some */

#define HINT_OTHER "is this the socket of a Docker Engine?"

/* --- time-stamps ------------------------------------------------------------------------------ */

/* Reads exactly `count` digits; -1 if they are not all digits. */
static int digits(const char *text, int count)
{
    int value = 0;

    for (int i = 0; i < count; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        value = value * 10 + text[i] - '0';
    }
    return value;
}

/* Days since 1970-01-01 in the Gregorian calendar: years counted from March, in cycles of 400. */
static int64_t days_since_epoch(int year, int month, int day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t cycle = y / 400;
    int64_t in_cycle = y - cycle * 400;
    int64_t in_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;

    return cycle * 146097 + in_cycle * 365 + in_cycle / 4 - in_cycle / 100 + in_year - 719468;
}

/* The fraction after the seconds, in ms; advances `*at` over it. */
static int fraction(const char *text, size_t length, size_t *at)
{
    int ms = 0;
    int weight = 100;
    size_t i = *at;

    if (i >= length || text[i] != '.')
        return 0;
    for (i++; i < length && text[i] >= '0' && text[i] <= '9'; i++) {
        ms += (text[i] - '0') * weight;
        weight /= 10;
    }
    *at = i;
    return ms;
}

size_t nd_docker_time(const char *text, size_t length, int64_t *ms)
{
    int year, month, day, hour, minute, second, part;
    int offset = 0;
    size_t at = 19;

    if (length < 20 || text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' ||
        text[16] != ':')
        return 0;
    year = digits(text, 4);
    month = digits(text + 5, 2);
    day = digits(text + 8, 2);
    hour = digits(text + 11, 2);
    minute = digits(text + 14, 2);
    second = digits(text + 17, 2);
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > 31 || hour < 0 || hour > 23 ||
        minute < 0 || minute > 59 || second < 0 || second > 60)
        return 0;
    part = fraction(text, length, &at);
    if (at < length && text[at] == 'Z') {
        at++;
    } else if (at + 6 <= length && (text[at] == '+' || text[at] == '-') && text[at + 3] == ':' &&
               digits(text + at + 1, 2) >= 0 && digits(text + at + 4, 2) >= 0) {
        offset = digits(text + at + 1, 2) * 60 + digits(text + at + 4, 2);
        offset = text[at] == '-' ? -offset : offset;
        at += 6;
    } else {
        return 0;
    }
    *ms =
        (((days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - offset) * 60 + second) *
            1000 +
        part;
    return at;
}

/* --- log frames ------------------------------------------------------------------------------- */

static void give_line(struct nd_docker_frames *f, enum nd_docker_stream stream, bool cut)
{
    struct nd_buf *part = &f->part[stream];
    struct nd_docker_line line = {stream, -1, part->data, part->length, cut};

    if (f->timestamps) {
        size_t used = nd_docker_time(line.text, line.length, &line.time);

        if (used && used < line.length && line.text[used] == ' ')
            used++;
        line.text += used;
        line.length -= used;
    }
    if (f->tty && line.length && line.text[line.length - 1] == '\r')
        line.length--;
    f->on_line(f->arg, &line);
    nd_buf_clear(part);
}

/* How many bytes the line begun may hold: first enough to see its stamp, which does not count. */
static size_t line_room(const struct nd_docker_frames *f, const struct nd_buf *part)
{
    int64_t ms;
    size_t used;

    if (!f->timestamps)
        return ND_DOCKER_LINE_MAX;
    if (part->length < STAMP_MAX)
        return STAMP_MAX;
    used = nd_docker_time(part->data, part->length, &ms);
    return ND_DOCKER_LINE_MAX + (used ? used + 1 : 0);
}

static void take(struct nd_docker_frames *f, enum nd_docker_stream stream, const char *data,
                 size_t length)
{
    struct nd_buf *part = &f->part[stream];

    if (f->raw) {
        f->on_line(f->arg, &(struct nd_docker_line){stream, -1, data, length, true});
        return;
    }
    while (length) {
        size_t n = line_room(f, part) - part->length;
        const char *end;

        if (n > length)
            n = length;
        end = memchr(data, '\n', n);
        nd_buf_add(part, data, end ? (size_t)(end - data) : n);
        n = end ? (size_t)(end - data) + 1 : n;
        data += n;
        length -= n;
        if (end || (part->length >= ND_DOCKER_LINE_MAX && part->length >= line_room(f, part)))
            give_line(f, stream, !end);
    }
}

static int begin_frame(struct nd_docker_frames *f, struct nd_err *err)
{
    const unsigned char *h = f->head;

    f->left = (uint32_t)h[4] << 24 | (uint32_t)h[5] << 16 | (uint32_t)h[6] << 8 | h[7];
    f->have = 0;
    if (h[0] > ND_DOCKER_SYSTEM || h[1] || h[2] || h[3])
        return nd_err_set(err, "docker_protocol", HINT_OTHER,
                          "Docker sent a log frame with the head %02x%02x%02x%02x", h[0], h[1],
                          h[2], h[3]);
    if (f->left > ND_DOCKER_FRAME_MAX)
        return nd_err_set(err, "docker_protocol", HINT_OTHER,
                          "Docker announced a log frame of %lu bytes", (unsigned long)f->left);
    return 0;
}

int nd_docker_frames_feed(struct nd_docker_frames *f, const char *data, size_t length,
                          struct nd_err *err)
{
    if (f->tty) {
        take(f, ND_DOCKER_STDOUT, data, length);
        return 0;
    }
    while (length) {
        size_t n;

        if (!f->left) {
            f->head[f->have++] = (unsigned char)*data++;
            length--;
            if (f->have == sizeof f->head && begin_frame(f, err) < 0)
                return -1;
            continue;
        }
        n = length < f->left ? length : f->left;
        take(f, f->head[0], data, n);
        data += n;
        length -= n;
        f->left -= (uint32_t)n;
        /* A frame is a whole message of the log driver: with stamps, the next has its own. */
        if (!f->left && f->timestamps && f->part[f->head[0]].length)
            give_line(f, f->head[0], true);
    }
    return 0;
}

int nd_docker_frames_end(struct nd_docker_frames *f, struct nd_err *err)
{
    for (int stream = 0; stream < 4; stream++)
        if (f->part[stream].length)
            give_line(f, stream, false);
    if (f->have || f->left)
        return nd_err_set(err, "docker_protocol", "", "Docker's stream ended within a log frame");
    return 0;
}

void nd_docker_frames_fini(struct nd_docker_frames *f)
{
    for (int stream = 0; stream < 4; stream++)
        nd_buf_fini(&f->part[stream]);
}

/* --- messages --------------------------------------------------------------------------------- */

static int give_message(struct nd_docker_messages *m, struct nd_err *err)
{
    struct nd_buf *part = &m->part;
    int rc = 0;

    while (part->length && strchr(" \t\r", part->data[part->length - 1]))
        part->length--;
    if (part->length)
        rc = m->on_message(m->arg, part->data, part->length, err);
    nd_buf_clear(part);
    return rc;
}

int nd_docker_messages_feed(struct nd_docker_messages *m, const char *data, size_t length,
                            struct nd_err *err)
{
    while (length) {
        const char *end = memchr(data, '\n', length);
        size_t n = end ? (size_t)(end - data) : length;

        if (m->part.length + n > ND_DOCKER_MESSAGE_MAX)
            return nd_err_set(err, "docker_protocol", HINT_OTHER,
                              "Docker sent a message of more than %d bytes", ND_DOCKER_MESSAGE_MAX);
        nd_buf_add(&m->part, data, n);
        if (end && give_message(m, err) < 0)
            return -1;
        n += end ? 1 : 0;
        data += n;
        length -= n;
    }
    return 0;
}

int nd_docker_messages_end(struct nd_docker_messages *m, struct nd_err *err)
{
    return give_message(m, err);
}

void nd_docker_messages_fini(struct nd_docker_messages *m)
{
    nd_buf_fini(&m->part);
}
