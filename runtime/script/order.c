#include "script/order.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUILTINS "nd.builtins" /* registry: light C function -> its number */

/* ---- identity ---- */

/* The header of the object at `index`, or NULL for values that have none. */
static struct nd_order_head *head_of(lua_State *L, int index)
{
    const char *p = lua_topointer(L, index);

    switch (lua_type(L, index)) {
    case LUA_TTABLE:
        break;
    case LUA_TFUNCTION:
        if (lua_iscfunction(L, index)) {
            if (!lua_getupvalue(L, index, 1)) /* light: a bare pointer to code */
                return NULL;
            lua_pop(L, 1);
        }
        break;
    case LUA_TTHREAD:
        p -= LUA_EXTRASPACE;
        break;
    default:
        return NULL;
    }
    return (struct nd_order_head *)(uintptr_t)(p - sizeof(struct nd_order_head));
}

static uint64_t builtin_number(lua_State *L, int index)
{
    uint64_t number;

    index = lua_absindex(L, index);
    lua_getfield(L, LUA_REGISTRYINDEX, BUILTINS);
    lua_pushvalue(L, index);
    if (lua_rawget(L, -2) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_pushinteger(L, (lua_Integer)lua_rawlen(L, -1) + 1);
        lua_pushvalue(L, index);
        lua_pushvalue(L, -2);
        lua_rawset(L, -4); // builtins[fn] = n
        lua_pushvalue(L, index);
        lua_rawseti(L, -3, lua_tointeger(L, -2)); // builtins[n] = fn
    }
    number = (uint64_t)lua_tointeger(L, -1);
    lua_pop(L, 2);
    return number;
}

/* ---- comparing keys ---- */

struct sort_key {
    int rank; /* which kind of key; see rank_key */
    int slot; /* where it is in the list of keys */
    union {
        long double number; /* exact for both integers and floats */
        uint64_t id;
        struct {
            const char *text; /* borrowed from the key */
            size_t length;
        } string;
    } by;
};

enum { NUMBER, STRING, BOOLEAN, BUILTIN, OBJECT, OTHER };

static void rank_key(lua_State *L, int index, struct sort_key *key)
{
    struct nd_order_head *head;

    switch (lua_type(L, index)) {
    case LUA_TNUMBER:
        key->rank = NUMBER;
        key->by.number = lua_isinteger(L, index) ? (long double)lua_tointeger(L, index)
                                                 : (long double)lua_tonumber(L, index);
        return;
    case LUA_TSTRING:
        key->rank = STRING;
        key->by.string.text = lua_tolstring(L, index, &key->by.string.length);
        return;
    case LUA_TBOOLEAN:
        key->rank = BOOLEAN;
        key->by.id = (uint64_t)lua_toboolean(L, index);
        return;
    default:
        if (lua_type(L, index) > LUA_TTHREAD)
            luaL_error(L, "a table whose keys are of the type %s has no order",
                       luaL_typename(L, index));
        break;
    }
    head = head_of(L, index);
    key->rank = head ? OBJECT : lua_isfunction(L, index) ? BUILTIN : OTHER;
    key->by.id = head                   ? head->created
                 : key->rank == BUILTIN ? builtin_number(L, index)
                                        : (uint64_t)(uintptr_t)lua_touserdata(L, index);
}

static int compare_strings(const struct sort_key *a, const struct sort_key *b)
{
    size_t x = a->by.string.length, y = b->by.string.length;
    int order = memcmp(a->by.string.text, b->by.string.text, x < y ? x : y);

    return order ? order : (x > y) - (x < y);
}

static int compare_keys(const void *x, const void *y)
{
    const struct sort_key *a = x, *b = y;

    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    if (a->rank == NUMBER)
        return (a->by.number > b->by.number) - (a->by.number < b->by.number);
    if (a->rank == STRING)
        return compare_strings(a, b);
    return (a->by.id > b->by.id) - (a->by.id < b->by.id);
}

