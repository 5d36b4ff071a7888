/*
 * http_peer.h - an HTTP server for tests of the client: blocking, a thread for each connection, on
 * a unix socket and a loopback port. What it answers depends on the path.
 */
#ifndef TESTS_HTTP_PEER_H
#define TESTS_HTTP_PEER_H

#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { BIG = 4 * 1024 * 1024 };

struct server {
    int unix_fd, tcp_fd;
    int port;
    char path[64];
    int accepted; /* connections; by __atomic */
    pthread_t threads[2];
};

static bool put(int fd, const char *data, size_t length)
{
    while (length) {
        ssize_t n = send(fd, data, length, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        data += n;
        length -= (size_t)n;
    }
    return true;
}

static bool puts_to(int fd, const char *text)
{
    return put(fd, text, strlen(text));
}

static bool put_big(int fd)
{
    char block[65536];
    bool ok;

    memset(block, 'b', sizeof block);
    ok = puts_to(fd, "HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\n\r\n");
    for (int i = 0; ok && i < BIG / (int)sizeof block; i++)
        ok = put(fd, block, sizeof block);
    return ok;
}

static bool put_body(int fd, const char *body, size_t length)
{
    char head[128];

    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", length);
    return puts_to(fd, head) && put(fd, body, length);
}

static void hang(int fd)
{
    char waste[4096];

    while (recv(fd, waste, sizeof waste, 0) > 0)
        ;
}

static int dropped; /* requests for /drop; by __atomic */

/* Answers one request; false: close. */
static bool answer(int fd, const char *path, const char *head, const char *body, size_t length)
{
    if (!strcmp(path, "/big"))
        return put_big(fd);
    if (!strcmp(path, "/echo"))
        return put_body(fd, body, length);
    if (!strcmp(path, "/head"))
        return put_body(fd, head, strlen(head));
    if (!strcmp(path, "/hang")) {
        hang(fd);
        return false;
    }
    if (!strcmp(path, "/stall")) {
        puts_to(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome");
        hang(fd);
        return false;
    }
    if (!strcmp(path, "/drop")) {
        __atomic_add_fetch(&dropped, 1, __ATOMIC_SEQ_CST);
        return false;
    }
    if (!strcmp(path, "/redirect"))
        return puts_to(fd,
                       "HTTP/1.1 302 Found\r\nLocation: /echo\r\nContent-Length: 4\r\n\r\ngone");
    if (!strcmp(path, "/escape"))
        return puts_to(fd, "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n"
                           "Content-Length: 0\r\n\r\n");
    if (!strcmp(path, "/headers"))
        return puts_to(fd, "HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\n"
                           "HTTP/1.1 200 OK\r\nX-Two:  a \r\nX-TWO: b\r\nX-Empty:\r\n"
                           "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Late: 1\r\n\r\n");
    return puts_to(fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
}

/* Undoes chunks in place; returns the length, or -1 while the last one is missing. */
static long unchunk(char *data, size_t have)
{
    size_t from = 0, to = 0;

    for (;;) {
        char *line = memmem(data + from, have - from, "\r\n", 2);
        size_t n;

        if (!line)
            return -1;
        n = strtoul(data + from, NULL, 16);
        from = (size_t)(line + 2 - data);
        if (from + n + 2 > have)
            return -1;
        if (n == 0)
            return (long)to;
        memmove(data + to, data + from, n);
        to += n;
        from += n + 2;
    }
}

static bool read_body(int fd, const char *head, char *body, size_t size, size_t *have)
{
    const char *field = strcasestr(head, "\r\nContent-Length:");
    bool chunked = strcasestr(head, "\r\nTransfer-Encoding: chunked");
    size_t need = field ? strtoul(field + 17, NULL, 10) : 0;
    long length;

    for (;;) {
        ssize_t n;

        if (!chunked && *have >= need)
            return true;
        if (chunked) {
            char *copy = malloc(*have + 1);

            memcpy(copy, body, *have);
            copy[*have] = '\0';
            length = unchunk(copy, *have);
            if (length >= 0)
                memcpy(body, copy, *have = (size_t)length);
            free(copy);
            if (length >= 0)
                return true;
        }
        n = recv(fd, body + *have, size - *have, 0);
        if (n <= 0)
            return false;
        *have += (size_t)n;
    }
}

static void *serve(void *arg)
{
    enum { SIZE = 1 << 20 };
    int fd = (int)(long)arg;
    char *head = calloc(1, SIZE);
    char *body = calloc(1, SIZE);
    char path[256];

    for (;;) {
        size_t have = 0, extra;
        char *end = NULL;

        while (!end) {
            ssize_t n = recv(fd, head + have, SIZE - 1 - have, 0);

            if (n <= 0)
                goto out;
            have += (size_t)n;
            head[have] = '\0';
            end = strstr(head, "\r\n\r\n");
        }
        extra = have - (size_t)(end + 4 - head);
        memcpy(body, end + 4, extra);
        end[2] = '\0';
        if (!read_body(fd, head, body, SIZE, &extra) || sscanf(head, "%*s %255s", path) != 1 ||
            !answer(fd, path, head, body, extra))
            break;
    }
out:
    free(head);
    free(body);
    close(fd);
    return NULL;
}

struct accepting {
    struct server *server;
    int fd;
};

static void *accept_all(void *arg)
{
    struct accepting *a = arg;
    int fd;

    while ((fd = accept4(a->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        pthread_t thread;

        __atomic_add_fetch(&a->server->accepted, 1, __ATOMIC_SEQ_CST);
        pthread_create(&thread, NULL, serve, (void *)(long)fd);
        pthread_detach(thread);
    }
    free(a);
    return NULL;
}

static void start_accepting(struct server *s, int i, int fd)
{
    struct accepting *a = malloc(sizeof *a);

    *a = (struct accepting){s, fd};
    listen(fd, 64);
    pthread_create(&s->threads[i], NULL, accept_all, a);
}

static void server_start(struct server *s)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;

    memset(s, 0, sizeof *s);
    snprintf(s->path, sizeof s->path, "/tmp/nd-test-http-%d.sock", getpid());
    unlink(s->path);
    memcpy(local.sun_path, s->path, sizeof s->path);
    s->unix_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    s->tcp_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->unix_fd, (struct sockaddr *)&local, sizeof local), 0);
    assert_int_equal(bind(s->tcp_fd, (struct sockaddr *)&address, sizeof address), 0);
    getsockname(s->tcp_fd, (struct sockaddr *)&address, &length);
    s->port = ntohs(address.sin_port);
    start_accepting(s, 0, s->unix_fd);
    start_accepting(s, 1, s->tcp_fd);
}

static void server_stop(struct server *s)
{
    shutdown(s->unix_fd, SHUT_RDWR);
    shutdown(s->tcp_fd, SHUT_RDWR);
    for (int i = 0; i < 2; i++)
        pthread_join(s->threads[i], NULL);
    close(s->unix_fd);
    close(s->tcp_fd);
    unlink(s->path);
}

#endif
