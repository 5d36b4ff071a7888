/*
 * proc.h - what the kernel tells about the host, a process and a container's connections.
 *
 * Everything comes from files below `proc_root` and `sys_root` ("/proc" and "/sys" unless a test or
 * a container says otherwise). These functions read and parse, and block as little as the kernel
 * does; with many sockets that is tens of milliseconds, so the loop calls them through
 * nd_job_start. Errors: proc_unreadable, naming the file.
 */
#ifndef ND_ENGINE_PROC_H
#define ND_ENGINE_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* What a core does, in the order of /proc/stat. */
#define ND_CPU_MODES 8
extern const char *const nd_cpu_modes[ND_CPU_MODES];

struct nd_host_metrics {
    double memory;  /* percent that isn't available to new programs */
    double disk;    /* percent, as df counts: of what unprivileged users may fill */
    double load[3]; /* 1, 5 and 15 minutes */
    double uptime;  /* seconds */
    int cores;
    uint64_t memory_total, memory_available; /* bytes */
    uint64_t swap_total, swap_free;          /* bytes */
    uint64_t memory_free;                    /* bytes that nothing uses */
    uint64_t disk_total, disk_free;          /* bytes; free to unprivileged users */
    uint64_t disk_unused;                    /* bytes; free to root as well */
    uint64_t network_received, network_sent; /* bytes since boot, of the host's own interfaces */
    uint64_t disk_read, disk_written;        /* bytes since boot, of all disks */
    double pressure_cpu, pressure_memory,
        pressure_io;                             /* percent of the last 10 s in which something
                                                    waited; -1 where the kernel has no PSI */
    double waited_cpu, waited_memory, waited_io; /* seconds since boot in which something waited */
    double cpu_times[ND_CPU_MODES];              /* seconds of all cores since boot */
    int64_t boot_time;                           /* UTC seconds */
};

/* `disk_path` is any path on the file system meant. */
int nd_proc_host(const char *proc_root, const char *sys_root, const char *disk_path,
                 struct nd_host_metrics *out, struct nd_err *err);

/* "1h42m", "5m12s", "12s": as Go prints durations, without what doesn't matter. */
void nd_proc_duration(double seconds, char *out, size_t size);

struct nd_connection {
    char peer[64];  /* "10.0.0.7:51234", "[2001:db8::1]:443"; IPv4 in IPv6 is shown as IPv4 */
    int local_port; /* the port that the process listens on */
    bool half;      /* CLOSE_WAIT: the peer sends no more, but may still be reading */
};

struct nd_connections {
    struct nd_connection *items; /* owned; free() it */
    size_t count;
};

/* The TCP connections in the network namespace of process `pid` whose local port is `port` (0:
 * any) and that are ESTABLISHED or CLOSE_WAIT. Code `not_found` where there is no such process. */
int nd_proc_connections(const char *proc_root, pid_t pid, int port, struct nd_connections *out,
                        struct nd_err *err);

struct nd_proc_process {
    char state;     /* R, S, D, Z, ... */
    pid_t parent;   /* its process id */
    uint64_t start; /* ticks since boot: with the pid, names a process for ever */
    uint64_t rss;   /* bytes */
};

/* What this process uses. */
struct nd_proc_self {
    double cpu;            /* seconds */
    uint64_t rss, virtual; /* bytes */
    int64_t fds, fds_most; /* open descriptors, and how many it may have */
    double start;          /* UTC seconds */
};
int nd_proc_self(struct nd_proc_self *out, struct nd_err *err);

/* Code `not_found` where there is no such process. */
int nd_proc_process(const char *proc_root, pid_t pid, struct nd_proc_process *out,
                    struct nd_err *err);

#endif