/* ---- the keys of a table, in order ---- */

/* Pushes the array of all keys of the table at `table`, as they come; returns their number. */
static int collect_keys(lua_State *L, int table)
{
    int count = 0;

    lua_newtable(L);
    lua_pushnil(L); // keys nil
    while (lua_next(L, table)) {
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, ++count); // keys key
    }
    return count;
}

/* Replaces the array of keys on top by a sorted one. */
static void sort_keys(lua_State *L, int count)
{
    int keys = lua_gettop(L);
    struct sort_key *list = lua_newuserdatauv(L, sizeof *list * (size_t)(count ? count : 1), 0);
    int sorted = 1;

    for (int i = 0; i < count; i++) {
        list[i].slot = i + 1;
        lua_rawgeti(L, keys, i + 1);
        rank_key(L, -1, &list[i]);
        lua_pop(L, 1);
        if (i && sorted)
            sorted = compare_keys(&list[i - 1], &list[i]) < 0;
    }
    if (sorted) {
        lua_settop(L, keys);
        return;
    }
    qsort(list, (size_t)count, sizeof *list, compare_keys);
    lua_createtable(L, count, 0); // keys list out
    for (int i = 0; i < count; i++) {
        lua_rawgeti(L, keys, list[i].slot);
        lua_rawseti(L, -2, i + 1);
    }
    lua_replace(L, keys);
    lua_settop(L, keys);
}

/* How many elements the table has if its keys are just 1..n, else -1. */
static int sequence_length(lua_State *L, int table)
{
    int count = 0;

    lua_pushnil(L);
    while (lua_next(L, table)) {
        lua_pop(L, 1);
        if (!lua_isinteger(L, -1) || lua_tointeger(L, -1) != count + 1) {
            lua_pop(L, 1);
            return -1;
        }
        count++;
    }
    return count;
}

/* ---- pairs ---- */

/* Upvalues: the keys (an array, or nil for 1..n), their number, the position. */
static int pairs_step(lua_State *L)
{
    lua_Integer count = lua_tointeger(L, lua_upvalueindex(2));
    lua_Integer at = lua_tointeger(L, lua_upvalueindex(3));
    int plain = lua_isnil(L, lua_upvalueindex(1));

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    while (++at <= count) {
        if (plain)
            lua_pushinteger(L, at);
        else
            lua_rawgeti(L, lua_upvalueindex(1), at); // t key
        lua_pushvalue(L, 2);
        if (lua_rawget(L, 1) != LUA_TNIL) { // t key value
            lua_pushinteger(L, at);
            lua_replace(L, lua_upvalueindex(3));
            return 2;
        }
        lua_settop(L, 1);
    }
    lua_pushinteger(L, count);
    lua_replace(L, lua_upvalueindex(3));
    return 0;
}

static int after_meta(lua_State *L, int status, lua_KContext context)
{
    (void)L;
    (void)status;
    (void)context;
    return 3;
}

static int order_pairs(lua_State *L)
{
    int count;

    luaL_checkany(L, 1);
    if (luaL_getmetafield(L, 1, "__pairs") != LUA_TNIL) {
        lua_pushvalue(L, 1);
        lua_callk(L, 1, 3, 0, after_meta);
        return 3;
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    count = sequence_length(L, 1);
    if (count >= 0) {
        lua_pushnil(L);
    } else {
        count = collect_keys(L, 1);
        sort_keys(L, count);
    }
    lua_pushinteger(L, count);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, pairs_step, 3);
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}

/* ---- next ---- */

/* Traversals by `next` in progress, the last few: table, sorted keys, position of the last one. */
enum { TRAVERSALS = 4 };

static int cache_slot(int traversal, int field)
{
    return traversal * 3 + field + 1;
}

static void forget(lua_State *L, int traversal)
{
    for (int i = 0; i < 3; i++) {
        lua_pushboolean(L, 0);
        lua_rawseti(L, lua_upvalueindex(1), cache_slot(traversal, i));
    }
}

