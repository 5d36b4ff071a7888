/*
 * server.c - the Lua module `server`: HTTP and WebSocket servers, a task for each request.
 *
 *   server.listen({unix=path, mode=0660, group=} | {address=, port=}, handler) -> s
 *       also limits={body=, body_unknown=, bodies=, head=, target= (bytes), head_ms=, body_ms=,
 *         body_rate=, idle_ms=, write_ms=, connections=, per_address=, message= (bytes), ping_ms=}
 *       and tls={cert=, key=[, ca=]} for an address: PEM files (io/tls.h); with a `ca` every client
 *         needs a certificate that it signed
 *   s:set_tls{cert=, key=[, ca=]} reads the files again, for the connections to come
 *   s:address() -> path | address, port     s:connections()
 *   s:close([grace_ms=10000]) waits for what is in flight; WebSockets are closed with 1001
 *   s:hand_over([grace_ms=10000]) the same, but the listening socket stays open, for the program
 *       that replaces this one; WebSockets are closed with 1012
 *   server.drop_inherited() closes the sockets handed to this process that no server has taken
 *
 *   handler(req): req = {method=, target=, path= (decoded, normalised), query={name=value, the last
 *       wins}, headers={lower-case name=value}, body=, websocket=bool,
 *       peer={kind="unix", uid=, gid=, pid=} | {kind="tcp", address=, port=}, tls=bool}
 *   returns {status=200, headers={}, body=""}
 *         | {status=, headers=, stream=function(write) ... end}: write(chunk) waits while more than
 *           256 KiB are unsent; a client that leaves cancels the task; raising cuts the connection
 *         | {upgrade=function(ws) ... end} where req.websocket: see ws_object.h. When the peer
 * closes, recv brings nil; a task that waits for something else is cancelled. A handler that raises
 * answers by its error's code, message, hint and `status` (else 500).
 *
 * Errors of hand_over: handover_failed; of listen: address_in_use, listen_failed, bad_address,
 * no_such_group, path_too_long; of tls: tls_bad_certificate, tls_bad_key, tls_bad_ca.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "bind/exchange.h"
#include "io/handover.h"
#include "io/tls.h"

#define SERVER_META "nd.server"

enum { GRACE_MS = 10000 };

struct box {                       /* a server, as long as Lua or the loop knows of it */
    struct nd_http_server *server; /* NULL once closed */
    struct nd_host *host;          /* NULL once the Lua state ends */
    struct nd_list closers;        /* struct close_op */
    int self;                      /* anchors the userdata, and with it the handler, until closed */
    int holders;                   /* the userdata, and the server until it is closed */
};

struct close_op {
    struct nd_op op;
    struct nd_list link; /* in closers */
};

static void drop(struct box *box)
{
    if (--box->holders == 0)
        free(box);
}

/* ---- from the loop ---- */

static int start_task(lua_State *L)
{
    struct box *box = lua_touserdata(L, 1);
    struct nd_http_req *req = lua_touserdata(L, 2);
    struct nd_exchange *exchange;

    lua_pushcfunction(L, nd_exchange_serve);      // serve
    exchange = nd_exchange_new(L, req);           // serve exchange table
    lua_rawgeti(L, LUA_REGISTRYINDEX, box->self); // serve exchange table s
    lua_getiuservalue(L, -1, 1);                  // serve exchange table s handler
    lua_replace(L, -2);                           // serve exchange table handler
    lua_insert(L, -2);                            // serve exchange handler table
    nd_exchange_set_task(exchange, nd_task_spawn(box->host, L, 3, "http", NULL, NULL));
    return 0;
}

static void on_request(void *arg, struct nd_http_req *req)
{
    struct box *box = arg;
    lua_State *L = box->host ? nd_host_lua(box->host) : NULL;
    struct nd_err err = {0};

    if (!L) {
        nd_err_set(&err, "shutting_down", "Try again soon.", "the server shuts down");
        nd_http_refuse(req, 503, &err);
        return;
    }
    lua_pushcfunction(L, start_task);
    lua_pushlightuserdata(L, box);
    lua_pushlightuserdata(L, req);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) /* for want of memory; the request's collector aborts it */
        lua_pop(L, 1);
}

static void on_closed(void *arg)
{
    struct box *box = arg;

    box->server = NULL;
    while (!nd_list_empty(&box->closers)) {
        struct close_op *op = ND_CONTAINER(box->closers.next, struct close_op, link);

        nd_list_remove(&op->link);
        nd_op_done(&op->op);
    }
    if (box->host)
        luaL_unref(nd_host_lua(box->host), LUA_REGISTRYINDEX, box->self);
    drop(box);
}

