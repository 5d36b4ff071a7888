/*
 * handover.h - listening sockets that outlive a program.
 *
 * They come from systemd (socket activation), or from the daemon before this one, which has
 * replaced itself by execve in the same process; both in the way of sd_listen_fds(3): LISTEN_PID is
 * this process, and LISTEN_FDS the number of descriptors from 3 on. A server that opens takes the
 * one that is bound to its address, and what no server took is closed. While nobody accepts the
 * kernel keeps new connections waiting (as many as the backlog), so none is refused.
 */
#ifndef ND_IO_HANDOVER_H
#define ND_IO_HANDOVER_H

#include <sys/socket.h>

#include "base/err.h"

enum { ND_HANDOVER_MOST = 16 };

struct nd_handover {
    int fds[ND_HANDOVER_MOST]; /* owned; -1: taken */
    int count;
};

/* Takes what the environment names, and its variables out of it. */
void nd_handover_init(struct nd_handover *handover);
/* The socket that listens at `where`; the caller owns it. -1: there is none. */
int nd_handover_take(struct nd_handover *handover, const struct sockaddr *where, socklen_t length);
/* A duplicate of a listening socket, for the program that comes. */
int nd_handover_keep(struct nd_handover *handover, int fd, struct nd_err *err);
/* Closes what nobody took: for when the servers are open, or the process ends. */
void nd_handover_drop(struct nd_handover *handover);
/* Replaces this process by a program, which gets the sockets. Everything else must be closed or
 * close-on-exec, and no other thread at work. Returns when it can't. */
void nd_handover_exec(struct nd_handover *handover, const char *program, char **argv,
                      struct nd_err *err);

#endif