/* Finds the traversal of the table at 1; -1 if there is none. */
static int find_traversal(lua_State *L)
{
    for (int i = 0; i < TRAVERSALS; i++) {
        int same;

        lua_rawgeti(L, lua_upvalueindex(1), cache_slot(i, 0));
        same = lua_rawequal(L, -1, 1);
        lua_pop(L, 1);
        if (same)
            return i;
    }
    return -1;
}

/* The position of the key at 2 in the sorted keys on top: of the last one not after it. */
static lua_Integer position_of(lua_State *L, int keys)
{
    lua_Integer low = 0, high = (lua_Integer)lua_rawlen(L, keys);
    struct sort_key want = {0}, have = {0};

    rank_key(L, 2, &want);
    while (low < high) {
        lua_Integer middle = low + (high - low + 1) / 2;

        lua_rawgeti(L, keys, middle);
        rank_key(L, -1, &have);
        lua_pop(L, 1);
        if (compare_keys(&have, &want) <= 0)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Pushes the keys of the table at 1 in order and returns the position of the key at 2 in them. */
static lua_Integer resume_traversal(lua_State *L, int *traversal)
{
    lua_Integer at;

    *traversal = find_traversal(L);
    if (*traversal >= 0) {
        lua_rawgeti(L, lua_upvalueindex(1), cache_slot(*traversal, 1)); // t k keys
        lua_rawgeti(L, lua_upvalueindex(1), cache_slot(*traversal, 2));
        at = lua_tointeger(L, -1);
        lua_pop(L, 1);
        lua_rawgeti(L, -1, at);
        if (lua_rawequal(L, -1, 2)) {
            lua_pop(L, 1);
            return at;
        }
        lua_settop(L, 2);
    } else {
        lua_rawgeti(L, lua_upvalueindex(1), cache_slot(TRAVERSALS, 0));
        *traversal = (int)((lua_tointeger(L, -1) + 1) % TRAVERSALS);
        lua_pushinteger(L, *traversal);
        lua_rawseti(L, lua_upvalueindex(1), cache_slot(TRAVERSALS, 0));
        lua_settop(L, 2);
    }
    sort_keys(L, collect_keys(L, 1)); // t k keys
    at = position_of(L, 3);
    lua_pushvalue(L, 1);
    lua_rawseti(L, lua_upvalueindex(1), cache_slot(*traversal, 0));
    lua_pushvalue(L, 3);
    lua_rawseti(L, lua_upvalueindex(1), cache_slot(*traversal, 1));
    return at;
}

/* Pushes the least key of the table at 1 and its value; 1 result, nil, if it is empty. */
static int first_pair(lua_State *L)
{
    struct sort_key least = {0}, key = {0};

    lua_settop(L, 1);
    lua_pushnil(L); // t least
    lua_pushnil(L);
    while (lua_next(L, 1)) {
        lua_pop(L, 1); // t least key
        rank_key(L, 3, &key);
        if (!lua_isnil(L, 2) && compare_keys(&key, &least) > 0)
            continue;
        least = key;
        lua_pushvalue(L, 3);
        lua_replace(L, 2);
    }
    if (lua_isnil(L, 2))
        return 1;
    lua_pushvalue(L, 2);
    lua_rawget(L, 1);
    return 2;
}

static int order_next(lua_State *L)
{
    int traversal;
    lua_Integer at, count;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    if (lua_isnil(L, 2)) {
        traversal = find_traversal(L);
        if (traversal >= 0)
            forget(L, traversal);
        return first_pair(L);
    }
    at = resume_traversal(L, &traversal); // t k keys
    count = (lua_Integer)lua_rawlen(L, 3);
    while (++at <= count) {
        lua_settop(L, 3);
        lua_rawgeti(L, 3, at);
        lua_pushvalue(L, 4);
        if (lua_rawget(L, 1) == LUA_TNIL)
            continue;
        lua_pushinteger(L, at);
        lua_rawseti(L, lua_upvalueindex(1), cache_slot(traversal, 2));
        return 2;
    }
    forget(L, traversal);
    lua_pushnil(L);
    return 1;
}

/* ---- table.sort ---- */

/* Is element `x` of the array at `list` to come before element `y`? The order function is at 2. */
static int sorts_before(lua_State *L, int list, lua_Integer x, lua_Integer y)
{
    int before;

    if (lua_isnil(L, 2)) {
        lua_rawgeti(L, list, x);
        lua_rawgeti(L, list, y);
        before = lua_compare(L, -2, -1, LUA_OPLT);
        lua_pop(L, 2);
        return before;
    }
    lua_pushvalue(L, 2);
    lua_rawgeti(L, list, x);
    lua_rawgeti(L, list, y);
    lua_call(L, 2, 1);
    before = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return before;
}

/* Merges from[low, middle) and from[middle, high) into `to`; positions count from 1. */
static void merge_runs(lua_State *L, int from, int to, lua_Integer low, lua_Integer middle,
                       lua_Integer high)
{
    lua_Integer left = low, right = middle;

    for (lua_Integer i = low; i < high; i++) {
        int take_right = left >= middle || (right < high && sorts_before(L, from, right, left));

        lua_rawgeti(L, from, take_right ? right++ : left++);
        lua_rawseti(L, to, i);
    }
}

static lua_Integer least(lua_Integer a, lua_Integer b)
{
    return a < b ? a : b;
}

/* A bottom-up merge sort on copies; the table changes only when all comparisons went well. */
static int order_sort(lua_State *L)
{
    lua_Integer count;
    int from = 3, to = 4;

    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    count = luaL_len(L, 1);
    luaL_argcheck(L, count < 1 << 30, 1, "array too big");
    if (count < 2)
        return 0;
    lua_createtable(L, (int)count, 0);
    lua_createtable(L, (int)count, 0); // t less from to
    for (lua_Integer i = 1; i <= count; i++) {
        lua_geti(L, 1, i);
        lua_rawseti(L, from, i);
    }
    for (lua_Integer width = 1; width < count; width *= 2) {
        for (lua_Integer low = 1; low <= count; low += 2 * width)
            merge_runs(L, from, to, low, least(low + width, count + 1),
                       least(low + 2 * width, count + 1));
        from = 7 - from;
        to = 7 - to;
    }
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, from, i);
        lua_seti(L, 1, i);
    }
    return 0;
}

