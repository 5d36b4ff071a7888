/*
 * http_headers.c - the headers of an answer, kept as "name\0value\0" pairs, and percent-encoding.
 */
#include <ctype.h>
#include <string.h>

#include "io/http_client.h"

void nd_http_add_header(struct nd_http_response *r, const char *line, size_t length)
{
    const char *colon = memchr(line, ':', length);
    const char *end = line + length;
    size_t start = r->headers.length;

    if (!colon)
        return;
    nd_buf_add(&r->headers, line, (size_t)(colon - line) + 1);
    for (size_t i = start; i + 1 < r->headers.length; i++)
        r->headers.data[i] = (char)tolower((unsigned char)r->headers.data[i]);
    r->headers.data[r->headers.length - 1] = '\0';
    for (colon++; colon < end && (*colon == ' ' || *colon == '\t'); colon++)
        ;
    while (end > colon && isspace((unsigned char)end[-1]))
        end--;
    nd_buf_add(&r->headers, colon, (size_t)(end - colon));
    nd_buf_add(&r->headers, "", 1);
}

const char *nd_http_header(const struct nd_http_response *response, const char *name)
{
    const char *p = response->headers.data;
    const char *end = p + response->headers.length;

    while (p && p < end) {
        const char *value = p + strlen(p) + 1;

        if (strcmp(p, name) == 0)
            return value;
        p = value + strlen(value) + 1;
    }
    return NULL;
}

void nd_http_encode(struct nd_buf *out, const char *text, size_t length, const char *also)
{
    static const char digits[] = "0123456789ABCDEF";

    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];

        if (isalnum(c) || (c && strchr("-._~", c)) || (c && strchr(also, c))) {
            nd_buf_add(out, text + i, 1);
        } else {
            char code[3] = {'%', digits[c >> 4], digits[c & 15]};

            nd_buf_add(out, code, sizeof code);
        }
    }
}
