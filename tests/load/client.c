/*
 * client.c - a client's life: connect, ask, check the answer, again.
 *
 * Where a connection that was kept alive turns out closed before the next request is sent, a new
 * one is opened and nothing has failed. Once a byte of a request may have left, a connection that
 * ends without the whole answer is a failed request, be it a GET or a POST.
 */
#include "client.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wsframe.h"

static const uint64_t REST = 10 * 1000000ull;            /* ns after a failure */
static const uint64_t CONNECT_LIMIT = 3000 * 1000000ull; /* ns */
static const uint64_t SILENCE = 10000 * 1000000ull;      /* ns: a WebSocket speaks every second */

static void begin(struct client *c);
static void progress(struct client *c);

static void wake_at(struct client *c, uint64_t ns)
{
    c->load->wake[c->number] = ns;
}

static void hang_up(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->in_length = 0;
}

static void set_state(struct client *c, enum client_state state)
{
    bool was = c->state == CLIENT_CONNECTING || c->state == CLIENT_ASKING;
    bool is = state == CLIENT_CONNECTING || state == CLIENT_ASKING;

    c->load->busy += (int)is - (int)was;
    c->state = state;
}

static bool timed(const struct client *c)
{
    return c->kind == KIND_get || c->kind == KIND_post || c->kind == KIND_new;
}

/* Rests until the next request is due, at least `pause` ns. */
static void rest(struct client *c, uint64_t pause)
{
    struct load *l = c->load;
    uint64_t now = now_ns();
    uint64_t at = now + pause;

    set_state(c, c->fd >= 0 ? CLIENT_KEPT : CLIENT_RESTING);
    if (l->finishing) {
        hang_up(c);
        wake_at(c, 0);
        return;
    }
    if (l->rate > 0 && timed(c)) {
        int peers = l->counts[KIND_get] + l->counts[KIND_post] + l->counts[KIND_new];

        c->next += 1000000000ull * (uint64_t)peers / (uint64_t)l->rate;
        if (c->next + 1000000000ull < now) /* after a long stall: don't make up for all of it */
            c->next = now;
        if (c->next > at)
            at = c->next;
    }
    wake_at(c, at);
}

static void fail(struct client *c, enum cause cause, int status)
{
    stats_failed(&c->load->stats, c->kind, cause, status);
    hang_up(c);
    rest(c, REST);
}

static void cut(struct client *c, int code)
{
    stats_cut(&c->load->stats, code, (int64_t)((now_ns() - c->opened) / 1000000), c->version);
    hang_up(c);
    rest(c, REST);
}

/* What a broken connection means depends on how far the request had come. */
static void broken(struct client *c, int number)
{
    if (c->state == CLIENT_SOCKET) {
        cut(c, number == 0 ? 0 : -1);
    } else if (c->state == CLIENT_KEPT) {
        c->load->stats.reconnects++;
        hang_up(c);
        set_state(c, CLIENT_RESTING);
    } else if (c->state == CLIENT_CONNECTING) {
        fail(c,
             number == ECONNREFUSED    ? CAUSE_refused
             : number == ETIMEDOUT     ? CAUSE_connect_timeout
             : number == ECONNRESET    ? CAUSE_reset
             : number == EADDRNOTAVAIL ? CAUSE_no_port
                                       : CAUSE_connect_failed,
             0);
    } else {
        fail(c,
             c->in_length > 0                          ? CAUSE_short
             : number == ECONNRESET || number == EPIPE ? CAUSE_reset
                                                       : CAUSE_closed,
             0);
    }
}

static void put(struct client *c, const void *data, size_t length)
{
    if (c->out_length + length > c->out_size) {
        c->out_size = 2 * (c->out_length + length) + 512;
        c->out = realloc(c->out, c->out_size);
        if (c->out == NULL)
            abort();
    }
    memcpy(c->out + c->out_length, data, length);
    c->out_length += length;
}

static void write_request(struct client *c)
{
    const struct load *l = c->load;
    char text[2048];
    int n = 0;

    c->out_length = c->out_sent = 0;
    c->serial++;
    if (c->kind == KIND_post)
        n = snprintf(text, sizeof text,
                     "POST %s HTTP/1.1\r\nHost: %s\r\n%sContent-Type: text/plain\r\n"
                     "Content-Length: %ld\r\n\r\n",
                     l->post_path, l->host, l->header, l->body_bytes);
    else if (c->kind == KIND_ws)
        n = snprintf(text, sizeof text,
                     "GET %s HTTP/1.1\r\nHost: %s\r\n%sUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                     l->ws_path, l->host, l->header);
    else
        n = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n",
                     c->kind == KIND_slow ? l->slow_path : l->path, l->host, l->header,
                     c->kind == KIND_new ? "Connection: close\r\n" : "");
    put(c, text, (size_t)n);
    c->body = NULL;
    c->body_length = 0;
    if (c->kind == KIND_post) {
        size_t head = c->out_length;

        n = snprintf(text, sizeof text, "client %d request %ld; ", c->number, c->serial);
        while (c->out_length - head < (size_t)l->body_bytes) {
            size_t left = (size_t)l->body_bytes - (c->out_length - head);

            put(c, text, left < (size_t)n ? left : (size_t)n);
        }
        c->body = c->out + head;
        c->body_length = (size_t)l->body_bytes;
    }
}

