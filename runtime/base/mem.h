/*
 * mem.h - allocation that doesn't fail.
 *
 * A daemon that can't get a few bytes can't do anything useful either: it says so and aborts, and
 * the journal takes it from there after the restart. Memory whose size a stranger chooses (bodies,
 * frames, logs) is capped by its owner before it gets here.
 */
#ifndef ND_BASE_MEM_H
#define ND_BASE_MEM_H

#include <stddef.h>

void *nd_alloc(size_t size); /* zeroed; never NULL */
void *nd_realloc(void *p, size_t size);
char *nd_strdup(const char *s);
char *nd_strndup(const char *s, size_t length);
void *nd_checked(void *p); /* what another allocator gave; ends the process where that is NULL */
char *nd_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Instead of the above; must not return. For a program that is to run out of memory. */
void nd_mem_on_exhausted(void (*then)(void));

/* Overwrites `size` bytes in a way the compiler can't leave out: for secrets. */
void nd_zero(void *p, size_t size);

#endif
