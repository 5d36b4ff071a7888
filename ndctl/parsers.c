#include "parsers.h"

#include <string.h>

#include "engine/docker_stream.h"
#include "io/http_server.h"
#include "script/task.h"

static void set_text(lua_State *L, const char *name, struct nd_http_text text)
{
    lua_pushlstring(L, text.data ? text.data : "", text.length);
    lua_setfield(L, -2, name);
}

static void set_flag(lua_State *L, const char *name, bool value)
{
    lua_pushboolean(L, value);
    lua_setfield(L, -2, name);
}

/* Appends {name, value} to the list on top. */
static void add_pair(lua_State *L, struct nd_http_text name, struct nd_http_text value)
{
    lua_createtable(L, 2, 0); // list pair
    lua_pushlstring(L, name.data ? name.data : "", name.length);
    lua_rawseti(L, -2, 1);
    lua_pushlstring(L, value.data ? value.data : "", value.length);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1); // list
}

static void push_headers(lua_State *L, const struct nd_http_parse *p)
{
    lua_createtable(L, p->fields, 0);
    for (int i = 0; i < p->fields; i++)
        add_pair(L, nd_http_parse_text(p, p->name[i]), nd_http_parse_text(p, p->value[i]));
}

static void push_query(lua_State *L, struct nd_http_text query)
{
    struct nd_buf name = {0}, value = {0};

    lua_newtable(L);
    while (nd_http_query_next(&query, &name, &value)) {
        add_pair(L, (struct nd_http_text){name.data, name.length},
                 (struct nd_http_text){value.data, value.length});
        nd_buf_clear(&name);
        nd_buf_clear(&value);
    }
    nd_buf_fini(&name);
    nd_buf_fini(&value);
}

/* Pushes the request that was read; -1 with `err` where its target is refused. */
static int push_request(lua_State *L, const struct nd_http_parse *p, struct nd_err *err)
{
    struct nd_http_text target = nd_http_parse_text(p, p->target);
    struct nd_http_target parts;
    struct nd_buf path = {0};

    if (nd_http_target_split(target.data, target.length, &parts, err) < 0 ||
        nd_http_path_decode(parts.path, &path, err) < 0) {
        nd_buf_fini(&path);
        return -1;
    }
    lua_newtable(L); // request
    lua_pushstring(L, nd_http_parse_method(p));
    lua_setfield(L, -2, "method");
    set_text(L, "target", target);
    set_text(L, "path", (struct nd_http_text){path.data, path.length});
    nd_buf_fini(&path);
    lua_pushfstring(L, "HTTP/1.%d", p->llhttp.http_minor);
    lua_setfield(L, -2, "version");
    push_query(L, parts.query);
    lua_setfield(L, -2, "query");
    push_headers(L, p);
    lua_setfield(L, -2, "headers");
    set_text(L, "body", p->body);
    set_flag(L, "keep_alive", p->keep_alive);
    set_flag(L, "websocket", p->websocket);
    return 0;
}

static int push_failure(lua_State *L, int status, const struct nd_err *err)
{
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, status);
    lua_setfield(L, -2, "status");
    lua_pushstring(L, err->code);
    lua_setfield(L, -2, "code");
    lua_pushstring(L, err->message);
    lua_setfield(L, -2, "message");
    return 2;
}

static int parsers_http(lua_State *L)
{
    size_t length, at = 0;
    const char *given = luaL_checklstring(L, 1, &length);
    char *bytes = memcpy(lua_newuserdatauv(L, length + 1, 0), given, length); // it is written to
    struct nd_http_sizes sizes = nd_http_limits_default.sizes;
    struct nd_http_parse p;
    struct nd_err err = {0};
    size_t bodies = 0;
    int status = 0;
    bool failed = false;

    sizes.body_unknown = sizes.body; /* who sent them nobody asks here */
    nd_http_parse_init(&p, &sizes, &bodies);
    lua_newtable(L); // requests
    while (at < length && !failed) {
        size_t used;
        enum nd_http_parse_state state = nd_http_parse_feed(&p, bytes + at, length - at, &used);

        at += used;
        if (state == ND_HTTP_DONE && push_request(L, &p, &err) == 0) {
            lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
            nd_http_parse_next(&p);
            continue;
        }
        failed = true;
        status = state == ND_HTTP_FAILED ? p.status : state == ND_HTTP_DONE ? 400 : 0;
        if (state == ND_HTTP_FAILED)
            err = p.err;
        else if (state != ND_HTTP_DONE)
            nd_err_set(&err, "incomplete", NULL, "the request ends in the middle of its %s",
                       state == ND_HTTP_BODY ? "body" : "head");
    }
    nd_http_parse_fini(&p);
    return failed ? push_failure(L, status, &err) : 1;
}

static void on_frame(void *arg, const struct nd_docker_line *line)
{
    static const char *const streams[] = {"stdin", "stdout", "stderr", "system"};
    lua_State *L = arg;

    lua_createtable(L, 0, 2); // frames frame
    lua_pushstring(L, streams[line->stream]);
    lua_setfield(L, -2, "stream");
    lua_pushlstring(L, line->text, line->length);
    lua_setfield(L, -2, "data");
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1); // frames
}

static int parsers_stdcopy(lua_State *L)
{
    size_t length;
    const char *bytes = luaL_checklstring(L, 1, &length);
    struct nd_docker_frames frames = {.raw = true, .on_line = on_frame, .arg = L};
    struct nd_err err = {0};
    int rc;

    lua_newtable(L);
    rc = nd_docker_frames_feed(&frames, bytes, length, &err);
    if (rc == 0)
        rc = nd_docker_frames_end(&frames, &err);
    nd_docker_frames_fini(&frames);
    return rc < 0 ? push_failure(L, 0, &err) : 1;
}

int ndctl_open_parsers(lua_State *L)
{
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, parsers_http);
    lua_setfield(L, -2, "http");
    lua_pushcfunction(L, parsers_stdcopy);
    lua_setfield(L, -2, "stdcopy");
    return 1;
}
