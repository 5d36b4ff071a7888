/*
 * embed.h - how `require` and the daemon find the Lua that the build embedded.
 *
 * `require "nd.api.apps"` is lua/nd/api/apps.lua, from the tree named by ND_LUA_DIR where that is
 * set (development), else from the binary. Nothing else is searched.
 */
#ifndef ND_SCRIPT_EMBED_H
#define ND_SCRIPT_EMBED_H

#include <lua.h>
#include <stdbool.h>

#include "base/buf.h"

/* Reads "lua/nd/x.lua" (a path in the source tree) into `out`; false if there is no such file. */
bool nd_embed_read(const char *path, struct nd_buf *out);
/* Replaces package.searchers by the one above. In Lua, `embed.read(path)`, `embed.list(prefix)`. */
void nd_embed_open(lua_State *L);
/* Compiles the module `name` ("nd.main") and pushes its chunk; a Lua status, error text on top. */
int nd_embed_load(lua_State *L, const char *name);

#endif
