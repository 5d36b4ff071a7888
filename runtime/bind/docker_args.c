/*
 * docker_args.c - Lua arguments of the module `docker` into pieces of a request, and text back into
 * values.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "bind/docker.h"
#include "engine/docker_image.h"
#include "io/http_client.h"
#include "script/marshal.h"

enum { NAME_MAX_BYTES = 255 };

int docker_timeout(lua_State *L, int index, const struct docker_box *box, int otherwise, int more)
{
    lua_Integer ms = box->timeout_ms && otherwise ? box->timeout_ms : otherwise;

    if (ms)
        ms += more;
    if (index && lua_istable(L, index)) {
        if (lua_getfield(L, index, "timeout_ms") != LUA_TNIL)
            ms = luaL_checkinteger(L, -1);
        lua_pop(L, 1);
    }
    return ms < 0 ? 1 : ms > INT32_MAX ? INT32_MAX : (int)ms;
}

const char *docker_push_encoded(lua_State *L, const char *text, size_t length)
{
    struct nd_buf out = {0};

    nd_http_encode(&out, text, length, "");
    lua_pushlstring(L, out.data ? out.data : "", out.length);
    nd_buf_fini(&out);
    return lua_tostring(L, -1);
}

const char *docker_push_name(lua_State *L, int index, const char *noun)
{
    size_t length;
    const char *name = luaL_checklstring(L, index, &length);
    struct nd_err err = {0};

    if (!length || length > NAME_MAX_BYTES || name[0] == '.' || strlen(name) != length) {
        nd_err_set(&err, "docker_refused", NULL, "'%.100s' can't be the name of a %s", name, noun);
        nd_raise(L, &err);
    }
    return docker_push_encoded(L, name, length);
}

const char *docker_check_ref(lua_State *L, int index)
{
    size_t length;
    const char *ref = luaL_checklstring(L, index, &length);
    struct nd_err err = {0};
    char *repo = NULL, *tag = NULL, *digest = NULL;
    int rc;

    if (strlen(ref) != length)
        rc = nd_err_set(&err, "docker_refused", NULL, "the name of an image holds a NUL");
    else
        rc = nd_docker_ref_split(ref, &repo, &tag, &digest, &err);
    free(repo);
    free(tag);
    free(digest);
    if (rc < 0)
        nd_raise(L, &err);
    return ref;
}

const char *docker_push_json(lua_State *L, int index, size_t *length)
{
    struct nd_buf out = {0};
    struct nd_err err = {0};

    if (nd_json_add(L, index, &out, &err) < 0) {
        nd_buf_fini(&out);
        snprintf(err.code, sizeof err.code, "docker_refused");
        nd_raise(L, &err);
    }
    lua_pushlstring(L, out.data, out.length);
    nd_zero(out.data, out.length);
    nd_buf_fini(&out);
    return lua_tolstring(L, -1, length);
}

void docker_push_value(lua_State *L, const struct nd_buf *text, const char *doing)
{
    struct nd_err why = {0};
    struct nd_err err = {0};

    if (text->length > DOCKER_VALUE_MAX) {
        nd_err_set(&err, "docker_too_large", "d:call with raw = true gives it as a string",
                   "can't %s: Docker's answer is larger than %d bytes", doing, DOCKER_VALUE_MAX);
        nd_raise(L, &err);
    }
    if (nd_json_push(L, text->data ? text->data : "", text->length, &why) == 0)
        return;
    nd_err_set(&err, "docker_protocol", NULL, "can't %s: Docker's answer is %.200s", doing,
               why.message);
    nd_raise(L, &err);
}

bool docker_flag(lua_State *L, int index, const char *name, bool otherwise)
{
    bool value = otherwise;

    if (!lua_istable(L, index))
        return otherwise;
    if (lua_getfield(L, index, name) != LUA_TNIL)
        value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

/* Pushes the list {"k=v", "k", ...} of the table of labels at `labels`. */
ND_RAISES static void push_labels(lua_State *L, int labels)
{
    lua_Integer count = 0;
    int list;

    luaL_checktype(L, labels, LUA_TTABLE);
    lua_newtable(L);
    list = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, labels); lua_pop(L, 1)) { // name value
        if (lua_type(L, -2) != LUA_TSTRING)
            luaL_error(L, "docker: labels are name = value");
        if (lua_isboolean(L, -1)) {
            lua_pushvalue(L, -2); // name value entry
        } else {
            luaL_tolstring(L, -1, NULL); // name value text
            lua_pushfstring(L, "%s=%s", lua_tostring(L, -3), lua_tostring(L, -1));
            lua_remove(L, -2); // name value entry
        }
        lua_rawseti(L, list, ++count);
    }
}

const char *docker_push_filters(lua_State *L, int index)
{
    size_t length;
    int all;

    if (!lua_istable(L, index)) {
        lua_pushliteral(L, "");
        return lua_tostring(L, -1);
    }
    lua_newtable(L);
    all = lua_gettop(L);
    if (lua_getfield(L, index, "filters") != LUA_TNIL) { // all filters
        luaL_checktype(L, -1, LUA_TTABLE);
        for (lua_pushnil(L); lua_next(L, all + 1); lua_pop(L, 1)) {
            lua_pushvalue(L, -2); // all filters name value name
            lua_pushvalue(L, -2);
            lua_settable(L, all);
        }
    }
    lua_settop(L, all);
    if (lua_getfield(L, index, "labels") != LUA_TNIL) { // all labels
        push_labels(L, all + 1);
        lua_setfield(L, all, "label");
    }
    lua_settop(L, all);
    lua_pushnil(L);
    if (!lua_next(L, all)) {
        lua_settop(L, all - 1);
        lua_pushliteral(L, "");
        return lua_tostring(L, -1);
    }
    lua_settop(L, all);
    docker_push_json(L, all, &length); // all json
    docker_push_encoded(L, lua_tostring(L, -1), length);
    lua_pushfstring(L, "&filters=%s", lua_tostring(L, -1)); // all json encoded text
    lua_replace(L, all);
    lua_settop(L, all);
    return lua_tostring(L, -1);
}
