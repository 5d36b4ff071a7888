/*
 * docker_image.c - methods of a Docker connection whose answer is a stream of messages.
 *
 * d:pull(ref, {auth=, progress=, platform=, timeout_ms=, idle_timeout_ms=60000}) -> name, id
 *   `name` pins the image: "repo@sha256:..." where the registry gave a digest, else the image's id.
 * d:push(ref, {auth=, progress=, ...}) -> digest
 * d:load(tar, {progress=, ...}) -> name or id of the (last) image loaded
 * d:build(tar, {tag=, query={}, progress=, ...}) -> id; the tar holds the Dockerfile and its
 * context `auth` is Docker's AuthConfig: {username=, password=, serveraddress=, identitytoken=}; it
 * is sent only in this call's header, and wiped from the memory of the daemon's C side afterwards.
 * `progress(p)` is called in the task that waits, at most five times a second, with {text=, done=,
 * total=}: bytes over all layers. It may wait; what it raises ends the call.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/docker.h"
#include "engine/docker_image.h"
#include "script/chan.h"
#include "script/marshal.h"

enum { AT_OPTS = 3, AT_CHAN = 4, BASE = 4 }; /* indices on the stack of image_method */
enum { PROGRESS = 1, DONE = 2 };             /* kinds of items in the channel */
enum { BEGIN, RECEIVED, REPORTED };          /* where image_step goes on */

struct image_stream {
    struct nd_docker_image_op *op;
    struct nd_chan *chan; /* we owe its end */
};

struct progress_head {
    int64_t done;
    int64_t total;
};

/* --- from the engine into the channel --------------------------------------------------------- */

static void on_progress(void *arg, const char *text, int64_t done, int64_t total)
{
    struct image_stream *s = arg;
    struct progress_head head = {done, total};
    struct nd_buf item = {0};

    nd_buf_add(&item, &head, sizeof head);
    nd_buf_adds(&item, text);
    nd_chan_add(s->chan, PROGRESS, item.data, item.length);
    nd_buf_fini(&item);
}

static void on_done(void *arg, const char *name, const char *id, const struct nd_err *err)
{
    struct image_stream *s = arg;
    struct nd_err none = {0};
    struct nd_buf item = {0};

    if (!err) {
        nd_buf_add(&item, name, strlen(name) + 1);
        nd_buf_adds(&item, id);
        nd_chan_add(s->chan, DONE, item.data, item.length);
        nd_buf_fini(&item);
    }
    nd_chan_end(s->chan, err ? err : &none);
    free(s);
}

static void on_left(void *arg)
{
    nd_docker_image_cancel(((struct image_stream *)arg)->op);
}

static const struct nd_chan_type image_chan = {.close = on_left};

/* --- from the channel to the caller ----------------------------------------------------------- */

ND_RAISES static void push_progress(lua_State *L, const char *item, size_t length)
{
    struct progress_head head;

    memcpy(&head, item, sizeof head);
    lua_createtable(L, 0, 3);
    lua_pushlstring(L, item + sizeof head, length - sizeof head);
    lua_setfield(L, -2, "text");
    lua_pushinteger(L, head.done);
    lua_setfield(L, -2, "done");
    lua_pushinteger(L, head.total);
    lua_setfield(L, -2, "total");
}

/* Takes items until the result comes; goes on after each wait by itself. */
static int image_step(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    for (;;) {
        if (context == RECEIVED && lua_tointeger(L, BASE + 2) == DONE) { // item kind
            const char *name = lua_tostring(L, BASE + 1);
            const char *id = name + strlen(name) + 1;

            lua_pushstring(L, name);
            if (!*id)
                return 1;
            lua_pushstring(L, id);
            return 2;
        }
        if (context == RECEIVED && lua_istable(L, AT_OPTS) &&
            lua_getfield(L, AT_OPTS, "progress") != LUA_TNIL) { // item kind progress
            size_t length;
            const char *item = lua_tolstring(L, BASE + 1, &length);

            push_progress(L, item, length);
            context = REPORTED;
            lua_callk(L, 1, 0, REPORTED, image_step);
        }
        lua_settop(L, BASE);
        lua_getfield(L, AT_CHAN, "recv");
        lua_pushvalue(L, AT_CHAN);
        lua_callk(L, 1, 2, RECEIVED, image_step);
        context = RECEIVED;
    }
}

/* --- the call --------------------------------------------------------------------------------- */

/* base64 with '-' and '_', padded, as Docker's X-Registry-Auth wants it. */
static char *base64url(const unsigned char *data, size_t length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char *out = nd_alloc((length + 2) / 3 * 4 + 1);
    char *p = out;

    for (size_t i = 0; i < length; i += 3) {
        size_t n = length - i;
        unsigned bits = (unsigned)data[i] << 16 | (n > 1 ? (unsigned)data[i + 1] << 8 : 0) |
                        (n > 2 ? data[i + 2] : 0);

        *p++ = digits[bits >> 18];
        *p++ = digits[bits >> 12 & 63];
        *p++ = n > 1 ? digits[bits >> 6 & 63] : '=';
        *p++ = n > 2 ? digits[bits & 63] : '=';
    }
    return out;
}

