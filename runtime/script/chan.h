/*
 * chan.h - a queue of byte strings from C to one waiting Lua task.
 *
 * For everything that streams: bodies, logs, events, WebSocket messages, a child's output. The C
 * side adds items and ends the queue; the Lua side sees a userdata with
 *   ch:recv([timeout_ms]) -> string, kind | nil at the end | raises {code="timeout"} or the error
 *   ch:close()                           tells the producer that nobody listens any more
 * (also `<close>` and garbage collection). Back-pressure: `pause(arg, true)` is called when more
 * than `high` bytes wait, `pause(arg, false)` when they fell below half of it.
 *
 * Two holders: the userdata and the producer. The producer must call nd_chan_end exactly once.
 */
#ifndef ND_SCRIPT_CHAN_H
#define ND_SCRIPT_CHAN_H

#include "script/task.h"

struct nd_chan;

struct nd_chan_type {
    void (*pause)(void *arg, bool stop); /* NULL: the producer can't be slowed down */
    void (*close)(void *arg); /* the listener left; the producer still owes nd_chan_end */
    size_t high;              /* bytes; 0: 256 KiB */
};

/* Pushes the userdata; the producer keeps the pointer until it calls nd_chan_end. */
ND_RAISES struct nd_chan *nd_chan_new(lua_State *L, const struct nd_chan_type *type, void *arg);
void nd_chan_add(struct nd_chan *ch, int kind, const void *data, size_t length); /* copies */
/* No more items. With err->code set, recv raises it after the queued items. Drops the holder. */
void nd_chan_end(struct nd_chan *ch, const struct nd_err *err);
bool nd_chan_closed(const struct nd_chan *ch);    /* the listener left */
size_t nd_chan_waiting(const struct nd_chan *ch); /* bytes */

#endif
