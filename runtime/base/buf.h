/*
 * buf.h - a growing run of bytes, always followed by a NUL that isn't counted.
 *
 * `struct nd_buf b = {0}` is an empty one; nd_buf_fini frees what it holds. It grows without
 * bound: whoever fills it from outside checks the length first.
 */
#ifndef ND_BASE_BUF_H
#define ND_BASE_BUF_H

#include <stdarg.h>
#include <stddef.h>

struct nd_buf {
    char *data;      /* owned; NULL while nothing was ever added */
    size_t length;   /* bytes in use */
    size_t capacity; /* bytes allocated, the NUL included */
};

void nd_buf_fini(struct nd_buf *b);
void nd_buf_reserve(struct nd_buf *b, size_t more); /* room for `more` bytes and the NUL */
void nd_buf_add(struct nd_buf *b, const void *data, size_t length);
void nd_buf_adds(struct nd_buf *b, const char *text);
void nd_buf_addf(struct nd_buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void nd_buf_drop(struct nd_buf *b, size_t length); /* removes bytes from the front */
void nd_buf_clear(struct nd_buf *b);               /* keeps the memory */
char *nd_buf_take(struct nd_buf *b);               /* returns owned, never NULL; b is empty */

#endif
