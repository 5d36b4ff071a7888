/*
 * http.c - the Lua module `http`: requests to other programs.
 *
 * http.request{url=, method=, headers={}, body=, unix=path, timeout_ms=30000, connect_timeout_ms=,
 *   idle_timeout_ms=, max_bytes=16 MiB, follow=false} waits -> {status=, headers={lower=value},
 * body=} http.stream{the same} waits for the head -> {status=, headers=, body=chan}; timeout_ms is
 * for the head alone, and there is no max_bytes unless it is given. A status of 400 and above is an
 * answer, no error. Repeated headers are joined by ", ". For https also ca=, cert=, key= (paths
 * of PEM files), pin= (io/tls.h; then that alone counts). Errors: http_connect, http_dns, http_tls,
 * http_timeout, http_too_large, http_protocol, http_closed.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "io/http_client.h"
#include "script/chan.h"

#define CLIENT_META "nd.http"

enum { TIMEOUT_MS = 30000 };

/* --- reading the request ---------------------------------------------------------------------- */

static struct nd_http *client_of(lua_State *L)
{
    return *(struct nd_http **)lua_touserdata(L, lua_upvalueindex(1));
}

ND_RAISES static const char *text_field(lua_State *L, const char *name, size_t *length)
{
    size_t size;
    const char *text;

    if (lua_getfield(L, 1, name) == LUA_TNIL) {
        lua_pop(L, 1);
        return NULL;
    }
    text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &size) : NULL;
    if (!text || (!length && strlen(text) != size))
        luaL_error(L, "http: '%s' must be a string%s", name, text ? " without NUL" : "");
    if (length)
        *length = size;
    lua_pop(L, 1); /* the table keeps it alive until the request has started */
    return text;
}

ND_RAISES static lua_Integer number_field(lua_State *L, const char *name, lua_Integer otherwise)
{
    lua_Integer value = otherwise;
    int ok = 1;

    if (lua_getfield(L, 1, name) != LUA_TNIL)
        value = lua_tointegerx(L, -1, &ok);
    lua_pop(L, 1);
    if (!ok || value < 0 || value > INT32_MAX)
        luaL_error(L, "http: '%s' must be an integer that is not negative", name);
    return value;
}

static bool token(const char *name, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("!#$%&'*+-.^_`|~", name[i]))
            return false;
    return length > 0;
}

static bool one_line(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < ' ' && text[i] != '\t')
            return false;
    return true;
}

ND_RAISES static void check_url(lua_State *L, const char *url)
{
    if (!url || (strncasecmp(url, "http://", 7) && strncasecmp(url, "https://", 8)))
        luaL_error(L, "http: 'url' must begin with http:// or https://");
    for (const char *p = url; *p; p++)
        if ((unsigned char)*p <= ' ')
            luaL_error(L, "http: 'url' holds a space or a control character");
}

/* Pushes what must stay alive until the request has started: an array in a userdata, and the lines
 * it points to in a table. */
