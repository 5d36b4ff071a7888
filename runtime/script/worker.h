/*
 * worker.h - the daemon's end of an nd-worker process.
 *
 * Starts the process on one end of a socket pair and cuts what arrives on the other into frames
 * (frame.h). It does not look into them. A frame that is too long, and a stream that ends inside
 * one, are the error "worker_protocol"; the process is killed then. Calls back on the loop, never
 * from inside a call to it.
 */
#ifndef ND_SCRIPT_WORKER_H
#define ND_SCRIPT_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "io/loop.h"

struct nd_worker;

struct nd_worker_options {
    const char *path;    /* of the executable; NULL: nd-worker beside the running one */
    const char *engine;  /* whose worker it is: PATH-ENGINE; NULL: Lua 5.4's, PATH itself */
    size_t memory;       /* bytes; 0: 64 MiB */
    int64_t cpu_seconds; /* 0: 60 */
    long uid, gid;       /* < 0: of its own where we are root, else ours */
};

struct nd_worker_events {
    void (*frame)(void *arg, const char *json, size_t length); /* valid until it returns */
    void (*end)(void *arg,
                const struct nd_err *err); /* once, after the last frame; NULL: orderly */
    void (*exit)(void *arg, int64_t status, int signal); /* once */
    void (*closed)(void *arg); /* once, as the last: the worker is gone, `arg` may be freed */
};

struct nd_worker *nd_worker_start(struct nd_loop *loop, const struct nd_worker_options *options,
                                  const struct nd_worker_events *events, void *arg,
                                  struct nd_err *err);
/* Queues a frame; copies. -1 with "worker_protocol" (too long) or "worker_gone". */
int nd_worker_send(struct nd_worker *w, const char *json, size_t length, struct nd_err *err);
void nd_worker_pause(struct nd_worker *w, bool stop); /* stops or resumes reading */
void nd_worker_kill(struct nd_worker *w);             /* SIGKILL; harmless after its end */
int nd_worker_pid(const struct nd_worker *w);
/* Kills it where it still runs and lets go of it; only `exit` and `closed` are called after. */
void nd_worker_close(struct nd_worker *w);

#endif
