#include "io/http_parse.h"

#include <string.h>
#include <strings.h>

enum {
    OVERHEAD_MOST = 16 * 1024, /* bytes of chunk extensions and trailers */
    HELD_MOST = 16 * 1024,     /* bytes a buffer keeps between requests */
};

static int refuse(struct nd_http_parse *p, int status, const char *code, const char *hint,
                  const char *message)
{
    if (p->state != ND_HTTP_FAILED) {
        p->state = ND_HTTP_FAILED;
        p->status = status;
        nd_err_set(&p->err, code, hint, "%s", message);
    }
    return -1;
}

static int bad_request(struct nd_http_parse *p, const char *message)
{
    return refuse(p, 400, "bad_request", "Send HTTP/1.1 as RFC 9112 describes it.", message);
}

static int head_too_large(struct nd_http_parse *p)
{
    return refuse(p, 431, "headers_too_large", "Send fewer or shorter header fields.",
                  "the request's header fields are too large");
}

static int target_too_long(struct nd_http_parse *p)
{
    return refuse(p, 414, "target_too_long", "Send the data in the body.", "the URL is too long");
}

static int body_too_large(struct nd_http_parse *p)
{
    if (p->body_most < p->sizes->body)
        return refuse(p, 413, "body_too_large", "Send a token, or a smaller body.",
                      "the request's body is larger than this server takes from who shows no "
                      "Authorization");
    return refuse(p, 413, "body_too_large", "Send a smaller body.",
                  "the request's body is larger than this server takes");
}

struct nd_http_text nd_http_parse_text(const struct nd_http_parse *p, struct nd_http_span span)
{
    return (struct nd_http_text){p->base + span.at, span.length};
}

struct nd_http_text nd_http_parse_field(const struct nd_http_parse *p, const char *name)
{
    size_t length = strlen(name);

    for (int i = 0; i < p->fields; i++)
        if (p->name[i].length == length && memcmp(p->base + p->name[i].at, name, length) == 0)
            return nd_http_parse_text(p, p->value[i]);
    return (struct nd_http_text){0};
}

const char *nd_http_parse_method(const struct nd_http_parse *p)
{
    return llhttp_method_name((llhttp_method_t)p->llhttp.method);
}

/* Takes the next element, without its blanks, off the front of a comma-separated list. */
static bool list_next(struct nd_http_text *list, struct nd_http_text *item)
{
    const char *p = list->data, *end, *stop;

    if (!list->length)
        return false;
    end = p + list->length;
    stop = memchr(p, ',', list->length);
    list->data = stop ? stop + 1 : end;
    list->length = (size_t)(end - list->data);
    if (!stop)
        stop = end;
    while (p < stop && (*p == ' ' || *p == '\t'))
        p++;
    while (stop > p && (stop[-1] == ' ' || stop[-1] == '\t'))
        stop--;
    *item = (struct nd_http_text){p, (size_t)(stop - p)};
    return true;
}

static bool text_is(struct nd_http_text text, const char *word)
{
    return text.length == strlen(word) && strncasecmp(text.data, word, text.length) == 0;
}

bool nd_http_list_has(struct nd_http_text list, const char *token)
{
    struct nd_http_text item;

    while (list_next(&list, &item))
        if (text_is(item, token))
            return true;
    return false;
}

/* ---- the guard: line by line, before llhttp sees the head ---- */

/* "METHOD SP target SP HTTP/1.x": exactly two spaces, and a version. */
static int check_request_line(struct nd_http_parse *p, const char *line, size_t length)
{
    const char *first = memchr(line, ' ', length);
    const char *second = first ? memchr(first + 1, ' ', length - (size_t)(first + 1 - line)) : NULL;
    const char *version = second ? second + 1 : NULL;
    size_t left = version ? length - (size_t)(version - line) : 0;

    if (!second)
        return bad_request(p, "the request line has no HTTP version");
    if (second == first + 1 || memchr(version, ' ', left))
        return bad_request(p, "the request line holds extra spaces");
    if (left != 8 || memcmp(version, "HTTP/", 5) != 0 || version[6] != '.' || version[5] < '0' ||
        version[5] > '9' || version[7] < '0' || version[7] > '9')
        return bad_request(p, "the request line doesn't end in an HTTP version");
    if (version[5] != '1' || version[7] > '1')
        return refuse(p, 505, "http_version", "Use HTTP/1.1.",
                      "this server speaks HTTP/1.1 and HTTP/1.0");
    if ((size_t)(second - first - 1) > p->sizes->target)
        return target_too_long(p);
    p->target.at = (uint16_t)(first + 1 - line + p->line);
    p->target.length = (uint16_t)(second - first - 1);
    return 0;
}

