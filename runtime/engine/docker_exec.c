#include "engine/docker_exec.h"

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/docker_stream.h"
#include "io/http_client.h"

enum {
    OUTPUT_MAX = 1024 * 1024,
    CREATE_TIMEOUT_MS = 30000,
    INSPECT_TIMEOUT_MS = 10000,
    HEAD_TIMEOUT_MS = 30000
};

struct nd_docker_exec {
    struct nd_docker *docker;
    struct nd_docker_req *req; /* under way; there is always one */
    struct nd_docker_exec_call call;
    struct nd_docker_frames frames;
    struct nd_buf output;
    struct nd_err err; /* why it ends early */
    int64_t deadline;  /* ms, monotonic; INT64_MAX: none */
    char *doing;       /* owned */
    char id[72];       /* of the exec, once created */
    bool truncated;
};

static void call_next(struct nd_docker_exec *exec, const char *method, const char *suffix,
                      const char *body, int most_ms, struct nd_docker_call *call);

/* --- the end ---------------------------------------------------------------------------------- */

static void end(struct nd_docker_exec *exec, int code, const struct nd_err *err)
{
    struct nd_docker_exec_result result = {code, &exec->output, exec->truncated};

    exec->call.on_done(exec->call.arg, err ? NULL : &result, err);
    nd_docker_frames_fini(&exec->frames);
    nd_buf_fini(&exec->output);
    free(exec->doing);
    free(exec);
}

/* Does /proc/PID/cgroup name the container? */
static bool runs_in(int pid, const char *container)
{
    char path[64];
    char text[4096];
    ssize_t length = -1;
    int fd;

    snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        length = read(fd, text, sizeof text - 1);
        close(fd);
    }
    if (length <= 0)
        return false;
    text[length] = '\0';
    return strstr(text, container) != NULL;
}

/* Kills the command's process group: Docker makes each command the leader of one. */
static void kill_command(int pid, const char *container)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

    if (pidfd < 0)
        return;
    /* The pidfd pins the process that /proc was asked about: if it still answers to it after the
     * check, the group is that command's. */
    if (runs_in(pid, container) && syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0) {
        kill(-pid, SIGKILL);
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    }
    close(pidfd);
}

static void on_found(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_docker_exec *exec = arg;
    json_t *root = err ? NULL
                       : json_loadb(answer->body->data ? answer->body->data : "",
                                    answer->body->length, 0, NULL);
    const char *container = json_string_value(json_object_get(root, "ContainerID"));
    json_int_t pid = json_integer_value(json_object_get(root, "Pid"));

    if (json_is_true(json_object_get(root, "Running")) && pid > 1 && pid < INT32_MAX && container &&
        strlen(container) >= 12)
        kill_command((int)pid, container);
    json_decref(root);
    end(exec, 0, &exec->err);
}

/* Ends with `err`; what was started is killed first. */
static void give_up(struct nd_docker_exec *exec, const struct nd_err *err)
{
    struct nd_docker_call call = {.on_done = on_found};

    exec->err = *err;
    if (!exec->id[0] || strcmp(err->code, "docker_unreachable") == 0) {
        end(exec, 0, &exec->err);
        return;
    }
    exec->deadline = INT64_MAX;
    call_next(exec, "GET", "/json", NULL, INSPECT_TIMEOUT_MS, &call);
}

/* --- the three calls -------------------------------------------------------------------------- */

static void on_inspected(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_docker_exec *exec = arg;
    struct nd_err bad = {0};
    json_t *root = NULL;
    json_t *code = NULL;

    if (!err) {
        root =
            json_loadb(answer->body->data ? answer->body->data : "", answer->body->length, 0, NULL);
        code = json_object_get(root, "ExitCode");
        if (!json_is_integer(code))
            nd_err_set(&bad, "docker_protocol", "", "can't %s: Docker did not tell its exit code",
                       exec->doing);
    }
    if (bad.code[0])
        err = &bad;
    end(exec, (int)json_integer_value(code), err);
    json_decref(root);
}

static void on_output(void *arg, const struct nd_docker_line *piece)
{
    struct nd_docker_exec *exec = arg;
    size_t room = exec->call.max_output - exec->output.length;

    if (piece->length > room)
        exec->truncated = true;
    nd_buf_add(&exec->output, piece->text, piece->length < room ? piece->length : room);
}

