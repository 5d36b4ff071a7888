/*
 * netfilter_flow.c - the conntrack table over netlink: counting flows and forgetting them.
 *
 * One dump lists the whole table; what isn't asked for is dropped here, since only kernels from
 * 5.8 on filter, and only by exact address. Deleting goes by the tuple of the *answers* and the id:
 * a caller who comes back from the same port while we delete gets an entry with the same first
 * tuple, often even at the same place in memory, but translated to another instance. That one
 * stays.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "engine/netfilter.h"
#include "engine/netlink.h"

#define HINT "conntrack needs CAP_NET_ADMIN and the module nf_conntrack_netlink"

struct request {
    struct nlmsghdr head;
    struct nfgenmsg family;
    char attributes[256];
};

struct flow {
    uint32_t to;                  /* host order: where it was sent */
    uint32_t at;                  /* host order: where it was translated to */
    const struct nlattr *answers; /* borrowed from the message: the tuple of the way back */
    const struct nlattr *id;      /* borrowed; may be NULL */
    uint8_t proto;
    uint8_t tcp_state;
};

/* What is done with each chosen flow. */
typedef void visit(void *arg, const struct flow *flow);

static const struct nlattr *nested(const struct nlattr *a, int type)
{
    return a ? nd_netlink_attribute((const char *)a + NLA_HDRLEN, a->nla_len - NLA_HDRLEN, type)
             : NULL;
}

static uint32_t number(const struct nlattr *a, size_t size)
{
    uint32_t value = 0;

    if (a && a->nla_len >= NLA_HDRLEN + size)
        memcpy(&value, (const char *)a + NLA_HDRLEN, size);
    return value;
}

static void read_flow(const struct nlmsghdr *h, struct flow *f)
{
    size_t head = NLMSG_SPACE(sizeof(struct nfgenmsg));
    const char *data = (const char *)h + head;
    size_t length = h->nlmsg_len - head;
    const struct nlattr *first = nd_netlink_attribute(data, length, CTA_TUPLE_ORIG);
    const struct nlattr *info = nd_netlink_attribute(data, length, CTA_PROTOINFO);

    f->answers = nd_netlink_attribute(data, length, CTA_TUPLE_REPLY);
    f->id = nd_netlink_attribute(data, length, CTA_ID);
    f->to = ntohl(number(nested(nested(first, CTA_TUPLE_IP), CTA_IP_V4_DST), 4));
    f->at = ntohl(number(nested(nested(f->answers, CTA_TUPLE_IP), CTA_IP_V4_SRC), 4));
    f->proto = (uint8_t)number(nested(nested(first, CTA_TUPLE_PROTO), CTA_PROTO_NUM), 1);
    info = nested(nested(info, CTA_PROTOINFO_TCP), CTA_PROTOINFO_TCP_STATE);
    f->tcp_state = (uint8_t)number(info, 1);
}

static bool among(const struct nd_flow_filter *filter, uint32_t address)
{
    return address >= filter->first && address <= filter->last;
}

static bool chosen(const struct nd_flow_filter *filter, const struct flow *f)
{
    if (!among(filter, f->to) && !among(filter, f->at))
        return false;
    if (filter->proto && f->proto != filter->proto)
        return false;
    if (filter->ended)
        return f->proto == IPPROTO_TCP &&
               (f->tcp_state == TCP_CONNTRACK_TIME_WAIT || f->tcp_state == TCP_CONNTRACK_CLOSE);
    return !filter->open || f->proto != IPPROTO_TCP || f->tcp_state == TCP_CONNTRACK_SYN_RECV ||
           f->tcp_state == TCP_CONNTRACK_ESTABLISHED;
}

