/*
 * sockdiag.h - which connections of a container are idle, as far as the kernel can tell.
 *
 * /proc/PID/net/tcp says who is connected, not whether anything goes on. The kernel's socket
 * diagnostics also say how long ago data came and went. A connection counts as idle here when the
 * app had the last word, all of it was acknowledged, nothing waits to be read, and nothing moved
 * for a while: a pooled keep-alive connection between two requests looks like that. So does a
 * WebSocket on which nobody speaks, which is why idle ones are counted apart and never left out.
 */
#ifndef ND_ENGINE_SOCKDIAG_H
#define ND_ENGINE_SOCKDIAG_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* How many established connections to `port` in the network namespace of `pid` are idle for at
 * least `quiet_ms`; -1 with `err`. Blocks for a moment, and enters that namespace with the calling
 * thread: call it from a job. Needs CAP_SYS_ADMIN. */
int nd_sockdiag_idle(pid_t pid, uint16_t port, uint32_t quiet_ms, struct nd_err *err);

#endif