static void watch(struct client *c, uint32_t events, int how)
{
    struct epoll_event event = {.events = events | EPOLLRDHUP, .data.ptr = c};

    epoll_ctl(c->load->epoll, how, c->fd, &event);
}

static void open_connection(struct client *c)
{
    int on = 1;

    set_state(c, CLIENT_CONNECTING);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        fail(c, CAUSE_connect_failed, 0);
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (const struct sockaddr *)&c->load->address, sizeof c->load->address) < 0 &&
        errno != EINPROGRESS) {
        broken(c, errno);
        return;
    }
    watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
    wake_at(c, now_ns() + CONNECT_LIMIT);
}

/* The server may have closed a kept connection; nothing is lost as long as nothing was sent. */
static bool still_open(struct client *c)
{
    char byte;
    ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK);

    return n < 0 && errno == EAGAIN;
}

static uint64_t limit(const struct client *c)
{
    long ms = c->load->timeout_ms + (c->kind == KIND_slow ? c->load->slow_ms : 0);

    return now_ns() + (uint64_t)ms * 1000000;
}

static void begin(struct client *c)
{
    struct load *l = c->load;

    if (l->finishing || (timed(c) && l->requests > 0 && l->issued >= l->requests)) {
        hang_up(c);
        set_state(c, CLIENT_RESTING);
        wake_at(c, 0);
        return;
    }
    if (timed(c))
        l->issued++;
    c->begun = l->rate > 0 && timed(c) && c->next != 0 ? c->next : now_ns();
    if (c->next == 0)
        c->next = c->begun;
    write_request(c);
    if (c->fd >= 0 && !still_open(c)) {
        l->stats.reconnects++;
        hang_up(c);
    }
    if (c->fd < 0) {
        open_connection(c);
        return;
    }
    set_state(c, CLIENT_ASKING);
    wake_at(c, limit(c));
    progress(c);
}

static bool send_out(struct client *c)
{
    while (c->out_sent < c->out_length) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_length - c->out_sent, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return true;
        }
        if (n < 0)
            return false;
        c->out_sent += (size_t)n;
    }
    return true;
}

static void say(struct client *c, int opcode, const void *data, size_t length)
{
    unsigned char head[WS_HEAD_SIZE];

    if (c->out_sent == c->out_length)
        c->out_sent = c->out_length = 0;
    put(c, head, ws_head(head, opcode, true, length, true));
    put(c, data, length);
    send_out(c);
}

/* The server says its version each second; we answer "echo N" and expect that back. */
static void on_message(struct client *c, const struct ws_frame *frame)
{
    char text[64];
    int n;

    c->load->stats.ws_messages++;
    if (frame->length >= sizeof text)
        return;
    if (frame->length > 5 && memcmp(frame->data, "echo ", 5) == 0) {
        n = snprintf(text, sizeof text, "echo %ld", c->serial);
        if ((size_t)n != frame->length || memcmp(text, frame->data, (size_t)n) != 0)
            fail(c, CAUSE_wrong_body, 0);
        return;
    }
    memcpy(c->version, frame->data, frame->length);
    c->version[frame->length] = '\0';
    n = snprintf(text, sizeof text, "echo %ld", ++c->serial);
    say(c, WS_TEXT, text, (size_t)n);
}

static void on_frames(struct client *c)
{
    struct ws_frame frame;
    ssize_t n;

    while (c->state == CLIENT_SOCKET &&
           (n = ws_parse((unsigned char *)c->in, c->in_length, 65536, &frame)) != 0) {
        if (n < 0) {
            fail(c, CAUSE_protocol, 0);
            return;
        }
        wake_at(c, now_ns() + SILENCE);
        if (frame.opcode == WS_CLOSE) {
            int code = frame.length >= 2 ? frame.data[0] << 8 | frame.data[1] : 1005;

            say(c, WS_CLOSE, frame.data, frame.length >= 2 ? 2 : 0);
            cut(c, code);
            return;
        }
        if (frame.opcode == WS_PING)
            say(c, WS_PONG, frame.data, frame.length);
        else if (frame.opcode == WS_TEXT)
            on_message(c, &frame);
        if (c->state != CLIENT_SOCKET)
            return;
        memmove(c->in, c->in + n, c->in_length - (size_t)n);
        c->in_length -= (size_t)n;
    }
}

/* Whether the body is what the request asked for. */
static bool body_right(const struct client *c, const struct answer *a)
{
    size_t n = strlen(a->version);

    if (c->kind == KIND_post)
        return a->body_length == c->body_length && memcmp(a->body, c->body, c->body_length) == 0;
    if (!c->load->check_body || n == 0)
        return true;
    return a->body_length == n + 1 && memcmp(a->body, a->version, n) == 0 && a->body[n] == '\n';
}

