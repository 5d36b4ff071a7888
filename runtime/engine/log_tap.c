#include "engine/log_tap.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/docker_stream.h"
#include "engine/log_app.h"
#include "engine/log_gap.h"
#include "engine/log_scan.h"
#include "io/http_client.h"
#include "io/job.h"

enum {
    OPEN_TIMEOUT_MS = 10000,
    SLACK_MS = 2000,   /* how long a line may have been on its way to us */
    SETTLE_MS = 100,   /* after Docker's log ended: for what is on its way by the stream */
    SEGMENTS = 2,      /* of the log, the newest: where to look for a container's last lines */
    STORED_MAX = 4096, /* lines compared with */
    HISTORY_MOST = 3,  /* how often Docker's log is read, until it reaches up to the stream */
    DOCKER_MAX = 32 * 1024 * 1024, /* bytes of Docker's log: it keeps 30 MB */
    LIVE_MAX = 8 * 1024 * 1024,    /* bytes that wait for it */
};

/* Lines of one origin (the stream, or Docker's log) on their way through the redaction. */
struct sieve {
    struct nd_docker_frames frames;
    struct nd_buf carry[2]; /* the end of a piece of a line, that may begin a secret */
    struct nd_buf clean;
    void (*put)(struct nd_log_tap *tap, int64_t time, bool is_stderr, const char *text,
                size_t length);
    struct nd_log_tap *tap;
    int64_t now; /* UTC ms, of the bytes being fed */
};

struct nd_log_tap {
    struct nd_log_tap_call call;
    struct nd_docker *docker;
    struct nd_log_app *app; /* alive as long as `source->app` */
    struct nd_log_source *source;
    struct nd_docker_req *attach;  /* NULL: not, or no more, under way */
    struct nd_docker_req *history; /* the same, of Docker's log */
    struct sieve stream, log;
    struct nd_err err; /* why it ends */
    char *doing;       /* owned */
    bool filling;      /* lines of the stream wait in `live` */
    bool opened;       /* Docker has accepted `attach` */
    bool scanned;      /* Docker's log may be asked for when it has */
    bool job;          /* stored lines are being read */
    bool cancelled;
    bool timer_open;
    int64_t asked_at; /* UTC ms: when the stream was asked for */
    struct nd_log_scan scan;
    struct nd_log_filter filter;
    struct nd_log_lines stored, docker_lines, live;
    int64_t since;  /* UTC ms: where Docker's log is read from; 0: its beginning */
    int histories;  /* how often Docker's log was read */
    size_t emitted; /* of docker_lines, then of live: how far they are in the log */
    struct nd_log_flush flush;
    bool flushing;
    uv_timer_t timer; /* SETTLE_MS, and between retries of emitting */
};

/* --- from bytes to lines ---------------------------------------------------------------------- */

static void put_pieces(struct sieve *s, int64_t time, bool is_stderr, const char *text,
                       size_t length)
{
    while (length > ND_LOG_LINE_MAX) {
        s->put(s->tap, time, is_stderr, text, ND_LOG_LINE_MAX);
        text += ND_LOG_LINE_MAX;
        length -= ND_LOG_LINE_MAX;
    }
    s->put(s->tap, time, is_stderr, text, length);
}

static void on_line(void *arg, const struct nd_docker_line *line)
{
    struct sieve *s = arg;
    struct nd_log_app *app = s->tap->source->app;
    bool is_stderr = line->stream == ND_DOCKER_STDERR;
    struct nd_buf *carry = &s->carry[is_stderr];
    int64_t time = line->time < 0 ? s->now : line->time;
    size_t held;

    if (!app)
        return;
    if (nd_redact_is_empty(app->redact) && !carry->length) {
        put_pieces(s, time, is_stderr, line->text, line->length);
        return;
    }
    nd_buf_add(carry, line->text, line->length);
    held = nd_redact_text(app->redact, &s->clean, carry->data ? carry->data : "", carry->length,
                          line->cut);
    nd_buf_drop(carry, carry->length - held);
    if (s->clean.length || !line->cut)
        put_pieces(s, time, is_stderr, s->clean.data ? s->clean.data : "", s->clean.length);
}

