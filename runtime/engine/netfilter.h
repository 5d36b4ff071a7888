/*
 * netfilter.h - what iptables' command line can't do: hear of changes, and look at connections.
 *
 * The rules themselves are written by iptables-restore (lua/nd/service/iptables.lua). Here are
 *   - the watch: the kernel tells of every change of nftables rules, with the process that made it,
 *     so that a flush by somebody else is noticed at once. The legacy tables tell nobody; there the
 *     number and size of the rules are looked at four times a second (two getsockopt calls).
 *   - flows: connections that conntrack knows, counted by address or forgotten. A forgotten UDP
 * flow goes through the rules again; a forgotten TCP connection is cut by whoever it reaches next.
 *
 * Needs CAP_NET_ADMIN. IPv4 only, as service addresses are.
 */
#ifndef ND_ENGINE_NETFILTER_H
#define ND_ENGINE_NETFILTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "io/loop.h"

struct nd_netfilter_watch;

/* `pids` names the processes behind the changes since the last call, separated by spaces, each
 * once; 0 stands for one that isn't known. Changes within 10 ms come as one call. */
typedef void nd_netfilter_changed(void *arg, const char *pids);

/* Returns owned, or NULL. `legacy`: watch the legacy tables instead of nftables. */
struct nd_netfilter_watch *nd_netfilter_watch_open(struct nd_loop *loop, bool legacy,
                                                   nd_netfilter_changed *changed, void *arg,
                                                   struct nd_err *err);
/* No call to `changed` comes after it. Frees the watch when its handles are closed. */
void nd_netfilter_watch_close(struct nd_netfilter_watch *watch);

/* Which flows; addresses in host order. One is chosen if the address it was sent to, or the one it
 * was translated to, is among first..last. */
struct nd_flow_filter {
    uint32_t first, last;
    uint8_t proto; /* IPPROTO_TCP, IPPROTO_UDP; 0: any */
    bool open;     /* TCP: only established ones and those about to be */
    bool ended;    /* only TCP ones that have ended, and are remembered for a while */
};

struct nd_flow_count {
    uint32_t address; /* host order */
    uint32_t count;
};

/* Both block for as long as the kernel takes to list its table (15 ms for 100,000 entries): call
 * them from a job. */

/* Counts chosen flows by address, sorted by it; `*out` is returned owned (NULL when there is none).
 * Returns their number or -1. */
int nd_flow_list(const struct nd_flow_filter *filter, struct nd_flow_count **out,
                 struct nd_err *err);
/* Removes chosen flows from conntrack; returns how many, or -1. */
int nd_flow_forget(const struct nd_flow_filter *filter, struct nd_err *err);

#endif
