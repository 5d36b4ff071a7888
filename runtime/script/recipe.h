/*
 * recipe.h - one run of a recipe, in a worker process: the worker's end of the protocol.
 *
 * Reads the `start` frame, opens a sandbox, loads the recipe library (from the frame's files, where
 * a run pinned it, else the embedded one) and hands over to lua/nd/recipe/main.lua, which loads the
 * recipe and schedules its tasks. That Lua gets a table `host`:
 *
 *   recv() -> table            the next frame; the process ends where there is none
 *   send(text)                 a frame of JSON; may wait for the daemon to read
 *   encode(v) -> text | nil, why                   decode(text) -> v | nil, why
 *   where() -> "recipe.lua:20" | nil               the innermost line that is not the library's
 *   where(fn) -> "recipe.lua:18" | nil             where a function begins
 *   traceback(text) -> text                        without the library's own lines
 *   embedded(module) -> source | nil               a module of the library in this binary
 *   out_of_memory()                                ends the process
 *   json                                           the module of marshal.h, as it comes
 *   engine                                         "lua" or "luajit": what runs it
 */
#ifndef ND_SCRIPT_RECIPE_H
#define ND_SCRIPT_RECIPE_H

#include <stddef.h>

/* Exit statuses of a worker that ended by itself. 0: it said how the run ended. */
enum nd_worker_exit {
    ND_WORKER_OK = 0,
    ND_WORKER_USAGE = 2,
    ND_WORKER_MEMORY = 80,   /* the recipe needed more memory than it may have */
    ND_WORKER_ORPHANED = 81, /* the daemon closed the socket in the middle of a run */
    ND_WORKER_PROTOCOL = 82, /* a frame from the daemon made no sense */
    ND_WORKER_SETUP = 83,    /* it could not lock itself in */
    ND_WORKER_BROKEN = 84,   /* an error in the library itself */
    ND_WORKER_CPU = 85,      /* it computed for longer than it may */
    ND_WORKER_STACK = 86,    /* LuaJIT: calls from Lua to C to Lua were nested too deep */
};

/* Does once what needs system calls that the process gives up before it runs a recipe. */
void nd_recipe_prepare(void);
/* Runs the recipe that arrives on `fd` with at most `memory` bytes; returns the status to
 * exit with. Running out of memory ends the process instead. */
enum nd_worker_exit nd_recipe_run(int fd, size_t memory);

#endif
