#include "io/child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

enum { READ_CHUNK = 16 * 1024, STREAMS = 3 };

struct nd_child {
    struct nd_loop *loop;
    uv_process_t process;
    uv_pipe_t pipes[STREAMS]; /* stdin, stdout, stderr */
    uv_timer_t timer;         /* the time-out, then the grace of whatever is being waited for */
    uv_write_t write;
    char *input; /* owned */
    char *chunk; /* owned; READ_CHUNK bytes for whichever pipe reads */
    uint64_t grace_ms;
    size_t max_output;
    struct nd_child_result result;
    nd_child_done *done;
    void *arg;   /* borrowed */
    int open;    /* handles whose close callback is still to come */
    int reading; /* output streams not yet at their end */
    bool exited;
    bool ending; /* SIGTERM was sent */
};

void nd_child_seal(void)
{
    DIR *dir;
    struct dirent *entry;

    if (close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) == 0)
        return;
    dir = opendir("/proc/self/fd"); /* kernels before 5.11 */
    if (!dir)
        return;
    while ((entry = readdir(dir)) != NULL) {
        int fd = atoi(entry->d_name);

        if (fd > 2)
            fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    closedir(dir);
}

static void free_child(struct nd_child *c)
{
    nd_buf_fini(&c->result.output);
    nd_buf_fini(&c->result.errors);
    free(c->input);
    free(c->chunk);
    free(c);
}

static void on_closed(uv_handle_t *handle)
{
    struct nd_child *c = handle->data;

    if (--c->open > 0)
        return;
    if (c->done)
        c->done(c->arg, &c->result);
    free_child(c);
}

static void close_handle(uv_handle_t *handle)
{
    if (!uv_is_closing(handle))
        uv_close(handle, on_closed);
}

static void close_all(struct nd_child *c)
{
    close_handle((uv_handle_t *)&c->process);
    close_handle((uv_handle_t *)&c->timer);
    for (int i = 0; i < STREAMS; i++)
        close_handle((uv_handle_t *)&c->pipes[i]);
}

/* The group, since what the child started holds its streams as well. */
static void signal_group(struct nd_child *c, int signal_number)
{
    kill(-c->process.pid, signal_number);
}

static void on_grace_over(uv_timer_t *timer)
{
    struct nd_child *c = timer->data;

    if (c->exited)
        close_all(c); /* a grandchild keeps the streams open: leave it to itself */
    else
        signal_group(c, SIGKILL);
}

static void end_child(struct nd_child *c)
{
    if (c->ending || c->exited)
        return;
    c->ending = true;
    signal_group(c, SIGTERM);
    uv_timer_start(&c->timer, on_grace_over, c->grace_ms, 0);
}

static void on_timeout(uv_timer_t *timer)
{
    struct nd_child *c = timer->data;

    c->result.timed_out = true;
    end_child(c);
}

static void on_ended(uv_process_t *process, int64_t status, int signal_number)
{
    struct nd_child *c = process->data;

    c->exited = true;
    c->result.status = signal_number ? 128 + signal_number : (int)status;
    c->result.signal = signal_number;
    uv_timer_stop(&c->timer);
    if (c->ending)
        signal_group(c, SIGKILL); /* what is left of the group goes with it */
    if (c->reading == 0)
        close_all(c);
    else
        uv_timer_start(&c->timer, on_grace_over, c->grace_ms, 0);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct nd_child *c = handle->data;

    (void)suggested;
    *buf = uv_buf_init(c->chunk, READ_CHUNK);
}

static void on_output(uv_stream_t *stream, ssize_t length, const uv_buf_t *data)
{
    struct nd_child *c = stream->data;
    bool is_output = stream == (uv_stream_t *)&c->pipes[1];
    struct nd_buf *kept = is_output ? &c->result.output : &c->result.errors;

    if (length > 0) {
        size_t room = c->max_output - kept->length;

        if ((size_t)length > room)
            c->result.truncated = true;
        nd_buf_add(kept, data->base, (size_t)length < room ? (size_t)length : room);
    } else if (length < 0) { /* the end, or an error that is one */
        uv_read_stop(stream);
        close_handle((uv_handle_t *)stream);
        if (--c->reading == 0 && c->exited)
            close_all(c);
    }
}

