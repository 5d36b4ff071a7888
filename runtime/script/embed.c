#include "script/embed.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/embed.h"
#include "base/mem.h"

static bool read_file(const char *path, struct nd_buf *out)
{
    FILE *file = fopen(path, "rb");
    char chunk[8192];
    size_t got;

    if (!file)
        return false;
    while ((got = fread(chunk, 1, sizeof chunk, file)) > 0)
        nd_buf_add(out, chunk, got);
    fclose(file);
    return true;
}

bool nd_embed_read(const char *path, struct nd_buf *out)
{
    const char *dir = getenv("ND_LUA_DIR");

    if (dir && *dir) {
        char *full = nd_printf("%s/%s", dir, path);
        bool found = read_file(full, out);

        free(full);
        if (found)
            return true;
    }
    for (const struct nd_embed *e = nd_embedded_lua; e->path; e++) {
        if (strcmp(e->path, path) == 0) {
            nd_buf_add(out, e->text, (size_t)(e->end - e->text));
            return true;
        }
    }
    return false;
}

int nd_embed_load(lua_State *L, const char *name)
{
    static const char *const shapes[] = {"lua/%s.lua", "%s.lua", "lua/%s/init.lua"};
    char *stem = nd_strdup(name);
    int status = LUA_ERRFILE;

    for (char *p = stem; *p; p++)
        if (*p == '.')
            *p = '/';
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && status == LUA_ERRFILE; i++) {
        struct nd_buf text = {0};
        char path[256], chunk_name[300];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(path, sizeof path, shapes[i], stem);
#pragma GCC diagnostic pop
        snprintf(chunk_name, sizeof chunk_name, "@%s", path);
        if (nd_embed_read(path, &text))
            status = luaL_loadbufferx(L, text.data ? text.data : "", text.length, chunk_name, "t");
        nd_buf_fini(&text);
    }
    free(stem);
    if (status == LUA_ERRFILE)
        lua_pushfstring(L, "no module '%s' in this program", name);
    return status;
}

/* searcher(name) -> loader | message */
static int searcher(lua_State *L)
{
    int status = nd_embed_load(L, luaL_checkstring(L, 1));

    if (status == LUA_OK || status == LUA_ERRFILE)
        return 1;
    return lua_error(L);
}

/* embed.read(path) -> text | nil */
static int embed_read(lua_State *L)
{
    struct nd_buf text = {0};

    if (!nd_embed_read(luaL_checkstring(L, 1), &text)) {
        nd_buf_fini(&text);
        return 0;
    }
    lua_pushlstring(L, text.data ? text.data : "", text.length);
    nd_buf_fini(&text);
    return 1;
}

/* embed.list(prefix) -> list of paths below it */
static int embed_list(lua_State *L)
{
    size_t length;
    const char *prefix = luaL_checklstring(L, 1, &length);
    int count = 0;

    lua_newtable(L);
    for (const struct nd_embed *e = nd_embedded_lua; e->path; e++) {
        if (strncmp(e->path, prefix, length) != 0)
            continue;
        lua_pushstring(L, e->path);
        lua_rawseti(L, -2, ++count);
    }
    return 1;
}

static int open_embed(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"read", embed_read},
        {"list", embed_list},
        {NULL, NULL},
    };

    luaL_newlib(L, functions);
    return 1;
}

void nd_embed_open(lua_State *L)
{
    luaL_requiref(L, "embed", open_embed, 0);
    lua_getglobal(L, "package"); // embed package
    lua_createtable(L, 2, 0);
    lua_getfield(L, -2, "searchers");
    lua_rawgeti(L, -1, 1); // embed package new old preload
    lua_rawseti(L, -3, 1);
    lua_pushcfunction(L, searcher);
    lua_rawseti(L, -3, 2);
    lua_pop(L, 1);
    lua_setfield(L, -2, "searchers");
    lua_pop(L, 2);
}
