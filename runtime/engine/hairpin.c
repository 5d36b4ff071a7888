#include "engine/hairpin.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/netlink.h"

enum { MESSAGE_MAX = 64 * 1024 };

struct nd_hairpin {
    uv_poll_t poll;
    int fd;                /* owned */
    char prefix[IFNAMSIZ]; /* of the bridges' names */
};

static int request_links(const struct nd_hairpin *hp)
{
    struct {
        struct nlmsghdr head;
        struct ifinfomsg link;
    } r = {.head = {.nlmsg_len = sizeof r,
                    .nlmsg_type = RTM_GETLINK,
                    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};

    return send(hp->fd, &r, sizeof r, 0) < 0 ? -1 : 0;
}

static void turn_on(const struct nd_hairpin *hp, int port)
{
    struct {
        struct nlmsghdr head;
        struct ifinfomsg link;
        struct nlattr info;
        struct nlattr mode;
        unsigned char on[4]; /* one byte and the padding */
    } r = {.head = {.nlmsg_len = sizeof r, .nlmsg_type = RTM_SETLINK, .nlmsg_flags = NLM_F_REQUEST},
           .link = {.ifi_family = AF_BRIDGE, .ifi_index = port},
           .info = {.nla_len = sizeof r.info + sizeof r.mode + sizeof r.on,
                    .nla_type = IFLA_PROTINFO | NLA_F_NESTED},
           .mode = {.nla_len = sizeof r.mode + 1, .nla_type = IFLA_BRPORT_MODE},
           .on = {1}};

    send(hp->fd, &r, sizeof r, 0); /* a port that is gone meanwhile is no matter */
}

/* Is it a port whose bridge is ours? Ports that have it on already are set again: rare, harmless.
 * The messages that setting causes are of family AF_BRIDGE and not looked at. */
static void read_link(const struct nd_hairpin *hp, const struct nlmsghdr *h)
{
    size_t head = NLMSG_SPACE(sizeof(struct ifinfomsg));
    const struct ifinfomsg *link = NLMSG_DATA(h);
    const struct nlattr *a;
    unsigned master = 0;
    char name[IFNAMSIZ];

    if (h->nlmsg_type != RTM_NEWLINK || h->nlmsg_len < head || link->ifi_family != AF_UNSPEC)
        return;
    a = nd_netlink_attribute((const char *)h + head, h->nlmsg_len - head, IFLA_MASTER);
    if (!a || a->nla_len < NLA_HDRLEN + sizeof master)
        return;
    memcpy(&master, (const char *)a + NLA_HDRLEN, sizeof master);
    if (if_indextoname(master, name) && strncmp(name, hp->prefix, strlen(hp->prefix)) == 0)
        turn_on(hp, link->ifi_index);
}

static void on_links(uv_poll_t *poll, int status, int events)
{
    struct nd_hairpin *hp = poll->data;
    char data[MESSAGE_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
    ssize_t got;

    (void)events;
    while (status == 0 && (got = recv(hp->fd, data, sizeof data, MSG_DONTWAIT)) != 0) {
        size_t left = got < 0 ? 0 : (size_t)got;
        if (got < 0 && errno == ENOBUFS) { /* some were lost: list them all */
            request_links(hp);
            continue;
        }
        if (got < 0)
            break;
        for (const struct nlmsghdr *h = (void *)data; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left))
            read_link(hp, h);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct nd_hairpin *hp = handle->data;

    close(hp->fd);
    free(hp);
}

void nd_hairpin_close(struct nd_hairpin *hp)
{
    uv_close((uv_handle_t *)&hp->poll, on_closed);
}

struct nd_hairpin *nd_hairpin_open(struct nd_loop *loop, const char *prefix, struct nd_err *err)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    struct nd_hairpin *hp = nd_alloc(sizeof *hp);

    snprintf(hp->prefix, sizeof hp->prefix, "%s", prefix);
    hp->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (hp->fd < 0 || bind(hp->fd, (void *)&address, sizeof address) < 0 || request_links(hp) < 0) {
        nd_err_errno(err, errno, "hairpin_failed", "the daemon needs CAP_NET_ADMIN",
                     "can't watch the network's links");
        if (hp->fd >= 0)
            close(hp->fd);
        free(hp);
        return NULL;
    }
    uv_poll_init(&loop->uv, &hp->poll, hp->fd);
    hp->poll.data = hp;
    uv_poll_start(&hp->poll, UV_READABLE, on_links);
    return hp;
}
