/*
 * docker.c - the Lua module `docker`: the connection and the plain calls.
 *
 * docker.connect{socket="/var/run/docker.sock", timeout_ms=} -> d; nothing is sent before the first
 * call. Every method waits, and raises the errors of engine/docker.h, or image_not_found. A call's
 * time-out is `timeout_ms` in its last argument, else the connection's, else that of its row below.
 *
 * d:ping() -> true; d:version() -> {api=, server=, os=, arch=, server_api=, kernel=}; d:info() ->
 * table d:create(name, spec) -> id; d:start(id); d:stop(id, grace_seconds=10); d:kill(id,
 * signal="SIGKILL") d:remove(id, {force=, volumes=}); d:wait(id, {condition=}) -> exit code,
 * without a time-out d:inspect(id) -> table|nil; d:list{all=, labels={k=v|true}, filters=} -> list
 * d:rename(id, name); d:update(id, spec)
 * d:network_create(spec) -> id; d:network_inspect(name) -> table|nil; d:network_remove(name)
 * d:network_list{labels=, filters=} -> list; d:connect_network(network, container, endpoint|nil)
 * d:disconnect_network(network, container, {force=})
 * d:image(ref) -> table|nil; d:images{all=, labels=, filters=} -> list; d:tag(ref, new_ref)
 * d:image_remove(ref, {force=})
 * d:call(method, path, body|nil, {query={}, ok={[404]=true}, timeout_ms=, type=, raw=}) -> status,
 *   value: the way to all the rest. A table is sent as JSON, a string as it is (`type`, a tar
 * unless given); the answer is a value where it is JSON and not `raw`, else a string. Specs and
 * tables are those of the Engine API, unchanged.
 */
#include "bind/docker.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"

#define DOCKER_META "nd.docker"

enum {
    QUICK_MS = 10000,
    CREATE_MS = 30000,
    START_MS = 60000,
    STOP_MS = 15000, /* beyond the grace */
    CALL_MS = 30000,
    GRACE_MAX_S = 86400,
    SOCKET_PATH_MAX = 107,
    OK_MAX = 8,
};

enum result { NOTHING, ID, OBJECT, LIST, EXIT_CODE, VERSION, ANY };

/* A method: its call, how its arguments are read and what its answer holds. */
struct row {
    const char *name;
    const char *method;
    const char *path;  /* %s: the first argument, encoded */
    const char *doing; /* %s: the first argument */
    const char *noun;  /* what the first argument names; "image": a reference; NULL: nothing */
    int timeout_ms;    /* 0: none */
    enum result result;
    int opts; /* the index of the argument that may hold timeout_ms */
    int body; /* the index of the argument sent as JSON; 0: none */
    bool nil; /* a 404 is nil, not an error */
    /* Pushes what follows the path, and may change the time-out; NULL: nothing follows. */
    ND_RAISES const char *(*query)(lua_State *L, int *more_ms);
};

struct call_op {
    struct nd_op op;
    struct nd_docker_req *req;
    struct nd_docker *docker; /* lives as long as the method's first argument */
    enum result result;
    bool json;
    bool raw; /* ANY: never decode */
    int status;
    int ok[OK_MAX + 1];
    struct nd_buf body;
    char doing[160];
};

/* --- the answer ------------------------------------------------------------------------------- */

ND_RAISES static int protocol_error(lua_State *L, const struct call_op *op, const char *what)
{
    struct nd_err err = {0};

    nd_err_set(&err, "docker_protocol", "is this the socket of a Docker Engine?",
               "can't %s: Docker's answer %s", op->doing, what);
    return nd_raise(L, &err);
}

/* Pushes the answer, which must be a JSON object. */
ND_RAISES static void push_object(lua_State *L, struct call_op *op)
{
    size_t skip = op->body.data ? strspn(op->body.data, " \t\r\n") : 0;

    if (!op->body.data || op->body.data[skip] != '{')
        protocol_error(L, op, "is not a JSON object");
    docker_push_value(L, &op->body, op->doing);
}

ND_RAISES static int push_field(lua_State *L, struct call_op *op, const char *name, int type)
{
    push_object(L, op); // answer
    if (lua_getfield(L, -1, name) != type || (type == LUA_TSTRING && !lua_rawlen(L, -1)))
        return protocol_error(L, op, lua_pushfstring(L, "has no %s", name));
    return 1;
}

