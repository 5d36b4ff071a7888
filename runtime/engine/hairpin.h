/*
 * hairpin.h - lets a container reach itself through its own service address.
 *
 * With br_netfilter, which Docker loads, the kernel doesn't route a packet that was translated to
 * an address on the bridge it came from: it bridges it, and a bridge sends nothing back out of the
 * port it came in by, unless the port is in hairpin mode. Docker leaves that off. So this hears of
 * links from the kernel (rtnetlink) and turns it on for every port of the bridges whose names begin
 * with a prefix, those that are there and those that come.
 *
 * A port keeps its mode when the daemon ends. One that is added while no daemon runs gets it at the
 * next start; until then its container just can't choose itself.
 */
#ifndef ND_ENGINE_HAIRPIN_H
#define ND_ENGINE_HAIRPIN_H

#include "base/err.h"
#include "io/loop.h"

struct nd_hairpin;

/* Returns owned, or NULL. Needs CAP_NET_ADMIN. */
struct nd_hairpin *nd_hairpin_open(struct nd_loop *loop, const char *prefix, struct nd_err *err);
/* Frees it when its handle is closed. */
void nd_hairpin_close(struct nd_hairpin *hairpin);

#endif
