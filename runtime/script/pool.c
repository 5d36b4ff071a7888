#include "script/pool.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { PAGE = 32 * 1024, SMALL_MOST = ND_POOL_STEP * ND_POOL_CLASSES };

#ifdef ND_SANITIZE /* sees each block for itself */
void *nd_pool_alloc(void *pool, void *block, size_t old_size, size_t size)
{
    (void)pool, (void)old_size;
    if (size)
        return nd_realloc(block, size);
    free(block);
    return NULL;
}
#else
static size_t class_of(size_t size)
{
    return (size - 1) / ND_POOL_STEP;
}

static void *cut(struct nd_pool *pool, size_t size)
{
    char *block;

    if (pool->left < size) { /* what is left of the old page is lost: less than a block */
        char *page = nd_realloc(NULL, PAGE);

        *(void **)(void *)page = pool->pages;
        pool->pages = page;
        pool->page = page + ND_POOL_STEP;
        pool->left = PAGE - ND_POOL_STEP;
    }
    block = pool->page;
    pool->page += size;
    pool->left -= size;
    return block;
}

static void *take(struct nd_pool *pool, size_t size)
{
    size_t class;
    void *block;

    if (size > SMALL_MOST)
        return nd_realloc(NULL, size);
    class = class_of(size);
    block = pool->free[class];
    if (!block)
        return cut(pool, (class + 1) * ND_POOL_STEP);
    pool->free[class] = *(void **)block;
    return block;
}

static void give(struct nd_pool *pool, void *block, size_t size)
{
    if (size > SMALL_MOST) {
        free(block);
    } else if (size) {
        *(void **)block = pool->free[class_of(size)];
        pool->free[class_of(size)] = block;
    }
}

void *nd_pool_alloc(void *arg, void *block, size_t old_size, size_t size)
{
    struct nd_pool *pool = arg;
    void *moved;

    if (!block)
        return size ? take(pool, size) : NULL;
    if (!size) {
        give(pool, block, old_size);
        return NULL;
    }
    if (old_size > SMALL_MOST && size > SMALL_MOST)
        return nd_realloc(block, size);
    if (old_size <= SMALL_MOST && size <= SMALL_MOST && class_of(old_size) == class_of(size))
        return block;
    moved = take(pool, size);
    memcpy(moved, block, old_size < size ? old_size : size);
    give(pool, block, old_size);
    return moved;
}
#endif

void nd_pool_fini(struct nd_pool *pool)
{
    while (pool->pages) {
        void *next = *(void **)pool->pages;

        free(pool->pages);
        pool->pages = next;
    }
}