ND_RAISES static int push_exit_code(lua_State *L, struct call_op *op)
{
    struct nd_err err = {0};
    lua_Integer code;

    push_field(L, op, "StatusCode", LUA_TNUMBER); // answer code
    code = lua_tointeger(L, -1);
    lua_getfield(L, -2, "Error"); // answer code error
    if (lua_istable(L, -1) && lua_getfield(L, -1, "Message") == LUA_TSTRING && lua_rawlen(L, -1)) {
        nd_err_set(&err, "docker_error", NULL, "can't %s: %s", op->doing, lua_tostring(L, -1));
        return nd_raise(L, &err);
    }
    lua_pushinteger(L, code);
    return 1;
}

ND_RAISES static int push_version(lua_State *L, struct call_op *op)
{
    static const char *const names[][2] = {{"server", "Version"},
                                           {"os", "Os"},
                                           {"arch", "Arch"},
                                           {"server_api", "ApiVersion"},
                                           {"kernel", "KernelVersion"}};

    push_object(L, op);
    lua_newtable(L); // answer version
    lua_pushstring(L, nd_docker_api(op->docker));
    lua_setfield(L, -2, "api");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        lua_getfield(L, -2, names[i][1]);
        lua_setfield(L, -2, names[i][0]);
    }
    return 1;
}

static int push_answer(lua_State *L, void *arg)
{
    struct call_op *op = arg;

    if (op->result == ANY) {
        lua_pushinteger(L, op->status);
        if (op->json && !op->raw && op->body.length)
            docker_push_value(L, &op->body, op->doing);
        else
            lua_pushlstring(L, op->body.data ? op->body.data : "", op->body.length);
        return 2;
    }
    if (op->status == 404) {
        lua_pushnil(L);
        return 1;
    }
    switch (op->result) {
    case ID:
        return push_field(L, op, "Id", LUA_TSTRING);
    case EXIT_CODE:
        return push_exit_code(L, op);
    case VERSION:
        return push_version(L, op);
    case OBJECT:
        push_object(L, op);
        return 1;
    case LIST:
        return docker_push_list(L, &op->body, op->doing);
    default:
        lua_pushboolean(L, true);
        return 1;
    }
}

static void cancel_call(void *arg)
{
    nd_docker_cancel(((struct call_op *)arg)->req);
}

static void fini_call(void *arg)
{
    nd_buf_fini(&((struct call_op *)arg)->body);
}

static const struct nd_op_type call_type = {
    .name = "docker",
    .size = sizeof(struct call_op),
    .push = push_answer,
    .cancel = cancel_call,
    .fini = fini_call,
};

static void on_answered(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct call_op *op = arg;

    if (err) {
        op->op.err = *err;
    } else {
        op->status = answer->status;
        op->json = answer->json;
        op->body = *answer->body;
        *answer->body = (struct nd_buf){0};
    }
    nd_op_done(op);
}

/* --- what follows the path -------------------------------------------------------------------- */

ND_RAISES static const char *stop_query(lua_State *L, int *more_ms)
{
    lua_Integer grace = luaL_optinteger(L, 3, 10);

    luaL_argcheck(L, grace >= 0 && grace <= GRACE_MAX_S, 3, "not a grace in seconds");
    *more_ms = (int)grace * 1000;
    return lua_pushfstring(L, "?t=%d", (int)grace);
}

ND_RAISES static const char *kill_query(lua_State *L, int *more_ms)
{
    size_t length;
    const char *signal = luaL_optlstring(L, 3, "SIGKILL", &length);

    (void)more_ms;
    return lua_pushfstring(L, "?signal=%s", docker_push_encoded(L, signal, length));
}

ND_RAISES static const char *remove_query(lua_State *L, int *more_ms)
{
    (void)more_ms;
    return lua_pushfstring(L, "?force=%d&v=%d", docker_flag(L, 3, "force", false),
                           docker_flag(L, 3, "volumes", false));
}

ND_RAISES static const char *wait_query(lua_State *L, int *more_ms)
{
    const char *condition = "not-running";
    size_t length = strlen(condition);

    (void)more_ms;
    if (lua_istable(L, 3) && lua_getfield(L, 3, "condition") != LUA_TNIL)
        condition = luaL_checklstring(L, -1, &length);
    return lua_pushfstring(L, "?condition=%s", docker_push_encoded(L, condition, length));
}

ND_RAISES static const char *list_query(lua_State *L, int *more_ms)
{
    (void)more_ms;
    return lua_pushfstring(L, "?all=%d%s", docker_flag(L, 2, "all", false),
                           docker_push_filters(L, 2));
}

ND_RAISES static const char *rename_query(lua_State *L, int *more_ms)
{
    (void)more_ms;
    return lua_pushfstring(L, "?name=%s", docker_push_name(L, 3, "container"));
}

