#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void fill(struct nd_err *err, const char *code, const char *hint, const char *format,
                 va_list args)
{
    snprintf(err->code, sizeof err->code, "%s", code);
    snprintf(err->hint, sizeof err->hint, "%s", hint ? hint : "");
    vsnprintf(err->message, sizeof err->message, format, args);
}

int nd_err_set(struct nd_err *err, const char *code, const char *hint, const char *format, ...)
{
    va_list args;

    if (!err)
        return -1;
    va_start(args, format);
    fill(err, code, hint, format, args);
    va_end(args);
    return -1;
}

int nd_err_errno(struct nd_err *err, int number, const char *code, const char *hint,
                 const char *format, ...)
{
    va_list args;
    char text[128];
    size_t used;

    if (!err)
        return -1;
    va_start(args, format);
    fill(err, code, hint, format, args);
    va_end(args);
    used = strlen(err->message);
    snprintf(err->message + used, sizeof err->message - used, ": %s",
             strerror_r(number, text, sizeof text));
    return -1;
}
