/*
 * secret.h - what the Lua module `secret` offers to other bindings.
 */
#ifndef ND_BIND_SECRET_H
#define ND_BIND_SECRET_H

#include "base/secret.h"
#include "bind/bind.h"

/* The secret at `index`: a userdata of this module that isn't freed. Borrowed. */
ND_RAISES struct nd_secret *nd_check_secret(lua_State *L, int index);
/* The same, or NULL where there is something else. */
struct nd_secret *nd_test_secret(lua_State *L, int index);
/* Pushes an empty one with room for `capacity` bytes; raises secret_memory, secret_too_large. */
ND_RAISES struct nd_secret *nd_push_secret(lua_State *L, size_t capacity);

#endif
