/*
 * ws_object.h - a WebSocket as Lua sees it, the same from `server` and from `ws.connect`.
 *
 *   ws:recv([timeout_ms])       waits -> data, "text" | "binary"; nil, code, reason when closed;
 *                               raises "timeout"
 *   ws:send(data[, binary])     waits while more than 256 KiB are unsent; raises "ws_closed"
 *   ws:try_send(data[, binary]) -> true | false, "full" | false, "closed"; never waits
 *   ws:close([code[, reason]])  starts the closing handshake (1000); recv then brings nil
 *   ws:buffered()               bytes not yet sent
 * also `<close>`; a collected one is closed with 1001.
 */
#ifndef ND_BIND_WS_OBJECT_H
#define ND_BIND_WS_OBJECT_H

#include "io/ws.h"
#include "script/task.h"

struct nd_ws_object;

extern const struct nd_ws_events nd_ws_object_events; /* their arg: the object */

/* Pushes an object that has no nd_ws yet. */
ND_RAISES struct nd_ws_object *nd_ws_object_new(lua_State *L);
/* Before listening to `nd_ws_object_events`; the object holds itself until `closed`. */
void nd_ws_object_hold(struct nd_ws_object *o);
/* After it. NULL: it could not be opened, and `closed` will not come. */
void nd_ws_object_opened(struct nd_ws_object *o, struct nd_ws *ws);
/* `task`, whose coroutine is `co`, is cancelled when the peer closes while it waits for something
 * else than recv. NULL: no longer. */
void nd_ws_object_watch(struct nd_ws_object *o, struct nd_task *task, lua_State *co);
void nd_ws_object_close(struct nd_ws_object *o, int code, const char *reason);

/* For a binding that sends by itself, while a task holds the userdata. */
ND_RAISES struct nd_ws_object *nd_ws_object_check(lua_State *L, int index);
struct nd_ws *nd_ws_object_ws(struct nd_ws_object *o); /* NULL: closed */
/* `drained` is called when the nd_ws is; NULL: no longer. */
void nd_ws_object_on_drained(struct nd_ws_object *o, void (*drained)(void *arg), void *arg);

#endif
