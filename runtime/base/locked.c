#include "base/locked.h"

#include <sys/mman.h>

#include "base/mem.h"

void *nd_locked_new(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    nd_checked(p == MAP_FAILED ? NULL : p);
    madvise(p, size, MADV_DONTDUMP);
    madvise(p, size, MADV_DONTFORK);
    (void)!mlock(p, size);
    return p;
}

void nd_locked_free(void *p, size_t size)
{
    if (!p)
        return;
    nd_zero(p, size);
    munmap(p, size);
}
