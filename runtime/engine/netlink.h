/*
 * netlink.h - finding attributes in the kernel's netlink messages.
 *
 * Lengths are checked against the message, since a short one would have us read past it.
 */
#ifndef ND_ENGINE_NETLINK_H
#define ND_ENGINE_NETLINK_H

#include <linux/netlink.h>
#include <stddef.h>

/* Finds the attribute `type` among those in data..data+length; NULL if it isn't there. */
static inline const struct nlattr *nd_netlink_attribute(const void *data, size_t length, int type)
{
    const char *at = data;

    while (length >= NLA_HDRLEN) {
        const struct nlattr *a = (const void *)at;
        size_t step = NLA_ALIGN(a->nla_len);
        if (a->nla_len < NLA_HDRLEN || a->nla_len > length)
            return NULL;
        if ((a->nla_type & NLA_TYPE_MASK) == type)
            return a;
        if (step >= length)
            return NULL;
        at += step;
        length -= step;
    }
    return NULL;
}

#endif
