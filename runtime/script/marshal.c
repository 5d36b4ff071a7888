#include "script/marshal.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ARRAY_META "nd.array"
#define RAW_META "nd.json"

enum { FEW_KEYS = 24, FIRST_BYTES = 1000 /* most texts are shorter */ };

/* ---- reading ---- */

static int too_deep(struct nd_err *err)
{
    return nd_err_set(err, "bad_json", NULL, "the JSON is nested deeper than %d levels",
                      ND_JSON_DEPTH);
}

static int push_value(lua_State *L, const json_t *value, int depth, bool in_array,
                      struct nd_err *err);

static int push_array(lua_State *L, const json_t *value, int depth, struct nd_err *err)
{
    size_t length = json_array_size(value);

    lua_createtable(L, length > 1024 ? 1024 : (int)length, 0);
    luaL_setmetatable(L, ARRAY_META);
    for (size_t i = 0; i < length; i++) {
        if (push_value(L, json_array_get(value, i), depth + 1, true, err) < 0)
            return -1;
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 0;
}

static int push_object(lua_State *L, json_t *value, int depth, struct nd_err *err)
{
    const char *name;
    json_t *member;

    lua_createtable(L, 0, (int)json_object_size(value));
    json_object_foreach(value, name, member)
    {
        if (json_is_null(member))
            continue;
        lua_pushstring(L, name);
        if (push_value(L, member, depth + 1, false, err) < 0)
            return -1;
        lua_rawset(L, -3);
    }
    return 0;
}

static int push_value(lua_State *L, const json_t *value, int depth, bool in_array,
                      struct nd_err *err)
{
    if (depth > ND_JSON_DEPTH)
        return too_deep(err);
    luaL_checkstack(L, 8, "JSON");
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return push_object(L, (json_t *)(uintptr_t)value, depth, err);
    case JSON_ARRAY:
        return push_array(L, value, depth, err);
    case JSON_STRING:
        lua_pushlstring(L, json_string_value(value), json_string_length(value));
        return 0;
    case JSON_INTEGER:
        lua_pushinteger(L, json_integer_value(value));
        return 0;
    case JSON_REAL:
        lua_pushnumber(L, json_real_value(value));
        return 0;
    case JSON_TRUE:
    case JSON_FALSE:
        lua_pushboolean(L, json_is_true(value));
        return 0;
    case JSON_NULL:
    default:
        if (in_array)
            lua_pushlightuserdata(L, NULL);
        else
            lua_pushnil(L);
        return 0;
    }
}

int nd_json_push(lua_State *L, const char *text, size_t length, struct nd_err *err)
{
    int top = lua_gettop(L), rc;
    json_error_t why;
    json_t *value;

    if (length > ND_JSON_SIZE)
        return nd_err_set(err, "bad_json", NULL, "the JSON is larger than %d bytes", ND_JSON_SIZE);
    value =
        json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    if (!value)
        return nd_err_set(err, "bad_json", NULL, "not valid JSON at line %d, column %d: %s",
                          why.line, why.column, why.text);
    rc = push_value(L, value, 1, false, err);
    json_decref(value);
    if (rc < 0)
        lua_settop(L, top);
    return rc;
}

/* ---- writing ---- */

struct writer {
    lua_State *L;
    struct nd_buf *out;
    struct nd_err *err;
    int indent; /* spaces a level; 0: compact */
};

static int add_value(struct writer *w, int index, int depth);

static void add_string(struct nd_buf *out, const char *text, size_t length)
{
    static const char hex[] = "0123456789abcdef";
    size_t from = 0;

    nd_buf_add(out, "\"", 1);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        char escape[7] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15], 0};
        size_t size = 6;

        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
            continue;
        nd_buf_add(out, text + from, i - from);
        from = i + 1;
        if (c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t') {
            escape[1] = c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : (char)c;
            size = 2;
        }
        nd_buf_add(out, escape, size);
    }
    nd_buf_add(out, text + from, length - from);
    nd_buf_add(out, "\"", 1);
}

/* Printable ASCII that needs no escape, as nearly all texts are. */
static bool is_plain(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\')
            return false;
    }
    return true;
}

