/*
 * fuzz_worker_frame.c - whatever a worker sends, it is cut into frames and read as JSON or refused;
 * and JSON that was read is written in one way only: reading and writing it again changes nothing.
 */
#include <lauxlib.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "script/frame.h"
#include "script/marshal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_value(lua_State *L, struct nd_buf *out)
{
    struct nd_err err = {0};

    if (nd_json_add(L, -1, out, &err) < 0)
        abort();
}

static int read_and_write(lua_State *L)
{
    const char *text = lua_touserdata(L, 1);
    size_t length = (size_t)lua_tointeger(L, 2);
    struct nd_buf once = {0}, twice = {0};
    struct nd_err err = {0};

    if (nd_json_push(L, text, length, &err) < 0) {
        if (!err.code[0])
            abort();
        return 0;
    }
    write_value(L, &once);
    if (nd_json_push(L, once.data, once.length, &err) < 0)
        abort();
    write_value(L, &twice);
    if (once.length != twice.length || memcmp(once.data, twice.data, once.length) != 0)
        abort();
    nd_buf_fini(&once);
    nd_buf_fini(&twice);
    return 0;
}

static void take(lua_State *L, const char *text, size_t length)
{
    lua_pushcfunction(L, read_and_write);
    lua_pushlightuserdata(L, (void *)(uintptr_t)text);
    lua_pushinteger(L, (lua_Integer)length);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lua_State *L = luaL_newstate();
    size_t taken = 0, length;
    int found;

    nd_open_json(L);
    lua_pop(L, 1);
    while ((found = nd_frame_find(data + taken, size - taken, &length)) > 0) {
        take(L, (const char *)data + taken + ND_FRAME_HEAD, length);
        taken += ND_FRAME_HEAD + length;
    }
    if (found == 0 && taken < size) /* what is no frame is still text to read */
        take(L, (const char *)data + taken, size - taken);
    lua_close(L);
    return 0;
}
