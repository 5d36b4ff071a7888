#include "io/job.h"

#include <stdlib.h>

#include "base/mem.h"

struct nd_job {
    uv_work_t req;
    nd_job_work *work;
    nd_job_done *done;
    void *arg; /* borrowed */
};

static void on_work(uv_work_t *req)
{
    struct nd_job *job = req->data;

    job->work(job->arg);
}

static void on_done(uv_work_t *req, int status)
{
    struct nd_job *job = req->data;

    job->done(job->arg, status == 0);
    free(job);
}

struct nd_job *nd_job_start(struct nd_loop *loop, nd_job_work *work, nd_job_done *done, void *arg)
{
    struct nd_job *job = nd_alloc(sizeof *job);

    job->req.data = job;
    job->work = work;
    job->done = done;
    job->arg = arg;
    /* It fails only without a work callback, and this one has one. */
    uv_queue_work(&loop->uv, &job->req, on_work, on_done);
    return job;
}

void nd_job_cancel(struct nd_job *job)
{
    uv_cancel((uv_req_t *)&job->req);
}