/* Bytes that aren't UTF-8 become U+FFFD: JSON is text, and a log line must not break a reply. */
static void add_text(struct nd_buf *out, const char *text, size_t length)
{
    struct nd_buf clean = {0};
    size_t i = 0, from = 0;

    if (is_plain(text, length)) {
        nd_buf_reserve(out, length + 2);
        nd_buf_add(out, "\"", 1);
        nd_buf_add(out, text, length);
        nd_buf_add(out, "\"", 1);
        return;
    }
    while (i < length) {
        unsigned char c = (unsigned char)text[i];
        size_t more = c < 0x80                 ? 0
                      : c >= 0xc2 && c <= 0xdf ? 1
                      : (c & 0xf0) == 0xe0     ? 2
                      : c >= 0xf0 && c <= 0xf4 ? 3
                                               : 9;
        bool good = more < 9 && i + more < length;

        for (size_t k = 1; good && k <= more; k++)
            good = ((unsigned char)text[i + k] & 0xc0) == 0x80;
        if (good && c == 0xe0)
            good = (unsigned char)text[i + 1] >= 0xa0;
        if (good && c == 0xed)
            good = (unsigned char)text[i + 1] < 0xa0;
        if (good && c == 0xf0)
            good = (unsigned char)text[i + 1] >= 0x90;
        if (good && c == 0xf4)
            good = (unsigned char)text[i + 1] < 0x90;
        if (good) {
            i += more + 1;
            continue;
        }
        nd_buf_add(&clean, text + from, i - from);
        nd_buf_adds(&clean, "\xef\xbf\xbd");
        from = ++i;
    }
    if (!clean.length && from == 0) {
        add_string(out, text, length);
        return;
    }
    nd_buf_add(&clean, text + from, length - from);
    add_string(out, clean.data, clean.length);
    nd_buf_fini(&clean);
}

static void newline(struct writer *w, int depth)
{
    if (w->indent)
        nd_buf_addf(w->out, "\n%*s", depth * w->indent, "");
}

static int add_number(struct writer *w, int index)
{
    char text[40];

    if (lua_isinteger(w->L, index)) {
        nd_buf_addf(w->out, "%lld", (long long)lua_tointeger(w->L, index));
        return 0;
    }
    double number = (double)lua_tonumber(w->L, index);
    if (!isfinite(number))
        return nd_err_set(w->err, "bad_json", NULL, "JSON has no way to write %g", number);
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        if (strtod(text, NULL) == number)
            break;
    }
    nd_buf_adds(w->out, text);
    if (!strpbrk(text, ".eE"))
        nd_buf_adds(w->out, ".0");
    return 0;
}

static int add_array(struct writer *w, int index, int depth)
{
    lua_Integer length = (lua_Integer)lua_rawlen(w->L, index);

    nd_buf_adds(w->out, "[");
    for (lua_Integer i = 1; i <= length; i++) {
        if (i > 1)
            nd_buf_adds(w->out, ",");
        newline(w, depth);
        lua_rawgeti(w->L, index, i);
        if (add_value(w, lua_gettop(w->L), depth + 1) < 0)
            return -1;
        lua_pop(w->L, 1);
    }
    if (length)
        newline(w, depth - 1);
    nd_buf_adds(w->out, "]");
    return 0;
}

struct key {
    const char *text; /* borrowed from the table's key */
    size_t length;
};

static int compare_keys(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    size_t least = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->text, y->text, least);

    if (order)
        return order;
    return x->length < y->length ? -1 : x->length > y->length;
}

/* The names of an object; few of them need no memory of their own. */
struct keys {
    struct key few[FEW_KEYS];
    struct nd_buf more; /* all of them, once there are more */
    size_t count;
};

static struct key *keys_of(struct keys *keys)
{
    return keys->more.length ? (struct key *)(void *)keys->more.data : keys->few;
}

static void add_key(struct keys *keys, struct key key)
{
    if (keys->count < FEW_KEYS) {
        keys->few[keys->count++] = key;
        return;
    }
    if (!keys->more.length)
        nd_buf_add(&keys->more, keys->few, sizeof keys->few);
    nd_buf_add(&keys->more, &key, sizeof key);
    keys->count++;
}

static void sort_keys(struct keys *keys)
{
    struct key *key = keys_of(keys);

    if (keys->count > FEW_KEYS) {
        qsort(key, keys->count, sizeof *key, compare_keys);
        return;
    }
    for (size_t i = 1; i < keys->count; i++) {
        struct key moved = key[i];
        size_t at = i;

        for (; at > 0 && compare_keys(&key[at - 1], &moved) > 0; at--)
            key[at] = key[at - 1];
        key[at] = moved;
    }
}

static int collect_keys(struct writer *w, int index, struct keys *keys)
{
    lua_pushnil(w->L);
    while (lua_next(w->L, index)) {
        struct key key;

        lua_pop(w->L, 1);
        if (lua_type(w->L, -1) != LUA_TSTRING) {
            nd_err_set(w->err, "bad_json", NULL, "a JSON object's names are strings, not a %s",
                       luaL_typename(w->L, -1));
            lua_pop(w->L, 1);
            return -1;
        }
        key.text = lua_tolstring(w->L, -1, &key.length);
        add_key(keys, key);
    }
    sort_keys(keys);
    return 0;
}

