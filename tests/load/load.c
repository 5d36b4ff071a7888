/*
 * load.c - nd-load: clients of five kinds against one app, counting every request that fails.
 *
 *   nd-load --url http://127.0.0.1:80/ --host app.test --get 8 --post 4 --new 4 --ws 5 --slow 5
 *           --seconds 20
 *
 * Keep-alive GET and POST (bodies echoed and compared), GET on new connections, requests that take
 * seconds, WebSockets that reopen and count their cuts. One epoll loop; always bounded in time.
 * SIGINT or SIGTERM ends the run, a second one at once. Exit status: 0 no request failed, 1 some
 * did (or none was answered), 2 usage.
 */
#include <arpa/inet.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "client.h"

static const char usage_text[] =
    "usage: nd-load --url http://ADDRESS[:PORT][/PATH] [--host NAME]\n"
    "               [--get N] [--post N] [--new N] [--slow N] [--ws N]   clients of each kind\n"
    "               [--seconds N] [--requests N]   ends with the first reached; default 10 s\n"
    "               [--rate R]          requests a second, of get, post and new together\n"
    "               [--timeout MS]      of a request, default 10000\n"
    "               [--slow-ms MS]      default 3000       [--body BYTES]   of a POST, default "
    "1024\n"
    "               [--post-path P] [--slow-path P] [--ws-path P]   default /echo, /slow, /ws\n"
    "               [--header 'NAME: VALUE']   with every request\n"
    "               [--no-check]        don't compare a GET's body with its X-Version\n"
    "               [--json] [--progress]\n";

static int usage(const char *what, const char *value)
{
    if (what != NULL)
        fprintf(stderr, "nd-load: %s%s\n", what, value != NULL ? value : "");
    fputs(usage_text, stderr);
    return 2;
}

/* "http://127.0.0.1:80/path"; addresses only, so that no resolver takes part in the measurement. */
static bool parse_url(struct load *l, const char *url)
{
    char address[64];
    int port = 80, used = 0;

    if (sscanf(url, "http://%63[0-9.]%n:%d%n", address, &used, &port, &used) < 1 || used == 0 ||
        port < 1 || port > 65535)
        return false;
    if (url[used] != '\0' && url[used] != '/')
        return false;
    l->address.sin_family = AF_INET;
    l->address.sin_port = htons((uint16_t)port);
    snprintf(l->path, sizeof l->path, "%s", url[used] == '/' ? url + used : "/");
    if (l->host[0] == '\0')
        snprintf(l->host, sizeof l->host, "%s:%d", address, port);
    return inet_pton(AF_INET, address, &l->address.sin_addr) == 1;
}

enum {
    OPT_URL = 1000,
    OPT_HOST,
    OPT_SECONDS,
    OPT_REQUESTS,
    OPT_RATE,
    OPT_TIMEOUT,
    OPT_SLOW_MS,
    OPT_BODY,
    OPT_POST_PATH,
    OPT_SLOW_PATH,
    OPT_WS_PATH,
    OPT_HEADER,
    OPT_NO_CHECK,
    OPT_JSON,
    OPT_PROGRESS,
    OPT_HELP,
};

struct settings {
    const char *url;
    bool json, progress, no_check;
};

static const struct option options[] = {
#define X(name, text) {#name, required_argument, NULL, KIND_##name},
    LOAD_KINDS(X)
#undef X
        {"url", required_argument, NULL, OPT_URL},
    {"host", required_argument, NULL, OPT_HOST},
    {"seconds", required_argument, NULL, OPT_SECONDS},
    {"requests", required_argument, NULL, OPT_REQUESTS},
    {"rate", required_argument, NULL, OPT_RATE},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"slow-ms", required_argument, NULL, OPT_SLOW_MS},
    {"body", required_argument, NULL, OPT_BODY},
    {"post-path", required_argument, NULL, OPT_POST_PATH},
    {"slow-path", required_argument, NULL, OPT_SLOW_PATH},
    {"ws-path", required_argument, NULL, OPT_WS_PATH},
    {"header", required_argument, NULL, OPT_HEADER},
    {"no-check", no_argument, NULL, OPT_NO_CHECK},
    {"json", no_argument, NULL, OPT_JSON},
    {"progress", no_argument, NULL, OPT_PROGRESS},
    {"help", no_argument, NULL, OPT_HELP},
    {0}};

