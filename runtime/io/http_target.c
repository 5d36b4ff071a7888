#include "io/http_target.h"

#include <string.h>
#include <strings.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The byte that the escape at `p` stands for; -1 if it isn't one. */
static int escaped_byte(const char *p, const char *end)
{
    int high, low;

    if (end - p < 3)
        return -1;
    high = hex_digit(p[1]);
    low = hex_digit(p[2]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static int bad_target(struct nd_err *err, const char *what)
{
    return nd_err_set(err, "bad_target", "Check how the URL is written.", "%s", what);
}

static int check_escapes(const char *p, const char *end, struct nd_err *err)
{
    while ((p = memchr(p, '%', (size_t)(end - p)))) {
        int byte = escaped_byte(p, end);

        if (byte < 0)
            return bad_target(err,
                              "the URL holds a \"%\" that two hexadecimal digits don't follow");
        if (byte == 0)
            return bad_target(err, "the URL holds %00, which no path or query may");
        p += 3;
    }
    return 0;
}

static struct nd_http_text text(const char *from, const char *to)
{
    return (struct nd_http_text){from, (size_t)(to - from)};
}

int nd_http_target_split(const char *target, size_t length, struct nd_http_target *out,
                         struct nd_err *err)
{
    const char *end = target + length, *p = target, *query;

    memset(out, 0, sizeof *out);
    out->authority = text(target, target);
    if (length == 1 && *target == '*') {
        out->path = text(target, end);
        out->query = text(end, end);
        return 0;
    }
    if (length >= 7 && strncasecmp(p, "http://", 7) == 0)
        p += 7;
    else if (length >= 8 && strncasecmp(p, "https://", 8) == 0)
        p += 8;
    if (p != target) {
        const char *from = p;

        while (p < end && *p != '/' && *p != '?')
            p++;
        out->authority = text(from, p);
        if (p == from || memchr(from, '@', (size_t)(p - from)))
            return bad_target(err, "the URL's host is empty or holds a user name");
    } else if (!length || *p != '/') {
        return bad_target(err, "the request target is neither a path nor an http URL");
    }
    if (memchr(p, '#', (size_t)(end - p)))
        return bad_target(err, "the request target holds a fragment (\"#\")");
    if (check_escapes(p, end, err) < 0)
        return -1;
    query = memchr(p, '?', (size_t)(end - p));
    out->path = text(p, query ? query : end);
    out->query = query ? text(query + 1, end) : text(end, end);
    return 0;
}

/* Removes "." and ".." segments in place; -1 where ".." would leave the root. */
static int remove_dots(struct nd_buf *b)
{
    char *p = b->data, *end = b->data + b->length, *out = b->data;

    while (p < end) { /* *p is the '/' before a segment */
        char *next = memchr(p + 1, '/', (size_t)(end - p - 1));
        size_t length = (size_t)((next ? next : end) - p);
        bool dot = length == 2 && p[1] == '.';
        bool dots = length == 3 && p[1] == '.' && p[2] == '.';

        if (!next)
            next = end;
        if (dots) {
            if (out == b->data)
                return -1;
            while (*--out != '/')
                ;
        } else if (!dot) {
            memmove(out, p, length);
            out += length;
        }
        if ((dot || dots) && next == end)
            *out++ = '/';
        p = next;
    }
    b->length = (size_t)(out - b->data);
    b->data[b->length] = '\0';
    return 0;
}

int nd_http_path_decode(struct nd_http_text path, struct nd_buf *out, struct nd_err *err)
{
    const char *p = path.data, *end = path.data + path.length;
    bool dots = false;

    nd_buf_clear(out);
    nd_buf_reserve(out, path.length + 1);
    if (p == end)
        out->data[out->length++] = '/';
    while (p < end) {
        char c = *p;

        if (c == '%') {
            int byte = escaped_byte(p, end);

            if (byte <= 0)
                return bad_target(err, "the path holds an invalid escape");
            c = (char)byte;
            p += 2;
        }
        dots |= c == '.' && out->length && out->data[out->length - 1] == '/';
        out->data[out->length++] = c;
        p++;
    }
    out->data[out->length] = '\0';
    if (dots && remove_dots(out) < 0)
        return bad_target(err, "the path climbs above the root");
    return 0;
}

static void query_decode(const char *p, const char *end, struct nd_buf *out)
{
    nd_buf_clear(out);
    nd_buf_reserve(out, (size_t)(end - p));
    for (; p < end; p++) {
        int byte = *p == '%' ? escaped_byte(p, end) : -1;

        if (byte > 0)
            p += 2;
        out->data[out->length++] = byte > 0 ? (char)byte : *p == '+' ? ' ' : *p;
    }
    out->data[out->length] = '\0';
}

bool nd_http_query_next(struct nd_http_text *query, struct nd_buf *name, struct nd_buf *value)
{
    while (query->length) {
        const char *p = query->data, *end = p + query->length;
        const char *stop = memchr(p, '&', query->length);
        const char *equals;

        *query = stop ? text(stop + 1, end) : text(end, end);
        if (!stop)
            stop = end;
        if (p == stop)
            continue;
        equals = memchr(p, '=', (size_t)(stop - p));
        query_decode(p, equals ? equals : stop, name);
        query_decode(equals ? equals + 1 : stop, stop, value);
        return true;
    }
    return false;
}