/* ---- reading the options ---- */

struct limit {
    const char *name;
    size_t offset;
    bool wide; /* size_t, else int */
};

#define WIDE(name, member)                                                                         \
    {                                                                                              \
        name, offsetof(struct nd_http_limits, member), true                                        \
    }
#define NARROW(name, member)                                                                       \
    {                                                                                              \
        name, offsetof(struct nd_http_limits, member), false                                       \
    }

static const struct limit limit_names[] = {
    WIDE("body", sizes.body),           WIDE("body_unknown", sizes.body_unknown),
    WIDE("bodies", sizes.bodies),       WIDE("head", sizes.head),
    WIDE("target", sizes.target),       NARROW("head_ms", head_ms),
    NARROW("body_ms", body_ms),         NARROW("body_rate", body_rate),
    NARROW("idle_ms", idle_ms),         NARROW("write_ms", write_ms),
    NARROW("connections", connections), NARROW("per_address", per_address),
    NARROW("handshakes", handshakes),   WIDE("message", ws.message),
    NARROW("ping_ms", ws.ping_ms),
};

ND_RAISES static void read_limit(lua_State *L, struct nd_http_limits *limits, const char *name,
                                 lua_Integer value)
{
    for (size_t i = 0; i < sizeof limit_names / sizeof limit_names[0]; i++) {
        void *at = (char *)limits + limit_names[i].offset;

        if (strcmp(name, limit_names[i].name) != 0)
            continue;
        if (limit_names[i].wide)
            *(size_t *)at = (size_t)value;
        else
            *(int *)at = (int)value;
        return;
    }
    luaL_error(L, "server.listen: there is no limit '%s'", name);
}

ND_RAISES static void read_limits(lua_State *L, struct nd_http_limits *limits)
{
    *limits = nd_http_limits_default;
    if (lua_getfield(L, 1, "limits") != LUA_TNIL) {
        luaL_checktype(L, -1, LUA_TTABLE);
        for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
            int isnum;
            lua_Integer value = lua_tointegerx(L, -1, &isnum);

            if (lua_type(L, -2) != LUA_TSTRING || !isnum || value <= 0 || value > INT32_MAX)
                luaL_error(L, "server.listen: a limit is a name and a positive integer");
            read_limit(L, limits, lua_tostring(L, -2), value);
        }
    }
    lua_pop(L, 1);
}

ND_RAISES static const char *text_option(lua_State *L, const char *name)
{
    const char *text = NULL;

    if (lua_getfield(L, 1, name) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "server.listen: '%s' must be a string", name);
        text = lua_tostring(L, -1);
    }
    lua_pop(L, 1); /* the options keep it */
    return text;
}

ND_RAISES static void read_where(lua_State *L, struct nd_http_listen *where)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    where->unix_path = text_option(L, "unix");
    where->group = text_option(L, "group");
    where->address = text_option(L, "address");
    lua_getfield(L, 1, "mode");
    where->mode = (mode_t)luaL_optinteger(L, -1, 0);
    lua_getfield(L, 1, "port");
    where->port = (int)luaL_optinteger(L, -1, 0);
    lua_pop(L, 2);
    if (!where->unix_path == !where->address)
        luaL_error(L, "server.listen: give either 'unix' or 'address' and 'port'");
}

ND_RAISES static const char *file_option(lua_State *L, const char *name, bool needed)
{
    const char *path = NULL;

    if (lua_getfield(L, -1, name) == LUA_TSTRING) // table path
        path = lua_tostring(L, -1);
    else if (needed || !lua_isnil(L, -1))
        luaL_error(L, "server: tls.%s must be a path", name);
    lua_pop(L, 1); /* the table keeps it */
    return path;
}

/* Of the table on top, which it pops but which has to stay elsewhere. */
ND_RAISES static struct nd_tls_files read_tls(lua_State *L)
{
    struct nd_tls_files files;

    luaL_checktype(L, -1, LUA_TTABLE);
    files.cert = file_option(L, "cert", true);
    files.key = file_option(L, "key", true);
    files.ca = file_option(L, "ca", false);
    lua_pop(L, 1);
    return files;
}

/* ---- the module ---- */

static struct box *check_box(lua_State *L)
{
    return *(struct box **)luaL_checkudata(L, 1, SERVER_META);
}

