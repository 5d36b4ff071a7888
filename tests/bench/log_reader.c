/*
 * log_reader.c - nd-bench-logs: reads a log as fast as it comes, and counts.
 *
 *   nd-bench-logs attach SOCKET CONTAINER LINES   the Engine's raw attach stream
 *   nd-bench-logs follow SOCKET QUERY LINES [N]   /ws/logs?QUERY, by N connections at once (1)
 *   nd-bench-logs stall SOCKET QUERY LINES [N]    the same, reading hardly anything until stdin has
 * a line: once in 10 s, since the daemon cuts those who take nothing for 30 s nd-bench-logs probe
 * SOCKET                    GET /healthz every 20 ms until stdin ends nd-bench-logs peer SOCKET the
 * process id of who serves it
 *
 * "ready" is printed when all are connected. LINES are to come on each connection, those that it is
 * told to have missed included; then one line of JSON: lines and dropped of all connections,
 * seconds from the first byte to the last line of the slowest, and p50, p99 and max of the lines'
 * ages in ms, where they begin with a time (nd-sample's /print). A connection that is silent for 20
 * s ends.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 256 * 1024,
    SILENCE_MS = 20000,
    PROBE_MS = 20,
    STALL_MS = 10000,
    AGES = 4 * 1024 * 1024
};

struct reader {
    int fd;
    bool frames; /* Docker's, not a WebSocket's */
    char *data;  /* what came and was not looked at */
    size_t length;
    uint64_t lines, dropped;
    int64_t first, last; /* ns */
};

static float *ages; /* ms */
static size_t age_count;

static int64_t nanos(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "nd-bench-logs: %s: %s\n", what, errno ? strerror(errno) : "unexpected");
    exit(1);
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail(path);
    return fd;
}

/* Reads up to the end of the head and checks its status. */
static void read_head(int fd, const char *status)
{
    char head[4096];
    size_t length = 0;

    while (length < 4 || memcmp(head + length - 4, "\r\n\r\n", 4) != 0) {
        if (length == sizeof head || read(fd, head + length, 1) != 1)
            fail("no answer");
        length++;
    }
    if (memcmp(head + 9, status, 3) != 0) {
        errno = 0;
        fprintf(stderr, "%.*s", (int)length, head);
        fail("refused");
    }
}

static void add_age(int64_t printed)
{
    if (printed > 0 && age_count < AGES)
        ages[age_count++] = (float)(nanos() - printed) / 1e6f;
}

/* --- what comes ------------------------------------------------------------------------------- */

/* Counts lines in whole Docker frames; returns how many bytes it took. */
static size_t take_frames(struct reader *r)
{
    size_t at = 0;

    while (r->length - at >= 8) {
        const unsigned char *h = (const unsigned char *)r->data + at;
        size_t n = (size_t)h[4] << 24 | (size_t)h[5] << 16 | (size_t)h[6] << 8 | h[7];
        const char *text = (const char *)h + 8;

        if (r->length - at - 8 < n)
            break;
        for (const char *p = text; (p = memchr(p, '\n', n - (size_t)(p - text))); p++)
            r->lines++;
        at += 8 + n;
    }
    return at;
}

static void take_text(struct reader *r, const char *text, size_t length)
{
    const char *end = text + length, *at = text;

    if (length > 11 && memcmp(text, "{\"dropped\":", 11) == 0) {
        r->dropped += strtoull(text + 11, NULL, 10);
        return;
    }
    while ((at = memmem(at, (size_t)(end - at), "\"line\":\"", 8))) {
        at += 8;
        if (r->lines++ % 16 == 0 || length < 1000)
            add_age(strtoll(at, NULL, 10));
    }
    for (at = text; (at = memmem(at, (size_t)(end - at), ",\"dropped\":", 11)); at += 11)
        r->dropped += strtoull(at + 11, NULL, 10);
}

static size_t take_messages(struct reader *r)
{
    static const unsigned char pong[] = {0x8a, 0x80, 0, 0, 0, 0};
    size_t at = 0;

    while (r->length - at >= 2) {
        const unsigned char *h = (const unsigned char *)r->data + at;
        size_t n = h[1] & 127, head = n == 127 ? 10 : n == 126 ? 4 : 2;

        if (r->length - at < head)
            break;
        if (n >= 126) {
            n = 0;
            for (size_t i = 2; i < head; i++)
                n = n << 8 | h[i];
        }
        if (r->length - at - head < n)
            break;
        if ((h[0] & 15) == 1)
            take_text(r, (const char *)h + head, n);
        else if ((h[0] & 15) == 9 && write(r->fd, pong, sizeof pong) < 0)
            fail("pong");
        at += head + n;
    }
    return at;
}

