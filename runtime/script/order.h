/*
 * order.h - the order of things in a recipe, the same in each run.
 *
 * Stock Lua orders `pairs` by hashes that are salted with addresses and the time, shows addresses
 * in tostring, and sorts equal elements as they come. Here `pairs` and `next` give numbers in
 * ascending order, then strings by bytes, then false and true, then tables, functions and threads
 * in the order of their creation; `table.sort` is a stable merge; `tostring` numbers objects by
 * first use.
 *
 * Creation is known because the sandbox's allocator puts a header before each block and Lua tells
 * it what kind of object a new block is for: no weak table, no patch, no lookup. An object's order
 * is therefore free, and the same program creates its objects in the same order whatever the
 * garbage collector does.
 */
#ifndef ND_SCRIPT_ORDER_H
#define ND_SCRIPT_ORDER_H

#include <lua.h>
#include <stdint.h>

#include "script/task.h"

/* Before each block of the sandbox's allocator. 16 bytes: what follows stays aligned. */
struct nd_order_head {
    uint64_t created; /* from 1; 0 for blocks that are not a table, function, userdata or thread */
    uint64_t shown;   /* the number that tostring gave it; 0: not yet shown */
};

/* Numbers the built-in functions (values without a block of their own) by name; call it once, when
 * the globals hold what a recipe sees. Replaces pairs, next, tostring, table.sort, string.format.
 */
ND_RAISES void nd_order_open(lua_State *L);

#endif