ND_RAISES static const char *tag_query(lua_State *L, int *more_ms)
{
    const char *ref = docker_check_ref(L, 3);
    const char *slash = strrchr(ref, '/');
    const char *colon = strrchr(slash ? slash : ref, ':');
    size_t length = colon ? (size_t)(colon - ref) : strlen(ref);
    const char *tag = colon ? colon + 1 : "latest";

    (void)more_ms;
    return lua_pushfstring(L, "?repo=%s&tag=%s", docker_push_encoded(L, ref, length),
                           docker_push_encoded(L, tag, strlen(tag)));
}

/* --- the methods ------------------------------------------------------------------------------ */

static const struct row rows[] = {
    {"ping", "GET", "/_ping", "reach Docker", NULL, QUICK_MS, NOTHING, 2, 0, false, NULL},
    {"version", "GET", "/version", "ask Docker for its version", NULL, QUICK_MS, VERSION, 2, 0,
     false, NULL},
    {"info", "GET", "/info", "ask Docker about the host", NULL, QUICK_MS, OBJECT, 2, 0, false,
     NULL},

    {"create", "POST", "/containers/create?name=%s", "create container %s", "container", CREATE_MS,
     ID, 4, 3, false, NULL},
    {"start", "POST", "/containers/%s/start", "start container %s", "container", START_MS, NOTHING,
     3, 0, false, NULL},
    {"stop", "POST", "/containers/%s/stop", "stop container %s", "container", STOP_MS, NOTHING, 4,
     0, false, stop_query},
    {"kill", "POST", "/containers/%s/kill", "send a signal to container %s", "container", CREATE_MS,
     NOTHING, 4, 0, false, kill_query},
    {"remove", "DELETE", "/containers/%s", "remove container %s", "container", START_MS, NOTHING, 3,
     0, false, remove_query},
    {"wait", "POST", "/containers/%s/wait", "wait for container %s", "container", 0, EXIT_CODE, 3,
     0, false, wait_query},
    {"inspect", "GET", "/containers/%s/json", "inspect container %s", "container", QUICK_MS, OBJECT,
     3, 0, true, NULL},
    {"list", "GET", "/containers/json", "list containers", NULL, QUICK_MS, LIST, 2, 0, false,
     list_query},
    {"rename", "POST", "/containers/%s/rename", "rename container %s", "container", CREATE_MS,
     NOTHING, 4, 0, false, rename_query},
    {"update", "POST", "/containers/%s/update", "change the limits of container %s", "container",
     CREATE_MS, NOTHING, 4, 3, false, NULL},

    {"network_create", "POST", "/networks/create", "create a network", NULL, CREATE_MS, ID, 3, 2,
     false, NULL},
    {"network_inspect", "GET", "/networks/%s", "inspect network %s", "network", QUICK_MS, OBJECT, 3,
     0, true, NULL},
    {"network_remove", "DELETE", "/networks/%s", "remove network %s", "network", CREATE_MS, NOTHING,
     3, 0, false, NULL},
    {"network_list", "GET", "/networks", "list networks", NULL, QUICK_MS, LIST, 2, 0, false,
     list_query},

    {"image", "GET", "/images/%s/json", "inspect image %s", "image", QUICK_MS, OBJECT, 3, 0, true,
     NULL},
    {"images", "GET", "/images/json", "list images", NULL, QUICK_MS, LIST, 2, 0, false, list_query},
    {"image_remove", "DELETE", "/images/%s", "remove image %s", "image", START_MS, NOTHING, 3, 0,
     false, remove_query},
    {"tag", "POST", "/images/%s/tag", "tag image %s", "image", CREATE_MS, NOTHING, 4, 0, false,
     tag_query},
};

ND_RAISES static struct call_op *new_op(lua_State *L, struct docker_box *box, enum result result,
                                        const char *doing)
{
    struct call_op *op = nd_op_new(L, &call_type);

    op->docker = box->docker;
    op->result = result;
    snprintf(op->doing, sizeof op->doing, "%s", doing);
    return op;
}

