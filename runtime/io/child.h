/*
 * child.h - a child process that is run to its end: input in, captured output out.
 *
 * Never a shell: `argv` is what the program gets, and `env` is all of its environment. The child
 * leads a session of its own, so that ending it also ends what it started, and it inherits nothing
 * but its three standard streams: everything else is made close-on-exec before the fork.
 *
 * The end: after `timeout_ms`, or when cancelled, the whole group gets SIGTERM, and SIGKILL
 * `grace_ms` later. When the child has exited, its output is read to the end; a grandchild that
 * keeps a stream open is waited for no longer than `grace_ms`. Then, with every handle closed, the
 * callback runs, exactly once, and the child frees itself.
 *
 * What it doesn't do: terminals, and processes one talks with (those are script/worker).
 */
#ifndef ND_IO_CHILD_H
#define ND_IO_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/buf.h"
#include "io/loop.h"

struct nd_child;

enum { ND_CHILD_GRACE_MS = 2000, ND_CHILD_MAX_OUTPUT = 1024 * 1024 };

/* All borrowed until nd_child_start returns. */
struct nd_child_options {
    const char *const *argv; /* NULL-terminated; argv[0] is sought in the PATH of `env` */
    const char *const *env;  /* NULL-terminated "NAME=value"; NULL: an empty environment */
    const char *cwd;         /* NULL: ours */
    const void *input;       /* copied; what the child reads from its standard input */
    size_t input_length;
    uint64_t timeout_ms; /* 0: none */
    uint64_t grace_ms;   /* 0: ND_CHILD_GRACE_MS */
    size_t max_output;   /* bytes kept of each of the two streams; 0: ND_CHILD_MAX_OUTPUT */
    bool set_ids;        /* become uid and gid, without supplementary groups */
    uid_t uid;
    gid_t gid;
};

/* Valid during the callback only; nd_buf_take what is to be kept. */
struct nd_child_result {
    int status; /* exit status; as a shell tells it, 128 and the signal, where that ended it */
    int signal; /* the signal that ended it, or 0 */
    struct nd_buf output;
    struct nd_buf errors;
    bool truncated; /* one of the two was longer than max_output; the rest was dropped */
    bool timed_out;
    bool cancelled;
};

typedef void nd_child_done(void *arg, struct nd_child_result *result);

/* NULL and `err` (code "process_start") where the program can't be started; no callback then. */
struct nd_child *nd_child_start(struct nd_loop *loop, const struct nd_child_options *options,
                                nd_child_done *done, void *arg, struct nd_err *err);
/* Ends it as a time-out would. The callback still comes. */
void nd_child_cancel(struct nd_child *child);
pid_t nd_child_pid(const struct nd_child *child);

/* Makes every descriptor above 2 close-on-exec: for whoever forks by other means. */
void nd_child_seal(void);

#endif
