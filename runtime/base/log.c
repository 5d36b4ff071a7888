#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

static bool as_json;
static enum nd_log_level threshold = ND_LOG_INFO;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void nd_log_setup(bool json, enum nd_log_level least)
{
    as_json = json;
    threshold = least;
}

static void add_escaped(struct nd_buf *line, const char *text)
{
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;

        if (c < 0x20 || c == 0x7f)
            nd_buf_addf(line, "\\u%04x", c);
        else if (as_json && (c == '"' || c == '\\'))
            nd_buf_addf(line, "\\%c", c);
        else
            nd_buf_add(line, p, 1);
    }
}

void nd_log(enum nd_log_level level, const char *format, ...)
{
    struct nd_buf line = {0};
    char when[32];
    char *text = NULL;
    va_list args;

    if (level < threshold)
        return;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    nd_clock_format(nd_clock_wall(), when, sizeof when);
    nd_buf_addf(&line, as_json ? "{\"time\":\"%s\",\"level\":\"%s\",\"message\":\"" : "%s %-5s ",
                when, level_names[level]);
    add_escaped(&line, text ? text : "");
    nd_buf_adds(&line, as_json ? "\"}\n" : "\n");
    if (write(STDERR_FILENO, line.data, line.length) < 0) {
        /* nobody left to tell */
    }
    nd_buf_fini(&line);
    free(text);
}

void nd_log_err(const char *doing, const struct nd_err *err)
{
    nd_log(ND_LOG_ERROR, "%s: %s (%s)%s%s", doing, err->message, err->code,
           err->hint[0] ? " - " : "", err->hint);
}
