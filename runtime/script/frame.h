/*
 * frame.h - messages between the daemon and a worker: a 4-byte big-endian length, then JSON.
 *
 * A frame holds at most ND_FRAME_MAX bytes of JSON; a longer one is an error on either side. The
 * worker reads and writes with blocking calls, since it has nothing else to do; the daemon reads
 * whatever the loop brings and takes whole frames out of a buffer.
 */
#ifndef ND_SCRIPT_FRAME_H
#define ND_SCRIPT_FRAME_H

#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

enum { ND_FRAME_MAX = 4 * 1024 * 1024, ND_FRAME_HEAD = 4 };

/* Writes the length of a frame of `length` bytes into head[0..3]. */
void nd_frame_head(unsigned char *head, size_t length);

/* Blocking. -1 with code "worker_protocol" (too long) or "worker_gone" (the other end closed). */
int nd_frame_write(int fd, const void *json, size_t length, struct nd_err *err);
/* Blocking; replaces what `out` holds. 1: a frame; 0: the other end closed between frames. */
int nd_frame_read(int fd, struct nd_buf *out, struct nd_err *err);

/* Looks for a whole frame at `data`. 1: its JSON is `*length` bytes from data + ND_FRAME_HEAD;
 * 0: more bytes are needed; -1: it is longer than ND_FRAME_MAX. */
int nd_frame_find(const void *data, size_t available, size_t *length);

#endif