/* One line with its LF at `lf`. 1: the head ends with it. */
static int check_line(struct nd_http_parse *p, const char *data, size_t lf)
{
    const char *line = data + p->line;
    size_t length = lf - p->line;

    if (!length || line[length - 1] != '\r')
        return bad_request(p, "a line ends in LF without CR");
    length--;
    if (!p->first_done) {
        if (!length) {
            if (p->skip)
                return bad_request(p, "empty lines come before the request line");
            p->skip = 2;
            return 0;
        }
        p->first_done = true;
        return check_request_line(p, line, length);
    }
    if (!length)
        return 1;
    if (*line == ' ' || *line == '\t')
        return bad_request(p, "a header field is folded over two lines");
    if (*line == ':')
        return bad_request(p, "a header field has no name");
    return 0;
}

/* 1: the head is whole and p->head its length; 0: not yet; -1: refused. */
static int guard(struct nd_http_parse *p, const char *data, size_t length)
{
    size_t most = length < p->sizes->head + 1 ? length : p->sizes->head + 1;
    const char *lf;

    while (p->scanned < most && (lf = memchr(data + p->scanned, '\n', most - p->scanned))) {
        size_t at = (size_t)(lf - data);
        int rc = check_line(p, data, at);

        if (rc < 0)
            return -1;
        p->scanned = p->line = (uint32_t)at + 1;
        if (rc > 0) {
            p->head = p->scanned;
            return p->head > p->sizes->head ? head_too_large(p) : 1;
        }
    }
    p->scanned = (uint32_t)most;
    if (!p->first_done && most > p->sizes->target + 32) /* a method, two spaces and a version */
        return target_too_long(p);
    return length > p->sizes->head ? head_too_large(p) : 0;
}

/* ---- llhttp's callbacks ---- */

static struct nd_http_parse *parse_of(llhttp_t *llhttp)
{
    return llhttp->data;
}

static int on_field(llhttp_t *llhttp, const char *at, size_t length)
{
    struct nd_http_parse *p = parse_of(llhttp);
    struct nd_http_span *span;

    p->value_open = false;
    if (p->in_trailer) {
        p->overhead += (uint32_t)length + 4;
        return p->overhead > OVERHEAD_MOST ? head_too_large(p) : 0;
    }
    if (p->fields == ND_HTTP_FIELDS) {
        p->overflow = true;
        return head_too_large(p);
    }
    span = &p->name[p->fields];
    span->at = (uint16_t)(at - p->base);
    span->length = (uint16_t)length;
    for (char *c = p->base + span->at; length--; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c += 'a' - 'A';
    return 0;
}

static int on_value(llhttp_t *llhttp, const char *at, size_t length)
{
    struct nd_http_parse *p = parse_of(llhttp);

    if (p->in_trailer) { /* read for its form only; a second piece is a fold or a second read */
        if (p->value_open && at != p->fed)
            return bad_request(p, "a trailer field is folded over two lines");
        p->value_open = true;
        p->overhead += (uint32_t)length;
        return p->overhead > OVERHEAD_MOST ? head_too_large(p) : 0;
    }
    if (p->value_open) /* the guard lets no fold through, so a value comes in one piece */
        return bad_request(p, "a header field is folded over two lines");
    p->value_open = true;
    while (length && (at[length - 1] == ' ' || at[length - 1] == '\t'))
        length--;
    p->value[p->fields].at = (uint16_t)(at - p->base);
    p->value[p->fields].length = (uint16_t)length;
    return 0;
}

/* Transfer-Encoding: exactly one "chunked". */
static int check_coding(struct nd_http_parse *p, struct nd_http_text value)
{
    struct nd_http_text item;

    if (++p->transfer_encodings > 1)
        return bad_request(p, "Transfer-Encoding is given twice");
    if (text_is(value, "chunked"))
        return 0;
    while (list_next(&value, &item))
        if (item.length && !text_is(item, "chunked"))
            return refuse(p, 501, "transfer_coding", "Send the body plain or chunked.",
                          "the request uses a transfer coding that this server doesn't know");
    return bad_request(p, "Transfer-Encoding isn't \"chunked\"");
}

static int on_value_complete(llhttp_t *llhttp)
{
    struct nd_http_parse *p = parse_of(llhttp);
    struct nd_http_text name, value;

    if (p->in_trailer)
        return 0;
    if (!p->value_open) { /* an empty value */
        p->value[p->fields].at = p->name[p->fields].at;
        p->value[p->fields].length = 0;
    }
    name = nd_http_parse_text(p, p->name[p->fields]);
    value = nd_http_parse_text(p, p->value[p->fields]);
    p->fields++;
    if (text_is(name, "host")) {
        if (p->host >= 0)
            return bad_request(p, "Host is given twice");
        p->host = p->fields - 1;
    } else if (text_is(name, "transfer-encoding")) {
        return check_coding(p, value);
    } else if (text_is(name, "expect")) {
        if (!text_is(value, "100-continue"))
            return refuse(p, 417, "expectation_failed", "Send no Expect field.",
                          "the request expects what this server doesn't offer");
        p->expects = true;
    }
    return 0;
}

static bool host_is_sane(struct nd_http_text host)
{
    for (size_t i = 0; i < host.length; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:[]%!$&'()*+"
                    ";=",
                    host.data[i]) ||
            !host.data[i])
            return false;
    return true;
}