static void sieve_end(struct sieve *s)
{
    struct nd_err cut;

    s->now = nd_clock_wall();
    nd_docker_frames_end(&s->frames, &cut);
    for (int i = 0; i < 2; i++)
        if (s->carry[i].length) {
            struct nd_docker_line rest = {.stream = i ? ND_DOCKER_STDERR : ND_DOCKER_STDOUT,
                                          .time = -1};

            on_line(s, &rest);
        }
}

static void sieve_init(struct sieve *s, struct nd_log_tap *tap, bool timestamps)
{
    s->tap = tap;
    s->frames.tty = tap->call.tty;
    s->frames.timestamps = timestamps;
    s->frames.on_line = on_line;
    s->frames.arg = s;
}

static void sieve_fini(struct sieve *s)
{
    nd_docker_frames_fini(&s->frames);
    for (int i = 0; i < 2; i++)
        nd_buf_fini(&s->carry[i]);
    nd_buf_fini(&s->clean);
}

/* --- the end ---------------------------------------------------------------------------------- */

static void free_tap(uv_handle_t *timer)
{
    struct nd_log_tap *tap = timer->data;

    sieve_fini(&tap->stream);
    sieve_fini(&tap->log);
    nd_log_lines_fini(&tap->stored);
    nd_log_lines_fini(&tap->docker_lines);
    nd_log_lines_fini(&tap->live);
    nd_log_filter_fini(&tap->filter);
    nd_log_source_free(tap->source);
    tap->call.on_done(tap->call.arg, tap->err.code[0] ? &tap->err : NULL);
    free(tap->doing);
    free((char *)(uintptr_t)tap->call.container);
    free(tap);
}

/* Ends when neither the stream nor the filling goes on. */
static void check_end(struct nd_log_tap *tap)
{
    if (tap->attach || tap->history || tap->job || tap->flushing || !tap->timer_open)
        return;
    if (tap->filling && !tap->cancelled && tap->source->app)
        return;
    tap->timer_open = false;
    if (tap->source->app)
        nd_log_app_kick(tap->source->app);
    uv_close((uv_handle_t *)&tap->timer, free_tap);
}

/* --- the stream ------------------------------------------------------------------------------- */

static void put_live(struct nd_log_tap *tap, int64_t time, bool is_stderr, const char *text,
                     size_t length)
{
    if (!tap->filling)
        nd_log_source_add(tap->source, time, is_stderr, text, length);
    else if (tap->live.text.length + length <= LIVE_MAX)
        nd_log_lines_add(&tap->live, time, is_stderr, text, length);
    else
        nd_log_source_lose(tap->source, time, is_stderr);
}

static void ask_history(struct nd_log_tap *tap);

static void on_open(void *arg)
{
    struct nd_log_tap *tap = arg;

    tap->opened = true;
    if (tap->scanned && !tap->cancelled)
        ask_history(tap);
    if (tap->call.on_open)
        tap->call.on_open(tap->call.arg);
}

static void on_data(void *arg, const char *data, size_t length)
{
    struct nd_log_tap *tap = arg;

    if (tap->err.code[0])
        return;
    tap->stream.now = nd_clock_wall();
    if (nd_docker_frames_feed(&tap->stream.frames, data, length, &tap->err) < 0)
        nd_docker_cancel(tap->attach);
    if (tap->source->app)
        nd_log_app_kick(tap->source->app);
}

static void on_ended(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_log_tap *tap = arg;

    (void)answer;
    tap->attach = NULL;
    if (err && !tap->err.code[0])
        tap->err = *err;
    sieve_end(&tap->stream);
    if (tap->scanned && !tap->opened && !tap->cancelled)
        ask_history(tap);
    check_end(tap);
}

static void open_stream(struct nd_log_tap *tap)
{
    struct nd_buf path = {0};
    struct nd_docker_call call = {.doing = tap->doing,
                                  .method = "POST",
                                  .head_timeout_ms = OPEN_TIMEOUT_MS,
                                  .on_open = on_open,
                                  .on_data = on_data,
                                  .on_done = on_ended,
                                  .arg = tap};

    nd_buf_adds(&path, "/containers/");
    nd_http_encode(&path, tap->call.container, strlen(tap->call.container), "");
    nd_buf_adds(&path, "/attach?stream=1&stdout=1&stderr=1");
    call.path = path.data;
    tap->asked_at = nd_clock_wall();
    tap->attach = nd_docker_start(tap->docker, &call);
    nd_buf_fini(&path);
}

