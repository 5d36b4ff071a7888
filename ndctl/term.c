#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "script/task.h"

enum {
    LINE_MOST = 4096,
    CHUNK = 24 * 1024, /* bytes of stdin at once: base64 keeps a frame of it below 64 KiB */
};

static int term_isatty(lua_State *L)
{
    lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
    return 1;
}

static int term_size(lua_State *L)
{
    struct winsize size;

    if (ioctl((int)luaL_optinteger(L, 1, STDERR_FILENO), TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
        return 0;
    lua_pushinteger(L, size.ws_col);
    lua_pushinteger(L, size.ws_row);
    return 2;
}

static int term_broken_pipe(lua_State *L)
{
    int number = (int)luaL_checkinteger(L, 1);
    struct nd_err err = {0};

    if (number == EPIPE) {
        signal(SIGPIPE, SIG_DFL);
        raise(SIGPIPE);
    }
    nd_err_errno(&err, number, "write_failed", NULL, "can't write the output");
    return nd_raise(L, &err);
}

static int term_access(lua_State *L)
{
    if (access(luaL_checkstring(L, 1), R_OK | W_OK) == 0) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushboolean(L, 0);
    lua_pushstring(L, errno == EACCES || errno == EPERM ? "denied" : "missing");
    return 2;
}

/* A question on the terminal: the loop watches it, so that Ctrl-C still interrupts. */
struct ask_op {
    struct nd_op op;
    uv_poll_t poll; /* open until closed is called */
    int fd;         /* /dev/tty, owned; or stdin, borrowed */
    bool end;       /* end of input */
    bool secret;    /* `before` is to be put back */
    struct termios before;
    struct nd_buf line; /* without its newline */
};

static void on_ask_closed(uv_handle_t *handle)
{
    struct ask_op *ask = handle->data;

    if (ask->secret) {
        tcsetattr(ask->fd, TCSANOW, &ask->before);
        (void)!write(ask->fd == STDIN_FILENO ? STDERR_FILENO : ask->fd, "\n", 1);
    }
    if (ask->fd != STDIN_FILENO)
        close(ask->fd);
    nd_op_done(&ask->op);
}

static void ask_end(struct ask_op *ask)
{
    if (!uv_is_closing((uv_handle_t *)&ask->poll))
        uv_close((uv_handle_t *)&ask->poll, on_ask_closed);
}

static void on_ask_readable(uv_poll_t *poll, int status, int events)
{
    struct ask_op *ask = poll->data;
    char bytes[256];
    ssize_t n;

    (void)events;
    n = status < 0 ? 0 : read(ask->fd, bytes, sizeof bytes);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        ask->end = ask->line.length == 0;
        ask_end(ask);
        return;
    }
    nd_buf_add(&ask->line, bytes, (size_t)n);
    if (memchr(bytes, '\n', (size_t)n) || ask->line.length > LINE_MOST)
        ask_end(ask);
}

static int ask_push(lua_State *L, void *op)
{
    struct ask_op *ask = op;
    size_t length = ask->line.length;

    if (ask->end) {
        lua_pushnil(L);
        return 1;
    }
    while (length > 0 && (ask->line.data[length - 1] == '\n' || ask->line.data[length - 1] == '\r'))
        length--;
    lua_pushlstring(L, ask->line.data ? ask->line.data : "", length);
    return 1;
}

static void ask_cancel(void *op)
{
    ask_end(op);
}

static void ask_fini(void *op)
{
    struct nd_buf *line = &((struct ask_op *)op)->line;

    if (line->data)
        nd_zero(line->data, line->capacity);
    nd_buf_fini(line);
}

static const struct nd_op_type ask_type = {
    .name = "term.ask",
    .size = sizeof(struct ask_op),
    .push = ask_push,
    .cancel = ask_cancel,
    .fini = ask_fini,
};

/* The terminal to talk to: the controlling one, else stdin where it is one; -1 if there is none. */
static int terminal(void)
{
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);

    if (fd < 0 && isatty(STDIN_FILENO))
        fd = STDIN_FILENO;
    return fd;
}

/* From here on what is typed isn't shown; where that can't be had, it is asked all the same. */
static void hide_typing(struct ask_op *ask)
{
    struct termios hidden;

    if (tcgetattr(ask->fd, &ask->before) < 0)
        return;
    hidden = ask->before;
    hidden.c_lflag &= ~(tcflag_t)ECHO;
    ask->secret = tcsetattr(ask->fd, TCSANOW, &hidden) == 0;
}