static void on_answer(struct client *c, const struct answer *a)
{
    struct load *l = c->load;
    uint64_t now = now_ns();

    if (c->kind == KIND_ws && a->status < 500) {
        static const char accept[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

        if (!a->upgraded || memmem(c->in, a->length, accept, sizeof accept - 1) == NULL) {
            fail(c, CAUSE_handshake, a->status);
            return;
        }
        stats_ok(&l->stats, c->kind, now - c->begun, a->version);
        memcpy(c->version, a->version, sizeof c->version);
        set_state(c, CLIENT_SOCKET);
        c->opened = now;
        c->serial = 0;
        memmove(c->in, c->in + a->length, c->in_length - a->length);
        c->in_length -= a->length;
        wake_at(c, now + SILENCE);
        on_frames(c);
        return;
    }
    if (a->status >= 500) {
        fail(c, CAUSE_status_5xx, a->status);
    } else if (a->status < 200 || a->status > 299) {
        fail(c, CAUSE_status_other, a->status);
    } else if (!body_right(c, a)) {
        fail(c, CAUSE_wrong_body, a->status);
    } else {
        stats_ok(&l->stats, c->kind, now - c->begun, a->version);
        memcpy(c->version, a->version, sizeof c->version);
        if (a->close || c->kind == KIND_new)
            hang_up(c);
        c->in_length = 0;
        rest(c, 0);
        if (l->rate == 0 || !timed(c)) /* at full speed there is nothing to wait for */
            begin(c);
    }
}

/* Reads all there is. 1 more may come, 0 end of stream, -1 broken (errno). */
static int receive(struct client *c)
{
    for (;;) {
        ssize_t n;

        if (c->in_length + 4096 > c->in_size) {
            c->in_size = 2 * c->in_size + 8192;
            c->in = realloc(c->in, c->in_size);
            if (c->in == NULL)
                abort();
        }
        n = recv(c->fd, c->in + c->in_length, c->in_size - c->in_length - 1, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 1;
        if (n < 0)
            return -1;
        if (n == 0)
            return 0;
        c->in_length += (size_t)n;
        c->in[c->in_length] = '\0';
        if (c->in_length > RESPONSE_MOST)
            return -1;
    }
}

static void progress(struct client *c)
{
    struct answer a;
    int open;
    int number;

    if (!send_out(c)) {
        broken(c, errno);
        return;
    }
    open = receive(c);
    number = open < 0 ? errno : 0;
    if (c->state == CLIENT_SOCKET) {
        on_frames(c);
        if (c->state == CLIENT_SOCKET && open <= 0)
            broken(c, number);
        return;
    }
    if (c->state == CLIENT_ASKING && c->in_length > 0) {
        answer_read(c->in, c->in_length, &a);
        if (a.until_close && open == 0)
            a.whole = true;
        if (a.malformed) {
            fail(c, CAUSE_protocol, a.status);
            return;
        }
        if (a.whole) {
            if (open <= 0)
                a.close = true;
            on_answer(c, &a);
            return;
        }
    }
    if (open <= 0)
        broken(c, number);
}

void client_event(struct client *c, uint32_t events)
{
    if (c->fd < 0)
        return;
    if (c->state == CLIENT_CONNECTING) {
        int number = 0;
        socklen_t size = sizeof number;

        if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
            return;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &number, &size);
        if (number != 0) {
            broken(c, number);
            return;
        }
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
        set_state(c, CLIENT_ASKING);
        wake_at(c, limit(c));
    } else if (events & EPOLLOUT) {
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
    }
    progress(c);
}

void client_due(struct client *c)
{
    wake_at(c, 0);
    switch (c->state) {
    case CLIENT_RESTING:
    case CLIENT_KEPT:
        begin(c);
        break;
    case CLIENT_CONNECTING:
        fail(c, CAUSE_connect_timeout, 0);
        break;
    case CLIENT_ASKING:
        fail(c, CAUSE_timeout, 0);
        break;
    case CLIENT_SOCKET:
        cut(c, -2);
        break;
    }
}

void client_finish(struct client *c)
{
    if (c->state == CLIENT_SOCKET) {
        say(c, WS_CLOSE, "\x03\xe8", 2); /* 1000, normal */
        hang_up(c);
        set_state(c, CLIENT_RESTING);
    } else if (c->state == CLIENT_KEPT) {
        hang_up(c);
        set_state(c, CLIENT_RESTING);
    }
    if (c->state == CLIENT_RESTING)
        wake_at(c, 0);
}

void client_free(struct client *c)
{
    if (c->state == CLIENT_CONNECTING || c->state == CLIENT_ASKING)
        c->load->stats.unfinished++;
    hang_up(c);
    free(c->in);
    free(c->out);
}
