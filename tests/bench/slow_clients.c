/*
 * slow_clients.c - nd-bench-slow: clients that hold a server's connections and give it little.
 *
 *   nd-bench-slow --at 127.0.0.1:8371 --clients 1000 --seconds 120
 *
 * A third each: a head that comes a byte a second, a body that does, and connections that are
 * silent. One that is thrown out comes again. The clients come from 127.1.0.x, a hundred from each
 * address. Prints JSON: `connected`, the least number at any second after the first three;
 * `opened`, all connections; `refused`, those that weren't taken.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS_MOST = 4096, PER_ADDRESS = 100, TURN_MS = 100, TURNS = 10, WARM_UP_S = 3 };

enum habit { HEAD, BODY, SILENT, HABITS };

struct client {
    int fd;      /* -1: none */
    size_t sent; /* bytes of its text */
};

struct crowd {
    struct sockaddr_in server;
    struct client clients[CLIENTS_MOST];
    struct pollfd polled[CLIENTS_MOST];
    int count;
    long opened, refused;
};

/* What each habit sends: at once up to `slowly`, and then a byte at a time, for ever. */
static const struct {
    const char *text;
    size_t slowly;
} scripts[HABITS] = {
    [HEAD] = {"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", 4},
    [BODY] = {"POST /stop HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000\r\n\r\n", 63},
    [SILENT] = {"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 44},
};

static enum habit habit_of(int number)
{
    return (enum habit)(number % HABITS);
}

static void open_one(struct crowd *crowd, int number)
{
    struct client *c = &crowd->clients[number];
    struct sockaddr_in from = {.sin_family = AF_INET};
    int on = 1;

    c->sent = 0;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        crowd->refused++;
        return;
    }
    from.sin_addr.s_addr = htonl(0x7f010001u + (uint32_t)(number / PER_ADDRESS));
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    crowd->opened++;
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from) < 0 ||
        (connect(c->fd, (struct sockaddr *)&crowd->server, sizeof crowd->server) < 0 &&
         errno != EINPROGRESS)) {
        crowd->refused++;
        close(c->fd);
        c->fd = -1;
    }
}

static void send_some(struct client *c, enum habit habit)
{
    const char *text = scripts[habit].text;
    size_t length = strlen(text), slowly = scripts[habit].slowly;
    ssize_t n = 0;

    if (c->sent < slowly && c->sent < length)
        n = send(c->fd, text + c->sent, (slowly < length ? slowly : length) - c->sent,
                 MSG_NOSIGNAL);
    else if (habit != SILENT)
        n = send(c->fd, c->sent < length ? text + c->sent : "x", 1, MSG_NOSIGNAL);
    if (n > 0)
        c->sent += (size_t)n;
}

/* Reads what came; a client whose connection is at its end comes again. */
static void look(struct crowd *crowd, int number)
{
    struct client *c = &crowd->clients[number];
    char answer[4096];
    ssize_t n = 1;

    while (c->fd >= 0 && n > 0)
        n = recv(c->fd, answer, sizeof answer, 0);
    if (n > 0 || (n < 0 && errno == EAGAIN))
        return;
    if (n < 0 && errno == ECONNREFUSED)
        crowd->refused++;
    close(c->fd);
    open_one(crowd, number);
}

static int connected(const struct crowd *crowd)
{
    int count = 0;

    for (int i = 0; i < crowd->count; i++)
        count += crowd->clients[i].fd >= 0;
    return count;
}

/* A tenth of the clients has its turn every 100 ms. */
static void take_turns(struct crowd *crowd, int turn)
{
    for (int i = turn % TURNS; i < crowd->count; i += TURNS) {
        if (crowd->clients[i].fd < 0)
            open_one(crowd, i);
        else
            send_some(&crowd->clients[i], habit_of(i));
    }
}

static void watch(struct crowd *crowd, int64_t until)
{
    for (;;) {
        struct timespec t;
        int64_t left;

        clock_gettime(CLOCK_MONOTONIC, &t);
        left = until - ((int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000);
        if (left <= 0)
            return;
        for (int i = 0; i < crowd->count; i++)
            crowd->polled[i] = (struct pollfd){crowd->clients[i].fd, POLLIN, 0};
        if (poll(crowd->polled, (nfds_t)crowd->count, (int)left) <= 0)
            continue;
        for (int i = 0; i < crowd->count; i++)
            if (crowd->polled[i].revents)
                look(crowd, i);
    }
}

static bool parse(struct crowd *crowd, int *seconds, int argc, char **argv)
{
    char address[64] = "";
    int port = 0;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--at") == 0)
            sscanf(argv[i + 1], "%63[0-9.]:%d", address, &port);
        else if (strcmp(argv[i], "--clients") == 0)
            crowd->count = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--seconds") == 0)
            *seconds = atoi(argv[i + 1]);
    }
    crowd->server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    return inet_pton(AF_INET, address, &crowd->server.sin_addr) == 1 && *seconds > 0 &&
           crowd->count > 0 && crowd->count <= CLIENTS_MOST;
}

int main(int argc, char **argv)
{
    static struct crowd crowd;
    int seconds = 0, least;
    struct timespec t;
    int64_t next;

    if (!parse(&crowd, &seconds, argc, argv)) {
        fputs("usage: nd-bench-slow --at ADDRESS:PORT --clients N --seconds N\n", stderr);
        return 2;
    }
    least = crowd.count;
    for (int i = 0; i < crowd.count; i++)
        open_one(&crowd, i);
    clock_gettime(CLOCK_MONOTONIC, &t);
    next = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
    for (int turn = 0; turn < seconds * TURNS; turn++) {
        take_turns(&crowd, turn);
        if (turn >= WARM_UP_S * TURNS && turn % TURNS == 0 && connected(&crowd) < least)
            least = connected(&crowd);
        next += TURN_MS;
        watch(&crowd, next);
    }
    printf("{\"connected\": %d, \"opened\": %ld, \"refused\": %ld}\n", least, crowd.opened,
           crowd.refused);
    return 0;
}