/* Where a text or a number given for `option` goes. */
static bool apply(struct load *l, struct settings *s, int option, const char *value)
{
    long *number = option == OPT_SECONDS    ? &l->seconds
                   : option == OPT_REQUESTS ? &l->requests
                   : option == OPT_RATE     ? &l->rate
                   : option == OPT_TIMEOUT  ? &l->timeout_ms
                   : option == OPT_SLOW_MS  ? &l->slow_ms
                   : option == OPT_BODY     ? &l->body_bytes
                                            : NULL;
    char *text = option == OPT_HOST        ? l->host
                 : option == OPT_POST_PATH ? l->post_path
                 : option == OPT_SLOW_PATH ? l->slow_path
                 : option == OPT_WS_PATH   ? l->ws_path
                                           : NULL;
    char *end = NULL;
    long n = value != NULL ? strtol(value, &end, 10) : 0;

    if (option < KINDS) {
        l->counts[option] = (int)n;
        return *end == '\0' && n >= 0 && n <= CLIENTS_MOST;
    }
    if (number != NULL) {
        *number = n;
        return *end == '\0' && n >= 0 && n < 1000000000 && end != value;
    }
    if (option == OPT_HEADER) {
        int length = snprintf(l->header, sizeof l->header, "%s\r\n", value);

        return strpbrk(value, "\r\n") == NULL && strchr(value, ':') &&
               length < (int)sizeof l->header;
    }
    if (text != NULL) {
        snprintf(text, 256, "%s", value);
        return strpbrk(value, " \r\n") == NULL && strlen(value) < 256;
    }
    if (option == OPT_URL)
        s->url = value;
    s->json |= option == OPT_JSON;
    s->progress |= option == OPT_PROGRESS;
    s->no_check |= option == OPT_NO_CHECK;
    return true;
}

static int configure(struct load *l, struct settings *s, int argc, char **argv)
{
    int option;

    l->timeout_ms = 10000;
    l->slow_ms = 3000;
    l->body_bytes = 1024;
    strcpy(l->post_path, "/echo");
    strcpy(l->ws_path, "/ws");
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == OPT_HELP || option == '?')
            return usage(NULL, NULL);
        if (!apply(l, s, option, optarg))
            return usage("not a value for an option: ", optarg);
    }
    if (optind < argc)
        return usage("unexpected argument: ", argv[optind]);
    if (s->url == NULL || !parse_url(l, s->url))
        return usage("--url takes http://ADDRESS[:PORT][/PATH], not ", s->url ? s->url : "nothing");
    for (int k = 0; k < KINDS; k++)
        l->clients_count += l->counts[k];
    if (l->clients_count == 0 || l->clients_count > CLIENTS_MOST)
        return usage("ask for 1 to 4096 clients: --get 8, say", NULL);
    if (l->slow_path[0] == '\0')
        snprintf(l->slow_path, sizeof l->slow_path, "/slow?ms=%ld", l->slow_ms);
    if (l->seconds == 0)
        l->seconds = l->requests > 0 ? SECONDS_MOST : 10;
    if (l->seconds > SECONDS_MOST)
        return usage("--seconds is at most 7200", NULL);
    if (l->body_bytes > 1024 * 1024)
        return usage("--body is at most 1048576", NULL);
    l->check_body = !s->no_check && strcmp(l->path, "/") == 0;
    return 0;
}

static void make_clients(struct load *l)
{
    uint64_t now = now_ns();
    int number = 0;

    l->clients = calloc((size_t)l->clients_count, sizeof *l->clients);
    if (l->clients == NULL)
        abort();
    for (int kind = 0; kind < KINDS; kind++) {
        for (int i = 0; i < l->counts[kind]; i++, number++) {
            struct client *c = &l->clients[number];

            c->load = l;
            c->number = number;
            c->kind = (enum kind)kind;
            c->fd = -1;
            /* Slow ones and paced ones begin spread out; the others at once. */
            l->wake[number] = now;
            if (kind == KIND_slow)
                l->wake[number] +=
                    (uint64_t)l->slow_ms * 1000000 / (uint64_t)l->counts[kind] * (uint64_t)i;
            else if (l->rate > 0 && kind != KIND_ws)
                l->wake[number] += 1000000000ull / (uint64_t)l->rate * (uint64_t)number;
            if (l->rate > 0)
                c->next = l->wake[number];
        }
    }
}

