/*
 * tools.c - nd-sample as a tool, for images that hold nothing else.
 *
 *   nd-sample env                    the environment, a line each
 *   nd-sample args ARG...            its arguments, a line each
 *   nd-sample cat FILE               a file's bytes; those of stdin for -
 *   nd-sample id                     uid and gid
 *   nd-sample exit CODE
 *   nd-sample sleep MS               ends before, with 0, when it gets SIGTERM
 *   nd-sample job FILE TEXT MS CODE  prints TEXT and adds it to FILE (- for none) as a line, sleeps
 *                                    as above, prints "done", and exits with CODE
 *   nd-sample get HOST PORT PATH     a GET by IPv4 address: status and body; exit 1 unless 2xx
 *   nd-sample version
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "sample.h"

extern char **environ;

static int cat(const char *path)
{
    char data[4096];
    ssize_t n;
    int fd = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY);

    if (fd < 0) {
        fprintf(stderr, "nd-sample: %s: %s\n", path, strerror(errno));
        return 1;
    }
    while ((n = read(fd, data, sizeof data)) > 0)
        if (write(STDOUT_FILENO, data, (size_t)n) != n)
            return 1;
    close(fd);
    return 0;
}

static void on_term(int number)
{
    (void)number;
    _exit(0);
}

static void sleep_ms(long ms)
{
    signal(SIGTERM, on_term); /* process 1 of a container gets no signal it has no handler for */
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static int job(const char *path, const char *text, long ms, int code)
{
    int fd = strcmp(path, "-") == 0 ? -1 : open(path, O_WRONLY | O_APPEND | O_CREAT, 0644);

    if (fd < 0 && strcmp(path, "-") != 0) {
        fprintf(stderr, "nd-sample: %s: %s\n", path, strerror(errno));
        return 1;
    }
    if (fd >= 0 && dprintf(fd, "%s\n", text) < 0)
        return 1;
    puts(text);
    fflush(stdout);
    sleep_ms(ms);
    puts("done");
    return code;
}

static int get(const char *host, const char *port, const char *path)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    struct timeval patience = {3, 0};
    char data[16384];
    size_t length = 0;
    ssize_t n;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    const char *body;

    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1 ||
        connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        fprintf(stderr, "nd-sample: can't connect to %s:%s: %s\n", host, port,
                errno == EINPROGRESS ? "timed out" : strerror(errno));
        return 1;
    }
    dprintf(fd, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host);
    while (length < sizeof data - 1 && (n = read(fd, data + length, sizeof data - 1 - length)) > 0)
        length += (size_t)n;
    data[length] = '\0';
    body = strstr(data, "\r\n\r\n");
    if (length < 12 || body == NULL) {
        fprintf(stderr, "nd-sample: %s:%s answered %zu bytes, no response\n", host, port, length);
        return 1;
    }
    printf("%.3s %s", data + 9, body + 4);
    return data[9] == '2' ? 0 : 1;
}

int tool_main(int argc, char **argv)
{
    const char *tool = argv[1];

    if (strcmp(tool, "env") == 0) {
        for (char **e = environ; *e != NULL; e++)
            puts(*e);
        return 0;
    }
    if (strcmp(tool, "args") == 0) {
        for (int i = 2; i < argc; i++)
            puts(argv[i]);
        return 0;
    }
    if (strcmp(tool, "id") == 0) {
        printf("uid=%d gid=%d\n", (int)getuid(), (int)getgid());
        return 0;
    }
    if (strcmp(tool, "version") == 0) {
        printf("nd-sample %s\n", getenv("VERSION") != NULL ? getenv("VERSION") : "none");
        return 0;
    }
    if (strcmp(tool, "cat") == 0 && argc == 3)
        return cat(argv[2]);
    if (strcmp(tool, "exit") == 0 && argc == 3)
        return atoi(argv[2]);
    if (strcmp(tool, "sleep") == 0 && argc == 3) {
        sleep_ms(atol(argv[2]));
        return 0;
    }
    if (strcmp(tool, "job") == 0 && argc == 6)
        return job(argv[2], argv[3], atol(argv[4]), atoi(argv[5]));
    if (strcmp(tool, "get") == 0 && argc == 5)
        return get(argv[2], argv[3], argv[4]);
    fprintf(stderr,
            "nd-sample: without an argument it serves; else env, args ARG..., cat FILE, id, "
            "exit CODE, sleep MS, job FILE TEXT MS CODE, get HOST PORT PATH, version\n");
    return 2;
}