/* --- filling: Docker's log -------------------------------------------------------------------- */

/* Puts lines that nobody has yet into the log, as many as it takes now; true when it took all. */
static bool emit(struct nd_log_tap *tap, const struct nd_log_lines *lines, size_t before)
{
    while (tap->emitted < before + lines->count) {
        const struct nd_log_entry *e = &lines->list[tap->emitted - before];

        if (tap->source->app && nd_log_app_is_full(tap->source->app))
            return false;
        if (!e->known)
            nd_log_source_add(tap->source, e->time, e->is_stderr,
                              lines->text.data ? lines->text.data + e->at : "", e->length);
        tap->emitted++;
    }
    return true;
}

static void on_emit_again(uv_timer_t *timer);

static void emit_all(struct nd_log_tap *tap)
{
    bool all = emit(tap, &tap->docker_lines, 0) && emit(tap, &tap->live, tap->docker_lines.count);

    if (tap->source->app)
        nd_log_app_kick(tap->source->app);
    if (!all && !tap->cancelled) {
        uv_timer_start(&tap->timer, on_emit_again, 5, 0);
        return;
    }
    tap->filling = false;
    nd_log_lines_fini(&tap->stored);
    nd_log_lines_fini(&tap->docker_lines);
    nd_log_lines_fini(&tap->live);
    check_end(tap);
}

static void on_emit_again(uv_timer_t *timer)
{
    emit_all(timer->data);
}

static void on_settled(uv_timer_t *timer)
{
    struct nd_log_tap *tap = timer->data;

    bool joined = nd_log_gap_join(&tap->stored, &tap->docker_lines, &tap->live, tap->asked_at);

    if (!joined && tap->docker_lines.count && tap->histories < HISTORY_MOST)
        ask_history(tap);
    else
        emit_all(tap);
}

static void put_history(struct nd_log_tap *tap, int64_t time, bool is_stderr, const char *text,
                        size_t length)
{
    if (tap->docker_lines.text.length + length <= DOCKER_MAX)
        nd_log_lines_add(&tap->docker_lines, time, is_stderr, text, length);
}

static void on_history(void *arg, const char *data, size_t length)
{
    struct nd_log_tap *tap = arg;
    struct nd_err err;

    tap->log.now = tap->since;
    if (nd_docker_frames_feed(&tap->log.frames, data, length, &err) < 0)
        nd_docker_cancel(tap->history);
}

/* Without Docker's log there is still the stream. */
static void on_history_done(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_log_tap *tap = arg;

    (void)answer;
    tap->history = NULL;
    if (err && !tap->err.code[0] && !tap->call.attach)
        tap->err = *err;
    sieve_end(&tap->log);
    if (tap->cancelled)
        check_end(tap);
    else
        uv_timer_start(&tap->timer, on_settled, SETTLE_MS, 0);
}

static void ask_history(struct nd_log_tap *tap)
{
    struct nd_buf path = {0};
    struct nd_docker_call call = {.doing = tap->doing,
                                  .head_timeout_ms = OPEN_TIMEOUT_MS,
                                  .on_data = on_history,
                                  .on_done = on_history_done,
                                  .arg = tap};

    sieve_fini(&tap->log);
    nd_log_lines_fini(&tap->docker_lines);
    tap->log = (struct sieve){.put = put_history};
    sieve_init(&tap->log, tap, true);
    tap->histories++;
    nd_buf_adds(&path, "/containers/");
    nd_http_encode(&path, tap->call.container, strlen(tap->call.container), "");
    nd_buf_addf(&path, "/logs?stdout=1&stderr=1&timestamps=1&since=%lld.%03d",
                (long long)(tap->since / 1000), (int)(tap->since % 1000));
    call.path = path.data;
    tap->history = nd_docker_start(tap->docker, &call);
    nd_buf_fini(&path);
}

