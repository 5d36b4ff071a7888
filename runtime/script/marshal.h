/*
 * marshal.h - JSON text to Lua values and back.
 *
 * Reading (strict RFC 8259, duplicate names refused): objects become tables, `null` members are
 * left out; arrays become tables marked as arrays (so that an empty one stays one), `null` in them
 * is `json.null`; integers stay integers. Writing: names sorted, compact (canonical: equal values
 * give equal bytes); a table is an array if it is marked or has a positive length, else an object.
 * Errors name the path ("$.env.PORT").
 *
 * In Lua: json.encode(v[, pretty]), json.decode(s), json.array(t), json.null, json.is_array(t),
 * json.raw(text): a value whose JSON is `text`, written as it is.
 */
#ifndef ND_SCRIPT_MARSHAL_H
#define ND_SCRIPT_MARSHAL_H

#include <lua.h>

#include "base/buf.h"
#include "base/err.h"
#include "script/task.h"

enum { ND_JSON_DEPTH = 64, ND_JSON_SIZE = 16 * 1024 * 1024 };

/* Pushes the value and returns 0, or fills err (code "bad_json") and pushes nothing. */
int nd_json_push(lua_State *L, const char *text, size_t length, struct nd_err *err);
/* Appends the JSON of the value at `index`; -1 where it can't be written (functions, cycles, NaN).
 */
int nd_json_add(lua_State *L, int index, struct nd_buf *out, struct nd_err *err);

ND_RAISES int nd_open_json(lua_State *L); /* the Lua module */

#endif