static int docker_method(lua_State *L)
{
    static const int absent[] = {404, 0}, unchanged[] = {304, 0};
    const struct row *row = lua_touserdata(L, lua_upvalueindex(1));
    struct docker_box *box = docker_check(L);
    bool image = row->noun && strcmp(row->noun, "image") == 0;
    const char *first = "";
    int more_ms = 0;
    struct nd_docker_call call = {
        .method = row->method, .ok = row->nil ? absent : unchanged, .on_done = on_answered};
    struct call_op *op;

    lua_settop(L, 4);
    if (row->noun)
        first = image ? docker_check_ref(L, 2) : docker_push_name(L, 2, row->noun);
    if (image || strcmp(row->name, "create") == 0)
        call.missing = "image_not_found";
    call.path = row->query ? row->query(L, &more_ms) : "";
    call.path = lua_pushfstring(L, "%s%s", lua_pushfstring(L, row->path, first), call.path);
    call.doing = lua_pushfstring(L, row->doing, row->noun ? lua_tostring(L, 2) : "");
    if (row->body) {
        luaL_checktype(L, row->body, LUA_TTABLE);
        call.body = docker_push_json(L, row->body, &call.body_length);
    }
    call.timeout_ms = docker_timeout(L, row->opts, box, row->timeout_ms, more_ms);
    if (!row->timeout_ms)
        call.head_timeout_ms = docker_timeout(L, 0, box, QUICK_MS, 0);
    call.arg = op = new_op(L, box, row->result, call.doing);
    op->req = nd_docker_start(box->docker, &call);
    return nd_op_park(L, op);
}

/* d:connect_network(network, container, endpoint), d:disconnect_network(network, container, opts)
 */
static int docker_attach_network(lua_State *L)
{
    bool leave = lua_toboolean(L, lua_upvalueindex(1));
    struct docker_box *box = docker_check(L);
    const char *network = docker_push_name(L, 2, "network");
    struct nd_docker_call call = {.method = "POST", .on_done = on_answered};
    struct call_op *op;

    luaL_checkstring(L, 3);
    lua_newtable(L); // body
    lua_pushvalue(L, 3);
    lua_setfield(L, -2, "Container");
    if (leave) {
        lua_pushboolean(L, docker_flag(L, 4, "force", false));
        lua_setfield(L, -2, "Force");
    } else if (lua_istable(L, 4)) {
        lua_pushvalue(L, 4);
        lua_setfield(L, -2, "EndpointConfig");
    }
    call.body = docker_push_json(L, lua_gettop(L), &call.body_length);
    call.path = lua_pushfstring(L, "/networks/%s/%s", network, leave ? "disconnect" : "connect");
    call.doing =
        lua_pushfstring(L, "%s container %s %s network %s", leave ? "disconnect" : "connect",
                        lua_tostring(L, 3), leave ? "from" : "to", lua_tostring(L, 2));
    call.timeout_ms = docker_timeout(L, 0, box, CREATE_MS, 0);
    call.arg = op = new_op(L, box, NOTHING, call.doing);
    op->req = nd_docker_start(box->docker, &call);
    return nd_op_park(L, op);
}

/* --- d:call ----------------------------------------------------------------------------------- */

ND_RAISES static const char *push_query(lua_State *L, int opts, const char *path)
{
    char mark = strchr(path, '?') ? '&' : '?';

    lua_pushstring(L, path); // path
    if (!lua_istable(L, opts) || lua_getfield(L, opts, "query") == LUA_TNIL) {
        lua_settop(L, opts + 1);
        return lua_tostring(L, opts + 1);
    }
    luaL_checktype(L, opts + 2, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, opts + 2);) { // path query name value
        size_t name_length, length;
        const char *value = luaL_tolstring(L, opts + 4, &length);
        const char *name;

        luaL_argcheck(L, lua_type(L, opts + 3) == LUA_TSTRING, opts, "`query` is not name = value");
        name = lua_tolstring(L, opts + 3, &name_length);
        name = docker_push_encoded(L, name, name_length);
        value = docker_push_encoded(L, value, length);
        lua_pushfstring(L, "%s%c%s=%s", lua_tostring(L, opts + 1), mark, name, value);
        lua_replace(L, opts + 1);
        lua_settop(L, opts + 3);
        mark = '&';
    }
    lua_settop(L, opts + 1);
    return lua_tostring(L, opts + 1);
}

