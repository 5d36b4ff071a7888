/*
 * process.c - require "process": child processes, never through a shell.
 *
 *   run{argv={program, ...}, stdin=, env={NAME=value}, cwd=, timeout_ms=, max_output=, uid=, gid=}
 *       -> {status=, signal=, stdout=, stderr=, truncated=, pid=}  waits
 *
 * `env` is all of the environment; without it there is only a standard PATH. A status other than 0
 * is a result, not an error; `signal` is absent unless one ended the program. Errors:
 * process_start, process_timeout (with the end of what it wrote to stderr), process_argument.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "io/child.h"

enum { TAIL = 300 }; /* bytes of stderr that a time-out's message quotes */

struct run_op {
    struct nd_op op;
    struct nd_child *child; /* valid until done */
    char **argv;            /* owned, NULL-terminated, the strings too */
    char **env;             /* the same */
    struct nd_buf output;
    struct nd_buf errors;
    int status, signal;
    pid_t pid;
    bool truncated;
};

static void free_strings(char **strings)
{
    for (char **s = strings; s && *s; s++)
        free(*s);
    free(strings);
}

static void run_fini(void *arg)
{
    struct run_op *op = arg;

    free_strings(op->argv);
    free_strings(op->env);
    nd_buf_fini(&op->output);
    nd_buf_fini(&op->errors);
}

static void run_cancel(void *arg)
{
    struct run_op *op = arg;

    nd_child_cancel(op->child);
}

static int run_push(lua_State *L, void *arg)
{
    struct run_op *op = arg;

    lua_createtable(L, 0, 6);
    lua_pushinteger(L, op->status);
    lua_setfield(L, -2, "status");
    if (op->signal) {
        lua_pushinteger(L, op->signal);
        lua_setfield(L, -2, "signal");
    }
    lua_pushlstring(L, op->output.data ? op->output.data : "", op->output.length);
    lua_setfield(L, -2, "stdout");
    lua_pushlstring(L, op->errors.data ? op->errors.data : "", op->errors.length);
    lua_setfield(L, -2, "stderr");
    lua_pushboolean(L, op->truncated);
    lua_setfield(L, -2, "truncated");
    lua_pushinteger(L, op->pid);
    lua_setfield(L, -2, "pid");
    return 1;
}

static const struct nd_op_type run_type = {"process.run", sizeof(struct run_op), run_push,
                                           run_cancel, run_fini};

static void on_done(void *arg, struct nd_child_result *result)
{
    struct run_op *op = arg;
    const char *tail = result->errors.data ? result->errors.data : "";

    if (result->errors.length > TAIL)
        tail += result->errors.length - TAIL;
    if (result->timed_out)
        nd_err_set(&op->op.err, "process_timeout", NULL, "%s didn't end in time%s%s", op->argv[0],
                   tail[0] ? "; it last said: " : "", tail);
    op->status = result->status;
    op->signal = result->signal;
    op->truncated = result->truncated;
    op->output = result->output;
    op->errors = result->errors;
    memset(&result->output, 0, sizeof result->output);
    memset(&result->errors, 0, sizeof result->errors);
    nd_op_done(op);
}

static int refuse(lua_State *L, const char *what)
{
    struct nd_err err;

    nd_err_set(&err, "process_argument", NULL, "process.run: %s", what);
    return nd_raise(L, &err);
}

/* Whether the value at `index` is text that C can hold. Replaces a number there by its text. */
static bool is_word(lua_State *L, int index)
{
    size_t length;
    const char *text = lua_tolstring(L, index, &length);

    return text && strlen(text) == length;
}

/* options.argv, checked: at stack index 2. */
static void check_argv(lua_State *L)
{
    lua_Integer count;

    if (lua_getfield(L, 1, "argv") != LUA_TTABLE)
        refuse(L, "argv must be a list of texts");
    count = luaL_len(L, 2);
    if (count < 1)
        refuse(L, "argv is empty");
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, 2, i);
        if (!is_word(L, -1))
            refuse(L, "argv must be a list of texts without NUL");
        lua_pop(L, 1);
    }
}

/* options.env, checked, as a list of "NAME=value": at stack index 3. */
static void check_env(lua_State *L)
{
    lua_Integer count = 0;

    lua_newtable(L); // options argv list
    if (lua_getfield(L, 1, "env") == LUA_TNIL) {
        lua_pop(L, 1);
        lua_pushliteral(L, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        lua_rawseti(L, 3, 1);
        return;
    }
    if (!lua_istable(L, 4))
        refuse(L, "env must be a table of NAME=value");
    lua_pushnil(L);
    while (lua_next(L, 4)) { // options argv list env name value
        if (lua_type(L, 5) != LUA_TSTRING || !is_word(L, 5) || strchr(lua_tostring(L, 5), '=') ||
            !is_word(L, 6))
            refuse(L, "env must be a table of NAME=value, texts without NUL");
        lua_pushfstring(L, "%s=%s", lua_tostring(L, 5), lua_tostring(L, 6));
        lua_rawseti(L, 3, ++count);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static char **copy_strings(lua_State *L, int index)
{
    size_t count = (size_t)lua_rawlen(L, index);
    char **strings = nd_alloc((count + 1) * sizeof *strings);

    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, index, (lua_Integer)i + 1);
        strings[i] = nd_strdup(lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    return strings;
}

static lua_Integer integer_option(lua_State *L, const char *name, lua_Integer fallback)
{
    lua_Integer value = fallback;
    int ok = 1;

    if (lua_getfield(L, 1, name) != LUA_TNIL)
        value = lua_tointegerx(L, -1, &ok);
    if (!ok || (value < 0 && value != fallback)) {
        lua_pushfstring(L, "%s must be a whole number", name);
        refuse(L, lua_tostring(L, -1));
    }
    lua_pop(L, 1);
    return value;
}

static int process_run(lua_State *L)
{
    struct nd_child_options options = {0};
    lua_Integer uid, gid;
    struct run_op *op;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    check_argv(L);
    check_env(L); // options argv env
    options.timeout_ms = (uint64_t)integer_option(L, "timeout_ms", 0);
    options.max_output = (size_t)integer_option(L, "max_output", 0);
    uid = integer_option(L, "uid", -1);
    gid = integer_option(L, "gid", -1);
    if ((uid < 0) != (gid < 0))
        return refuse(L, "uid and gid go together");
    options.set_ids = uid >= 0;
    options.uid = (uid_t)uid;
    options.gid = (gid_t)gid;
    lua_getfield(L, 1, "cwd");
    lua_getfield(L, 1, "stdin"); // options argv env cwd stdin
    options.cwd = luaL_optstring(L, 4, NULL);
    options.input = luaL_optlstring(L, 5, NULL, &options.input_length);

    op = nd_op_new(L, &run_type);
    op->argv = copy_strings(L, 2);
    op->env = copy_strings(L, 3);
    options.argv = (const char *const *)op->argv;
    options.env = (const char *const *)op->env;
    op->child = nd_child_start(nd_host_loop(nd_host_of(L)), &options, on_done, op, &op->op.err);
    if (op->child)
        op->pid = nd_child_pid(op->child);
    else
        nd_op_done(op);
    return nd_op_park(L, op);
}

static const luaL_Reg functions[] = {{"run", process_run}, {NULL, NULL}};

int nd_open_process(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}
