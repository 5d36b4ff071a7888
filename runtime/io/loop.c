#include "io/loop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { LAG_EVERY_MS = 200 };

const double nd_lag_bounds[ND_LAG_BUCKETS] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
                                              0.1,   0.2,   0.5,   1,    2,    5};

static void count_lag(struct nd_loop_lag *lag, double seconds)
{
    int i = 0;

    while (i < ND_LAG_BUCKETS && seconds > nd_lag_bounds[i])
        i++;
    lag->counts[i]++;
    lag->count++;
    lag->sum += seconds;
}

static void on_lag_timer(uv_timer_t *timer)
{
    struct nd_loop *loop = timer->data;
    uint64_t now = nd_clock_nanos();

    loop->lag_last = now > loop->lag_due ? now - loop->lag_due : 0;
    if (loop->lag_last > loop->lag_most)
        loop->lag_most = loop->lag_last;
    count_lag(&loop->lag, (double)loop->lag_last / 1e9);
    loop->lag_due = now + (uint64_t)LAG_EVERY_MS * 1000000;
    uv_timer_start(timer, on_lag_timer, LAG_EVERY_MS, 0);
}

int nd_loop_init(struct nd_loop *loop, struct nd_err *err)
{
    int rc = uv_loop_init(&loop->uv);

    if (rc < 0)
        return nd_loop_err(err, rc, "loop_failed", NULL, "can't start the event loop");
    loop->uv.data = loop;
    loop->handover = NULL;
    uv_timer_init(&loop->uv, &loop->lag_timer);
    loop->lag_timer.data = loop;
    loop->lag_due = nd_clock_nanos() + (uint64_t)LAG_EVERY_MS * 1000000;
    loop->lag_most = loop->lag_last = 0;
    memset(&loop->lag, 0, sizeof loop->lag);
    uv_timer_start(&loop->lag_timer, on_lag_timer, LAG_EVERY_MS, 0);
    uv_unref((uv_handle_t *)&loop->lag_timer);
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

void nd_loop_fini(struct nd_loop *loop)
{
    uv_close((uv_handle_t *)&loop->lag_timer, NULL);
    while (uv_run(&loop->uv, UV_RUN_NOWAIT) != 0 && uv_loop_alive(&loop->uv))
        uv_run(&loop->uv, UV_RUN_ONCE);
    if (uv_loop_close(&loop->uv) < 0) {
        fputs("nextdeploy: handles left open at the end of the loop:\n", stderr);
        uv_print_all_handles(&loop->uv, stderr);
        abort();
    }
}

int nd_loop_run(struct nd_loop *loop)
{
    return uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void nd_loop_stop(struct nd_loop *loop)
{
    uv_stop(&loop->uv);
}

double nd_loop_lag(struct nd_loop *loop)
{
    double most = (double)loop->lag_most / 1e6;

    loop->lag_most = 0;
    return most;
}

int nd_loop_err(struct nd_err *err, int uv_code, const char *code, const char *hint,
                const char *doing)
{
    return nd_err_set(err, code, hint, "%s: %s", doing, uv_strerror(uv_code));
}