static int conntrack_open(struct nd_err *err)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};
    struct timeval limit = {.tv_sec = 10};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);

    if (fd < 0 || bind(fd, (void *)&address, sizeof address) < 0) {
        nd_err_errno(err, errno, "conntrack_failed", HINT, "can't open conntrack");
        if (fd >= 0)
            close(fd);
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static void request_init(struct request *r, int message, int flags)
{
    memset(r, 0, sizeof *r);
    r->head.nlmsg_len = NLMSG_LENGTH(sizeof r->family);
    r->head.nlmsg_type = (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | message);
    r->head.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    r->family.nfgen_family = AF_INET;
    r->family.version = NFNETLINK_V0;
}

/* Returns 1 at the end of the dump, 0 to go on, -1 with errno set. */
static int read_dump(const char *data, size_t left, const struct nd_flow_filter *filter,
                     visit *each, void *arg)
{
    for (const struct nlmsghdr *h = (const void *)data; NLMSG_OK(h, left);
         h = NLMSG_NEXT(h, left)) {
        struct flow f = {0};
        if (h->nlmsg_type == NLMSG_DONE)
            return 1;
        if (h->nlmsg_type == NLMSG_ERROR) {
            const struct nlmsgerr *e = NLMSG_DATA(h);
            errno = -e->error;
            return e->error ? -1 : 0;
        }
        if (h->nlmsg_len < NLMSG_SPACE(sizeof(struct nfgenmsg)))
            continue;
        read_flow(h, &f);
        if (chosen(filter, &f))
            each(arg, &f);
    }
    return 0;
}

static int dump(int fd, const struct nd_flow_filter *filter, visit *each, void *arg,
                struct nd_err *err)
{
    struct request r;
    char *data = nd_alloc(64 * 1024);
    int result = 0;

    request_init(&r, IPCTNL_MSG_CT_GET, NLM_F_DUMP);
    if (send(fd, &r, r.head.nlmsg_len, 0) < 0)
        result = -1;
    while (result == 0) {
        ssize_t got = recv(fd, data, 64 * 1024, 0);
        result =
            got < 0 ? (errno == EINTR ? 0 : -1) : read_dump(data, (size_t)got, filter, each, arg);
    }
    free(data);
    if (result < 0)
        return nd_err_errno(err, errno, "conntrack_failed", HINT, "can't list connections");
    return 0;
}

/* ---- counting ---- */

static void add_address(struct nd_buf *all, uint32_t address)
{
    nd_buf_add(all, &address, sizeof address);
}

struct counting {
    const struct nd_flow_filter *filter;
    struct nd_buf all; /* uint32_t, one for each mention */
};

static void count(void *arg, const struct flow *f)
{
    struct counting *c = arg;

    if (among(c->filter, f->to))
        add_address(&c->all, f->to);
    if (f->at != f->to && among(c->filter, f->at))
        add_address(&c->all, f->at);
}

static int by_address(const void *a, const void *b)
{
    uint32_t x, y;

    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

int nd_flow_list(const struct nd_flow_filter *filter, struct nd_flow_count **out,
                 struct nd_err *err)
{
    struct counting c = {.filter = filter};
    size_t n;
    int used = 0, fd = conntrack_open(err);

    *out = NULL;
    if (fd < 0)
        return -1;
    if (dump(fd, filter, count, &c, err) < 0) {
        used = -1;
        goto out;
    }
    n = c.all.length / sizeof(uint32_t);
    if (n == 0)
        goto out;
    qsort(c.all.data, n, sizeof(uint32_t), by_address);
    *out = nd_alloc(n * sizeof **out);
    for (size_t i = 0; i < n; i++) {
        uint32_t address;
        memcpy(&address, c.all.data + i * sizeof address, sizeof address);
        if (used == 0 || (*out)[used - 1].address != address)
            (*out)[used++].address = address;
        (*out)[used - 1].count++;
    }
out:
    nd_buf_fini(&c.all);
    close(fd);
    return used;
}

/* ---- forgetting ---- */

static void remember(void *arg, const struct flow *f)
{
    struct request r;
    size_t tuple = f->answers ? f->answers->nla_len : 0, id = f->id ? f->id->nla_len : 0;

    if (tuple == 0 || NLA_ALIGN(tuple) + NLA_ALIGN(id) > sizeof r.attributes)
        return;
    request_init(&r, IPCTNL_MSG_CT_DELETE, NLM_F_ACK);
    memcpy(r.attributes, f->answers, tuple);
    if (f->id)
        memcpy(r.attributes + NLA_ALIGN(tuple), f->id, id);
    r.head.nlmsg_len += (uint32_t)(NLA_ALIGN(tuple) + NLA_ALIGN(id));
    nd_buf_add(arg, &r, sizeof r);
}

/* True when the kernel says it removed it; one that ended by itself meanwhile is no error. */
static bool forget(int fd, const struct request *r)
{
    char data[512] __attribute__((aligned(NLMSG_ALIGNTO)));
    const struct nlmsghdr *h = (void *)data;
    ssize_t got;

    if (send(fd, r, r->head.nlmsg_len, 0) < 0)
        return false;
    got = recv(fd, data, sizeof data, 0);
    return got >= (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) && h->nlmsg_type == NLMSG_ERROR &&
           ((const struct nlmsgerr *)NLMSG_DATA(h))->error == 0;
}

int nd_flow_forget(const struct nd_flow_filter *filter, struct nd_err *err)
{
    struct nd_buf requests = {0};
    int forgotten = 0, fd = conntrack_open(err);

    if (fd < 0)
        return -1;
    /* All are found before the first goes: a table that changes under a dump skips entries. */
    if (dump(fd, filter, remember, &requests, err) < 0)
        forgotten = -1;
    for (size_t at = 0; forgotten >= 0 && at < requests.length; at += sizeof(struct request)) {
        struct request r;
        memcpy(&r, requests.data + at, sizeof r);
        forgotten += forget(fd, &r);
    }
    nd_buf_fini(&requests);
    close(fd);
    return forgotten;
}
