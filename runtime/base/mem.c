#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void (*on_exhausted)(void);

void nd_mem_on_exhausted(void (*then)(void))
{
    on_exhausted = then;
}

void *nd_checked(void *p)
{
    if (!p) {
        if (on_exhausted)
            on_exhausted();
        fputs("nextdeploy: out of memory\n", stderr);
        abort();
    }
    return p;
}

void *nd_alloc(size_t size)
{
    return nd_checked(calloc(1, size ? size : 1));
}

void *nd_realloc(void *p, size_t size)
{
    return nd_checked(realloc(p, size ? size : 1));
}

char *nd_strdup(const char *s)
{
    return nd_checked(strdup(s));
}

char *nd_strndup(const char *s, size_t length)
{
    return nd_checked(strndup(s, length));
}

char *nd_printf(const char *format, ...)
{
    va_list args;
    char *text = NULL;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    return nd_checked(text);
}

void nd_zero(void *p, size_t size)
{
    explicit_bzero(p, size);
}
