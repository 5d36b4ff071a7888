#include "script/timer.h"

#include "base/clock.h"

static void rearm(struct nd_timers *timers);

static void on_handle(uv_timer_t *handle)
{
    struct nd_timers *timers = handle->data;
    int64_t now = nd_clock_monotonic();

    while (!nd_list_empty(&timers->list)) {
        struct nd_timer *first = ND_CONTAINER(timers->list.next, struct nd_timer, link);

        if (first->due > now)
            break;
        nd_list_remove(&first->link);
        first->fire(first);
    }
    rearm(timers);
}

static void rearm(struct nd_timers *timers)
{
    int64_t wait;

    if (nd_list_empty(&timers->list)) {
        uv_timer_stop(&timers->handle);
        return;
    }
    wait = ND_CONTAINER(timers->list.next, struct nd_timer, link)->due - nd_clock_monotonic();
    uv_update_time(timers->handle.loop);
    uv_timer_start(&timers->handle, on_handle, wait > 0 ? (uint64_t)wait : 0, 0);
}

void nd_timers_init(struct nd_timers *timers, uv_loop_t *loop)
{
    nd_list_init(&timers->list);
    uv_timer_init(loop, &timers->handle);
    timers->handle.data = timers;
}

void nd_timer_init(struct nd_timer *timer, void (*fire)(struct nd_timer *timer))
{
    nd_list_init(&timer->link);
    timer->fire = fire;
}

void nd_timer_start(struct nd_timers *timers, struct nd_timer *timer, int64_t ms)
{
    struct nd_list *at = timers->list.prev;

    nd_list_remove(&timer->link);
    timer->due = nd_clock_monotonic() + (ms > 0 ? ms : 0);
    for (at = timers->list.prev; at != &timers->list; at = at->prev)
        if (ND_CONTAINER(at, struct nd_timer, link)->due <= timer->due)
            break;
    nd_list_append(at->next, &timer->link); /* before at->next, that is after `at` */
    if (timers->list.next == &timer->link)
        rearm(timers);
}

void nd_timer_stop(struct nd_timer *timer)
{
    nd_list_remove(&timer->link); /* the handle may fire once for nothing */
}