static int term_ask(lua_State *L)
{
    size_t length;
    const char *prompt = luaL_checklstring(L, 1, &length);
    bool secret = lua_toboolean(L, 2);
    struct ask_op *ask = nd_op_new(L, &ask_type);
    int rc;

    ask->fd = terminal();
    if (ask->fd < 0) {
        nd_err_set(&ask->op.err, "no_terminal", "answer with --yes",
                   "there is no terminal to ask on");
        nd_op_done(&ask->op);
        return nd_op_park(L, ask);
    }
    /* Where only stdin is the terminal, the question goes where other notes go. */
    if (write(ask->fd == STDIN_FILENO ? STDERR_FILENO : ask->fd, prompt, length) < 0)
        ask->end = true;
    rc = uv_poll_init(&nd_host_loop(nd_host_of(L))->uv, &ask->poll, ask->fd);
    if (rc < 0) {
        nd_loop_err(&ask->op.err, rc, "no_terminal", "answer with --yes",
                    "can't read the terminal");
        if (ask->fd != STDIN_FILENO)
            close(ask->fd);
        nd_op_done(&ask->op);
        return nd_op_park(L, ask);
    }
    ask->poll.data = ask;
    if (secret)
        hide_typing(ask);
    uv_poll_start(&ask->poll, UV_READABLE | UV_DISCONNECT, on_ask_readable);
    return nd_op_park(L, ask);
}

/* Stdin as it comes. A file or /dev/null can't be watched, and needn't be. */
struct read_op {
    struct nd_op op;
    uv_poll_t poll; /* open until on_read_closed, where stdin can be watched */
    ssize_t length; /* of what was read; 0 or less: the end */
    char data[CHUNK];
};

static void on_read_closed(uv_handle_t *handle)
{
    nd_op_done(&((struct read_op *)handle->data)->op);
}

static void read_cancel(void *op)
{
    uv_handle_t *poll = (uv_handle_t *)&((struct read_op *)op)->poll;

    if (!uv_is_closing(poll))
        uv_close(poll, on_read_closed);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct read_op *op = poll->data;

    (void)events;
    op->length = status < 0 ? 0 : read(STDIN_FILENO, op->data, sizeof op->data);
    if (op->length >= 0 || (errno != EINTR && errno != EAGAIN))
        read_cancel(op);
}

static int read_push(lua_State *L, void *op)
{
    struct read_op *r = op;

    if (r->length <= 0)
        return 0;
    lua_pushlstring(L, r->data, (size_t)r->length);
    return 1;
}

static const struct nd_op_type read_type = {
    .name = "term.read",
    .size = sizeof(struct read_op),
    .push = read_push,
    .cancel = read_cancel,
};

static int term_read(lua_State *L)
{
    struct read_op *op = nd_op_new(L, &read_type);
    int flags = fcntl(STDIN_FILENO, F_GETFL);

    if (uv_poll_init(&nd_host_loop(nd_host_of(L))->uv, &op->poll, STDIN_FILENO) < 0) {
        op->length = read(STDIN_FILENO, op->data, sizeof op->data);
        nd_op_done(&op->op);
        return nd_op_park(L, op);
    }
    /* libuv made it non-blocking, also for whoever shares it: the shell, our own stdout. */
    fcntl(STDIN_FILENO, F_SETFL, flags);
    op->poll.data = op;
    uv_poll_start(&op->poll, UV_READABLE | UV_DISCONNECT, on_readable);
    return nd_op_park(L, op);
}

/* The far end of stdout: epoll says EPOLLERR on a pipe that nobody reads any more. */
struct watch_op {
    struct nd_op op;
    uv_poll_t poll; /* open until on_watch_closed */
    bool gone;      /* the reader */
};

static void on_watch_closed(uv_handle_t *handle)
{
    nd_op_done(&((struct watch_op *)handle->data)->op);
}

static void watch_end(struct watch_op *watch)
{
    if (!uv_is_closing((uv_handle_t *)&watch->poll))
        uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
}

static void on_watch(uv_poll_t *poll, int status, int events)
{
    struct watch_op *watch = poll->data;

    watch->gone = status < 0 || (events & UV_DISCONNECT);
    if (watch->gone)
        watch_end(watch);
}

static int watch_push(lua_State *L, void *op)
{
    lua_pushboolean(L, ((struct watch_op *)op)->gone);
    return 1;
}

static void watch_cancel(void *op)
{
    watch_end(op);
}

static const struct nd_op_type watch_type = {
    .name = "term.output_closed",
    .size = sizeof(struct watch_op),
    .push = watch_push,
    .cancel = watch_cancel,
};

static int term_output_closed(lua_State *L)
{
    struct watch_op *watch = nd_op_new(L, &watch_type);
    struct stat stat;
    bool pipe = fstat(STDOUT_FILENO, &stat) == 0 && S_ISFIFO(stat.st_mode);

    if (!pipe || uv_poll_init(&nd_host_loop(nd_host_of(L))->uv, &watch->poll, STDOUT_FILENO) < 0) {
        nd_op_done(&watch->op);
        return nd_op_park(L, watch);
    }
    watch->poll.data = watch;
    uv_poll_start(&watch->poll, UV_DISCONNECT, on_watch);
    return nd_op_park(L, watch);
}

static const luaL_Reg functions[] = {
    {"isatty", term_isatty}, {"output_closed", term_output_closed},
    {"size", term_size},     {"ask", term_ask},
    {"read", term_read},     {"broken_pipe", term_broken_pipe},
    {"access", term_access}, {NULL, NULL},
};

int ndctl_open_term(lua_State *L)
{
    luaL_newlib(L, functions);
    lua_pushstring(L, ND_VERSION);
    lua_setfield(L, -2, "version");
    return 1;
}
