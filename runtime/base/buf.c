#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void nd_buf_fini(struct nd_buf *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}

void nd_buf_reserve(struct nd_buf *b, size_t more)
{
    size_t need = b->length + more + 1;
    size_t capacity = b->capacity ? b->capacity : 64;

    if (need <= b->capacity)
        return;
    while (capacity < need)
        capacity *= 2;
    b->data = nd_realloc(b->data, capacity);
    b->capacity = capacity;
    b->data[b->length] = '\0';
}

void nd_buf_add(struct nd_buf *b, const void *data, size_t length)
{
    nd_buf_reserve(b, length);
    if (length)
        memcpy(b->data + b->length, data, length);
    b->length += length;
    b->data[b->length] = '\0';
}

void nd_buf_adds(struct nd_buf *b, const char *text)
{
    nd_buf_add(b, text, strlen(text));
}

void nd_buf_addf(struct nd_buf *b, const char *format, ...)
{
    size_t room = b->capacity - b->length;
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(b->data ? b->data + b->length : NULL, room, format, args);
    va_end(args);
    if (length <= 0)
        return;
    if ((size_t)length >= room) {
        nd_buf_reserve(b, (size_t)length);
        va_start(args, format);
        vsnprintf(b->data + b->length, (size_t)length + 1, format, args);
        va_end(args);
    }
    b->length += (size_t)length;
}

void nd_buf_drop(struct nd_buf *b, size_t length)
{
    if (!length)
        return;
    memmove(b->data, b->data + length, b->length - length);
    b->length -= length;
    b->data[b->length] = '\0';
}

void nd_buf_clear(struct nd_buf *b)
{
    b->length = 0;
    if (b->data)
        b->data[0] = '\0';
}

char *nd_buf_take(struct nd_buf *b)
{
    char *data = b->data ? b->data : nd_strdup("");

    memset(b, 0, sizeof *b);
    return data;
}
