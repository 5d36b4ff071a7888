#include "bind/exchange.h"

#include <string.h>

#include "base/log.h"
#include "bind/ws_object.h"

#define EXCHANGE_META "nd.exchange"

enum { FIELDS_MOST = 64 };

struct nd_exchange {
    struct nd_http_req *req; /* NULL once it was answered */
    struct nd_task *task;    /* of nd_exchange_serve; NULL after its end */
    struct nd_ws_object *ws; /* owned by its userdata, which the task's stack holds */
    struct nd_list writers;  /* struct write_op */
    bool streaming;          /* gone cancels the task */
    bool gone;
};

/* ---- the request as a table ---- */

ND_RAISES static void set_text(lua_State *L, const char *name, struct nd_http_text text)
{
    lua_pushlstring(L, text.data ? text.data : "", text.length);
    lua_setfield(L, -2, name);
}

ND_RAISES static void push_query(lua_State *L, struct nd_http_text query)
{
    struct nd_buf name = {0}, value = {0};

    lua_newtable(L);
    while (nd_http_query_next(&query, &name, &value)) {
        lua_pushlstring(L, name.data, name.length);
        lua_pushlstring(L, value.data, value.length);
        lua_rawset(L, -3);
    }
    nd_buf_fini(&name);
    nd_buf_fini(&value);
}

/* Fields by name; those given more than once are joined, as RFC 9110 5.2 says. */
ND_RAISES static void push_fields(lua_State *L, const struct nd_http_req *req, int count)
{
    lua_createtable(L, 0, count); // fields
    for (int i = 0; i < count; i++) {
        struct nd_http_field f = nd_http_req_field(req, i);

        lua_pushlstring(L, f.name.data, f.name.length); // fields name
        lua_pushvalue(L, -1);
        if (lua_rawget(L, -3) == LUA_TSTRING) { // fields name before
            bool cookie = f.name.length == 6 && memcmp(f.name.data, "cookie", 6) == 0;

            lua_pushstring(L, cookie ? "; " : ", ");
            lua_pushlstring(L, f.value.data, f.value.length);
            lua_concat(L, 3);
        } else {
            lua_pop(L, 1);
            lua_pushlstring(L, f.value.data, f.value.length); // fields name value
        }
        lua_rawset(L, -3);
    }
}

ND_RAISES static void push_peer(lua_State *L, const struct nd_http_peer *peer)
{
    lua_createtable(L, 0, 4);
    if (peer->kind == ND_HTTP_UNIX) {
        lua_pushliteral(L, "unix");
        lua_setfield(L, -2, "kind");
        lua_pushinteger(L, peer->uid);
        lua_setfield(L, -2, "uid");
        lua_pushinteger(L, peer->gid);
        lua_setfield(L, -2, "gid");
        lua_pushinteger(L, peer->pid);
        lua_setfield(L, -2, "pid");
    } else {
        lua_pushliteral(L, "tcp");
        lua_setfield(L, -2, "kind");
        lua_pushstring(L, peer->address);
        lua_setfield(L, -2, "address");
        lua_pushinteger(L, peer->port);
        lua_setfield(L, -2, "port");
    }
}

ND_RAISES static void push_table(lua_State *L, struct nd_http_req *req)
{
    struct nd_http_req_info info;

    nd_http_req_info(req, &info);
    lua_createtable(L, 0, 8); // table
    lua_pushstring(L, info.method);
    lua_setfield(L, -2, "method");
    set_text(L, "target", info.target);
    set_text(L, "path", info.path);
    set_text(L, "body", info.body);
    push_query(L, info.query);
    lua_setfield(L, -2, "query");
    push_fields(L, req, info.fields);
    lua_setfield(L, -2, "headers");
    push_peer(L, info.peer);
    lua_setfield(L, -2, "peer");
    lua_pushboolean(L, info.peer->tls);
    lua_setfield(L, -2, "tls");
    lua_pushboolean(L, info.websocket);
    lua_setfield(L, -2, "websocket");
}

/* ---- what happens meanwhile ---- */

struct write_op {
    struct nd_op op;
    struct nd_list link; /* in writers */
};

static void on_drained(void *arg, struct nd_http_req *req)
{
    struct nd_exchange *r = arg;

    (void)req;
    while (!nd_list_empty(&r->writers)) {
        struct write_op *op = ND_CONTAINER(r->writers.next, struct write_op, link);

        nd_list_remove(&op->link);
        nd_op_done(&op->op);
    }
}

static void on_gone(void *arg, struct nd_http_req *req)
{
    struct nd_exchange *r = arg;

    (void)req;
    r->gone = true;
    if (r->streaming && r->task)
        nd_task_cancel(r->task);
}

static const struct nd_http_req_events req_events = {.gone = on_gone, .drained = on_drained};

/* Takes the hold on the C request away, once. */
static struct nd_http_req *take(struct nd_exchange *r)
{
    struct nd_http_req *req = r->req;

    r->req = NULL;
    return req;
}

/* A task that was ended from outside leaves its request unanswered. */
static int exchange_gc(lua_State *L)
{
    struct nd_exchange *r = lua_touserdata(L, 1);

    if (r->req)
        nd_http_stream_abort(take(r));
    on_drained(r, NULL);
    return 0;
}

