/*
 * ws.c - the Lua module `ws`: WebSockets to other programs.
 *
 *   ws.connect{url="ws://host:port/path", headers={}, timeout_ms=10000} waits -> ws
 *       wss:// too, with ca=, cert=, key= (paths of PEM files), pin= (io/tls.h; then that alone
 * counts) ws.connect{unix="/run/x.sock", path="/path", headers=, timeout_ms=} What it returns is
 * described in ws_object.h. Errors: ws_dns, ws_connect, ws_tls, ws_timeout, ws_protocol,
 * tls_bad_..., and ws_refused, whose data has the answer's `status` and `body`.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "bind/ws_object.h"
#include "io/tls.h"
#include "io/ws_client.h"

enum { TIMEOUT_MS = 10000, FIELDS_MOST = 32, PORT = 80, TLS_PORT = 443 };

struct connect_op {
    struct nd_op op;
    struct nd_ws_client *client; /* NULL once it called back */
    struct nd_ws_object *object; /* owned by the userdata below the guard, held until it called */
    int status;                  /* of a refusal */
    char *body;                  /* owned; of a refusal */
    size_t length;
    struct nd_err refused;
    bool left;
};

static void on_opened(void *arg, struct nd_ws *ws)
{
    struct connect_op *op = arg;

    op->client = NULL;
    nd_ws_listen(ws, &nd_ws_object_events, op->object);
    nd_ws_object_opened(op->object, ws);
    nd_op_done(&op->op);
}

static void on_failed(void *arg, const struct nd_err *err, int status, const char *body,
                      size_t length)
{
    struct connect_op *op = arg;

    op->client = NULL;
    nd_ws_object_opened(op->object, NULL);
    op->object = NULL;
    if (status) {
        op->refused = *err;
        op->status = status;
        op->body = nd_strndup(body ? body : "", length);
        op->length = length;
    } else {
        op->op.err = *err;
    }
    nd_op_done(&op->op);
}

static const struct nd_ws_client_events client_events = {.opened = on_opened, .failed = on_failed};

static int push_connected(lua_State *L, void *arg)
{
    struct connect_op *op = arg;

    if (!op->status) {
        lua_settop(L, 2); // options ws
        return 1;
    }
    nd_push_err(L, &op->refused);
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, op->status);
    lua_setfield(L, -2, "status");
    lua_pushlstring(L, op->body, op->length);
    lua_setfield(L, -2, "body");
    lua_setfield(L, -2, "data");
    return lua_error(L);
}

static void cancel_connect(void *arg)
{
    struct connect_op *op = arg;

    if (op->client)
        nd_ws_client_cancel(op->client);
}

static void fini_connect(void *arg)
{
    free(((struct connect_op *)arg)->body);
}

static const struct nd_op_type connect_type = {
    .name = "ws.connect",
    .size = sizeof(struct connect_op),
    .push = push_connected,
    .cancel = cancel_connect,
    .fini = fini_connect,
};

/* ---- reading the options ---- */

static bool one_word(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text <= ' ' || *text == 0x7f)
            return false;
    return true;
}

ND_RAISES static const char *option(lua_State *L, const char *name, const char *otherwise)
{
    const char *text;

    if (lua_getfield(L, 1, name) == LUA_TNIL)
        text = otherwise;
    else if (lua_type(L, -1) == LUA_TSTRING)
        text = lua_tostring(L, -1);
    else
        return (void)luaL_error(L, "ws.connect: '%s' must be a string", name), NULL;
    lua_pop(L, 1); /* the options keep it */
    return text;
}

