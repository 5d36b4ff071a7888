/*
 * sandbox.h - the Lua state in which a recipe runs: deterministic, bounded, without the outside.
 *
 * The same source, parameters, seed and answers give the same run in every process. What stock Lua
 * offers beyond that is left out (os, io, debug, package, bytecode, weak tables, finalizers) or
 * replaced (order.h: pairs, next, sort, tostring; here: load, setmetatable, collectgarbage,
 * math.randomseed). `require`, `print` and the recipe's own words come from lua/nd/recipe.
 *
 * Memory is counted by the allocator, as what the blocks take of the process. A request over the
 * limit makes Lua collect garbage once; if that did not help, `out_of_memory` is called and must
 * not return, so no `pcall` can catch it. It may not touch the Lua state. Lua's string buffers
 * alone don't collect and retry: they raise the text "not enough memory", which the recipe
 * library's protected calls treat likewise.
 *
 * The same for LuaJIT (luajit_compat.h), which is made to collect before it comes to the limit: it
 * never collects and retries. It compiles, and what is compiled gives what the interpreter gives:
 * `fold`, by which a^2 and a^b round differently, is off, and so is `sink`, by which objects are
 * made in another order; min, max and ceil are lua/nd/recipe/luajit.lua's. Of tables whose
 * keys are its 64-bit numbers (1LL) `pairs` gives an error, for they have no order.
 *
 * What it does not do: time. A loop without end is ended from outside, by RLIMIT_CPU or a kill.
 * One thing remains that may differ between processes: the length `#t` of a table with holes, from
 * which entries were removed, is any of its borders.
 */
#ifndef ND_SCRIPT_SANDBOX_H
#define ND_SCRIPT_SANDBOX_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "script/task.h"

#ifdef LUAJIT_VERSION
#define ND_ENGINE "luajit"
#else
#define ND_ENGINE "lua"
#endif

struct nd_sandbox {
    size_t limit;     /* bytes; set before nd_sandbox_open */
    size_t used;      /* bytes */
    uint64_t created; /* objects so far: see struct nd_order_head */
    bool collecting;  /* a request over the limit was refused once, for Lua to collect */
    lua_State *L;     /* LuaJIT: whose collector is to hurry; NULL before and after */
    unsigned level;   /* LuaJIT: how much it hurries */
    void (*out_of_memory)(struct nd_sandbox *box); /* set before nd_sandbox_open */
};

/* Bytes that a block from malloc takes; 0 for NULL. */
size_t nd_sandbox_cost(void *block);
/* Borrows `box` for the life of the state; close it with lua_close. */
lua_State *nd_sandbox_open(struct nd_sandbox *box);
/* Seeds math.random and gives the globals their final form; once, before any code runs. */
ND_RAISES void nd_sandbox_seal(lua_State *L, lua_Integer seed);

#endif
