#include "bind/job_op.h"

static void on_done(void *arg, bool ran)
{
    struct nd_job_op *op = arg;

    if (!ran)
        nd_err_set(&op->op.err, "cancelled", NULL, "%s was cancelled", op->op.type->name);
    nd_op_done(op);
}

int nd_job_op_run(lua_State *L, void *arg, nd_job_work *work)
{
    struct nd_job_op *op = arg;

    if (lua_isyieldable(L)) {
        op->job = nd_job_start(nd_host_loop(nd_host_of(L)), work, on_done, op);
    } else {
        work(op);
        nd_op_done(op);
    }
    return nd_op_park(L, op);
}

void nd_job_op_cancel(void *arg)
{
    struct nd_job_op *op = arg;

    nd_job_cancel(op->job);
}
