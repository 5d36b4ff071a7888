/*
 * docker_list.c - long JSON lists into Lua without holding the loop.
 *
 * Decoding costs about 60 ms a megabyte (measured on a list of containers), so a list is cut into
 * its elements by looking at brackets and quotes alone, each element is decoded by itself, and
 * every few milliseconds the other tasks and the loop have their turn. What is not valid JSON shows
 * when its element is decoded.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "bind/docker.h"
#include "script/marshal.h"

#define LIST_META "nd.docker.list"

enum { SLICE_MS = 8, ELEMENT_MAX = DOCKER_VALUE_MAX };

struct list {
    struct nd_buf text; /* owned */
    size_t at;          /* the next byte to look at */
    lua_Integer count;  /* elements decoded */
    char doing[160];
};

static int list_gc(lua_State *L)
{
    nd_buf_fini(&((struct list *)lua_touserdata(L, 1))->text);
    return 0;
}

ND_RAISES static int list_error(lua_State *L, const struct list *list, const char *what)
{
    struct nd_err err = {0};

    nd_err_set(&err, "docker_protocol", NULL, "can't %s: Docker's answer is %.200s", list->doing,
               what);
    return nd_raise(L, &err);
}

static void skip_space(struct list *list)
{
    list->at += strspn(list->text.data + list->at, " \t\r\n");
}

/* The length of the element at `at`: up to a comma or bracket outside of strings and brackets. */
static size_t element_length(const struct list *list)
{
    const char *start = list->text.data + list->at;
    const char *end = list->text.data + list->text.length;
    const char *p = start;
    int depth = 0;

    for (; p < end; p++) {
        if (*p == '"') {
            for (p++; p < end && *p != '"'; p++)
                if (*p == '\\')
                    p++;
        } else if (*p == '{' || *p == '[') {
            depth++;
        } else if (depth == 0 && (*p == ',' || *p == ']')) {
            break;
        } else if (*p == '}' || *p == ']') {
            depth--;
        }
    }
    return (size_t)((p < end ? p : end) - start);
}

/* Decodes the next element into the table at `result`; false at the end of the list. */
ND_RAISES static bool next_element(lua_State *L, struct list *list, int result)
{
    struct nd_err err = {0};
    size_t length;

    skip_space(list);
    if (list->count == 0 && list->text.data[list->at] == ']')
        return false;
    length = element_length(list);
    if (length > ELEMENT_MAX)
        list_error(L, list, "a list with an element that is too large");
    if (nd_json_push(L, list->text.data + list->at, length, &err) < 0)
        list_error(L, list, err.message);
    lua_rawseti(L, result, ++list->count);
    list->at += length;
    if (list->text.data[list->at] == ']')
        return false;
    if (list->text.data[list->at] != ',')
        list_error(L, list, "a list without an end");
    list->at++;
    return true;
}

/* Goes on after each turn of the others; `context` is where the list is on the stack, its result is
 * above it. */
static int list_step(lua_State *L, int status, lua_KContext context)
{
    struct list *list = lua_touserdata(L, (int)context);
    int64_t until = nd_clock_monotonic() + SLICE_MS;

    (void)status;
    while (next_element(L, list, (int)context + 1))
        if (list->count % 16 == 0 && nd_clock_monotonic() >= until)
            return lua_yieldk(L, 0, context, list_step);
    list->at++;
    skip_space(list);
    if (list->at != list->text.length)
        list_error(L, list, "a list with something behind it");
    lua_settop(L, (int)context + 1);
    return 1;
}

int docker_push_list(lua_State *L, struct nd_buf *text, const char *doing)
{
    struct nd_err err = {0};
    struct list *list = lua_newuserdatauv(L, sizeof *list, 0); // list

    memset(list, 0, sizeof *list);
    if (luaL_newmetatable(L, LIST_META)) {
        lua_pushcfunction(L, list_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    snprintf(list->doing, sizeof list->doing, "%s", doing);
    list->text = *text;
    *text = (struct nd_buf){0};
    if (list->text.data)
        skip_space(list);
    if (!list->text.data || list->text.data[list->at] != '[')
        return list_error(L, list, "not a JSON list");
    list->at++;
    if (nd_json_push(L, "[]", 2, &err) < 0) // list result
        return nd_raise(L, &err);
    return list_step(L, LUA_OK, lua_gettop(L) - 1);
}
