#include "engine/netfilter.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "engine/netlink.h"

enum {
    DEBOUNCE_MS = 10,
    LEGACY_EVERY_MS = 250,
    RECEIVE_BUFFER = 1024 * 1024, /* a restore of 5,000 services makes 2 MB of events */
};

static const char *const legacy_tables[] = {"nat", "filter"};
enum { LEGACY_TABLES = 2 };

struct nd_netfilter_watch {
    uv_poll_t poll;   /* nft: the netlink socket */
    uv_timer_t timer; /* nft: the debounce; legacy: the next look */
    int handles;      /* still open */
    int fd;           /* owned */
    bool legacy;
    nd_netfilter_changed *changed; /* NULL after close */
    void *arg;                     /* the caller's */
    struct nd_buf pids;            /* "12 34" since the last call */
    struct {
        unsigned entries, size;
    } seen[LEGACY_TABLES];
};

static void on_closed(uv_handle_t *handle)
{
    struct nd_netfilter_watch *w = handle->data;

    if (--w->handles > 0)
        return;
    close(w->fd);
    nd_buf_fini(&w->pids);
    free(w);
}

void nd_netfilter_watch_close(struct nd_netfilter_watch *w)
{
    w->changed = NULL;
    uv_close((uv_handle_t *)&w->timer, on_closed);
    if (!w->legacy)
        uv_close((uv_handle_t *)&w->poll, on_closed);
}

/* ---- nft: events ---- */

static void on_debounced(uv_timer_t *timer)
{
    struct nd_netfilter_watch *w = timer->data;
    char *pids = nd_buf_take(&w->pids);

    w->changed(w->arg, pids);
    free(pids);
}

static void add_pid(struct nd_netfilter_watch *w, uint32_t pid)
{
    char word[16];
    const char *at = w->pids.data;
    size_t length = (size_t)snprintf(word, sizeof word, "%u", pid);

    while (at && (at = strstr(at, word))) {
        if ((at == w->pids.data || at[-1] == ' ') && (at[length] == ' ' || !at[length]))
            return;
        at += length;
    }
    nd_buf_addf(&w->pids, "%s%s", w->pids.length ? " " : "", word);
    if (!uv_is_active((uv_handle_t *)&w->timer))
        uv_timer_start(&w->timer, on_debounced, DEBOUNCE_MS, 0);
}

static void read_event(struct nd_netfilter_watch *w, const struct nlmsghdr *h)
{
    const struct nlattr *a;
    uint32_t pid = 0;
    size_t head = NLMSG_SPACE(sizeof(struct nfgenmsg));

    if (h->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN) || h->nlmsg_len < head)
        return; /* what changed is in the messages before it, and doesn't matter */
    a = nd_netlink_attribute((const char *)h + head, h->nlmsg_len - head, NFTA_GEN_PROC_PID);
    if (a && a->nla_len >= NLA_HDRLEN + sizeof pid)
        memcpy(&pid, (const char *)a + NLA_HDRLEN, sizeof pid);
    add_pid(w, ntohl(pid));
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct nd_netfilter_watch *w = poll->data;
    char data[64 * 1024] __attribute__((aligned(NLMSG_ALIGNTO)));
    ssize_t got;

    (void)events;
    if (status < 0) {
        add_pid(w, 0);
        return;
    }
    while ((got = recv(w->fd, data, sizeof data, MSG_DONTWAIT)) != 0) {
        size_t left = got < 0 ? 0 : (size_t)got;
        if (got < 0 && errno == ENOBUFS) { /* more came than fits: something did change */
            add_pid(w, 0);
            continue;
        }
        if (got < 0)
            break;
        for (const struct nlmsghdr *h = (void *)data; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left))
            read_event(w, h);
    }
}

static int open_events(struct nd_netfilter_watch *w, struct nd_loop *loop, struct nd_err *err)
{
    int group = NFNLGRP_NFTABLES, size = RECEIVE_BUFFER;
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};

    w->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER);
    if (w->fd < 0 || bind(w->fd, (void *)&address, sizeof address) < 0 ||
        setsockopt(w->fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0)
        return nd_err_errno(err, errno, "netfilter_watch", "the daemon needs CAP_NET_ADMIN",
                            "can't watch the netfilter rules");
    if (setsockopt(w->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(w->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    uv_poll_init(&loop->uv, &w->poll, w->fd);
    w->poll.data = w;
    w->handles++;
    uv_poll_start(&w->poll, UV_READABLE, on_readable);
    return 0;
}

/* ---- legacy: a look now and then ---- */

/* True when a table differs from the last look. A table that isn't there has no entries. */
static bool look(struct nd_netfilter_watch *w)
{
    bool differs = false;

    for (int i = 0; i < LEGACY_TABLES; i++) {
        struct ipt_getinfo info = {0};
        socklen_t size = sizeof info;
        snprintf(info.name, sizeof info.name, "%s", legacy_tables[i]);
        if (getsockopt(w->fd, SOL_IP, IPT_SO_GET_INFO, &info, &size) < 0)
            info.num_entries = info.size = 0;
        if (info.num_entries != w->seen[i].entries || info.size != w->seen[i].size)
            differs = true;
        w->seen[i].entries = info.num_entries;
        w->seen[i].size = info.size;
    }
    return differs;
}

static void on_look(uv_timer_t *timer)
{
    struct nd_netfilter_watch *w = timer->data;

    if (look(w))
        w->changed(w->arg, "0");
}

static int open_looks(struct nd_netfilter_watch *w, struct nd_err *err)
{
    w->fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    if (w->fd < 0)
        return nd_err_errno(err, errno, "netfilter_watch", "the daemon needs CAP_NET_RAW",
                            "can't watch the netfilter rules");
    look(w);
    uv_timer_start(&w->timer, on_look, LEGACY_EVERY_MS, LEGACY_EVERY_MS);
    return 0;
}

struct nd_netfilter_watch *nd_netfilter_watch_open(struct nd_loop *loop, bool legacy,
                                                   nd_netfilter_changed *changed, void *arg,
                                                   struct nd_err *err)
{
    struct nd_netfilter_watch *w = nd_alloc(sizeof *w);
    int opened;

    w->legacy = legacy;
    w->changed = changed;
    w->arg = arg;
    uv_timer_init(&loop->uv, &w->timer);
    w->timer.data = w;
    w->handles = 1;
    opened = legacy ? open_looks(w, err) : open_events(w, loop, err);
    if (opened < 0) {
        uv_close((uv_handle_t *)&w->timer, on_closed);
        return NULL;
    }
    return w;
}