static void on_data(void *arg, const char *data, size_t length)
{
    struct nd_docker_exec *exec = arg;

    if (exec->err.code[0])
        return;
    if (nd_docker_frames_feed(&exec->frames, data, length, &exec->err) < 0)
        nd_docker_cancel(exec->req);
}

static void on_ended(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_docker_exec *exec = arg;
    struct nd_docker_call call = {.on_done = on_inspected};
    struct nd_err why = {0};

    (void)answer;
    if (exec->err.code[0])
        why = exec->err;
    else if (err)
        why = *err;
    else
        nd_docker_frames_end(&exec->frames, &why);
    if (strcmp(why.code, "docker_timeout") == 0)
        nd_err_set(&why, "docker_timeout", "", "can't %s: it did not end within %d ms", exec->doing,
                   exec->call.timeout_ms);
    if (why.code[0])
        give_up(exec, &why);
    else
        call_next(exec, "GET", "/json", NULL, INSPECT_TIMEOUT_MS, &call);
}

static void on_created(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_docker_exec *exec = arg;
    struct nd_docker_call call = {.on_data = on_data, .on_done = on_ended};
    struct nd_err bad = {0};
    json_t *root = NULL;
    const char *id = NULL;

    if (err) {
        end(exec, 0, err);
        return;
    }
    root = json_loadb(answer->body->data ? answer->body->data : "", answer->body->length, 0, NULL);
    id = json_string_value(json_object_get(root, "Id"));
    if (id && strlen(id) < sizeof exec->id && strspn(id, "0123456789abcdef") == strlen(id))
        snprintf(exec->id, sizeof exec->id, "%s", id);
    json_decref(root);
    if (!exec->id[0]) {
        nd_err_set(&bad, "docker_protocol", "", "can't %s: Docker gave it no Id", exec->doing);
        end(exec, 0, &bad);
        return;
    }
    call_next(exec, "POST", "/start",
              exec->call.tty ? "{\"Detach\":false,\"Tty\":true}"
                             : "{\"Detach\":false,\"Tty\":false}",
              0, &call);
}

/* Sends the call about this exec, within the time left and `most_ms` (0: only the time left). */
static void call_next(struct nd_docker_exec *exec, const char *method, const char *suffix,
                      const char *body, int most_ms, struct nd_docker_call *call)
{
    char *path = nd_printf("/exec/%s%s", exec->id, suffix);
    int64_t left = exec->deadline == INT64_MAX ? 0 : exec->deadline - nd_clock_monotonic();

    if (exec->deadline != INT64_MAX && left < 1)
        left = 1;
    if (most_ms && (!left || left > most_ms))
        left = most_ms;
    call->doing = exec->doing;
    call->method = method;
    call->path = path;
    call->body = body;
    call->body_length = body ? strlen(body) : 0;
    call->timeout_ms = (int)left;
    call->head_timeout_ms = HEAD_TIMEOUT_MS;
    call->arg = exec;
    exec->req = nd_docker_start(exec->docker, call);
    free(path);
}

struct nd_docker_exec *nd_docker_exec_start(struct nd_docker *d,
                                            const struct nd_docker_exec_call *call)
{
    struct nd_docker_exec *exec = nd_alloc(sizeof *exec);
    struct nd_docker_call create = {.method = "POST",
                                    .body = call->spec,
                                    .body_length = call->spec_length,
                                    .timeout_ms = CREATE_TIMEOUT_MS,
                                    .on_done = on_created,
                                    .arg = exec};
    struct nd_buf path = {0};

    exec->docker = d;
    exec->call = *call;
    if (!call->max_output)
        exec->call.max_output = OUTPUT_MAX;
    exec->deadline = call->timeout_ms ? nd_clock_monotonic() + call->timeout_ms : INT64_MAX;
    exec->frames.tty = call->tty;
    exec->frames.raw = true;
    exec->frames.on_line = on_output;
    exec->frames.arg = exec;
    exec->doing = nd_printf("run a command in container %s", call->container);
    nd_buf_adds(&path, "/containers/");
    nd_http_encode(&path, call->container, strlen(call->container), "");
    nd_buf_adds(&path, "/exec");
    create.doing = exec->doing;
    create.path = path.data;
    if (call->timeout_ms && call->timeout_ms < CREATE_TIMEOUT_MS)
        create.timeout_ms = call->timeout_ms;
    exec->req = nd_docker_start(d, &create);
    nd_buf_fini(&path);
    return exec;
}

void nd_docker_exec_cancel(struct nd_docker_exec *exec)
{
    nd_docker_cancel(exec->req);
}
