/*
 * exchange.h - one HTTP request on its way through a Lua handler.
 *
 * `nd_exchange_serve` is the main function of the request's task: it calls the handler with the
 * request as a table, and answers with what it returns or raises. The shapes are in server.c.
 */
#ifndef ND_BIND_EXCHANGE_H
#define ND_BIND_EXCHANGE_H

#include "io/http_server.h"
#include "script/task.h"

struct nd_exchange;

/* Pushes the exchange (a userdata, which owns `req` from here on) and the request as a table. */
ND_RAISES struct nd_exchange *nd_exchange_new(lua_State *L, struct nd_http_req *req);
void nd_exchange_set_task(struct nd_exchange *r, struct nd_task *task);
ND_RAISES int nd_exchange_serve(lua_State *L); /* (exchange, handler, table) */

#endif
