#include "engine/log_read.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/log_app.h"
#include "engine/log_scan.h"
#include "io/job.h"

struct reading {
    struct nd_log_app *app;
    struct nd_log_filter filter;
    struct nd_log_scan scan;
    struct nd_log_flush flush;
    struct nd_buf text;
    uint64_t lines;
    nd_log_read_done *done;
    void *arg;
};

/* Frames are objects, or arrays of them: makes one array of all. */
static void read_work(void *arg)
{
    struct reading *r = arg;
    const struct nd_log_frames *frames = &r->scan.frames;

    nd_log_scan_run(&r->scan);
    nd_buf_adds(&r->text, "[");
    for (size_t i = 0; i < frames->count; i++) {
        const struct nd_log_frame *frame = &frames->list[i];
        const char *text = frames->text.data + frame->at;
        size_t inside = text[0] == '[';

        if (i)
            nd_buf_adds(&r->text, ",");
        nd_buf_add(&r->text, text + inside, frame->length - 2 * inside);
        r->lines += frame->lines;
    }
    nd_buf_adds(&r->text, "]");
    nd_log_frames_fini(&r->scan.frames);
}

static void on_read(void *arg, bool ran)
{
    struct reading *r = arg;
    struct nd_log_app *app = r->app;

    (void)ran;
    r->done(r->arg, &r->text, r->lines);
    nd_buf_fini(&r->text);
    nd_log_filter_fini(&r->filter);
    free((void *)(uintptr_t)r->scan.list);
    free(r);
    nd_log_app_job_done(app);
}

static void on_flushed(void *arg)
{
    struct reading *r = arg;
    struct nd_log_app *app = r->app;

    r->scan.list = nd_log_app_newest(app, app->count);
    r->scan.count = app->count;
    r->scan.upto = app->written;
    nd_job_start(app->store->loop, read_work, on_read, r);
}

void nd_log_read_start(struct nd_log_app *app, struct nd_log_filter *filter, uint64_t tail,
                       size_t most, nd_log_read_done *done, void *arg)
{
    struct reading *r = nd_alloc(sizeof *r);

    r->app = app;
    r->filter = *filter;
    *filter = (struct nd_log_filter){0};
    r->scan = (struct nd_log_scan){.dir = app->dir,
                                   .filter = &r->filter,
                                   .after = r->filter.after,
                                   .tail = tail,
                                   .most = most,
                                   .frames = {.app = app->name}};
    r->done = done;
    r->arg = arg;
    r->flush.done = on_flushed;
    r->flush.arg = r;
    app->jobs++;
    nd_log_app_flush(app, &r->flush);
}
