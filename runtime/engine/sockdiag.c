#include "engine/sockdiag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/netlink.h"

enum { MESSAGE_MAX = 32 * 1024, ESTABLISHED = 1 };

struct question {
    uint16_t port; /* network order */
    uint32_t quiet_ms;
    int idle; /* counted so far */
};

/* A netlink socket stays in the namespace in which it was made, so the thread is there only for
 * that. A thread that can't come back is of no use to anybody: the process ends. */
static int open_in(pid_t pid, struct nd_err *err)
{
    char path[64];
    int fd = -1, home, there;

    snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    there = open(path, O_RDONLY | O_CLOEXEC);
    if (home < 0 || there < 0 || setns(there, CLONE_NEWNET) < 0) {
        nd_err_errno(err, errno, there < 0 ? "not_found" : "sockdiag_failed", "",
                     "can't look at the connections of process %d", (int)pid);
        goto out;
    }
    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0)
        nd_err_errno(err, errno, "sockdiag_failed", "the kernel needs the module inet_diag",
                     "can't look at the connections of process %d", (int)pid);
    if (setns(home, CLONE_NEWNET) < 0) {
        nd_log(ND_LOG_ERROR, "a thread can't return from the network namespace of process %d",
               (int)pid);
        abort();
    }
out:
    if (home >= 0)
        close(home);
    if (there >= 0)
        close(there);
    return fd;
}

static int ask(int fd, int family)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 what;
    } r = {.head = {.nlmsg_len = sizeof r,
                    .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
           .what = {.sdiag_family = (uint8_t)family,
                    .sdiag_protocol = IPPROTO_TCP,
                    .idiag_ext = 1 << (INET_DIAG_INFO - 1),
                    .idiag_states = 1 << ESTABLISHED}};

    return send(fd, &r, sizeof r, 0) < 0 ? -1 : 0;
}

static void read_socket(struct question *q, const struct nlmsghdr *h)
{
    size_t head = NLMSG_SPACE(sizeof(struct inet_diag_msg));
    const struct inet_diag_msg *m = NLMSG_DATA(h);
    const struct nlattr *a;
    struct tcp_info info = {0};
    size_t size;

    if (h->nlmsg_len < head || m->id.idiag_sport != q->port || m->idiag_rqueue || m->idiag_wqueue)
        return;
    a = nd_netlink_attribute((const char *)h + head, h->nlmsg_len - head, INET_DIAG_INFO);
    if (!a)
        return;
    size = a->nla_len - NLA_HDRLEN;
    memcpy(&info, (const char *)a + NLA_HDRLEN, size < sizeof info ? size : sizeof info);
    /* The app had the last word, a while ago. */
    if (info.tcpi_last_data_sent <= info.tcpi_last_data_recv &&
        info.tcpi_last_data_sent >= q->quiet_ms)
        q->idle++;
}

/* Reads one dump to its end; -1 with errno set. */
static int read_all(int fd, struct question *q, char *data)
{
    for (;;) {
        ssize_t got = recv(fd, data, MESSAGE_MAX, 0);
        size_t left = got < 0 ? 0 : (size_t)got;
        if (got < 0 && errno != EINTR)
            return -1;
        for (const struct nlmsghdr *h = (const void *)data; NLMSG_OK(h, left);
             h = NLMSG_NEXT(h, left)) {
            if (h->nlmsg_type == NLMSG_DONE)
                return 0;
            if (h->nlmsg_type == NLMSG_ERROR) {
                errno = -((const struct nlmsgerr *)NLMSG_DATA(h))->error;
                return errno ? -1 : 0;
            }
            if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY)
                read_socket(q, h);
        }
    }
}

int nd_sockdiag_idle(pid_t pid, uint16_t port, uint32_t quiet_ms, struct nd_err *err)
{
    static const int families[] = {AF_INET, AF_INET6}; /* an app may listen on either */
    struct timeval limit = {.tv_sec = 5};
    struct question q = {.port = htons(port), .quiet_ms = quiet_ms};
    char *data;
    int fd = open_in(pid, err);

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    data = nd_alloc(MESSAGE_MAX);
    for (int i = 0; i < 2 && q.idle >= 0; i++) {
        if (ask(fd, families[i]) < 0 || read_all(fd, &q, data) < 0) {
            nd_err_errno(err, errno, "sockdiag_failed", "the kernel needs the module inet_diag",
                         "can't list the connections of process %d", (int)pid);
            q.idle = -1;
        }
    }
    free(data);
    close(fd);
    return q.idle;
}
