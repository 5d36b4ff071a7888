/*
 * sample.c - nd-sample, the app that the tests, the benchmarks and the quickstart deploy.
 *
 * One static program that is a whole image: an HTTP/1.1 and WebSocket server on one epoll loop,
 * whose every vice is chosen by its environment (sample.h): late, unhealthy, crashing, hungry,
 * deaf to SIGTERM, slow to close. request.c has the paths. On SIGTERM it stops accepting, finishes
 * requests in flight, closes idle connections, sends 1001 to WebSockets, and exits 0.
 *
 * With an argument it is a tool instead (tools.c).
 */
#include "sample.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int64_t monotonic(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void heap_put(struct sample *app, size_t i, struct conn *c)
{
    app->heap[i] = c;
    c->heap_index = i + 1;
}

/* Moves the one at `i` to where it belongs. */
static void heap_settle(struct sample *app, size_t i)
{
    struct conn *c = app->heap[i];

    while (i > 0 && app->heap[(i - 1) / 2]->due > c->due) {
        heap_put(app, i, app->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * i + 1;

        if (child + 1 < app->heap_count && app->heap[child + 1]->due < app->heap[child]->due)
            child++;
        if (child >= app->heap_count || app->heap[child]->due >= c->due)
            break;
        heap_put(app, i, app->heap[child]);
        i = child;
    }
    heap_put(app, i, c);
}

void timer_set(struct conn *c, int64_t due)
{
    struct sample *app = c->app;

    c->due = due;
    if (c->heap_index == 0) {
        if (app->heap_count == app->heap_size) {
            app->heap_size = app->heap_size ? 2 * app->heap_size : 256;
            app->heap = realloc(app->heap, app->heap_size * sizeof *app->heap);
            if (app->heap == NULL)
                abort();
        }
        app->heap_count++;
        heap_put(app, app->heap_count - 1, c);
    }
    heap_settle(app, c->heap_index - 1);
}

void timer_clear(struct conn *c)
{
    struct sample *app = c->app;
    size_t i = c->heap_index - 1;

    if (c->heap_index == 0)
        return;
    c->heap_index = 0;
    app->heap_count--;
    if (i < app->heap_count) {
        heap_put(app, i, app->heap[app->heap_count]);
        heap_settle(app, i);
    }
}

static long number_from(const char *name, long value)
{
    const char *text = getenv(name);
    char *end;
    long n;

    if (text == NULL || *text == '\0')
        return value;
    n = strtol(text, &end, 10);
    if (*end == '\0')
        return n;
    fprintf(stderr, "nd-sample: %s is %s, expected a number\n", name, text);
    exit(2);
}

static void configure(struct sample *app)
{
#define X(name, field, value) app->field = number_from(#name, value);
    SAMPLE_NUMBERS(X)
#undef X
    app->version = getenv("VERSION") != NULL ? getenv("VERSION") : "none";
    app->listen = getenv("LISTEN") != NULL ? getenv("LISTEN") : "0.0.0.0";
}

/* What the environment asks for before the server listens. */
static void misbehave(struct sample *app)
{
    struct timespec delay = {app->start_delay_ms / 1000, app->start_delay_ms % 1000 * 1000000};

    for (long i = 1; i <= app->log_lines; i++)
        printf("line %ld of %ld from version %s\n", i, app->log_lines, app->version);
    fflush(stdout);
    for (long i = 0; i < app->alloc_mb; i++) {
        char *memory = malloc(1024 * 1024);

        if (memory == NULL)
            break;
        memset(memory, (int)i + 1, 1024 * 1024);
        __asm__ __volatile__("" : : "r"(memory) : "memory");
    }
    if (app->crash) {
        fprintf(stderr, "nd-sample: crashing at the start, as CRASH asks, with exit code %ld\n",
                app->exit_code);
        exit((int)app->exit_code);
    }
    if (app->start_delay_ms > 0)
        nanosleep(&delay, NULL);
}

static int listen_on(struct sample *app)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)app->port)};
    int on = 1;

    app->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (inet_pton(AF_INET, app->listen, &address.sin_addr) != 1) {
        fprintf(stderr, "nd-sample: LISTEN is %s, expected an IPv4 address\n", app->listen);
        return -1;
    }
    setsockopt(app->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(app->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(app->listener, 4096) < 0) {
        fprintf(stderr, "nd-sample: can't listen on %s:%ld: %s\n", app->listen, app->port,
                strerror(errno));
        return -1;
    }
    return 0;
}

static void stop(struct sample *app)
{
    if (app->stopping)
        return;
    printf("nd-sample: version %s stops, %zu connections open\n", app->version, app->connections);
    fflush(stdout);
    conn_accept_all(app); /* who is in the backlog has connected already */
    app->stopping = true;
    close(app->listener);
    app->listener = -1;
    for (struct conn *c = app->first, *next; c != NULL; c = next) {
        next = c->next;
        conn_stop(c);
    }
}

static void on_signal(struct sample *app, int fd)
{
    struct signalfd_siginfo info;

    while (read(fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (app->ignore_term) {
            printf("nd-sample: ignoring SIGTERM\n");
            fflush(stdout);
        } else {
            stop(app);
        }
    }
}

/* Until the next deadline: milliseconds for epoll_wait. */
static int patience(struct sample *app)
{
    int64_t due = INT64_MAX;

    if (app->heap_count > 0)
        due = app->heap[0]->due;
    if (app->exit_after_ms > 0 && app->started + app->exit_after_ms < due)
        due = app->started + app->exit_after_ms;
    if (due == INT64_MAX)
        return -1;
    due -= monotonic();
    return due < 0 ? 0 : due > 60000 ? 60000 : (int)due;
}

static int serve(struct sample *app, int signals)
{
    struct epoll_event events[256];

    while (!app->stopping || app->connections > 0) {
        int n = epoll_wait(app->epoll, events, 256, patience(app));

        app->now = monotonic();
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &app->listener) {
                if (!app->stopping)
                    conn_accept_all(app);
            } else if (events[i].data.ptr != NULL) {
                conn_event(events[i].data.ptr, events[i].events);
            }
        }
        /* After the connections, since it may free some that this batch names. */
        for (int i = 0; i < n; i++)
            if (events[i].data.ptr == NULL)
                on_signal(app, signals);
        while (app->heap_count > 0 && app->heap[0]->due <= app->now)
            conn_due(app->heap[0]);
        if (app->exit_after_ms > 0 && app->now >= app->started + app->exit_after_ms) {
            fprintf(stderr, "nd-sample: ending after %ld ms, as EXIT_AFTER_MS asks\n",
                    app->exit_after_ms);
            return (int)app->exit_code;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct sample app = {.listener = -1};
    struct epoll_event event = {.events = EPOLLIN};
    struct rlimit files;
    sigset_t set;
    int signals;

    if (argc > 1)
        return tool_main(argc, argv);
    configure(&app);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    app.started = app.now = monotonic();
    misbehave(&app);
    signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    app.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (signals < 0 || app.epoll < 0 || listen_on(&app) < 0)
        return 1;
    event.data.ptr = NULL;
    epoll_ctl(app.epoll, EPOLL_CTL_ADD, signals, &event);
    event.data.ptr = &app.listener;
    epoll_ctl(app.epoll, EPOLL_CTL_ADD, app.listener, &event);
    printf("nd-sample: version %s listens on %s:%ld\n", app.version, app.listen, app.port);
    fflush(stdout);
    return serve(&app, signals);
}