ND_RAISES static const char *const *read_headers(lua_State *L)
{
    const char **lines;
    int count = 0;

    if (lua_getfield(L, 1, "headers") == LUA_TNIL) // headers
        return NULL;
    luaL_checktype(L, -1, LUA_TTABLE);
    lua_newtable(L);                         // headers kept
    for (lua_pushnil(L); lua_next(L, -3);) { // headers kept name value
        size_t name_length, length;
        const char *name =
            lua_type(L, -2) == LUA_TSTRING ? lua_tolstring(L, -2, &name_length) : NULL;
        const char *value = lua_tolstring(L, -1, &length);

        if (!name || !token(name, name_length) || !value || !one_line(value, length))
            return (void)luaL_error(L, "http: a header is no name = text of one line"), NULL;
        lua_pushfstring(L, length ? "%s: %s" : "%s;", name, value); // ... name value line
        lua_rawseti(L, -4, ++count);
        lua_pop(L, 1);
    }
    lines = lua_newuserdatauv(L, (size_t)(count + 1) * sizeof *lines, 0); // headers kept lines
    for (int i = 0; i < count; i++) {
        lua_rawgeti(L, -2, i + 1);
        lines[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    lines[count] = NULL;
    return lines;
}

/* Reads the table at 1. What it pushes stays until the caller's start. */
ND_RAISES static void read_request(lua_State *L, struct nd_http_request *req)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    req->url = text_field(L, "url", NULL);
    req->unix_path = text_field(L, "unix", NULL);
    req->method = text_field(L, "method", NULL);
    req->tls.ca = text_field(L, "ca", NULL);
    req->tls.cert = text_field(L, "cert", NULL);
    req->tls.key = text_field(L, "key", NULL);
    req->pin = text_field(L, "pin", NULL);
    if (!req->tls.cert != !req->tls.key)
        luaL_error(L, "http: 'cert' and 'key' come together");
    check_url(L, req->url);
    if (req->method && !token(req->method, strlen(req->method)))
        luaL_error(L, "http: 'method' is no HTTP method");
    req->connect_timeout_ms = (int)number_field(L, "connect_timeout_ms", 0);
    req->idle_timeout_ms = (int)number_field(L, "idle_timeout_ms", 0);
    req->max_bytes = (size_t)number_field(L, "max_bytes", 0);
    lua_getfield(L, 1, "follow");
    req->follow = lua_toboolean(L, -1);
    lua_pop(L, 1);
    req->body = text_field(L, "body", &req->body_length);
    req->headers = read_headers(L);
}

static void *keep_body(struct nd_http_request *req)
{
    char *copy;

    if (!req->body)
        return NULL;
    copy = nd_alloc(req->body_length + 1);
    memcpy(copy, req->body, req->body_length);
    req->body = copy;
    return copy;
}

ND_RAISES static void push_headers(lua_State *L, const struct nd_buf *headers)
{
    const char *p = headers->data;
    const char *end = p + headers->length;

    lua_newtable(L); // all
    while (p && p < end) {
        const char *value = p + strlen(p) + 1;

        if (lua_getfield(L, -1, p) == LUA_TSTRING) { // all old
            lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), value);
            lua_setfield(L, -3, p);
        } else {
            lua_pushstring(L, value);
            lua_setfield(L, -3, p);
        }
        lua_pop(L, 1);
        p = value + strlen(value) + 1;
    }
}

/* --- request ---------------------------------------------------------------------------------- */

struct request_op {
    struct nd_op op;
    struct nd_http_transfer *transfer;
    void *sent; /* owned: the request's body */
    int status;
    struct nd_buf headers;
    struct nd_buf body;
};

static int push_answer(lua_State *L, void *arg)
{
    struct request_op *op = arg;

    lua_createtable(L, 0, 3); // answer
    lua_pushinteger(L, op->status);
    lua_setfield(L, -2, "status");
    push_headers(L, &op->headers);
    lua_setfield(L, -2, "headers");
    lua_pushlstring(L, op->body.data ? op->body.data : "", op->body.length);
    lua_setfield(L, -2, "body");
    return 1;
}

static void cancel_request(void *arg)
{
    nd_http_cancel(((struct request_op *)arg)->transfer);
}

static void fini_request(void *arg)
{
    struct request_op *op = arg;

    free(op->sent);
    nd_buf_fini(&op->headers);
    nd_buf_fini(&op->body);
}

static const struct nd_op_type request_type = {
    .name = "http.request",
    .size = sizeof(struct request_op),
    .push = push_answer,
    .cancel = cancel_request,
    .fini = fini_request,
};

static void on_answered(void *arg, struct nd_http_response *response, const struct nd_err *err)
{
    struct request_op *op = arg;

    if (err)
        op->op.err = *err;
    op->status = response->status;
    op->headers = response->headers;
    op->body = response->body;
    response->headers = response->body = (struct nd_buf){0};
    nd_op_done(op);
}

static int http_request(lua_State *L)
{
    struct nd_http_request req = {.on_done = on_answered};
    struct request_op *op;

    read_request(L, &req);
    req.timeout_ms = (int)number_field(L, "timeout_ms", TIMEOUT_MS);
    op = nd_op_new(L, &request_type);
    op->sent = keep_body(&req);
    req.arg = op;
    op->transfer = nd_http_start(client_of(L), &req);
    return nd_op_park(L, op);
}

/* --- stream ----------------------------------------------------------------------------------- */