/* false: the connection has ended. */
static bool take(struct reader *r)
{
    ssize_t n = read(r->fd, r->data + r->length, 2 * READ_BYTES - r->length);
    size_t used;

    if (n <= 0)
        return false;
    if (!r->first)
        r->first = nanos();
    r->length += (size_t)n;
    used = r->frames ? take_frames(r) : take_messages(r);
    memmove(r->data, r->data + used, r->length - used);
    r->length -= used;
    r->last = nanos();
    return true;
}

/* --- the reading ------------------------------------------------------------------------------ */

static int by_age(const void *a, const void *b)
{
    float left = *(const float *)a, right = *(const float *)b;

    return (left > right) - (left < right);
}

static double age_at(double share)
{
    return age_count ? (double)ages[(size_t)((double)(age_count - 1) * share)] : 0;
}

static void tell(const struct reader *readers, int count)
{
    uint64_t lines = 0, dropped = 0;
    double seconds = 0;

    for (int i = 0; i < count; i++) {
        double took = (double)(readers[i].last - readers[i].first) / 1e9;

        lines += readers[i].lines;
        dropped += readers[i].dropped;
        seconds = took > seconds ? took : seconds;
    }
    qsort(ages, age_count, sizeof *ages, by_age);
    printf("{\"lines\": %llu, \"dropped\": %llu, \"seconds\": %.3f, \"p50\": %.3f, \"p99\": %.3f, "
           "\"max\": %.3f}\n",
           (unsigned long long)lines, (unsigned long long)dropped, seconds, age_at(0.5),
           age_at(0.99), age_at(1));
}

static void read_all(struct reader *readers, int count, uint64_t wanted)
{
    struct pollfd *polls = calloc((size_t)count, sizeof *polls);
    int left = count;

    for (int i = 0; i < count; i++)
        polls[i] = (struct pollfd){.fd = readers[i].fd, .events = POLLIN};
    while (left > 0 && poll(polls, (nfds_t)count, SILENCE_MS) > 0)
        for (int i = 0; i < count; i++) {
            struct reader *r = &readers[i];

            if (!polls[i].revents)
                continue;
            if (!take(r) || r->lines + r->dropped >= wanted) {
                polls[i].fd = -1;
                polls[i].revents = 0;
                left--;
            }
        }
    free(polls);
}

static void open_reader(struct reader *r, const char *path, const char *what, bool attach)
{
    r->fd = connect_to(path);
    r->frames = attach;
    r->data = malloc(2 * READ_BYTES);
    if (attach)
        dprintf(r->fd,
                "POST /containers/%s/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: "
                "docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
                what);
    else
        dprintf(r->fd,
                "GET /ws/logs?%s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: "
                "Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
                "AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
                what);
    read_head(r->fd, "101");
}

static int read_log(const char *mode, const char *path, const char *what, uint64_t wanted,
                    int count)
{
    struct reader *readers = calloc((size_t)count, sizeof *readers);
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};

    ages = malloc(AGES * sizeof *ages);
    for (int i = 0; i < count; i++)
        open_reader(&readers[i], path, what, mode[0] == 'a');
    printf("ready\n");
    fflush(stdout);
    while (mode[0] == 's' && poll(&input, 1, STALL_MS) == 0)
        for (int i = 0; i < count; i++)
            take(&readers[i]);
    read_all(readers, count, wanted);
    tell(readers, count);
    return 0;
}

/* --- the others ------------------------------------------------------------------------------- */

static int probe(const char *path)
{
    static const char request[] = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    int fd = connect_to(path);
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char answer[65536];

    ages = malloc(AGES * sizeof *ages);
    printf("ready\n");
    fflush(stdout);
    while (poll(&input, 1, PROBE_MS) == 0) {
        int64_t begin = nanos();

        if (write(fd, request, sizeof request - 1) < 0 || read(fd, answer, sizeof answer) <= 0)
            fail("probe");
        add_age(begin);
    }
    tell(NULL, 0);
    return 0;
}

static int peer(const char *path)
{
    struct ucred who;
    socklen_t length = sizeof who;

    if (getsockopt(connect_to(path), SOL_SOCKET, SO_PEERCRED, &who, &length) < 0)
        fail(path);
    printf("%d\n", (int)who.pid);
    return 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && strcmp(argv[1], "probe") == 0)
        return probe(argv[2]);
    if (argc == 3 && strcmp(argv[1], "peer") == 0)
        return peer(argv[2]);
    if (argc == 5 || argc == 6)
        return read_log(argv[1], argv[2], argv[3], strtoull(argv[4], NULL, 10),
                        argc == 6 ? atoi(argv[5]) : 1);
    fprintf(stderr, "nd-bench-logs: see log_reader.c\n");
    return 2;
}