static uint64_t wake_all(struct load *l, uint64_t now)
{
    uint64_t earliest = UINT64_MAX;

    for (int i = 0; i < l->clients_count; i++) {
        if (l->wake[i] == 0)
            continue;
        if (l->wake[i] <= now)
            client_due(&l->clients[i]);
        if (l->wake[i] != 0 && l->wake[i] < earliest)
            earliest = l->wake[i];
    }
    return earliest;
}

static void finish(struct load *l)
{
    l->finishing = true;
    stats_end(&l->stats);
    for (int i = 0; i < l->clients_count; i++)
        client_finish(&l->clients[i]);
}

static void show_second(const struct load *l)
{
    const struct second *row = &l->stats.seconds[l->stats.seconds_count - 1];

    fprintf(stderr, "%4zu s  %u ok, %u failed, p99 %.2f ms, %llu websockets cut\n",
            l->stats.seconds_count, row->ok, row->failed, (double)row->p99 / 1000,
            (unsigned long long)l->stats.cuts_count);
}

static void run(struct load *l, int signals, bool progress)
{
    struct epoll_event events[512];
    uint64_t start = now_ns();
    uint64_t second = start + 1000000000ull;
    uint64_t end = start + (uint64_t)l->seconds * 1000000000ull;
    uint64_t patience = (uint64_t)(l->slow_ms + 2000) * 1000000ull;

    for (;;) {
        uint64_t now = now_ns();
        uint64_t due = wake_all(l, now);
        int wait;
        int n;

        if (!l->finishing && (now >= end || (l->requests > 0 && l->issued >= l->requests))) {
            finish(l);
            end = now + patience;
        }
        if (l->finishing && (l->busy == 0 || now >= end))
            break;
        if (now >= second) {
            stats_second(&l->stats);
            if (progress && l->stats.seconds_count < SECONDS_MOST)
                show_second(l);
            second += 1000000000ull;
        }
        due = due < second ? due : second;
        due = due < end ? due : end;
        wait = due <= now ? 0 : (int)((due - now) / 1000000);
        n = epoll_wait(l->epoll, events, 512, wait);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr != NULL) {
                client_event(events[i].data.ptr, events[i].events);
                continue;
            }
            struct signalfd_siginfo info;

            if (read(signals, &info, sizeof info) == (ssize_t)sizeof info) {
                if (l->finishing)
                    return;
                finish(l);
                end = now_ns() + patience;
            }
        }
    }
}

int main(int argc, char **argv)
{
    static struct load l;
    struct settings s = {0};
    struct epoll_event event = {.events = EPOLLIN};
    struct rlimit files;
    sigset_t set;
    uint64_t ok = 0;
    int signals;
    int status = configure(&l, &s, argc, argv);

    if (status != 0)
        return status;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    l.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (signals < 0 || l.epoll < 0 || epoll_ctl(l.epoll, EPOLL_CTL_ADD, signals, &event) < 0) {
        perror("nd-load");
        return 1;
    }
    make_clients(&l);
    l.stats.started = wall_ms();
    run(&l, signals, s.progress);
    l.stats.ended = wall_ms();
    if (l.stats.second_ok + l.stats.second_failed > 0)
        stats_second(&l.stats);
    for (int i = 0; i < l.clients_count; i++)
        client_free(&l.clients[i]);
    free(l.clients);
    close(l.epoll);
    close(signals);
    if (s.json)
        report_json(&l.stats, stdout);
    else
        report_text(&l.stats, stdout);
    for (int k = 0; k < KINDS; k++)
        ok += l.stats.ok[k];
    return stats_total_failed(&l.stats) == 0 && ok > 0 ? 0 : 1;
}
