/*
 * job_op.h - an operation that is one blocking function on the thread pool.
 *
 * The binding's struct begins with struct nd_job_op. Its `work` runs on a pool thread (fills
 * op.op.err where it fails), and the task waits; where waiting isn't possible (before the loop
 * runs, in a metamethod), it runs at once.
 */
#ifndef ND_BIND_JOB_OP_H
#define ND_BIND_JOB_OP_H

#include "io/job.h"
#include "script/task.h"

struct nd_job_op {
    struct nd_op op;
    struct nd_job *job; /* valid until the operation is done */
};

/* `return nd_job_op_run(L, op, work)`: starts, parks, returns what the type's `push` pushes. */
ND_RAISES int nd_job_op_run(lua_State *L, void *op, nd_job_work *work);
void nd_job_op_cancel(void *op); /* for nd_op_type.cancel */

#endif
