/*
 * job.h - a blocking function, run on libuv's thread pool.
 *
 * For what has no asynchronous form: files, directories, hashing of something large. `work` runs on
 * a pool thread and touches nothing but `arg`; `done` runs afterwards on the loop, exactly once,
 * also after a cancel. A job that has begun can't be interrupted: cancelling it changes nothing,
 * and `done` comes when it ends by itself. The pool is small (4 threads unless UV_THREADPOOL_SIZE
 * says otherwise), so a job that waits for a person or a network doesn't belong here.
 */
#ifndef ND_IO_JOB_H
#define ND_IO_JOB_H

#include <stdbool.h>

#include "io/loop.h"

struct nd_job;

typedef void nd_job_work(void *arg);
/* `ran` is false where the job was cancelled before it began. */
typedef void nd_job_done(void *arg, bool ran);

/* Borrows `arg` until `done` returns. The job frees itself after `done`. */
struct nd_job *nd_job_start(struct nd_loop *loop, nd_job_work *work, nd_job_done *done, void *arg);
void nd_job_cancel(struct nd_job *job);

#endif
