#include "engine/exposition.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

bool nd_exposition_name(const char *name, bool label)
{
    if (!*name || isdigit((unsigned char)*name))
        return false;
    for (; *name; name++)
        if (!(isalnum((unsigned char)*name) && (unsigned char)*name < 128) && *name != '_' &&
            (label || *name != ':'))
            return false;
    return true;
}

/* Bytes of the UTF-8 character at `s`; 0 where there is none (RFC 3629: no surrogates, no longer
 * form than needed, nothing above U+10FFFF). */
static size_t utf8_length(const unsigned char *s)
{
    size_t length = *s < 0x80   ? 1
                    : *s < 0xc2 ? 0
                    : *s < 0xe0 ? 2
                    : *s < 0xf0 ? 3
                    : *s < 0xf5 ? 4
                                : 0;

    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] > 0x9f) || (*s == 0xf0 && s[1] < 0x90) ||
        (*s == 0xf4 && s[1] > 0x8f))
        return 0;
    return length;
}

static void escaped(struct nd_buf *out, const char *text, bool quoted)
{
    while (*text) {
        size_t length = utf8_length((const unsigned char *)text);

        if (length == 0)
            nd_buf_adds(out, REPLACEMENT);
        else if (*text == '\\')
            nd_buf_adds(out, "\\\\");
        else if (*text == '\n')
            nd_buf_adds(out, "\\n");
        else if (*text == '"' && quoted)
            nd_buf_adds(out, "\\\"");
        else
            nd_buf_add(out, text, length);
        text += length ? length : 1;
    }
}

void nd_exposition_family(struct nd_buf *out, const char *name, const char *type, const char *help)
{
    nd_buf_addf(out, "# HELP %s ", name);
    escaped(out, help, false);
    nd_buf_addf(out, "\n# TYPE %s %s\n", name, type);
}

void nd_exposition_label(struct nd_buf *labels, const char *name, const char *value)
{
    nd_buf_addf(labels, "%s%s=\"", labels->length ? "," : "", name);
    escaped(labels, value, true);
    nd_buf_adds(labels, "\"");
}

/* The shortest of the forms that is read as the same number. */
static void number(struct nd_buf *out, double value)
{
    char text[40];

    if (isnan(value)) {
        nd_buf_adds(out, "NaN");
    } else if (isinf(value)) {
        nd_buf_adds(out, value > 0 ? "+Inf" : "-Inf");
    } else if (value == floor(value) && fabs(value) < 9007199254740992.0) { /* 2^53 */
        nd_buf_addf(out, "%.0f", value);
    } else {
        snprintf(text, sizeof text, "%.15g", value);
        if (strtod(text, NULL) != value)
            snprintf(text, sizeof text, "%.17g", value);
        nd_buf_adds(out, text);
    }
}

void nd_exposition_sample(struct nd_buf *out, const char *name, const char *suffix,
                          const char *labels, double value)
{
    nd_buf_adds(out, name);
    nd_buf_adds(out, suffix);
    if (*labels) {
        nd_buf_adds(out, "{");
        nd_buf_adds(out, labels);
        nd_buf_adds(out, "}");
    }
    nd_buf_adds(out, " ");
    number(out, value);
    nd_buf_adds(out, "\n");
}
