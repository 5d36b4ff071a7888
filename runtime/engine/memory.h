/*
 * memory.h - the libraries' allocations don't fail either.
 *
 * What base/mem.h says of our own memory holds for what SQLite, libuv, curl, OpenSSL and jansson
 * ask for: they could report a failure, but nobody could do better than to end. To be called once,
 * before any of them is used.
 */
#ifndef ND_ENGINE_MEMORY_H
#define ND_ENGINE_MEMORY_H

void nd_memory_firm(void);

#endif
