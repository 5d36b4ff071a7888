/*
 * task.h - Lua coroutines over the loop: how trusted Lua waits.
 *
 * A *task* is a coroutine that the scheduler owns. It runs until it parks on an operation, and runs
 * again when that operation is done. Tasks are started by nd_task_spawn or, in Lua, `task.spawn`.
 *
 * The park protocol of every binding that waits:
 *
 *     static int docker_inspect(lua_State *L)
 *     {
 *         const char *id = luaL_checkstring(L, 1);                 // 1. check the arguments
 *         struct inspect_op *op = nd_op_new(L, &inspect_type);     // 2. allocate; pushes its guard
 *         op->req = nd_docker_get(..., on_inspected, op);          // 3. start the operation
 *         return nd_op_park(L, op);                                // 4. park, as the last thing
 *     }
 *     static void on_inspected(void *arg, ...)      // runs on the loop; never touches Lua
 *     {
 *         struct inspect_op *op = arg;
 *         ... copy the result, or fill op->op.err ...
 *         nd_op_done(&op->op);
 *     }
 *
 * Lifetime: an operation has two holders, the task (through the guard, a userdata on its stack) and
 * whoever will call nd_op_done. It is freed when both let go, so it may outlive the task. Where
 * starting fails: fill `err`, call nd_op_done, and park all the same: it raises at once.
 *
 * Cancellation: a parked task that is cancelled has its operation's `cancel` called and the error
 * {code="cancelled"} raised at the park point; `pcall` and `<close>` clean-up run and may wait
 * again. An operation must call nd_op_done exactly once, also after `cancel`; what it then brings
 * is dropped by `fini`.
 *
 * Functions marked ND_RAISES may raise a Lua error (longjmp); others never do.
 */
#ifndef ND_SCRIPT_TASK_H
#define ND_SCRIPT_TASK_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/list.h"
#include "io/loop.h"

#define ND_RAISES /* may raise a Lua error */

struct nd_host;

/* What all operations of one kind share. */
struct nd_op_type {
    const char *name;                              /* for tracebacks and `doctor` */
    size_t size;                                   /* of the struct that begins with struct nd_op */
    ND_RAISES int (*push)(lua_State *L, void *op); /* pushes the results, returns their number */
    void (*cancel)(void *op);                      /* NULL: can't be hurried; just left */
    void (*fini)(void *op);                        /* frees what the op holds; NULL: nothing */
};

struct nd_op {
    const struct nd_op_type *type;
    struct nd_task *task; /* parked on it; NULL once it left or before it parked */
    struct nd_err err;    /* code set: the park point raises it */
    struct nd_op **guard; /* the userdata's slot; valid while the guard holds */
    int holders;          /* the guard, and whoever calls nd_op_done */
    bool done;
    bool left; /* `cancel` was called */
};

/* Allocates a zeroed operation and pushes its guard. The caller owes one nd_op_done. */
ND_RAISES void *nd_op_new(lua_State *L, const struct nd_op_type *type);

/* `return nd_op_park(L, op)`: waits for nd_op_done, then returns what `push` pushes or raises.
 * Outside a task it raises `not_a_task`. */
ND_RAISES int nd_op_park(lua_State *L, void *op);

/* The operation is over (successfully unless err.code is set). May free it: don't touch it after.
 */
void nd_op_done(void *op);

/* A Lua state with a scheduler on a loop. */
struct nd_host *nd_host_new(struct nd_loop *loop); /* opens the standard libraries and `task` */
void nd_host_free(struct nd_host *host);           /* cancels all tasks; run the loop afterwards */
lua_State *nd_host_lua(struct nd_host *host);
struct nd_loop *nd_host_loop(struct nd_host *host);
struct nd_host *nd_host_of(lua_State *L);
int nd_host_tasks(struct nd_host *host); /* how many are alive */

/* Starts the function on top of `L` with `nargs` arguments above it as a task named `name`; pops
 * them. The task first runs when the loop turns. `on_end` (may be NULL) is called once with the
 * task's stack: status LUA_OK and its results, or the error object on top. */
typedef void nd_task_end(void *arg, lua_State *L, int status);
struct nd_task *nd_task_spawn(struct nd_host *host, lua_State *L, int nargs, const char *name,
                              nd_task_end *on_end, void *arg);
void nd_task_cancel(struct nd_task *task);

/* Error objects: tables {code, message, hint, data?} with a __tostring. */
ND_RAISES int nd_raise(lua_State *L, const struct nd_err *err);
void nd_push_err(lua_State *L, const struct nd_err *err);
/* Reads any error value into `err`: an error object's fields, else code "lua_error" + its text. */
void nd_err_from_lua(lua_State *L, int index, struct nd_err *err);
/* Lua: task.error{code=...}: gives the table the metatable of error objects and returns it. */
ND_RAISES int nd_error_new(lua_State *L);

#endif