static int on_headers_complete(llhttp_t *llhttp)
{
    struct nd_http_parse *p = parse_of(llhttp);
    bool chunked = llhttp->flags & F_CHUNKED;

    p->in_trailer = true;
    p->content_length = chunked ? 0 : llhttp->content_length;
    if (llhttp->method == HTTP_CONNECT || llhttp->method >= HTTP_PRI)
        return refuse(p, 501, "method_unknown", NULL, "this server doesn't know the method");
    if (p->host < 0 && llhttp->http_minor == 1)
        return bad_request(p, "an HTTP/1.1 request needs a Host field");
    if (p->host >= 0 && !host_is_sane(nd_http_parse_text(p, p->value[p->host])))
        return bad_request(p, "the Host field isn't a host name");
    if (p->transfer_encodings && llhttp->http_minor == 0)
        return bad_request(p, "HTTP/1.0 has no Transfer-Encoding");
    if (p->transfer_encodings && llhttp->flags & F_CONTENT_LENGTH)
        return bad_request(p, "Content-Length is given beside Transfer-Encoding");
    p->body_most = p->sizes->body;
    if (!nd_http_parse_field(p, "authorization").length && p->sizes->body_unknown < p->body_most)
        p->body_most = p->sizes->body_unknown;
    if (!chunked && llhttp->content_length > p->body_most)
        return body_too_large(p);
    p->keep_alive = llhttp_should_keep_alive(llhttp);
    p->websocket = llhttp->flags & F_CONNECTION_UPGRADE && llhttp->http_minor == 1 &&
                   nd_http_list_has(nd_http_parse_field(p, "upgrade"), "websocket");
    p->expects = p->expects && llhttp->http_minor == 1;
    llhttp->upgrade = 0; /* whether it becomes a WebSocket is for the layer above */
    return 0;
}

static int on_body(llhttp_t *llhttp, const char *at, size_t length)
{
    struct nd_http_parse *p = parse_of(llhttp);

    if (!p->body_held.length && p->content_length == length) {
        p->body = (struct nd_http_text){at, length}; /* came whole: no copy */
        return 0;
    }
    if (p->body_held.length + length > p->body_most)
        return body_too_large(p);
    if (*p->bodies + length > p->sizes->bodies)
        return refuse(p, 503, "bodies_full", "Try again in a few seconds.",
                      "the server holds as much of bodies on their way as it takes at once");
    *p->bodies += length;
    nd_buf_add(&p->body_held, at, length);
    p->body = (struct nd_http_text){p->body_held.data, p->body_held.length};
    return 0;
}

