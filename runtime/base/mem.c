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

static void *checked(void *p)
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
    return checked(calloc(1, size ? size : 1));
}

void *nd_realloc(void *p, size_t size)
{
    return checked(realloc(p, size ? size : 1));
}

char *nd_strdup(const char *s)
{
    return checked(strdup(s));
}

char *nd_strndup(const char *s, size_t length)
{
    return checked(strndup(s, length));
}

char *nd_printf(const char *format, ...)
{
    va_list args;
    char *text = NULL;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    return checked(text);
}

void nd_zero(void *p, size_t size)
{
    explicit_bzero(p, size);
}
