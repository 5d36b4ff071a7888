/*
 * secret.h - memory for what nobody else may see: never swapped, never in a core, never in a child.
 *
 * Memory of locked.h whose lock is certain. The size is fixed when it is made, so nothing is ever
 * copied on; whoever fills it knows the most that may come. Where the kernel grants no locked
 * memory there is no secret: code secret_memory.
 */
#ifndef ND_BASE_SECRET_H
#define ND_BASE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { ND_SECRET_MOST = 16 * 1024 * 1024 }; /* bytes of one */

struct nd_secret {
    uint8_t *data;   /* owned; NULL after nd_secret_fini */
    size_t length;   /* bytes in use */
    size_t capacity; /* bytes that fit */
};

/* Room for `capacity` bytes; 0 is a size too. */
int nd_secret_init(struct nd_secret *s, size_t capacity, struct nd_err *err);
void nd_secret_fini(struct nd_secret *s); /* of zeroes, too */

/* Copies `data` to its end; secret_too_large where there is no room for all of it. */
int nd_secret_add(struct nd_secret *s, const void *data, size_t length, struct nd_err *err);

/* Fills it with the whole of a file, of at most its capacity. */
int nd_secret_read(struct nd_secret *s, const char *path, struct nd_err *err);

/* Has the file `path` hold the secret, on a file system that is in memory alone (not_in_memory for
 * any other): by rename, so that whoever reads sees the old bytes or the new. 1: written; 0: it
 * held them already. PATH's directory has PATH.new meanwhile. Doesn't wait for a disk. */
int nd_secret_put(const struct nd_secret *s, const char *path, unsigned mode, struct nd_err *err);

#endif