static int on_extension(llhttp_t *llhttp, const char *at, size_t length)
{
    struct nd_http_parse *p = parse_of(llhttp);

    (void)at;
    p->overhead += (uint32_t)length + 1;
    return p->overhead > OVERHEAD_MOST ? bad_request(p, "the chunk extensions are too long") : 0;
}

static int on_message_complete(llhttp_t *llhttp)
{
    parse_of(llhttp)->state = ND_HTTP_DONE;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_chunk_extension_name = on_extension,
    .on_chunk_extension_value = on_extension,
    .on_message_complete = on_message_complete,
};

/* ---- */

void nd_http_parse_init(struct nd_http_parse *p, const struct nd_http_sizes *sizes, size_t *bodies)
{
    memset(p, 0, sizeof *p);
    p->sizes = sizes;
    p->bodies = bodies;
    p->host = -1;
    llhttp_init(&p->llhttp, HTTP_REQUEST, &settings);
    p->llhttp.data = p;
}

static void recycle(struct nd_buf *b)
{
    if (b->capacity > HELD_MOST)
        nd_buf_fini(b);
    else
        nd_buf_clear(b);
}

void nd_http_parse_drop_body(struct nd_http_parse *p)
{
    *p->bodies -= p->body_held.length;
    recycle(&p->body_held);
    p->body = (struct nd_http_text){0};
}

void nd_http_parse_fini(struct nd_http_parse *p)
{
    nd_http_parse_drop_body(p);
    nd_buf_fini(&p->held);
    nd_buf_fini(&p->body_held);
}

void nd_http_parse_next(struct nd_http_parse *p)
{
    recycle(&p->held);
    nd_http_parse_drop_body(p);
    llhttp_init(&p->llhttp, HTTP_REQUEST, &settings);
    p->llhttp.data = p;
    p->state = ND_HTTP_HEAD;
    p->scanned = p->line = p->skip = p->head = p->overhead = 0;
    p->first_done = p->value_open = p->overflow = p->websocket = false;
    p->keep_alive = p->expects = p->in_trailer = false;
    p->base = NULL;
    p->fields = p->transfer_encodings = 0;
    p->host = -1;
}

/* Runs llhttp over `length` bytes and returns how many it took. */
static size_t execute(struct nd_http_parse *p, const char *data, size_t length)
{
    llhttp_errno_t rc;

    p->fed = data;
    rc = llhttp_execute(&p->llhttp, data, length);
    if (rc == HPE_OK)
        return length;
    if (rc == HPE_PAUSED && p->state == ND_HTTP_DONE)
        return (size_t)(llhttp_get_error_pos(&p->llhttp) - data);
    if (rc == HPE_INVALID_METHOD)
        refuse(p, 501, "method_unknown", NULL, "this server doesn't know the method");
    else if (rc == HPE_INVALID_CHUNK_SIZE)
        bad_request(p, "a chunk's size isn't valid");
    else if (rc == HPE_INVALID_CONTENT_LENGTH)
        bad_request(p, "Content-Length isn't a number");
    else if (rc == HPE_UNEXPECTED_CONTENT_LENGTH)
        bad_request(p, "Content-Length is given twice or beside Transfer-Encoding");
    else if (rc == HPE_INVALID_URL)
        bad_request(p, "the request target holds a character that no URL may");
    else if (rc == HPE_INVALID_HEADER_TOKEN)
        bad_request(p, "a header field's name or value holds an invalid character");
    else
        bad_request(p, llhttp_get_error_reason(&p->llhttp) ?: "the request isn't valid HTTP");
    return 0;
}

enum nd_http_parse_state nd_http_parse_feed(struct nd_http_parse *p, char *data, size_t length,
                                            size_t *used)
{
    *used = 0;
    if (p->state == ND_HTTP_HEAD) {
        if (guard(p, data, length) <= 0)
            return p->state;
        p->base = data;
        p->state = ND_HTTP_BODY;
        execute(p, data + p->skip, p->head - p->skip);
        if (p->state == ND_HTTP_FAILED)
            return p->state;
        *used = p->head;
    }
    if (p->state == ND_HTTP_BODY && *used < length)
        *used += execute(p, data + *used, length - *used);
    if (p->state == ND_HTTP_BODY && p->base != p->held.data) {
        nd_buf_add(&p->held, p->base, p->head);
        p->base = p->held.data;
    }
    return p->state;
}