/* The credentials of opts.auth, owned; NULL: none. */
ND_RAISES static char *read_auth(lua_State *L)
{
    struct nd_buf json = {0};
    struct nd_err err = {0};
    char *auth = NULL;
    int rc;

    if (!lua_istable(L, AT_OPTS) || lua_getfield(L, AT_OPTS, "auth") == LUA_TNIL)
        return NULL;
    luaL_argcheck(L, lua_istable(L, -1), AT_OPTS, "`auth` is not a table");
    rc = nd_json_add(L, -1, &json, &err);
    if (rc == 0)
        auth = base64url((unsigned char *)json.data, json.length);
    if (json.data)
        nd_zero(json.data, json.capacity);
    nd_buf_fini(&json);
    if (rc < 0)
        nd_raise(L, &err);
    return auth;
}

ND_RAISES static const char *opt_text(lua_State *L, const char *name)
{
    if (!lua_istable(L, AT_OPTS) || lua_getfield(L, AT_OPTS, name) == LUA_TNIL)
        return NULL;
    return luaL_checkstring(L, -1); /* stays on the stack */
}

/* Pushes "a=b&c=d" from opts.query and opts.platform, or nothing. */
ND_RAISES static const char *read_query(lua_State *L)
{
    const char *platform = opt_text(L, "platform");
    int at;

    lua_pushstring(L, platform ? "platform=" : "");
    if (platform) {
        docker_push_encoded(L, platform, strlen(platform));
        lua_concat(L, 2);
    }
    at = lua_gettop(L);
    if (!lua_istable(L, AT_OPTS) || lua_getfield(L, AT_OPTS, "query") == LUA_TNIL)
        return lua_tostring(L, at);
    luaL_checktype(L, -1, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, at + 1); lua_settop(L, at + 2)) { // query name value
        size_t length;
        const char *value = luaL_tolstring(L, at + 3, &length);

        luaL_argcheck(L, lua_type(L, at + 2) == LUA_TSTRING, AT_OPTS,
                      "`query` is not name = value");
        lua_pushfstring(L, "%s%s%s=%s", lua_tostring(L, at), lua_rawlen(L, at) ? "&" : "",
                        lua_tostring(L, at + 2), docker_push_encoded(L, value, length));
        lua_replace(L, at);
    }
    return lua_tostring(L, at);
}

static int image_method(lua_State *L)
{
    enum nd_docker_image_kind kind =
        (enum nd_docker_image_kind)lua_tointeger(L, lua_upvalueindex(1));
    struct docker_box *box = docker_check(L);
    struct nd_docker_image_call call = {
        .kind = kind, .on_progress = on_progress, .on_done = on_done};
    struct image_stream *s;
    char *auth;

    lua_settop(L, AT_OPTS);
    if (kind <= ND_DOCKER_PUSH)
        call.ref = docker_check_ref(L, 2);
    else
        call.body = luaL_checklstring(L, 2, &call.body_length);
    if (kind == ND_DOCKER_BUILD && opt_text(L, "tag"))
        call.ref = docker_check_ref(L, -1);
    call.query = read_query(L);
    call.timeout_ms = docker_timeout(L, AT_OPTS, &(struct docker_box){0}, 0, 0);
    call.idle_timeout_ms = kind <= ND_DOCKER_PUSH ? box->timeout_ms : 0;
    if (lua_istable(L, AT_OPTS) && lua_getfield(L, AT_OPTS, "idle_timeout_ms") != LUA_TNIL)
        call.idle_timeout_ms = (int)luaL_checkinteger(L, -1);
    if (kind > ND_DOCKER_PUSH && !call.timeout_ms)
        call.timeout_ms = box->timeout_ms;

    auth = read_auth(L);
    call.auth = auth;
    s = nd_alloc(sizeof *s);
    s->chan = nd_chan_new(L, &image_chan, s);
    lua_insert(L, AT_CHAN);
    lua_toclose(L, AT_CHAN);
    call.arg = s;
    s->op = nd_docker_image_start(box->docker, &call);
    if (auth)
        nd_zero(auth, strlen(auth));
    free(auth);
    lua_settop(L, BASE);
    return image_step(L, LUA_OK, BEGIN);
}

void docker_add_image(lua_State *L)
{
    static const char *const names[] = {"pull", "push", "load", "build"};

    for (int kind = 0; kind < 4; kind++) {
        lua_pushinteger(L, kind);
        lua_pushcclosure(L, image_method, 1);
        lua_setfield(L, -2, names[kind]);
    }
}
