#include "script/frame.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

void nd_frame_head(unsigned char *head, size_t length)
{
    for (int i = 0; i < ND_FRAME_HEAD; i++)
        head[i] = (unsigned char)(length >> (8 * (ND_FRAME_HEAD - 1 - i)));
}

static size_t read_head(const unsigned char *head)
{
    size_t length = 0;

    for (int i = 0; i < ND_FRAME_HEAD; i++)
        length = length << 8 | head[i];
    return length;
}

int nd_frame_find(const void *data, size_t available, size_t *length)
{
    if (available < ND_FRAME_HEAD)
        return 0;
    *length = read_head(data);
    if (*length > ND_FRAME_MAX)
        return -1;
    return available - ND_FRAME_HEAD >= *length;
}

static int too_long(struct nd_err *err, size_t length)
{
    return nd_err_set(err, "worker_protocol", NULL, "a frame of %zu bytes is over the limit of %d",
                      length, ND_FRAME_MAX);
}

int nd_frame_write(int fd, const void *json, size_t length, struct nd_err *err)
{
    unsigned char head[ND_FRAME_HEAD];
    struct iovec part[2] = {{head, sizeof head}, {(void *)(size_t)json, length}};
    struct msghdr message = {.msg_iov = part, .msg_iovlen = 2};

    if (length > ND_FRAME_MAX)
        return too_long(err, length);
    nd_frame_head(head, length);
    while (part[0].iov_len + part[1].iov_len > 0) {
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return nd_err_errno(err, errno, "worker_gone", NULL, "can't write a frame");
        for (int i = 0; i < 2; i++) {
            size_t done = (size_t)sent < part[i].iov_len ? (size_t)sent : part[i].iov_len;

            part[i].iov_base = (char *)part[i].iov_base + done;
            part[i].iov_len -= done;
            sent -= (ssize_t)done;
        }
    }
    return 0;
}

/* Reads exactly `length` bytes; returns how many came before the end, or -1. */
static ssize_t read_all(int fd, void *out, size_t length)
{
    size_t got = 0;

    while (got < length) {
        ssize_t n = read(fd, (char *)out + got, length - got);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

int nd_frame_read(int fd, struct nd_buf *out, struct nd_err *err)
{
    unsigned char head[ND_FRAME_HEAD];
    ssize_t got = read_all(fd, head, sizeof head);
    size_t length;

    if (got == 0)
        return 0;
    if (got < 0)
        return nd_err_errno(err, errno, "worker_gone", NULL, "can't read a frame");
    length = read_head(head);
    if (got == ND_FRAME_HEAD && length > ND_FRAME_MAX)
        return too_long(err, length);
    if (got == ND_FRAME_HEAD) {
        nd_buf_clear(out);
        nd_buf_reserve(out, length);
        got = read_all(fd, out->data, length);
        if (got == (ssize_t)length) {
            out->length = length;
            out->data[length] = 0;
            return 1;
        }
    }
    return nd_err_set(err, "worker_gone", NULL, "the stream ended inside a frame");
}
