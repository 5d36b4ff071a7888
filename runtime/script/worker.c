#include "script/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/mem.h"
#include "script/frame.h"
#include "script/namespaces.h"

enum {
    CHUNK = 64 * 1024,
    DEFAULT_MEMORY = 64 * 1024 * 1024,
    DEFAULT_CPU = 60,
    SOCKET = 3, /* the worker's end, in the worker */
};

struct nd_worker {
    uv_process_t process;
    uv_pipe_t pipe;
    const struct nd_worker_events *events;
    void *arg;
    struct nd_buf in; /* read, not yet taken as frames */
    int open;         /* handles whose close callback is still due */
    bool paused, ended, exited, closing;
    char chunk[CHUNK];
};

static void on_closed(uv_handle_t *handle)
{
    struct nd_worker *w = handle->data;

    if (--w->open > 0)
        return;
    w->events->closed(w->arg);
    nd_buf_fini(&w->in);
    free(w);
}

static void close_handle(uv_handle_t *handle)
{
    if (!uv_is_closing(handle))
        uv_close(handle, on_closed);
}

/* Closes what is not needed any more: all of it once the process ended and its owner left. */
static void close_if_over(struct nd_worker *w)
{
    if (w->ended && w->closing)
        close_handle((uv_handle_t *)&w->pipe);
    if (w->exited && w->closing)
        close_handle((uv_handle_t *)&w->process);
}

/* ---- what the worker says ---- */

static void end_stream(struct nd_worker *w, const struct nd_err *err)
{
    if (w->ended)
        return;
    w->ended = true;
    uv_read_stop((uv_stream_t *)&w->pipe);
    if (err)
        nd_worker_kill(w);
    w->events->end(w->arg, err);
    close_if_over(w);
}

static void take_frames(struct nd_worker *w)
{
    size_t taken = 0, length;
    struct nd_err err = {0};
    int found = 0;

    while (!w->paused && !w->ended &&
           (found = nd_frame_find(w->in.data + taken, w->in.length - taken, &length)) > 0) {
        taken += ND_FRAME_HEAD + length;
        w->events->frame(w->arg, w->in.data + taken - length, length);
    }
    nd_buf_drop(&w->in, taken);
    if (found < 0) {
        nd_err_set(&err, "worker_protocol", NULL,
                   "the worker sent a frame of %zu bytes; the limit is %d", length, ND_FRAME_MAX);
        end_stream(w, &err);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct nd_worker *w = handle->data;

    (void)suggested;
    *buf = uv_buf_init(w->chunk, sizeof w->chunk);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf)
{
    struct nd_worker *w = stream->data;
    struct nd_err err = {0};

    if (count > 0) {
        nd_buf_add(&w->in, buf->base, (size_t)count);
        take_frames(w);
    } else if (count < 0 && w->in.length) {
        nd_err_set(&err, "worker_protocol", NULL, "the worker's stream ended inside a frame");
        end_stream(w, &err);
    } else if (count < 0) {
        end_stream(w, NULL);
    }
}

static void on_process_exit(uv_process_t *process, int64_t status, int signal)
{
    struct nd_worker *w = process->data;

    w->exited = true;
    w->events->exit(w->arg, status, signal);
    close_if_over(w);
}

void nd_worker_pause(struct nd_worker *w, bool stop)
{
    if (w->paused == stop || w->ended)
        return;
    w->paused = stop;
    if (stop) {
        uv_read_stop((uv_stream_t *)&w->pipe);
        return;
    }
    take_frames(w);
    if (!w->paused && !w->ended)
        uv_read_start((uv_stream_t *)&w->pipe, on_alloc, on_read);
}

/* ---- starting ---- */

/* The executable's path; returns owned. */
static char *path_of(const struct nd_worker_options *o)
{
    const char *dash = o->engine ? "-" : "", *engine = o->engine ? o->engine : "";
    char exe[PATH_MAX];
    size_t size = sizeof exe;
    char *slash;

    if (o->path)
        return nd_printf("%s%s%s", o->path, dash, engine);
    if (uv_exepath(exe, &size) < 0)
        return nd_printf("nd-worker%s%s", dash, engine);
    slash = strrchr(exe, '/');
    return nd_printf("%.*s/nd-worker%s%s", slash ? (int)(slash - exe) : 0, exe, dash, engine);
}

enum { ARGUMENTS = 11, WORD = 24 };

struct command {
    char *path; /* owned */
    char words[ARGUMENTS][WORD];
    char *argv[ARGUMENTS + 1];
};

static void add_option(struct command *c, int *count, const char *name, long long value)
{
    snprintf(c->words[*count], WORD, "%s", name);
    snprintf(c->words[*count + 1], WORD, "%lld", value);
    c->argv[*count] = c->words[*count];
    c->argv[*count + 1] = c->words[*count + 1];
    *count += 2;
}

static void make_command(struct command *c, const struct nd_worker_options *o)
{
    int count = 1;

    c->path = path_of(o);
    c->argv[0] = c->path;
    add_option(c, &count, "--fd", SOCKET);
    add_option(c, &count, "--memory", (long long)(o->memory ? o->memory : DEFAULT_MEMORY));
    add_option(c, &count, "--cpu", o->cpu_seconds ? o->cpu_seconds : DEFAULT_CPU);
    add_option(c, &count, "--uid", o->uid);
    add_option(c, &count, "--gid", o->gid);
    c->argv[count] = NULL;
}

static int spawn(struct nd_worker *w, struct nd_loop *loop, const struct nd_worker_options *o,
                 int socket)
{
    static char *no_env[] = {NULL};
    uv_stdio_container_t stdio[SOCKET + 1] = {{.flags = UV_IGNORE},
                                              {.flags = UV_IGNORE},
                                              {.flags = UV_IGNORE},
                                              {.flags = UV_INHERIT_FD, .data.fd = socket}};
    struct command command = {0};
    uv_process_options_t options = {
        .exit_cb = on_process_exit, .stdio = stdio, .stdio_count = SOCKET + 1};
    int rc, pids;

#ifdef ND_SANITIZE /* its findings */
    stdio[2].flags = UV_INHERIT_FD;
    stdio[2].data.fd = 2;
#endif
    make_command(&command, o);
    options.file = command.path;
    options.args = command.argv;
    options.env = no_env;
    pids = nd_namespaces_begin_pids();
    rc = uv_spawn(&loop->uv, &w->process, &options);
    nd_namespaces_end_pids(pids);
    free(command.path);
    return rc;
}

/* Only after a failed start: nobody was told of the worker yet. */
static void on_unstarted_closed(uv_handle_t *handle)
{
    struct nd_worker *w = handle->data;

    if (--w->open == 0)
        free(w);
}

struct nd_worker *nd_worker_start(struct nd_loop *loop, const struct nd_worker_options *options,
                                  const struct nd_worker_events *events, void *arg,
                                  struct nd_err *err)
{
    struct nd_worker *w;
    int pair[2], rc;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        nd_err_errno(err, errno, "worker_start", NULL, "can't make a socket for a worker");
        return NULL;
    }
    w = nd_alloc(sizeof *w);
    w->events = events;
    w->arg = arg;
    w->process.data = w->pipe.data = w;
    uv_pipe_init(&loop->uv, &w->pipe, 0);
    rc = uv_pipe_open(&w->pipe, pair[0]);
    w->open = 2;
    if (rc == 0)
        rc = spawn(w, loop, options, pair[1]);
    else
        w->open = 1;
    close(pair[1]);
    if (rc < 0) {
        nd_loop_err(err, rc, "worker_start", "is nd-worker installed beside nextdeployd?",
                    "can't start a worker");
        uv_close((uv_handle_t *)&w->pipe, on_unstarted_closed);
        if (w->open == 2)
            uv_close((uv_handle_t *)&w->process, on_unstarted_closed);
        return NULL;
    }
    uv_read_start((uv_stream_t *)&w->pipe, on_alloc, on_read);
    return w;
}

