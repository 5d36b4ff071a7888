/*
 * docker_exec.h - run a command in a running container and collect its output.
 *
 * Three calls: create, start (whose answer is the output, until the command ends), inspect (the
 * exit code). The API can't end a command: after the time-out or a cancel its process group on this
 * host is killed, if a pidfd and /proc/PID/cgroup show that the process belongs to that container.
 */
#ifndef ND_ENGINE_DOCKER_EXEC_H
#define ND_ENGINE_DOCKER_EXEC_H

#include "engine/docker.h"

struct nd_docker_exec;

struct nd_docker_exec_result {
    int code;              /* exit code */
    struct nd_buf *output; /* stdout and stderr in order of arrival; may be taken */
    bool truncated;        /* more came than max_output */
};

struct nd_docker_exec_call {
    const char *container; /* id or name */
    const char *spec;      /* JSON of the exec: {"Cmd": [...], "AttachStdout": true, ...} */
    size_t spec_length;
    bool tty;          /* as in the spec */
    int timeout_ms;    /* for all; 0: none */
    size_t max_output; /* bytes kept; 0: 1 MiB */
    void (*on_done)(void *arg, struct nd_docker_exec_result *result, const struct nd_err *err);
    void *arg;
};

struct nd_docker_exec *nd_docker_exec_start(struct nd_docker *d,
                                            const struct nd_docker_exec_call *call);
void nd_docker_exec_cancel(struct nd_docker_exec *exec);

#endif
