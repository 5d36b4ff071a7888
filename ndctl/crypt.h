/*
 * crypt.h - the Lua module `crypt`: stdin through engine/age.h, as fast as it comes.
 *
 *   crypt.encrypt({recipient...}, armor, output)
 *   crypt.decrypt({identity...}, output)
 *       wait until stdin has ended. `output` is a path, or nil for stdout. A file is written beside
 *       its place (.NAME.XXXXXX, readable by its owner alone) and put there once it is whole; one
 *       that was there keeps its mode. SIGINT, SIGTERM and SIGHUP remove what was begun and end the
 *       process. Codes: those of engine/age.h, read_failed, write_failed.
 */
#ifndef NDCTL_CRYPT_H
#define NDCTL_CRYPT_H

#include <lua.h>

int ndctl_open_crypt(lua_State *L);

#endif