/* Splits ws://host[:port]/path, or wss://; the host is copied into a userdata that it pushes. */
ND_RAISES static void read_url(lua_State *L, struct nd_ws_where *where, const char *url,
                               bool secure)
{
    char *host, *port;

    if ((!secure && strncmp(url, "ws://", 5) != 0) || !one_word(url))
        luaL_error(L, "ws.connect: 'url' must begin with ws:// or wss:// and hold no blanks");
    url += secure ? 6 : 5;
    where->target = url + strcspn(url, "/?#");
    lua_pushlstring(L, url, (size_t)(where->target - url));
    where->authority = lua_tostring(L, -1);
    host = lua_newuserdatauv(L, strlen(where->authority) + 1, 0);
    strcpy(host, where->authority);
    where->port = secure ? TLS_PORT : PORT;
    if (*host == '[') { /* IPv6 */
        port = strchr(host++, ']');
        if (!port)
            luaL_error(L, "ws.connect: 'url' has a '[' without ']'");
        *port++ = '\0';
    } else {
        port = host + strcspn(host, ":");
    }
    if (*port == ':') {
        *port = '\0';
        where->port = atoi(port + 1);
    }
    if (!*host || where->port <= 0 || where->port > 65535)
        luaL_error(L, "ws.connect: 'url' has no valid host and port");
    where->host = host;
    if (*where->target != '/')
        where->target = lua_pushfstring(L, "/%s", where->target);
}

ND_RAISES static int read_fields(lua_State *L, struct nd_http_field *fields)
{
    int count = 0;

    if (lua_getfield(L, 1, "headers") == LUA_TNIL)
        return 0;
    luaL_checktype(L, -1, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) { // headers name value
        struct nd_http_field *f = &fields[count++];

        if (count > FIELDS_MOST)
            return luaL_error(L, "ws.connect: more than %d headers", FIELDS_MOST);
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
            return luaL_error(L, "ws.connect: a header is no name = text");
        f->name.data = lua_tolstring(L, -2, &f->name.length);
        f->value.data = lua_tolstring(L, -1, &f->value.length);
        if (!nd_http_field_is_valid(f))
            return luaL_error(L, "ws.connect: the header '%s' isn't valid", f->name.data);
    }
    return count;
}

/* Nothing that raises may come between this and whoever takes it but nd_op_new. */
ND_RAISES static struct ssl_ctx_st *client_tls(lua_State *L)
{
    struct nd_tls_files files = {.cert = option(L, "cert", NULL),
                                 .key = option(L, "key", NULL),
                                 .ca = option(L, "ca", NULL)};
    const char *pin = option(L, "pin", NULL);
    struct nd_err err = {0};
    struct ssl_ctx_st *tls;

    if (!files.cert != !files.key)
        return (void)luaL_error(L, "ws.connect: 'cert' and 'key' come together"), NULL;
    tls = nd_tls_client(&files, pin, &err);
    if (!tls)
        nd_raise(L, &err);
    return tls;
}

static int ws_connect(lua_State *L)
{
    struct nd_http_field fields[FIELDS_MOST];
    struct nd_ws_where where = {.fields = fields, .authority = "localhost"};
    const char *url;
    struct nd_ws_object *object;
    struct connect_op *op;
    bool secure;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    object = nd_ws_object_new(L); // options ws
    where.unix_path = option(L, "unix", NULL);
    where.target = option(L, "path", "/");
    url = option(L, "url", NULL);
    if (!where.unix_path == !url)
        return luaL_error(L, "ws.connect: give either 'url' or 'unix'");
    secure = url && strncmp(url, "wss://", 6) == 0;
    if (url)
        read_url(L, &where, url, secure);
    if (*where.target != '/' || !one_word(where.target))
        return luaL_error(L, "ws.connect: 'path' must begin with / and hold no blanks");
    lua_getfield(L, 1, "timeout_ms");
    where.timeout_ms = (int)luaL_optinteger(L, -1, TIMEOUT_MS);
    where.count = read_fields(L, fields);
    if (secure)
        where.tls = client_tls(L);
    op = nd_op_new(L, &connect_type);
    op->object = object;
    nd_ws_object_hold(object);
    op->client = nd_ws_client_open(nd_host_loop(nd_host_of(L)), &where, NULL, &client_events, op);
    return nd_op_park(L, op);
}

int nd_open_ws(lua_State *L)
{
    static const luaL_Reg functions[] = {{"connect", ws_connect}, {NULL, NULL}};

    luaL_newlib(L, functions);
    return 1;
}
