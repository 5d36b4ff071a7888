/*
 * conn.c - a connection of the sample server: accept, read, write, close.
 *
 * Whoever answers "Connection: close" closes first and at once (unless CLOSE_DELAY_MS says
 * otherwise): the side that closes first keeps the port in TIME_WAIT, and that must not be the
 * proxy.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../load/wsframe.h"
#include "sample.h"

enum { IN_MOST = 2 * 1024 * 1024 };

static void conn_free(struct conn *c)
{
    struct sample *app = c->app;

    timer_clear(c);
    /* Closing is not enough while a process that was just forked has it too. */
    epoll_ctl(app->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        app->first = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    app->connections--;
    free(c->in);
    free(c->out);
    free(c);
}

void conn_accept_all(struct sample *app)
{
    struct epoll_event event = {.events = EPOLLIN};
    int fd;
    int on = 1;

    while ((fd = accept4(app->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);

        if (c == NULL)
            abort();
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        c->app = app;
        c->fd = fd;
        c->next = app->first;
        if (c->next != NULL)
            c->next->prev = c;
        app->first = c;
        app->connections++;
        event.data.ptr = c;
        epoll_ctl(app->epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static void watch(struct conn *c, bool write)
{
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};

    if (c->wants_write == write)
        return;
    c->wants_write = write;
    epoll_ctl(c->app->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void grow(char **data, size_t *size, size_t need)
{
    if (need <= *size)
        return;
    *size = need < 2048 ? 2048 : 2 * need;
    *data = realloc(*data, *size);
    if (*data == NULL)
        abort();
}

void conn_add(struct conn *c, const void *data, size_t length)
{
    grow(&c->out, &c->out_size, c->out_length + length);
    memcpy(c->out + c->out_length, data, length);
    c->out_length += length;
}

void conn_addf(struct conn *c, const char *format, ...)
{
    char text[1024];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    conn_add(c, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

void conn_drop(struct conn *c, size_t length)
{
    memmove(c->in, c->in + length, c->in_length - length);
    c->in_length -= length;
}

/* Sends what there is; 1 sent all, 0 the socket is full, -1 broken. */
static int flush_out(struct conn *c)
{
    while (c->out_sent < c->out_length) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_length - c->out_sent, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0)
            return -1;
        c->out_sent += (size_t)n;
    }
    c->out_sent = c->out_length = 0;
    return 1;
}

/* Handles what has arrived and sends what there is to send. Frees the connection at its end. */
static void progress(struct conn *c)
{
    for (;;) {
        int sent = flush_out(c);

        if (sent < 0) {
            conn_free(c);
            return;
        }
        watch(c, sent == 0);
        if (c->state == CONN_SOCKET) {
            if (sent == 1 && (c->close_after || !socket_handle(c)) && c->out_length == 0) {
                conn_free(c);
                return;
            }
            if (c->out_length > c->out_sent && sent == 1)
                continue;
            return;
        }
        if (c->state == CONN_WRITING && sent == 1) {
            c->answered = true;
            c->state = CONN_READING;
            if (c->close_after && c->app->close_delay_ms == 0) {
                conn_free(c);
                return;
            }
            if (c->close_after) {
                c->state = CONN_LINGER;
                timer_set(c, c->app->now + c->app->close_delay_ms);
            }
        }
        if (c->state != CONN_READING || !request_handle(c))
            return;
    }
}

void conn_event(struct conn *c, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        for (;;) {
            ssize_t n;

            if (c->in_length > IN_MOST) {
                conn_free(c);
                return;
            }
            grow(&c->in, &c->in_size, c->in_length + 4096);
            n = recv(c->fd, c->in + c->in_length, c->in_size - c->in_length - 1, 0);
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0 && errno == EAGAIN)
                break;
            if (n <= 0) {
                conn_free(c);
                return;
            }
            if (c->state == CONN_LINGER)
                c->in_length = 0;
            else
                c->in_length += (size_t)n;
            if ((size_t)n < 2048)
                break;
        }
    }
    progress(c);
}

void conn_due(struct conn *c)
{
    timer_clear(c);
    switch (c->state) {
    case CONN_WAITING:
        request_answer_slow(c);
        progress(c);
        break;
    case CONN_SOCKET:
        if (c->app->stopping) {
            conn_free(c); /* the peer never answered our close */
            return;
        }
        socket_say(c, WS_TEXT, c->app->version, strlen(c->app->version));
        timer_set(c, c->app->now + 1000);
        progress(c);
        break;
    default:
        conn_free(c);
    }
}

void conn_stop(struct conn *c)
{
    if (c->state == CONN_SOCKET) {
        socket_say(c, WS_CLOSE, "\x03\xe9", 2); /* 1001, going away */
        timer_set(c, c->app->now + 1000);
        progress(c);
    } else if (c->state == CONN_READING && c->in_length == 0) {
        char byte;
        ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK);

        if (n > 0)
            return; /* a request that we haven't read yet */
        if (n == 0 || c->answered)
            conn_free(c);
        else
            timer_set(c, c->app->now + 1000); /* connected just now, its request is on the way */
    } else {
        c->close_after = true;
    }
}
