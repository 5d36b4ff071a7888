/*
 * parsers.h - the Lua module `parsers`: the daemon's parsers of foreign bytes, for `ndctl debug`.
 *
 *   parsers.http(bytes) -> requests, failure     as the daemon's doors read them: each request is
 *       {method, target, path, query = {{name, value}...}, version, headers = {{name, value}...},
 *       body, keep_alive, websocket}; failure is nil or {status, code, message}, status 0 where the
 *       bytes end too early
 *   parsers.stdcopy(bytes) -> frames, failure    Docker's stream of attach and logs: each frame is
 *       {stream, data}; failure is nil or {code, message}
 */
#ifndef NDCTL_PARSERS_H
#define NDCTL_PARSERS_H

#include <lua.h>

int ndctl_open_parsers(lua_State *L);

#endif
