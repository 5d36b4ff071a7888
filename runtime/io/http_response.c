#include "io/http_response.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/clock.h"
#include "io/http_parse.h"

const char *nd_http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {101, "Switching Protocols"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {426, "Upgrade Required"},
        {428, "Precondition Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };

    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "";
}

bool nd_http_has_body(int status)
{
    return status >= 200 && status != 204 && status != 304;
}

/* RFC 9110, 5.6.2. */
static bool is_token(struct nd_http_text text)
{
    for (size_t i = 0; i < text.length; i++) {
        char c = text.data[i], lower = c | 0x20;

        if ((lower < 'a' || lower > 'z') && c != '-' && (c < '0' || c > '9') &&
            (!c || !strchr("!#$%&'*+.^_`|~", c)))
            return false;
    }
    return text.length > 0;
}

static bool is_value(struct nd_http_text text)
{
    for (size_t i = 0; i < text.length; i++) {
        unsigned char c = (unsigned char)text.data[i];

        if ((c < ' ' && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

bool nd_http_field_is_valid(const struct nd_http_field *field)
{
    return is_token(field->name) && is_value(field->value);
}

static bool named(const struct nd_http_field *field, const char *name)
{
    return field->name.length == strlen(name) &&
           strncasecmp(field->name.data, name, field->name.length) == 0;
}

static bool is_ours(const struct nd_http_field *field)
{
    switch (field->name.length) {
    case 4:
        return named(field, "date");
    case 10:
        return named(field, "connection") || named(field, "keep-alive");
    case 14:
        return named(field, "content-length");
    case 17:
        return named(field, "transfer-encoding");
    default:
        return false;
    }
}

bool nd_http_fields_close(const struct nd_http_field *fields, int count)
{
    for (int i = 0; i < count; i++)
        if (named(&fields[i], "connection") && nd_http_list_has(fields[i].value, "close"))
            return true;
    return false;
}

static int fields_add(struct nd_buf *out, const struct nd_http_head *head, struct nd_err *err)
{
    for (int i = 0; i < head->count; i++) {
        const struct nd_http_field *f = &head->fields[i];

        if (!nd_http_field_is_valid(f))
            return nd_err_set(err, "bad_response", NULL,
                              "the handler answered with a header field that isn't valid: %.*s",
                              f->name.length > 60 ? 60 : (int)f->name.length, f->name.data);
        if (head->status != 101 && is_ours(f))
            continue;
        nd_buf_reserve(out, f->name.length + f->value.length + 4);
        nd_buf_add(out, f->name.data, f->name.length);
        nd_buf_add(out, ": ", 2);
        nd_buf_add(out, f->value.data, f->value.length);
        nd_buf_add(out, "\r\n", 2);
    }
    return 0;
}

/* What a browser is to make of any answer that says nothing else: not a page of anybody's, in
 * nobody's frame, in no cache, with no other type than it says (Fetch Standard, 3.7; CSP Level 3).
 */
static void guards_add(struct nd_buf *out, const struct nd_http_head *head)
{
    static const char *const guards[][2] = {
        {"Cache-Control", "no-store"},
        {"Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"},
        {"Cross-Origin-Resource-Policy", "same-origin"},
        {"Referrer-Policy", "no-referrer"},
        {"X-Content-Type-Options", "nosniff"},
        {"X-Frame-Options", "DENY"},
    };

    for (size_t g = 0; g < sizeof guards / sizeof guards[0]; g++) {
        int i = 0;

        while (i < head->count && !named(&head->fields[i], guards[g][0]))
            i++;
        if (i < head->count)
            continue;
        nd_buf_adds(out, guards[g][0]);
        nd_buf_add(out, ": ", 2);
        nd_buf_adds(out, guards[g][1]);
        nd_buf_add(out, "\r\n", 2);
    }
}

static void date_renew(struct nd_http_date *date)
{
    int64_t now = nd_clock_wall() / 1000;
    time_t seconds = (time_t)now;
    struct tm tm;

    if (date->second == now)
        return;
    date->second = now;
    gmtime_r(&seconds, &tm);
    strftime(date->text, sizeof date->text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
}

int nd_http_head_add(struct nd_buf *out, const struct nd_http_head *head, struct nd_http_date *date,
                     struct nd_err *err)
{
    size_t before = out->length;

    if (head->status != 101 && (head->status < 200 || head->status > 599))
        return nd_err_set(err, "bad_response", NULL, "the handler answered with status %d",
                          head->status);
    date_renew(date);
    nd_buf_addf(out, "HTTP/1.1 %d %s\r\nDate: %s\r\n", head->status, nd_http_reason(head->status),
                date->text);
    if (fields_add(out, head, err) < 0) {
        out->length = before;
        return -1;
    }
    if (head->status != 101)
        guards_add(out, head);
    if (head->length >= 0)
        nd_buf_addf(out, "Content-Length: %lld\r\n", (long long)head->length);
    else if (head->length == ND_HTTP_CHUNKED)
        nd_buf_adds(out, "Transfer-Encoding: chunked\r\n");
    if (head->close)
        nd_buf_adds(out, "Connection: close\r\n");
    else if (head->minor == 0)
        nd_buf_adds(out, "Connection: keep-alive\r\n");
    nd_buf_add(out, "\r\n", 2);
    return 0;
}

static void json_string_add(struct nd_buf *out, const char *text)
{
    nd_buf_add(out, "\"", 1);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\')
            nd_buf_addf(out, "\\%c", c);
        else if (c < ' ' || c == 0x7f)
            nd_buf_addf(out, "\\u%04x", c);
        else
            nd_buf_add(out, text, 1);
    }
    nd_buf_add(out, "\"", 1);
}

void nd_http_error_add(struct nd_buf *out, const struct nd_err *err)
{
    nd_buf_adds(out, "{\"code\":");
    json_string_add(out, err->code);
    nd_buf_adds(out, ",\"hint\":");
    json_string_add(out, err->hint);
    nd_buf_adds(out, ",\"message\":");
    json_string_add(out, err->message);
    nd_buf_adds(out, ",\"success\":false}\n");
}
