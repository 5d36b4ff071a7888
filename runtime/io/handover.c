#include "io/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST = 3 }; /* the first descriptor that is handed over: SD_LISTEN_FDS_START */

static int number_of(const char *name)
{
    const char *text = getenv(name);

    return text ? atoi(text) : 0;
}

void nd_handover_init(struct nd_handover *handover)
{
    int count = number_of("LISTEN_PID") == getpid() ? number_of("LISTEN_FDS") : 0;

    handover->count = 0;
    for (int i = 0; i < count && i < ND_HANDOVER_MOST; i++)
        if (fcntl(FIRST + i, F_SETFD, FD_CLOEXEC) == 0)
            handover->fds[handover->count++] = FIRST + i;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
}

static bool listens_at(int fd, const struct sockaddr *where, socklen_t length)
{
    struct sockaddr_storage bound = {0};
    socklen_t size = sizeof bound;
    int listens = 0;
    socklen_t flag = sizeof listens;

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &flag) == 0 && listens &&
           getsockname(fd, (struct sockaddr *)&bound, &size) == 0 && size <= length &&
           memcmp(&bound, where, size) == 0;
}

int nd_handover_take(struct nd_handover *handover, const struct sockaddr *where, socklen_t length)
{
    for (int i = 0; handover && i < handover->count; i++) {
        int fd = handover->fds[i];

        if (fd >= 0 && listens_at(fd, where, length)) {
            handover->fds[i] = -1;
            return fd;
        }
    }
    return -1;
}

int nd_handover_keep(struct nd_handover *handover, int fd, struct nd_err *err)
{
    int copy;

    if (!handover || handover->count == ND_HANDOVER_MOST)
        return nd_err_set(err, "handover_failed", NULL,
                          "there is nobody to hand the socket over to");
    /* Above where they will be, so that putting one there destroys no other. */
    copy = fcntl(fd, F_DUPFD_CLOEXEC, FIRST + ND_HANDOVER_MOST);
    if (copy < 0)
        return nd_err_errno(err, errno, "handover_failed", NULL, "can't keep a listening socket");
    handover->fds[handover->count++] = copy;
    return 0;
}

void nd_handover_drop(struct nd_handover *handover)
{
    for (int i = 0; i < handover->count; i++)
        if (handover->fds[i] >= 0)
            close(handover->fds[i]);
    handover->count = 0;
}

static void set_number(const char *name, int value)
{
    char text[16];

    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

void nd_handover_exec(struct nd_handover *handover, const char *program, char **argv,
                      struct nd_err *err)
{
    for (int i = 0; i < handover->count; i++) {
        if (dup2(handover->fds[i], FIRST + i) < 0) {
            nd_err_errno(err, errno, "handover_failed", NULL, "can't hand a listening socket over");
            return;
        }
    }
    set_number("LISTEN_PID", getpid());
    set_number("LISTEN_FDS", handover->count);
    execv(program, argv);
    nd_err_errno(err, errno, "handover_failed", "start it again", "can't start %s", program);
}
