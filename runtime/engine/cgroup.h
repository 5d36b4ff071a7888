/*
 * cgroup.h - what one container uses, from the files of its control groups, v1 and v2.
 *
 * Docker's own stats block for a second; these files take a third of a millisecond. Where they are
 * is read from /proc/PID/cgroup each time, which proves in passing that the process is still the
 * container's: a number that went to another process names another group. The controllers of v1
 * are mounted below SYS/fs/cgroup by their names, the one tree of v2 at SYS/fs/cgroup itself or,
 * beside v1, at SYS/fs/cgroup/unified. A file that is absent, or goes while it is read, leaves its
 * part out of `have`.
 *
 * Reads files and blocks as little as the kernel does: the loop calls it through nd_job_start.
 */
#ifndef ND_ENGINE_CGROUP_H
#define ND_ENGINE_CGROUP_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

enum nd_cgroup_part {
    ND_CGROUP_CPU = 1,
    ND_CGROUP_MEMORY = 2,
    ND_CGROUP_IO = 4,
    ND_CGROUP_PIDS = 8,
    ND_CGROUP_NETWORK = 16,
};

struct nd_cgroup_usage {
    unsigned have;             /* enum nd_cgroup_part: which of the following were read */
    double cpu;                /* seconds of all cores, since the container's start */
    double throttled;          /* seconds it had to wait for its share */
    uint64_t memory;           /* bytes, the page cache included */
    uint64_t memory_working;   /* bytes, without the cache that could be dropped */
    uint64_t memory_limit;     /* bytes; 0: none */
    uint64_t oom_kills;        /* processes that the kernel ended for want of memory */
    uint64_t read, written;    /* bytes of block devices */
    uint64_t reads, writes;    /* operations of block devices */
    uint64_t pids;             /* processes and threads */
    uint64_t pids_limit;       /* 0: none */
    uint64_t received, sent;   /* bytes of its network, the loopback aside */
    uint64_t dropped, errored; /* packets, both ways */
};

/* `pid`: any process of the container; `id`: the container's, as its groups' path has it. Code
 * `not_found` where the process is gone or isn't in that container (any more). */
int nd_cgroup_read(const char *proc_root, const char *sys_root, pid_t pid, const char *id,
                   struct nd_cgroup_usage *out, struct nd_err *err);

#endif