/* A child that doesn't read its input is none of our business. But one that got a part of it must
 * not take that for all: iptables-restore would do nothing, and say that it is done. */
static void close_input(struct nd_child *c, int status)
{
    if (status < 0 && status != UV_EPIPE && status != UV_ECONNRESET && status != UV_ECANCELED &&
        !c->exited)
        signal_group(c, SIGKILL);
    close_handle((uv_handle_t *)&c->pipes[0]);
}

static void on_input_written(uv_write_t *write, int status)
{
    close_input(write->data, status);
}

static void start_streams(struct nd_child *c, size_t input_length)
{
    uv_buf_t buf = uv_buf_init(c->input, (unsigned)input_length);
    int rc = 0;

    c->reading = 2;
    uv_read_start((uv_stream_t *)&c->pipes[1], on_alloc, on_output);
    uv_read_start((uv_stream_t *)&c->pipes[2], on_alloc, on_output);
    c->write.data = c;
    if (input_length > 0)
        rc = uv_write(&c->write, (uv_stream_t *)&c->pipes[0], &buf, 1, on_input_written);
    if (input_length == 0 || rc < 0)
        close_input(c, rc);
}

static struct nd_child *new_child(struct nd_loop *loop, const struct nd_child_options *options)
{
    struct nd_child *c = nd_alloc(sizeof *c);

    c->loop = loop;
    c->grace_ms = options->grace_ms ? options->grace_ms : ND_CHILD_GRACE_MS;
    c->max_output = options->max_output ? options->max_output : ND_CHILD_MAX_OUTPUT;
    c->chunk = nd_alloc(READ_CHUNK);
    c->input = nd_alloc(options->input_length);
    if (options->input_length)
        memcpy(c->input, options->input, options->input_length);
    c->process.data = c->timer.data = c;
    uv_timer_init(&loop->uv, &c->timer);
    for (int i = 0; i < STREAMS; i++) {
        uv_pipe_init(&loop->uv, &c->pipes[i], 0);
        c->pipes[i].data = c;
    }
    c->open = STREAMS + 2;
    return c;
}

static int spawn(struct nd_child *c, const struct nd_child_options *options)
{
    static const char *const no_env[] = {NULL};
    uv_stdio_container_t stdio[STREAMS];
    uv_process_options_t spec = {0};

    for (int i = 0; i < STREAMS; i++) {
        stdio[i].flags = UV_CREATE_PIPE | (i == 0 ? UV_READABLE_PIPE : UV_WRITABLE_PIPE);
        stdio[i].data.stream = (uv_stream_t *)&c->pipes[i];
    }
    spec.exit_cb = on_ended;
    spec.file = options->argv[0];
    spec.args = (char **)(uintptr_t)options->argv; /* libuv doesn't write to them */
    spec.env = (char **)(uintptr_t)(options->env ? options->env : no_env);
    spec.cwd = options->cwd;
    spec.stdio = stdio;
    spec.stdio_count = STREAMS;
    spec.flags = UV_PROCESS_DETACHED;
    if (options->set_ids) {
        spec.flags |= UV_PROCESS_SETUID | UV_PROCESS_SETGID;
        spec.uid = options->uid;
        spec.gid = options->gid;
    }
    nd_child_seal();
    return uv_spawn(&c->loop->uv, &c->process, &spec);
}

struct nd_child *nd_child_start(struct nd_loop *loop, const struct nd_child_options *options,
                                nd_child_done *done, void *arg, struct nd_err *err)
{
    struct nd_child *c = new_child(loop, options);
    int rc = spawn(c, options);

    if (rc < 0) {
        nd_err_set(err, "process_start", "check that the program is installed and may be run",
                   "can't start %s: %s", options->argv[0], uv_strerror(rc));
        close_all(c); /* without a callback */
        return NULL;
    }
    c->done = done;
    c->arg = arg;
    start_streams(c, options->input_length);
    if (options->timeout_ms)
        uv_timer_start(&c->timer, on_timeout, options->timeout_ms, 0);
    return c;
}

void nd_child_cancel(struct nd_child *c)
{
    c->result.cancelled = true;
    end_child(c);
}

pid_t nd_child_pid(const struct nd_child *c)
{
    return c->process.pid;
}