/* --- filling: what is stored ------------------------------------------------------------------ */

static void on_stored(void *arg, const struct nd_log_record *record)
{
    struct nd_log_tap *tap = arg;

    if (record->kind == ND_LOG_LINE)
        nd_log_lines_add(&tap->stored, record->time, record->is_stderr, record->text,
                         record->length);
}

static void scan_work(void *arg)
{
    nd_log_scan_run(&((struct nd_log_tap *)arg)->scan);
}

static void on_scanned(void *arg, bool ran)
{
    struct nd_log_tap *tap = arg;
    struct nd_log_app *app = tap->app;

    (void)ran;
    tap->job = false;
    for (size_t i = 0; i < tap->stored.count; i++)
        if (tap->stored.list[i].time - SLACK_MS > tap->since)
            tap->since = tap->stored.list[i].time - SLACK_MS;
    free((void *)(uintptr_t)tap->scan.list);
    if (tap->cancelled || !tap->source->app) {
        tap->cancelled = true;
        check_end(tap);
    } else {
        tap->scanned = true;
        if (!tap->attach ||
            tap->opened) /* else what is printed before it is open might be missed */
            ask_history(tap);
    }
    nd_log_app_job_done(app);
}

/* All that was taken in is on disk: looks there for the container's last lines. */
static void on_flushed(void *arg)
{
    struct nd_log_tap *tap = arg;
    struct nd_log_app *app = tap->source->app;
    struct nd_log_segment *copy;
    int count;

    tap->flushing = false;
    if (!app) {
        nd_log_tap_cancel(tap);
        return;
    }
    count = app->count < SEGMENTS ? app->count : SEGMENTS;
    copy = nd_log_app_newest(app, count);
    if (count < app->count)
        tap->since = copy[0].first_time; /* of what is older it has stored all */
    tap->filter.instance = nd_strdup(tap->call.instance);
    tap->stored.bare = true;
    tap->scan = (struct nd_log_scan){.dir = app->dir,
                                     .list = copy,
                                     .count = count,
                                     .filter = &tap->filter,
                                     .upto = app->written,
                                     .tail = STORED_MAX,
                                     .most = SIZE_MAX,
                                     .each = on_stored,
                                     .arg = tap};
    tap->job = true;
    app->jobs++;
    nd_job_start(app->store->loop, scan_work, on_scanned, tap);
}

/* --- start and cancel ------------------------------------------------------------------------- */

struct nd_log_tap *nd_log_tap_start(struct nd_docker *docker, struct nd_log_app *app,
                                    const struct nd_log_tap_call *call)
{
    struct nd_log_tap *tap = nd_alloc(sizeof *tap);

    tap->call = *call;
    tap->docker = docker;
    tap->app = app;
    tap->source = nd_log_source_new(app, call->release, call->instance);
    tap->call.container = nd_strdup(call->container);
    tap->call.instance = tap->source->instance;
    tap->doing = nd_printf("read what container %s prints", call->container);
    tap->filling = call->fill;
    sieve_init(&tap->stream, tap, false);
    tap->stream.put = put_live;
    uv_timer_init(&app->store->loop->uv, &tap->timer);
    tap->timer.data = tap;
    tap->timer_open = true;
    if (call->attach)
        open_stream(tap);
    if (call->fill) {
        tap->flush.done = on_flushed;
        tap->flush.arg = tap;
        tap->flushing = true;
        nd_log_app_flush(app, &tap->flush);
    }
    return tap;
}

void nd_log_tap_cancel(struct nd_log_tap *tap)
{
    if (tap->cancelled)
        return;
    tap->cancelled = true;
    if (tap->flushing)
        nd_list_remove(&tap->flush.link);
    tap->flushing = false;
    if (tap->timer_open)
        uv_timer_stop(&tap->timer);
    if (tap->attach)
        nd_docker_cancel(tap->attach);
    if (tap->history)
        nd_docker_cancel(tap->history);
    if (!tap->err.code[0])
        nd_err_set(&tap->err, "cancelled", NULL, "can't %s: it was cancelled", tap->doing);
    check_end(tap);
}