struct stream {
    struct nd_http_transfer *transfer;
    struct nd_chan *chan; /* we owe its end */
    struct head_op *head; /* NULL once it is done */
    void *sent;           /* owned: the request's body */
};

struct head_op {
    struct nd_op op;
    struct stream *stream; /* valid until the op is done */
    int status;
    struct nd_buf headers;
};

enum { AT_CHAN = 2 }; /* where http_stream keeps the channel on its stack */

static int push_head(lua_State *L, void *arg)
{
    struct head_op *op = arg;

    lua_createtable(L, 0, 3); // answer
    lua_pushinteger(L, op->status);
    lua_setfield(L, -2, "status");
    push_headers(L, &op->headers);
    lua_setfield(L, -2, "headers");
    lua_pushvalue(L, AT_CHAN);
    lua_setfield(L, -2, "body");
    return 1;
}

static void cancel_head(void *arg)
{
    nd_http_cancel(((struct head_op *)arg)->stream->transfer);
}

static void fini_head(void *arg)
{
    nd_buf_fini(&((struct head_op *)arg)->headers);
}

static const struct nd_op_type head_type = {
    .name = "http.stream",
    .size = sizeof(struct head_op),
    .push = push_head,
    .cancel = cancel_head,
    .fini = fini_head,
};

static void pause_stream(void *arg, bool stop)
{
    nd_http_pause(((struct stream *)arg)->transfer, stop);
}

static void close_stream(void *arg)
{
    nd_http_cancel(((struct stream *)arg)->transfer);
}

static const struct nd_chan_type body_type = {.pause = pause_stream, .close = close_stream};

static void on_stream_head(void *arg, const struct nd_http_response *response)
{
    struct stream *s = arg;

    s->head->status = response->status;
    nd_buf_add(&s->head->headers, response->headers.data, response->headers.length);
    nd_op_done(s->head);
    s->head = NULL;
}

static void on_stream_data(void *arg, const char *data, size_t length)
{
    nd_chan_add(((struct stream *)arg)->chan, 0, data, length);
}

static void on_stream_done(void *arg, struct nd_http_response *response, const struct nd_err *err)
{
    struct stream *s = arg;
    struct nd_err none = {0};

    (void)response;
    if (s->head) {
        if (err)
            s->head->op.err = *err;
        else
            nd_err_set(&s->head->op.err, "http_protocol", NULL, "the answer had no head");
        nd_op_done(s->head);
    }
    nd_chan_end(s->chan, err ? err : &none);
    free(s->sent);
    free(s);
}

static int http_stream(lua_State *L)
{
    struct nd_http_request req = {
        .on_headers = on_stream_head, .on_data = on_stream_data, .on_done = on_stream_done};
    struct stream *s;
    struct nd_chan *chan;
    struct head_op *op;

    read_request(L, &req);
    req.head_timeout_ms = (int)number_field(L, "timeout_ms", TIMEOUT_MS);
    if (!req.max_bytes)
        req.max_bytes = INT64_MAX;
    s = nd_alloc(sizeof *s);
    chan = nd_chan_new(L, &body_type, s);
    lua_insert(L, AT_CHAN);
    op = nd_op_new(L, &head_type);
    s->chan = chan;
    s->head = op;
    s->sent = keep_body(&req);
    op->stream = s;
    req.arg = s;
    s->transfer = nd_http_start(client_of(L), &req);
    return nd_op_park(L, op);
}

/* --- the module ------------------------------------------------------------------------------- */

static int client_gc(lua_State *L)
{
    struct nd_http **client = lua_touserdata(L, 1);

    nd_http_free(*client);
    *client = NULL;
    return 0;
}

static const luaL_Reg functions[] = {
    {"request", http_request},
    {"stream", http_stream},
    {NULL, NULL},
};

int nd_open_http(lua_State *L)
{
    struct nd_http **client;

    luaL_newlibtable(L, functions); // http
    client = lua_newuserdatauv(L, sizeof *client, 0);
    *client = NULL;
    if (luaL_newmetatable(L, CLIENT_META)) {
        lua_pushcfunction(L, client_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2); // http client
    *client = nd_http_new(nd_host_loop(nd_host_of(L)));
    luaL_setfuncs(L, functions, 1);
    return 1;
}
