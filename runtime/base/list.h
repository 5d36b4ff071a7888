/*
 * list.h - a doubly linked list through a member of the things listed.
 *
 * `struct nd_list` is both the head and the link. A link that is in no list points to itself, so
 * nd_list_remove may be called twice.
 */
#ifndef ND_BASE_LIST_H
#define ND_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct nd_list {
    struct nd_list *next;
    struct nd_list *prev;
};

#define ND_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Visits each link from the front; the body may remove `link` itself. */
#define ND_LIST_EACH(link, head)                                                                   \
    for (struct nd_list *link = (head)->next, *link##_next = link->next; link != (head);           \
         link = link##_next, link##_next = link->next)

static inline void nd_list_init(struct nd_list *l)
{
    l->next = l->prev = l;
}

static inline bool nd_list_empty(const struct nd_list *l)
{
    return l->next == l;
}

static inline void nd_list_append(struct nd_list *head, struct nd_list *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

static inline void nd_list_remove(struct nd_list *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    nd_list_init(l);
}

#endif
