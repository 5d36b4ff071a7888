/*
 * fault.c - the Lua module `fault`: hit(name) -> true where a test asked for a failure here
 * (see base/fault.h).
 */
#include "base/fault.h"

#include "bind/bind.h"

static int fault_hit(lua_State *L)
{
    lua_pushboolean(L, nd_fault(luaL_checkstring(L, 1)));
    return 1;
}

int nd_open_fault(lua_State *L)
{
    static const luaL_Reg functions[] = {{"hit", fault_hit}, {NULL, NULL}};

    luaL_newlib(L, functions);
    return 1;
}
