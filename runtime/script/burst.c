#include "script/burst.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id /* glibc before 2.38 has only the field */
#define sigev_notify_thread_id _sigev_un._tid
#endif

#ifdef ND_SANITIZE
#define SCALE 5 /* what sanitizers slow down by */
#else
#define SCALE 1
#endif

enum {
    TICK_MS = 10 * SCALE,
    TOLD_TICKS = 2,
    MOST_TICKS = 100,
    SIGNAL = SIGVTALRM,
};

bool nd_burst_is_late(const struct nd_burst *burst)
{
    return burst->ticks - burst->begun > MOST_TICKS;
}

/* On the loop's own thread. lua_sethook may be called from a signal handler. */
static void on_tick(int number, siginfo_t *info, void *context)
{
    struct nd_burst *burst = info->si_value.sival_ptr;

    (void)number, (void)context;
    if (info->si_code != SI_TIMER)
        return;
    burst->ticks++;
    if (burst->running && nd_burst_is_late(burst))
        lua_sethook(burst->running, burst->end, LUA_MASKCOUNT, 1);
}

void nd_burst_init(struct nd_burst *burst, lua_Hook end)
{
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGNAL};
    struct timespec tick = {.tv_nsec = TICK_MS * 1000000};
    struct itimerspec every = {.it_interval = tick, .it_value = tick};
    clockid_t clock;

    memset(burst, 0, sizeof *burst);
    burst->end = end;
    event.sigev_value.sival_ptr = burst;
    event.sigev_notify_thread_id = gettid();
    sigaction(SIGNAL, &action, NULL);
    if (pthread_getcpuclockid(pthread_self(), &clock) == 0 &&
        timer_create(clock, &event, &burst->timer) == 0) {
        burst->ticking = true;
        timer_settime(burst->timer, 0, &every, NULL);
    }
}

void nd_burst_fini(struct nd_burst *burst)
{
    if (burst->ticking)
        timer_delete(burst->timer);
    burst->ticking = false;
}

void nd_burst_begin(struct nd_burst *burst, lua_State *co)
{
    burst->begun = burst->ticks;
    burst->running = co;
}

int nd_burst_end(struct nd_burst *burst)
{
    int ticks;

    burst->running = NULL;
    ticks = burst->ticks - burst->begun;
    return ticks > TOLD_TICKS ? (ticks - 1) * TICK_MS : 0;
}

int nd_burst_most(void)
{
    return MOST_TICKS * TICK_MS;
}