/* ---- tostring, string.format ---- */

/* Pushes "0x00000001": the number of the object at `index` by its first showing. */
static void push_number(lua_State *L, int index)
{
    struct nd_order_head *head = head_of(L, index);
    uint64_t number;
    char text[32];

    if (head && !head->shown) {
        lua_Integer shown;

        lua_getfield(L, LUA_REGISTRYINDEX, "nd.shown");
        shown = lua_tointeger(L, -1) + 1;
        lua_pop(L, 1);
        lua_pushinteger(L, shown);
        lua_setfield(L, LUA_REGISTRYINDEX, "nd.shown");
        head->shown = (uint64_t)shown;
    }
    number = head ? head->shown : lua_isfunction(L, index) ? builtin_number(L, index) : 0;
    snprintf(text, sizeof text, "0x%08llx", (unsigned long long)number);
    lua_pushstring(L, text);
}

/* Pushes what tostring gives for the value at `index`. */
static void push_text(lua_State *L, int index)
{
    const char *kind = luaL_typename(L, index);

    index = lua_absindex(L, index);
    if (luaL_callmeta(L, index, "__tostring")) {
        if (!lua_isstring(L, -1))
            luaL_error(L, "'__tostring' must return a string");
        return;
    }
    switch (lua_type(L, index)) {
    case LUA_TLIGHTUSERDATA:
        lua_pushliteral(L, "null");
        return;
    case LUA_TTABLE:
    case LUA_TFUNCTION:
    case LUA_TTHREAD:
    case LUA_TUSERDATA:
        break;
    default:
        luaL_tolstring(L, index, NULL);
        return;
    }
    if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING)
        kind = lua_tostring(L, -1);
    else
        lua_pushnil(L);
    push_number(L, index); // name number
    if (lua_isfunction(L, index) && !head_of(L, index))
        lua_pushfstring(L, "function: builtin: %s", lua_tostring(L, -1));
    else
        lua_pushfstring(L, "%s: %s", kind, lua_tostring(L, -1));
    lua_replace(L, -3);
    lua_pop(L, 1);
}

