/*
 * print.c - a process beside the server that prints numbered lines, at a rate or at full speed.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "sample.h"

enum { WRITE_BYTES = 64 * 1024, LINE_LEAST = 40 };

static int64_t nanos(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void write_all(const char *data, size_t length)
{
    while (length > 0) {
        ssize_t n = write(STDOUT_FILENO, data, length);

        if (n <= 0)
            _exit(1);
        data += n;
        length -= (size_t)n;
    }
}

static size_t put_line(char *to, long number, long bytes)
{
    int head = snprintf(to, LINE_LEAST, "%lld %ld ", (long long)nanos(), number);

    memset(to + head, 'x', (size_t)(bytes - head - 1));
    to[bytes - 1] = '\n';
    return (size_t)bytes;
}

/* At a rate each line is a write of its own; at full speed as many as fit go together. */
static void print_all(long lines, long rate, long bytes)
{
    static char data[WRITE_BYTES];
    int64_t begin = nanos();
    size_t length = 0;

    for (long i = 1; i <= lines; i++) {
        while (rate > 0 && (nanos() - begin) / 1000 * rate / 1000000 < i) {
            struct timespec pause = {0, 500 * 1000};

            nanosleep(&pause, NULL);
        }
        length += put_line(data + length, i, bytes);
        if (rate > 0 || i == lines || length + (size_t)bytes > sizeof data) {
            write_all(data, length);
            length = 0;
        }
    }
}

void print_beside(long lines, long rate, long bytes)
{
    if (bytes < LINE_LEAST)
        bytes = LINE_LEAST;
    if (bytes > WRITE_BYTES)
        bytes = WRITE_BYTES;
    signal(SIGCHLD, SIG_IGN); /* nobody waits for it */
    if (fork() != 0)
        return;
    syscall(SYS_close_range, 3, ~0U, 0);
    print_all(lines, rate, bytes);
    _exit(0);
}
