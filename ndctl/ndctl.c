/*
 * ndctl.c - the person's end of NextDeploy: starts the loop and runs ndctl/main.lua in it.
 *
 * Everything that ndctl does is Lua, embedded by the build; this file gives it a loop, the bindings
 * and the terminal, and turns what it returns into the exit status. The first SIGINT cancels the
 * command, which then says what goes on without it; a second one ends the process at once.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "bind/bind.h"
#include "crypt.h"
#include "parsers.h"
#include "script/embed.h"
#include "script/task.h"
#include "term.h"

enum { EXIT_INTERRUPTED = 130 };

struct ndctl {
    struct nd_loop loop;
    uv_signal_t interrupt;
    struct nd_task *command; /* NULL before it started and after it ended */
    int status;              /* the exit status */
};

static void on_interrupt(uv_signal_t *handle, int number)
{
    struct ndctl *ctl = handle->data;

    (void)number;
    if (ctl->status == EXIT_INTERRUPTED || !ctl->command)
        _exit(EXIT_INTERRUPTED);
    ctl->status = EXIT_INTERRUPTED;
    nd_task_cancel(ctl->command);
}

static void on_command_end(void *arg, lua_State *L, int status)
{
    struct ndctl *ctl = arg;

    ctl->command = NULL;
    if (status == LUA_OK) {
        ctl->status = (int)luaL_optinteger(L, -1, 0);
    } else {
        fprintf(stderr, "ndctl: %s\n", luaL_tolstring(L, -1, NULL));
        ctl->status = 1;
    }
    uv_close((uv_handle_t *)&ctl->interrupt, NULL);
    nd_loop_stop(&ctl->loop);
}

/* Leaves the command's function and its words on the stack; false with the error's text there. */
static bool load_command(lua_State *L, int argc, char **argv)
{
    luaL_requiref(L, "term", ndctl_open_term, 0);
    luaL_requiref(L, "parsers", ndctl_open_parsers, 0);
    luaL_requiref(L, "crypt", ndctl_open_crypt, 0);
    lua_pop(L, 3);
    if (nd_embed_load(L, "ndctl.main") != LUA_OK || lua_pcall(L, 0, 1, 0) != LUA_OK)
        return false;
    lua_createtable(L, argc, 0);
    for (int i = 1; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    return true;
}

int main(int argc, char **argv)
{
    struct ndctl ctl = {.status = 1};
    struct nd_err err = {0};
    struct nd_host *host;
    lua_State *L;

    signal(SIGPIPE, SIG_IGN);
    nd_log_setup(false, ND_LOG_ERROR); /* stderr is for people here */
    if (nd_loop_init(&ctl.loop, &err) < 0) {
        fprintf(stderr, "ndctl: %s\n", err.message);
        return 1;
    }
    host = nd_host_new(&ctl.loop);
    L = nd_host_lua(host);
    nd_embed_open(L);
    nd_bind_open(host);
    uv_signal_init(&ctl.loop.uv, &ctl.interrupt);
    ctl.interrupt.data = &ctl;
    uv_signal_start(&ctl.interrupt, on_interrupt, SIGINT);
    uv_unref((uv_handle_t *)&ctl.interrupt);
    if (load_command(L, argc, argv)) {
        ctl.command = nd_task_spawn(host, L, 1, "ndctl", on_command_end, &ctl);
        nd_loop_run(&ctl.loop);
    } else {
        fprintf(stderr, "ndctl: %s\n", lua_tostring(L, -1));
        uv_close((uv_handle_t *)&ctl.interrupt, NULL);
    }
    nd_host_free(host);
    nd_loop_fini(&ctl.loop);
    return ctl.status;
}