static int order_tostring(lua_State *L)
{
    luaL_checkany(L, 1);
    push_text(L, 1);
    return 1;
}

/* string.format with what shows addresses made harmless first. Upvalue: the stock function. */
static int order_format(lua_State *L)
{
    size_t length;
    const char *format = luaL_checklstring(L, 1, &length), *end = format + length;
    int top = lua_gettop(L), arg = 1;
    luaL_Buffer out;

    luaL_buffinit(L, &out); // ... [buffer]
    while (format < end) {
        luaL_addchar(&out, *format);
        if (*format++ != '%')
            continue;
        while (format < end && strchr("-+#0 .123456789", *format))
            luaL_addchar(&out, *format++);
        if (format >= end)
            break;
        if (*format == '%') {
            luaL_addchar(&out, *format++);
            continue;
        }
        arg++;
        if (*format == 'p' && arg <= top) {
            push_number(L, arg);
            lua_replace(L, arg);
            luaL_addchar(&out, 's');
            format++;
            continue;
        }
        if (*format == 's' && arg <= top && !lua_isstring(L, arg)) {
            push_text(L, arg);
            lua_replace(L, arg);
        }
        luaL_addchar(&out, *format++);
    }
    luaL_pushresult(&out); // ... format
    lua_replace(L, 1);
    lua_settop(L, top);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, top, 1);
    return 1;
}

/* ---- registration ---- */

/* Numbers the functions of the table on top, by name. */
static void number_builtins(lua_State *L)
{
    int table = lua_gettop(L);

    sort_keys(L, collect_keys(L, table)); // t keys
    for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, -1); i <= n; i++) {
        lua_rawgeti(L, table + 1, i);
        lua_rawget(L, table);
        if (lua_iscfunction(L, -1) && !head_of(L, -1))
            builtin_number(L, -1);
        else if (lua_istable(L, -1) && !lua_rawequal(L, -1, table))
            number_builtins(L);
        lua_settop(L, table + 1);
    }
    lua_settop(L, table);
}

static void replace(lua_State *L, const char *library, const char *name, lua_CFunction function)
{
    lua_getglobal(L, library);
    lua_pushcfunction(L, function);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
}

void nd_order_open(lua_State *L)
{
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, BUILTINS);
    replace(L, "_G", "pairs", order_pairs);
    replace(L, "_G", "tostring", order_tostring);
    replace(L, "table", "sort", order_sort);

    lua_createtable(L, TRAVERSALS * 3 + 1, 0);
    for (int i = 0; i < TRAVERSALS * 3; i++) {
        lua_pushboolean(L, 0);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushinteger(L, 0);
    lua_rawseti(L, -2, cache_slot(TRAVERSALS, 0));
    lua_pushcclosure(L, order_next, 1);
    lua_setglobal(L, "next");

    lua_getglobal(L, "string");
    lua_getfield(L, -1, "format");
    lua_pushcclosure(L, order_format, 1);
    lua_setfield(L, -2, "format");
    lua_pop(L, 1);

    lua_pushglobaltable(L);
    number_builtins(L);
    lua_pop(L, 1);
}