static int add_object(struct writer *w, int index, int depth)
{
    struct keys keys;
    const struct key *key;
    int rc;

    keys.count = 0;
    keys.more = (struct nd_buf){0};
    rc = collect_keys(w, index, &keys);
    key = keys_of(&keys);
    nd_buf_add(w->out, "{", 1);
    for (size_t i = 0; i < keys.count && rc == 0; i++) {
        if (i)
            nd_buf_add(w->out, ",", 1);
        newline(w, depth);
        add_text(w->out, key[i].text, key[i].length);
        nd_buf_adds(w->out, w->indent ? ": " : ":");
        lua_pushlstring(w->L, key[i].text, key[i].length);
        lua_rawget(w->L, index);
        rc = add_value(w, lua_gettop(w->L), depth + 1);
        lua_pop(w->L, rc == 0 ? 1 : 0);
    }
    if (keys.count)
        newline(w, depth - 1);
    nd_buf_add(w->out, "}", 1);
    nd_buf_fini(&keys.more);
    return rc;
}

static bool is_marked(lua_State *L, int index, const char *meta)
{
    bool marked = false;

    if (lua_getmetatable(L, index)) {
        luaL_getmetatable(L, meta);
        marked = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    return marked;
}

static bool is_array(lua_State *L, int index)
{
    return is_marked(L, index, ARRAY_META) || lua_rawlen(L, index) > 0;
}

static int add_table(struct writer *w, int index, int depth)
{
    size_t length;
    const char *text;

    if (!is_marked(w->L, index, RAW_META))
        return is_array(w->L, index) ? add_array(w, index, depth) : add_object(w, index, depth);
    lua_rawgeti(w->L, index, 1);
    text = lua_tolstring(w->L, -1, &length);
    nd_buf_add(w->out, text, length);
    lua_pop(w->L, 1);
    return 0;
}

static int add_value(struct writer *w, int index, int depth)
{
    size_t length;
    const char *text;

    if (depth > ND_JSON_DEPTH)
        return too_deep(w->err);
    luaL_checkstack(w->L, 8, "JSON");
    switch (lua_type(w->L, index)) {
    case LUA_TNIL:
        nd_buf_adds(w->out, "null");
        return 0;
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(w->L, index))
            break;
        nd_buf_adds(w->out, "null");
        return 0;
    case LUA_TBOOLEAN:
        nd_buf_adds(w->out, lua_toboolean(w->L, index) ? "true" : "false");
        return 0;
    case LUA_TNUMBER:
        return add_number(w, index);
    case LUA_TSTRING:
        text = lua_tolstring(w->L, index, &length);
        add_text(w->out, text, length);
        return 0;
    case LUA_TTABLE:
        return add_table(w, index, depth);
    default:
        break;
    }
    return nd_err_set(w->err, "bad_json", NULL, "JSON has no way to write a %s",
                      luaL_typename(w->L, index));
}

static int add_json(lua_State *L, int index, struct nd_buf *out, int indent, struct nd_err *err)
{
    struct writer w = {.L = L, .out = out, .err = err, .indent = indent};
    int top = lua_gettop(L);
    int rc = add_value(&w, lua_absindex(L, index), 1);

    lua_settop(L, top);
    return rc;
}

int nd_json_add(lua_State *L, int index, struct nd_buf *out, struct nd_err *err)
{
    return add_json(L, index, out, 0, err);
}

/* ---- the module ---- */

static int json_encode(lua_State *L)
{
    struct nd_buf out = {0};
    struct nd_err err = {0};

    luaL_checkany(L, 1);
    nd_buf_reserve(&out, FIRST_BYTES);
    if (add_json(L, 1, &out, lua_toboolean(L, 2) ? 2 : 0, &err) < 0) {
        nd_buf_fini(&out);
        return nd_raise(L, &err);
    }
    lua_pushlstring(L, out.data, out.length);
    nd_buf_fini(&out);
    return 1;
}

static int json_decode(lua_State *L)
{
    struct nd_err err = {0};
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);

    if (nd_json_push(L, text, length, &err) < 0)
        return nd_raise(L, &err);
    return 1;
}

static int json_array_(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    luaL_setmetatable(L, ARRAY_META);
    return 1;
}

static int json_is_array_(lua_State *L)
{
    lua_pushboolean(L, lua_istable(L, 1) && is_array(L, 1));
    return 1;
}

static int json_raw(lua_State *L)
{
    luaL_checkstring(L, 1);
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    luaL_setmetatable(L, RAW_META);
    return 1;
}

int nd_open_json(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"encode", json_encode},      {"decode", json_decode}, {"array", json_array_},
        {"is_array", json_is_array_}, {"raw", json_raw},       {NULL, NULL},
    };

    luaL_newmetatable(L, ARRAY_META);
    luaL_newmetatable(L, RAW_META);
    lua_pop(L, 2);
    luaL_newlib(L, functions);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}
