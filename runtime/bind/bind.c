#include "bind/bind.h"

#include "script/marshal.h"

void nd_bind_class(lua_State *L, const char *name, const luaL_Reg *methods)
{
    luaL_newmetatable(L, name);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

void nd_bind_open(struct nd_host *host)
{
    lua_State *L = nd_host_lua(host);

    luaL_requiref(L, "json", nd_open_json, 0);
    lua_pop(L, 1);
#define OPEN(module)                                                                               \
    luaL_requiref(L, #module, nd_open_##module, 0);                                                \
    lua_pop(L, 1);
    ND_BIND_MODULES(OPEN)
#undef OPEN
}
