/*
 * locked.h - memory for secrets: whole pages of its own, in no core dump and no child, out of the
 * swap, zeroed when it is given back.
 *
 * Keeping it out of the swap needs room under RLIMIT_MEMLOCK; where there is none it is done
 * without, and so is leaving it out of dumps on a kernel that can't.
 */
#ifndef ND_BASE_LOCKED_H
#define ND_BASE_LOCKED_H

#include <stddef.h>

void *nd_locked_new(size_t size);          /* returns owned; zeroed; never NULL */
void nd_locked_free(void *p, size_t size); /* NULL is fine; `size` as it was asked for */

#endif