ND_RAISES static void read_accepted(lua_State *L, int opts, int *ok)
{
    int count = 0;

    if (!lua_istable(L, opts) || lua_getfield(L, opts, "ok") == LUA_TNIL)
        return;
    luaL_checktype(L, -1, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
        if (lua_isinteger(L, -2) && lua_toboolean(L, -1) && count < OK_MAX)
            ok[count++] = (int)lua_tointeger(L, -2);
    lua_pop(L, 1);
}

ND_RAISES static void check_path(lua_State *L, const char *path, size_t length)
{
    bool good = path[0] == '/' && !strstr(path, "/../") && strlen(path) == length;

    for (const char *p = path; *p; p++)
        good = good && (unsigned char)*p > ' ' && *p != '#' && (unsigned char)*p < 0x7f;
    luaL_argcheck(L, good, 3, "not a path of the API such as /containers/json");
}

static int docker_call(lua_State *L)
{
    struct docker_box *box = docker_check(L);
    struct nd_docker_call call = {.on_done = on_answered};
    int ok[OK_MAX + 1] = {0};
    struct call_op *op;
    size_t length;
    const char *path;

    lua_settop(L, 5);
    call.method = luaL_checkstring(L, 2);
    path = luaL_checklstring(L, 3, &length);
    luaL_argcheck(L, strspn(call.method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == strlen(call.method), 2,
                  "not a method");
    check_path(L, path, length);
    call.path = push_query(L, 5, path); // at 6
    if (lua_istable(L, 4)) {
        call.body = docker_push_json(L, 4, &call.body_length);
    } else if (!lua_isnil(L, 4)) {
        call.body = luaL_checklstring(L, 4, &call.body_length);
        call.type = "application/x-tar";
    }
    if (lua_istable(L, 5) && lua_getfield(L, 5, "type") == LUA_TSTRING) {
        call.type = lua_tostring(L, -1);
        luaL_argcheck(L, !strpbrk(call.type, "\r\n"), 5, "`type` holds a line break");
    }
    call.timeout_ms = docker_timeout(L, 5, box, CALL_MS, 0);
    call.doing = lua_pushfstring(L, "%s %s", call.method, path);
    read_accepted(L, 5, ok);
    call.arg = op = new_op(L, box, ANY, call.doing);
    op->raw = docker_flag(L, 5, "raw", false);
    memcpy(op->ok, ok, sizeof ok);
    call.ok = op->ok;
    op->req = nd_docker_start(box->docker, &call);
    return nd_op_park(L, op);
}

/* --- the connection --------------------------------------------------------------------------- */

struct docker_box *docker_check(lua_State *L)
{
    return docker_check_at(L, 1);
}

struct docker_box *docker_check_at(lua_State *L, int index)
{
    return luaL_checkudata(L, index, DOCKER_META);
}

static int docker_gc(lua_State *L)
{
    struct docker_box *box = docker_check(L);

    nd_docker_free(box->docker);
    box->docker = NULL;
    return 0;
}

static int docker_connect(lua_State *L)
{
    const char *path = "/var/run/docker.sock";
    lua_Integer timeout_ms = 0;
    struct docker_box *box;

    lua_settop(L, 1);
    if (!lua_isnil(L, 1)) {
        luaL_checktype(L, 1, LUA_TTABLE);
        lua_getfield(L, 1, "socket");
        path = luaL_optstring(L, -1, path);
        lua_getfield(L, 1, "timeout_ms");
        timeout_ms = luaL_optinteger(L, -1, 0);
    }
    if (strncmp(path, "unix://", 7) == 0)
        path += 7;
    luaL_argcheck(L, path[0] == '/' && strlen(path) <= SOCKET_PATH_MAX, 1,
                  "`socket` is not the absolute path of a unix socket (of at most 107 bytes)");
    luaL_argcheck(L, timeout_ms >= 0 && timeout_ms <= INT32_MAX, 1, "`timeout_ms` is no time");
    box = lua_newuserdatauv(L, sizeof *box, 0);
    box->docker = NULL;
    box->timeout_ms = (int)timeout_ms;
    luaL_setmetatable(L, DOCKER_META);
    box->docker = nd_docker_new(nd_host_loop(nd_host_of(L)), path);
    return 1;
}

ND_RAISES static void make_class(lua_State *L)
{
    luaL_newmetatable(L, DOCKER_META); // meta
    lua_pushcfunction(L, docker_gc);
    lua_setfield(L, -2, "__gc");
    lua_newtable(L); // meta methods
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lua_pushlightuserdata(L, (void *)&rows[i]);
        lua_pushcclosure(L, docker_method, 1);
        lua_setfield(L, -2, rows[i].name);
    }
    lua_pushboolean(L, false);
    lua_pushcclosure(L, docker_attach_network, 1);
    lua_setfield(L, -2, "connect_network");
    lua_pushboolean(L, true);
    lua_pushcclosure(L, docker_attach_network, 1);
    lua_setfield(L, -2, "disconnect_network");
    lua_pushcfunction(L, docker_call);
    lua_setfield(L, -2, "call");
    docker_add_image(L);
    docker_add_follow(L);
    docker_add_hijack(L);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

static const luaL_Reg functions[] = {
    {"connect", docker_connect},
    {NULL, NULL},
};

int nd_open_docker(lua_State *L)
{
    make_class(L);
    luaL_newlib(L, functions);
    return 1;
}