struct nd_exchange *nd_exchange_new(lua_State *L, struct nd_http_req *req)
{
    struct nd_exchange *r = lua_newuserdatauv(L, sizeof *r, 0); // exchange

    memset(r, 0, sizeof *r);
    nd_list_init(&r->writers);
    if (luaL_newmetatable(L, EXCHANGE_META)) {
        lua_pushcfunction(L, exchange_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    r->req = req;
    nd_http_req_listen(req, &req_events, r);
    push_table(L, req); // exchange table
    return r;
}

void nd_exchange_set_task(struct nd_exchange *r, struct nd_task *task)
{
    r->task = task;
}

/* ---- answers ---- */

static int status_of_error(lua_State *L, int index)
{
    int status = 500;

    if (lua_istable(L, index) && lua_getfield(L, index, "status") != LUA_TNIL) {
        int isnum;
        lua_Integer n = lua_tointegerx(L, -1, &isnum);

        if (isnum && n >= 400 && n <= 599)
            status = (int)n;
    }
    return status;
}

/* Answers with the error at the top: its own fields, status 500 unless it names one. */
static void answer_error(lua_State *L, struct nd_exchange *r)
{
    int index = lua_gettop(L);
    struct nd_err err;
    int status;

    nd_err_from_lua(L, index, &err);
    status = status_of_error(L, index);
    if (status == 500) {
        bool traced = lua_istable(L, index) && lua_getfield(L, index, "traceback") == LUA_TSTRING;

        nd_log(ND_LOG_ERROR, "a request's handler failed: %s (%s)%s%s", err.message, err.code,
               traced ? "\n" : "", traced ? lua_tostring(L, -1) : "");
    }
    if (r->req)
        nd_http_refuse(take(r), status, &err);
}

static void answer_bad(struct nd_exchange *r, const char *what)
{
    struct nd_err err;

    nd_err_set(&err, "bad_response", NULL, "the handler's answer isn't valid: %s", what);
    nd_log_err("answering a request", &err);
    nd_http_refuse(take(r), 500, &err);
}

/* Reads the result's `status` and `headers` (left on the stack while `fields` points into them);
 * the number of fields, or -1 with `*what` said. */
ND_RAISES static int read_head(lua_State *L, int result, int *status, struct nd_http_field *fields,
                               const char **what)
{
    int count = 0, isnum = 1;

    *status = 200;
    if (lua_getfield(L, result, "status") != LUA_TNIL)
        *status = (int)lua_tointegerx(L, -1, &isnum);
    if (!isnum)
        return *what = "its status is no integer", -1;
    if (lua_getfield(L, result, "headers") == LUA_TNIL) // ... headers
        return 0;
    if (!lua_istable(L, -1))
        return *what = "its headers are no table", -1;
    luaL_checkstack(L, FIELDS_MOST + 8, NULL);
    lua_pushnil(L);
    while (lua_next(L, -2 - count)) { // headers kept... name value
        struct nd_http_field *f = &fields[count];

        if (count == FIELDS_MOST)
            return *what = "it has too many headers", -1;
        if (lua_type(L, -2) != LUA_TSTRING || !lua_isstring(L, -1))
            return *what = "a header is no name = text", -1;
        f->name.data = lua_tolstring(L, -2, &f->name.length);
        f->value.data = lua_tolstring(L, -1, &f->value.length);
        lua_insert(L, -2); // headers kept... value name
        count++;
    }
    return count;
}

static void answer_whole(lua_State *L, struct nd_exchange *r, int result)
{
    struct nd_http_field fields[FIELDS_MOST];
    const char *what = NULL, *body = NULL;
    size_t length = 0;
    struct nd_err err = {0};
    int status, count = read_head(L, result, &status, fields, &what);

    if (count >= 0 && lua_getfield(L, result, "body") != LUA_TNIL) {
        body = lua_tolstring(L, -1, &length);
        if (!body)
            what = "its body is no string";
    }
    if (what)
        answer_bad(r, what);
    else if (nd_http_respond(take(r), status, fields, count, body, length, &err) < 0)
        nd_log_err("answering a request", &err);
}

/* ---- streams ---- */

static void cancel_write(void *arg)
{
    struct write_op *op = arg;

    nd_list_remove(&op->link);
    nd_op_done(&op->op);
}

static const struct nd_op_type write_type = {
    .name = "write",
    .size = sizeof(struct write_op),
    .cancel = cancel_write,
};

static int stream_write(lua_State *L)
{
    struct nd_exchange *r = lua_touserdata(L, lua_upvalueindex(1));
    size_t length;
    const char *data = luaL_checklstring(L, 1, &length);
    struct write_op *op;

    if (!r->req)
        return luaL_error(L, "this response is at its end");
    if (nd_http_stream_write(r->req, data, length))
        return 0;
    op = nd_op_new(L, &write_type);
    nd_list_append(&r->writers, &op->link);
    return nd_op_park(L, op);
}

static void log_failure(lua_State *L, const struct nd_exchange *r, const char *doing)
{
    struct nd_err err;

    nd_err_from_lua(L, -1, &err);
    if (strcmp(err.code, "ws_closed") != 0 && (strcmp(err.code, "cancelled") != 0 || !r->gone))
        nd_log_err(doing, &err);
}

static int streamed(lua_State *L, int status, lua_KContext context)
{
    struct nd_exchange *r = (struct nd_exchange *)context;

    r->task = NULL;
    if (status == LUA_OK || status == LUA_YIELD) {
        nd_http_stream_end(take(r));
    } else { /* the peer must not take what it got for the whole */
        log_failure(L, r, "streaming a response");
        nd_http_stream_abort(take(r));
    }
    return 0;
}

ND_RAISES static int answer_stream(lua_State *L, struct nd_exchange *r, int result)
{
    struct nd_http_field fields[FIELDS_MOST];
    struct nd_http_req_info info;
    const char *what = NULL;
    struct nd_err err = {0};
    int status, count = read_head(L, result, &status, fields, &what);

    if (what) {
        answer_bad(r, what);
        return 0;
    }
    if (r->gone || nd_http_req_gone(r->req)) {
        nd_http_stream_abort(take(r));
        return 0;
    }
    if (nd_http_stream_begin(r->req, status, fields, count, &err) < 0) {
        take(r);
        nd_log_err("answering a request", &err);
        return 0;
    }
    nd_http_req_info(r->req, &info);
    if (info.head) { /* the head is all there is to say */
        nd_http_stream_end(take(r));
        return 0;
    }
    r->streaming = true;
    lua_getfield(L, result, "stream"); // ... stream
    lua_pushvalue(L, 1);
    lua_pushcclosure(L, stream_write, 1); // ... stream write
    return streamed(L, lua_pcallk(L, 1, 0, 0, (lua_KContext)r, streamed), (lua_KContext)r);
}

/* ---- WebSockets ---- */

static int conversed(lua_State *L, int status, lua_KContext context)
{
    struct nd_exchange *r = (struct nd_exchange *)context;

    nd_ws_object_watch(r->ws, NULL, NULL);
    r->task = NULL;
    if (status == LUA_OK || status == LUA_YIELD) {
        nd_ws_object_close(r->ws, 1000, "");
        return 0;
    }
    r->gone = true; /* a cancelled task says nothing: the peer has left, or the daemon ends */
    log_failure(L, r, "in a WebSocket's handler");
    nd_ws_object_close(r->ws, 1011, "the handler failed");
    return 0;
}

ND_RAISES static int answer_upgrade(lua_State *L, struct nd_exchange *r, int result)
{
    struct nd_ws *ws;

    lua_getfield(L, result, "upgrade"); // ... upgrade
    r->ws = nd_ws_object_new(L);        // ... upgrade ws
    nd_ws_object_hold(r->ws);
    ws = nd_http_upgrade(take(r), &nd_ws_object_events, r->ws);
    nd_ws_object_opened(r->ws, ws);
    if (!ws)
        return 0;
    lua_pushvalue(L, -1);
    lua_insert(L, -3); // ... ws upgrade ws
    nd_ws_object_watch(r->ws, r->task, L);
    return conversed(L, lua_pcallk(L, 1, 0, 0, (lua_KContext)r, conversed), (lua_KContext)r);
}

/* ---- the task ---- */

static int handled(lua_State *L, int status, lua_KContext context)
{
    struct nd_exchange *r = (struct nd_exchange *)context;
    int result = lua_gettop(L); // exchange trace result

    if (status != LUA_OK && status != LUA_YIELD) {
        answer_error(L, r);
        return 0;
    }
    if (!lua_istable(L, result)) {
        answer_bad(r, "it is no table");
        return 0;
    }
    if (lua_getfield(L, result, "upgrade") == LUA_TFUNCTION) {
        struct nd_http_req_info info;

        nd_http_req_info(r->req, &info);
        if (info.websocket)
            return answer_upgrade(L, r, result);
        answer_bad(r, "it upgrades what is no WebSocket handshake");
    } else if (lua_getfield(L, result, "stream") == LUA_TFUNCTION) {
        return answer_stream(L, r, result);
    } else {
        answer_whole(L, r, result);
        lua_pushnil(L);
        lua_setmetatable(L, 1); /* nothing is left for the collector to do */
    }
    r->task = NULL;
    return 0;
}

/* A plain error becomes an object that also knows where it happened; for the log. */
static int add_traceback(lua_State *L)
{
    if (lua_isstring(L, 1)) {
        struct nd_err err;

        nd_err_from_lua(L, 1, &err);
        nd_push_err(L, &err);
        luaL_traceback(L, L, NULL, 1);
        lua_setfield(L, -2, "traceback");
    }
    return 1;
}

int nd_exchange_serve(lua_State *L)
{
    struct nd_exchange *r = lua_touserdata(L, 1);

    lua_pushcfunction(L, add_traceback); // exchange handler table trace
    lua_insert(L, 2);                    // exchange trace handler table
    return handled(L, lua_pcallk(L, 1, 1, 2, (lua_KContext)r, handled), (lua_KContext)r);
}
