#include "engine/docker_follow.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/http_client.h"

enum { OPEN_TIMEOUT_MS = 10000 };

struct nd_docker_follow {
    struct nd_docker *docker;
    struct nd_docker_req *req; /* under way; there is always one */
    struct nd_docker_logs_call logs;
    struct nd_docker_events_call events;
    struct nd_docker_frames frames;
    struct nd_docker_messages messages;
    struct nd_err err; /* why it ends early */
    char *doing;       /* owned */
    char *path;        /* owned */
    bool pause;
};

static void end(struct nd_docker_follow *f, const struct nd_err *err)
{
    if (f->logs.on_done)
        f->logs.on_done(f->logs.arg, err);
    else
        f->events.on_done(f->events.arg, err);
    nd_docker_frames_fini(&f->frames);
    nd_docker_messages_fini(&f->messages);
    free(f->doing);
    free(f->path);
    free(f);
}

/* --- logs ------------------------------------------------------------------------------------- */

static void on_log_open(void *arg)
{
    struct nd_docker_follow *f = arg;

    if (f->logs.on_open)
        f->logs.on_open(f->logs.arg);
}

static void on_log_data(void *arg, const char *data, size_t length)
{
    struct nd_docker_follow *f = arg;

    if (f->err.code[0])
        return;
    if (nd_docker_frames_feed(&f->frames, data, length, &f->err) < 0)
        nd_docker_cancel(f->req);
}

static void on_log_done(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_docker_follow *f = arg;
    struct nd_err cut = {0};

    (void)answer;
    if (!f->err.code[0] && nd_docker_frames_end(&f->frames, &cut) < 0 && !err)
        err = &cut;
    end(f, f->err.code[0] ? &f->err : err);
}

static void on_inspected(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_docker_follow *f = arg;
    json_t *root = NULL;
    json_t *tty = NULL;
    struct nd_err bad = {0};
    struct nd_docker_call call = {.doing = f->doing,
                                  .path = f->path,
                                  .timeout_ms = f->logs.follow ? 0 : f->logs.timeout_ms,
                                  .head_timeout_ms = f->logs.timeout_ms,
                                  .on_open = on_log_open,
                                  .on_data = on_log_data,
                                  .on_done = on_log_done,
                                  .arg = f};

    if (err) {
        end(f, err);
        return;
    }
    root = json_loadb(answer->body->data ? answer->body->data : "", answer->body->length, 0, NULL);
    tty = json_object_get(json_object_get(root, "Config"), "Tty");
    if (json_is_boolean(tty)) {
        f->frames.tty = json_is_true(tty);
        f->req = nd_docker_start(f->docker, &call);
        if (f->pause)
            nd_docker_pause(f->req, true);
    } else {
        nd_err_set(&bad, "docker_protocol", "",
                   "can't %s: Docker did not tell whether the container has a terminal", f->doing);
        end(f, &bad);
    }
    json_decref(root);
}

/* Whether the log has frames depends on the container; only API 1.42 and newer say so with it. */
struct nd_docker_follow *nd_docker_logs_start(struct nd_docker *d,
                                              const struct nd_docker_logs_call *logs)
{
    struct nd_docker_follow *f = nd_alloc(sizeof *f);
    struct nd_buf base = {0};
    char *path;
    struct nd_docker_call call = {.on_done = on_inspected, .arg = f};

    f->docker = d;
    f->logs = *logs;
    if (!f->logs.timeout_ms)
        f->logs.timeout_ms = OPEN_TIMEOUT_MS;
    f->frames.timestamps = logs->timestamps;
    f->frames.on_line = logs->on_line;
    f->frames.arg = logs->arg;
    f->doing = nd_printf("read the log of container %s", logs->container);
    nd_buf_adds(&base, "/containers/");
    nd_http_encode(&base, logs->container, strlen(logs->container), "");
    f->path = nd_printf("%s/logs?%s", base.data, logs->query);
    path = nd_printf("%s/json", base.data);
    call.doing = f->doing;
    call.path = path;
    call.timeout_ms = f->logs.timeout_ms;
    f->req = nd_docker_start(d, &call);
    nd_buf_fini(&base);
    free(path);
    return f;
}

/* --- events ----------------------------------------------------------------------------------- */

static void on_events_open(void *arg)
{
    struct nd_docker_follow *f = arg;

    if (f->events.on_open)
        f->events.on_open(f->events.arg);
}

static int on_event(void *arg, const char *text, size_t length, struct nd_err *err)
{
    struct nd_docker_follow *f = arg;

    (void)err;
    f->events.on_event(f->events.arg, text, length);
    return 0;
}

static void on_events_data(void *arg, const char *data, size_t length)
{
    struct nd_docker_follow *f = arg;

    if (f->err.code[0])
        return;
    if (nd_docker_messages_feed(&f->messages, data, length, &f->err) < 0)
        nd_docker_cancel(f->req);
}

static void on_events_done(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_docker_follow *f = arg;

    (void)answer;
    if (!err && !f->err.code[0])
        nd_err_set(&f->err, "docker_unreachable", "", "can't %s any more: Docker ended the stream",
                   f->doing);
    end(f, f->err.code[0] ? &f->err : err);
}

struct nd_docker_follow *nd_docker_events_start(struct nd_docker *d,
                                                const struct nd_docker_events_call *events)
{
    struct nd_docker_follow *f = nd_alloc(sizeof *f);
    struct nd_docker_call call = {.head_timeout_ms = OPEN_TIMEOUT_MS,
                                  .on_open = on_events_open,
                                  .on_data = on_events_data,
                                  .on_done = on_events_done,
                                  .arg = f};

    f->docker = d;
    f->events = *events;
    if (events->timeout_ms)
        call.head_timeout_ms = events->timeout_ms;
    f->messages.on_message = on_event;
    f->messages.arg = f;
    f->doing = nd_strdup("follow Docker's events");
    f->path = nd_printf("/events?%s", events->query);
    call.doing = f->doing;
    call.path = f->path;
    f->req = nd_docker_start(d, &call);
    return f;
}

void nd_docker_follow_cancel(struct nd_docker_follow *f)
{
    nd_docker_cancel(f->req);
}

void nd_docker_follow_pause(struct nd_docker_follow *f, bool stop)
{
    f->pause = stop;
    nd_docker_pause(f->req, stop);
}