/* ---- what it is told ---- */

struct send {
    uv_write_t request;
    size_t length;
    char data[];
};

static void on_written(uv_write_t *request, int status)
{
    (void)status; /* a worker that is gone shows as the end of its stream */
    free(ND_CONTAINER(request, struct send, request));
}

int nd_worker_send(struct nd_worker *w, const char *json, size_t length, struct nd_err *err)
{
    struct send *send;
    uv_buf_t buf;
    int rc;

    if (length > ND_FRAME_MAX)
        return nd_err_set(err, "worker_protocol", NULL,
                          "a frame of %zu bytes to the worker is over the limit of %d", length,
                          ND_FRAME_MAX);
    if (w->ended || w->exited)
        return nd_err_set(err, "worker_gone", NULL, "the worker has ended");
    send = nd_alloc(sizeof *send + ND_FRAME_HEAD + length);
    nd_frame_head((unsigned char *)send->data, length);
    memcpy(send->data + ND_FRAME_HEAD, json, length);
    buf = uv_buf_init(send->data, (unsigned)(ND_FRAME_HEAD + length));
    rc = uv_write(&send->request, (uv_stream_t *)&w->pipe, &buf, 1, on_written);
    if (rc < 0) {
        free(send);
        return nd_loop_err(err, rc, "worker_gone", NULL, "can't write to the worker");
    }
    return 0;
}

void nd_worker_kill(struct nd_worker *w)
{
    if (!w->exited)
        uv_process_kill(&w->process, SIGKILL);
}

int nd_worker_pid(const struct nd_worker *w)
{
    return w->process.pid;
}

void nd_worker_close(struct nd_worker *w)
{
    w->closing = true;
    w->ended = true;
    nd_worker_kill(w);
    close_if_over(w);
}