static int server_listen(lua_State *L)
{
    struct nd_http_listen where = {0};
    struct nd_http_limits limits;
    struct nd_tls_files files = {0};
    struct nd_err err = {0};
    struct box **slot, *box;

    read_where(L, &where);
    read_limits(L, &limits);
    if (lua_getfield(L, 1, "tls") == LUA_TNIL)
        lua_pop(L, 1);
    else
        files = read_tls(L);
    if (files.cert && where.unix_path)
        return luaL_error(L, "server.listen: 'tls' is for addresses");
    luaL_checktype(L, 2, LUA_TFUNCTION);
    slot = lua_newuserdatauv(L, sizeof *slot, 1);
    *slot = NULL;
    luaL_setmetatable(L, SERVER_META);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    *slot = box = nd_alloc(sizeof *box);
    nd_list_init(&box->closers);
    box->holders = 1;
    box->host = nd_host_of(L);
    if (files.cert && !(where.tls = nd_tls_server(&files, &err)))
        return nd_raise(L, &err);
    box->server =
        nd_http_server_open(nd_host_loop(box->host), &where, &limits, on_request, box, &err);
    if (!box->server)
        return nd_raise(L, &err);
    box->holders++;
    lua_pushvalue(L, -1);
    box->self = luaL_ref(L, LUA_REGISTRYINDEX);
    return 1;
}

static int server_address(lua_State *L)
{
    struct box *box = check_box(L);

    if (!box->server)
        return 0;
    lua_pushstring(L, nd_http_server_address(box->server));
    if (nd_http_server_port(box->server) < 0)
        return 1;
    lua_pushinteger(L, nd_http_server_port(box->server));
    return 2;
}

static int server_set_tls(lua_State *L)
{
    struct box *box = check_box(L);
    struct nd_tls_files files;
    struct ssl_ctx_st *tls;
    struct nd_err err = {0};

    lua_settop(L, 2);
    lua_pushvalue(L, 2);
    files = read_tls(L);
    tls = nd_tls_server(&files, &err);
    if (!tls)
        return nd_raise(L, &err);
    if (box->server)
        nd_http_server_set_tls(box->server, tls);
    else
        nd_tls_context_free(tls);
    return 0;
}

static int server_connections(lua_State *L)
{
    struct box *box = check_box(L);

    lua_pushinteger(L, box->server ? nd_http_server_connections(box->server) : 0);
    return 1;
}

static void cancel_close(void *arg)
{
    struct close_op *op = arg;

    nd_list_remove(&op->link);
    nd_op_done(&op->op);
}

static const struct nd_op_type close_type = {
    .name = "server:close",
    .size = sizeof(struct close_op),
    .cancel = cancel_close,
};

static int end(lua_State *L, bool hand_over)
{
    struct box *box = check_box(L);
    lua_Integer grace_ms = luaL_optinteger(L, 2, GRACE_MS);
    struct close_op *op;

    luaL_argcheck(L, grace_ms >= 0 && grace_ms <= INT32_MAX, 2, "not a time in milliseconds");
    if (!box->server)
        return 0;
    op = nd_op_new(L, &close_type);
    nd_list_append(&box->closers, &op->link);
    if (!hand_over) {
        nd_http_server_close(box->server, (int)grace_ms, on_closed, box);
    } else if (nd_http_server_hand_over(box->server, (int)grace_ms, on_closed, box, &op->op.err) <
               0) {
        nd_list_remove(&op->link);
        nd_op_done(&op->op);
    }
    return nd_op_park(L, op);
}

static int server_close(lua_State *L)
{
    return end(L, false);
}

static int server_hand_over(lua_State *L)
{
    return end(L, true);
}

static int server_drop_inherited(lua_State *L)
{
    struct nd_loop *loop = nd_host_loop(nd_host_of(L));

    if (loop->handover)
        nd_handover_drop(loop->handover);
    return 0;
}

/* Anchored until it is closed, so an open one comes here only at the end of the Lua state. */
static int server_gc(lua_State *L)
{
    struct box **slot = luaL_checkudata(L, 1, SERVER_META);
    struct box *box = *slot;

    *slot = NULL;
    if (!box)
        return 0;
    box->host = NULL;
    if (box->server)
        nd_http_server_close(box->server, 0, on_closed, box);
    drop(box);
    return 0;
}

static const luaL_Reg methods[] = {
    {"address", server_address},
    {"connections", server_connections},
    {"close", server_close},
    {"hand_over", server_hand_over},
    {"set_tls", server_set_tls},
    {"__gc", server_gc},
    {NULL, NULL},
};

int nd_open_server(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"listen", server_listen}, {"drop_inherited", server_drop_inherited}, {NULL, NULL}};

    nd_bind_class(L, SERVER_META, methods);
    luaL_newlib(L, functions);
    return 1;
}
