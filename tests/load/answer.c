/*
 * answer.c - reads an HTTP/1.1 response; strict where a broken deploy could show.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "client.h"

static const char *header_value(const char *head, const char *end, const char *name)
{
    size_t length = strlen(name);

    for (const char *p = head; p != NULL && p < end; p = strstr(p, "\r\n")) {
        p += 2;
        if (strncasecmp(p, name, length) == 0)
            return p + length + strspn(p + length, " \t");
    }
    return NULL;
}

/* Joins chunks in place once the last one has arrived. */
static void read_chunks(char *data, size_t length, struct answer *a, size_t head)
{
    char *p = data, *end = data + length, *out;
    bool last = false;

    /* First pass: is all of it there? */
    while (!last) {
        char *line = memchr(p, '\n', (size_t)(end - p));
        unsigned long n;
        char *digits;

        if (line == NULL)
            return;
        n = strtoul(p, &digits, 16);
        if (digits == p || n > RESPONSE_MOST) {
            a->malformed = true;
            return;
        }
        if ((size_t)(end - line) < n + 3)
            return;
        if (memcmp(line + 1 + n, "\r\n", 2) != 0) {
            a->malformed = true;
            return;
        }
        last = n == 0;
        p = line + 1 + n + 2;
    }
    a->length = head + (size_t)(p - data);
    for (p = out = data;;) {
        char *line = memchr(p, '\n', (size_t)(end - p));
        unsigned long n = strtoul(p, NULL, 16);

        if (n == 0)
            break;
        memmove(out, line + 1, n);
        out += n;
        p = line + 1 + n + 2;
    }
    a->body = data;
    a->body_length = (size_t)(out - data);
    a->whole = true;
}

void answer_read(char *in, size_t length, struct answer *a)
{
    char *end = strstr(in, "\r\n\r\n");
    const char *value;
    size_t head;

    memset(a, 0, sizeof *a);
    if (end == NULL) {
        a->malformed = length > 64 * 1024 || strncmp(in, "HTTP/1.1 ", length < 9 ? length : 9) != 0;
        return;
    }
    head = (size_t)(end - in) + 4;
    a->status = atoi(in + 9);
    if (strncmp(in, "HTTP/1.", 7) != 0 || a->status < 100 || a->status > 599) {
        a->malformed = true;
        return;
    }
    value = header_value(in, end, "X-Version:");
    if (value != NULL) {
        size_t n = strcspn(value, "\r");

        n = n < sizeof a->version ? n : sizeof a->version - 1;
        memcpy(a->version, value, n);
    }
    value = header_value(in, end, "Connection:");
    a->close = value != NULL && strncasecmp(value, "close", 5) == 0;
    a->body = in + head;
    if (a->status == 101) {
        a->upgraded = a->whole = true;
        a->length = head;
        return;
    }
    value = header_value(in, end, "Transfer-Encoding:");
    if (value != NULL && strncasecmp(value, "chunked", 7) == 0) {
        read_chunks(in + head, length - head, a, head);
        return;
    }
    value = header_value(in, end, "Content-Length:");
    if (value == NULL) {
        a->until_close = a->close = true;
        a->body_length = length - head;
        return;
    }
    a->body_length = strtoul(value, NULL, 10);
    a->malformed = a->body_length > RESPONSE_MOST;
    a->whole = length - head >= a->body_length;
    a->length = head + a->body_length;
}
