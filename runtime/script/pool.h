/*
 * pool.h - the memory of a Lua state: small blocks by size, without malloc's headers and searches.
 *
 * Lua makes and drops many small objects, and tells the size of each block that it gives back. So a
 * block needs no header: one of up to 512 bytes is cut from a page of its size's class, and goes
 * onto that class's list when it is free. Larger ones are malloc's. Pages are kept until the end: a
 * Lua state that was large once may be again.
 */
#ifndef ND_SCRIPT_POOL_H
#define ND_SCRIPT_POOL_H

#include <stddef.h>

enum { ND_POOL_STEP = 16, ND_POOL_CLASSES = 32 /* the largest of 512 bytes */ };

struct nd_pool {
    void *free[ND_POOL_CLASSES]; /* of each class: a block, which begins with the next one */
    char *page;                  /* where the next new block is cut */
    size_t left;                 /* bytes of `page` */
    void *pages;                 /* all pages; each begins with the next one */
};

/* Lua's allocator (lua_Alloc); `pool` is a struct nd_pool, zeroed at first. */
void *nd_pool_alloc(void *pool, void *block, size_t old_size, size_t size);
void nd_pool_fini(struct nd_pool *pool); /* after lua_close */

#endif
