#include "engine/proc.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"

enum { READ_CHUNK = 64 * 1024, PATH_SIZE = 512 };

/* 0, or the negative errno. */
static int read_path(const char *path, struct nd_buf *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : 1;
    int failed = errno;

    while (got > 0) {
        nd_buf_reserve(out, READ_CHUNK);
        got = read(fd, out->data + out->length, READ_CHUNK);
        if (got > 0) {
            out->length += (size_t)got;
            out->data[out->length] = '\0';
        } else {
            failed = errno;
        }
    }
    if (fd >= 0)
        close(fd);
    nd_buf_reserve(out, 1); /* an empty file is an empty text */
    return got < 0 ? -failed : 0;
}

/* 0, or the negative errno with `err` filled in. */
static int read_file(const char *root, const char *name, struct nd_buf *out, struct nd_err *err)
{
    char path[PATH_SIZE];

    int rc;

    snprintf(path, sizeof path, "%s/%s", root, name);
    rc = read_path(path, out);
    if (rc < 0)
        nd_err_errno(err, -rc, "proc_unreadable", "check --proc-root", "can't read %s", path);
    return rc;
}

static int malformed(struct nd_err *err, const char *root, const char *name)
{
    return nd_err_set(err, "proc_unreadable", "check --proc-root",
                      "%s/%s isn't what the kernel writes there", root, name);
}

/* ---- the host ---- */

const char *const nd_cpu_modes[ND_CPU_MODES] = {"user",   "nice", "system",  "idle",
                                                "iowait", "irq",  "softirq", "steal"};

/* "cpu user nice system idle iowait irq softirq steal ...": guest time is part of user's. */
static int read_cpu(const char *root, struct nd_host_metrics *out, struct nd_err *err)
{
    struct nd_buf text = {0};
    uint64_t t[ND_CPU_MODES] = {0};
    const char *line;
    int fields, rc = -1;

    if (read_file(root, "stat", &text, err) < 0)
        goto out;
    fields = sscanf(text.data,
                    "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
                    " %" SCNu64 " %" SCNu64,
                    &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]);
    if (fields < 4) {
        malformed(err, root, "stat");
        goto out;
    }
    for (int i = 0; i < ND_CPU_MODES; i++)
        out->cpu_times[i] = (double)t[i] / (double)sysconf(_SC_CLK_TCK);
    for (line = strstr(text.data, "\ncpu"); line; line = strstr(line + 1, "\ncpu"))
        out->cores++;
    line = strstr(text.data, "\nbtime ");
    out->boot_time = line ? strtoll(line + strlen("\nbtime "), NULL, 10) : 0;
    rc = 0;
out:
    nd_buf_fini(&text);
    return rc;
}

static uint64_t meminfo(const char *text, const char *name) /* bytes */
{
    const char *line = strstr(text, name);

    return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

static int read_memory(const char *root, struct nd_host_metrics *out, struct nd_err *err)
{
    struct nd_buf text = {0};
    int rc = read_file(root, "meminfo", &text, err);

    if (rc == 0) {
        out->memory_total = meminfo(text.data, "MemTotal:");
        out->memory_free = meminfo(text.data, "MemFree:");
        out->memory_available = meminfo(text.data, "MemAvailable:");
        out->swap_total = meminfo(text.data, "SwapTotal:");
        out->swap_free = meminfo(text.data, "SwapFree:");
        if (out->memory_total == 0 || out->memory_available > out->memory_total)
            rc = malformed(err, root, "meminfo");
        else
            out->memory = 100.0 * (double)(out->memory_total - out->memory_available) /
                          (double)out->memory_total;
    }
    nd_buf_fini(&text);
    return rc;
}

static int read_load_and_uptime(const char *root, struct nd_host_metrics *out, struct nd_err *err)
{
    struct nd_buf load = {0}, uptime = {0};
    int rc = -1;

    if (read_file(root, "loadavg", &load, err) < 0 || read_file(root, "uptime", &uptime, err) < 0)
        goto out;
    if (sscanf(load.data, "%lf %lf %lf", &out->load[0], &out->load[1], &out->load[2]) != 3)
        rc = malformed(err, root, "loadavg");
    else if (sscanf(uptime.data, "%lf", &out->uptime) != 1)
        rc = malformed(err, root, "uptime");
    else
        rc = 0;
out:
    nd_buf_fini(&load);
    nd_buf_fini(&uptime);
    return rc;
}

static int read_disk(const char *path, struct nd_host_metrics *out, struct nd_err *err)
{
    struct statvfs fs;
    uint64_t used;

    if (statvfs(path, &fs) < 0)
        return nd_err_errno(err, errno, "proc_unreadable", NULL, "can't measure the disk of %s",
                            path);
    used = (uint64_t)(fs.f_blocks - fs.f_bfree);
    out->disk_total = (uint64_t)fs.f_blocks * fs.f_frsize;
    out->disk_free = (uint64_t)fs.f_bavail * fs.f_frsize;
    out->disk_unused = (uint64_t)fs.f_bfree * fs.f_frsize;
    out->disk = used + fs.f_bavail ? 100.0 * (double)used / (double)(used + fs.f_bavail) : 0;
    return 0;
}

/* Bridges and their veths would count a container's bytes twice and thrice. */
static bool is_own_interface(const char *sys_root, const char *name, bool any_hardware)
{
    static const char *const virtual[] = {"lo", "veth", "br-", "docker", "nd-"};
    char path[PATH_SIZE];

    if (any_hardware) {
        snprintf(path, sizeof path, "%s/class/net/%s/device", sys_root, name);
        return access(path, F_OK) == 0;
    }
    for (size_t i = 0; i < sizeof virtual / sizeof *virtual; i++)
        if (strncmp(name, virtual[i], strlen(virtual[i])) == 0)
            return false;
    return true;
}

/* Adds up the interfaces that have a device behind them; how many there were. */
static int add_interfaces(const char *text, const char *sys_root, bool any_hardware,
                          struct nd_host_metrics *out)
{
    int found = 0;

    for (const char *line = text; line; line = strchr(line, '\n')) {
        uint64_t received, sent;
        char name[32];

        line += *line == '\n';
        if (sscanf(line, " %31[^:]: %" SCNu64 " %*u %*u %*u %*u %*u %*u %*u %" SCNu64, name,
                   &received, &sent) != 3 ||
            !is_own_interface(sys_root, name, any_hardware))
            continue;
        out->network_received += received;
        out->network_sent += sent;
        found++;
    }
    return found;
}

static void read_network(const char *proc_root, const char *sys_root, struct nd_host_metrics *out)
{
    struct nd_buf text = {0};

    if (read_file(proc_root, "net/dev", &text, NULL) == 0 &&
        add_interfaces(text.data, sys_root, true, out) == 0)
        add_interfaces(text.data, sys_root, false, out); /* in a container none has a device */
    nd_buf_fini(&text);
}

/* Partitions, and what is made of other disks (loop, dm, md), would count bytes twice. */
static bool is_disk(const char *sys_root, const char *name, bool any_hardware)
{
    static const char *const virtual[] = {"loop", "ram", "zram", "dm-", "md", "nbd", "sr", "fd"};
    char path[PATH_SIZE];

    snprintf(path, sizeof path, "%s/block/%s%s", sys_root, name, any_hardware ? "/device" : "");
    if (access(path, F_OK) != 0)
        return false;
    for (size_t i = 0; i < sizeof virtual / sizeof *virtual; i++)
        if (strncmp(name, virtual[i], strlen(virtual[i])) == 0)
            return false;
    return true;
}

/* Adds up the disks that have a device behind them, or else all; how many there were. The kernel
 * counts sectors of 512 bytes, whatever the disk's own are. */
static int add_disks(const char *text, const char *sys_root, bool any_hardware,
                     struct nd_host_metrics *out)
{
    int found = 0;

    for (const char *line = text; line; line = strchr(line, '\n')) {
        uint64_t read, written;
        char name[64];

        line += *line == '\n';
        if (sscanf(line, " %*u %*u %63s %*u %*u %" SCNu64 " %*u %*u %*u %" SCNu64, name, &read,
                   &written) != 3 ||
            !is_disk(sys_root, name, any_hardware))
            continue;
        out->disk_read += read * 512;
        out->disk_written += written * 512;
        found++;
    }
    return found;
}

static void read_disks(const char *proc_root, const char *sys_root, struct nd_host_metrics *out)
{
    struct nd_buf text = {0};

    if (read_file(proc_root, "diskstats", &text, NULL) == 0 &&
        add_disks(text.data, sys_root, true, out) == 0)
        add_disks(text.data, sys_root, false, out);
    nd_buf_fini(&text);
}

/* "some avg10=0.00 avg60=0.00 avg300=0.00 total=0": percent, and microseconds since boot. */
static double read_pressure(const char *root, const char *name, double *waited)
{
    struct nd_buf text = {0};
    uint64_t total = 0;
    double value = -1;

    if (read_file(root, name, &text, NULL) < 0 ||
        sscanf(text.data, "some avg10=%lf %*s %*s total=%" SCNu64, &value, &total) < 1)
        value = -1;
    *waited = (double)total / 1e6;
    nd_buf_fini(&text);
    return value;
}

int nd_proc_host(const char *proc_root, const char *sys_root, const char *disk_path,
                 struct nd_host_metrics *out, struct nd_err *err)
{
    memset(out, 0, sizeof *out);
    if (read_cpu(proc_root, out, err) < 0 || read_memory(proc_root, out, err) < 0 ||
        read_load_and_uptime(proc_root, out, err) < 0 || read_disk(disk_path, out, err) < 0)
        return -1;
    read_network(proc_root, sys_root, out);
    read_disks(proc_root, sys_root, out);
    out->pressure_cpu = read_pressure(proc_root, "pressure/cpu", &out->waited_cpu);
    out->pressure_memory = read_pressure(proc_root, "pressure/memory", &out->waited_memory);
    out->pressure_io = read_pressure(proc_root, "pressure/io", &out->waited_io);
    return 0;
}

void nd_proc_duration(double seconds, char *out, size_t size)
{
    long all = seconds > 0 ? (long)seconds : 0;

    if (all >= 3600)
        snprintf(out, size, "%ldh%ldm", all / 3600, all / 60 % 60);
    else if (all >= 60)
        snprintf(out, size, "%ldm%lds", all / 60, all % 60);
    else
        snprintf(out, size, "%lds", all);
}

/* ---- connections ---- */

enum { TCP_IS_ESTABLISHED = 1, TCP_IS_CLOSE_WAIT = 8 }; /* include/net/tcp_states.h */

/* The kernel prints an address as 32-bit words in its own byte order. */
static bool read_address(const char *hex, int words, uint32_t address[4])
{
    for (int i = 0; i < words; i++)
        if (sscanf(hex + 8 * i, "%8" SCNx32, &address[i]) != 1)
            return false;
    return true;
}

static void write_peer(const uint32_t address[4], int words, unsigned port,
                       struct nd_connection *out)
{
    char text[INET6_ADDRSTRLEN];
    bool mapped = words == 4 && !address[0] && !address[1] && address[2] == htonl(0xffff);

    if (words == 1 || mapped) {
        inet_ntop(AF_INET, mapped ? &address[3] : address, text, sizeof text);
        snprintf(out->peer, sizeof out->peer, "%s:%u", text, port);
    } else {
        inet_ntop(AF_INET6, address, text, sizeof text);
        snprintf(out->peer, sizeof out->peer, "[%s]:%u", text, port);
    }
}

/* "  0: 0100007F:1F90 0200007F:D431 01 ...": slot, local, remote, state. */
static bool read_line(const char *line, int words, int port, struct nd_connection *out)
{
    char local[33], remote[33];
    unsigned local_port, remote_port, state;
    uint32_t address[4] = {0};

    if (sscanf(line, " %*u: %32[0-9A-F]:%x %32[0-9A-F]:%x %x", local, &local_port, remote,
               &remote_port, &state) != 5 ||
        strlen(remote) != (size_t)words * 8)
        return false;
    if ((state != TCP_IS_ESTABLISHED && state != TCP_IS_CLOSE_WAIT) ||
        (port && local_port != (unsigned)port) || !read_address(remote, words, address))
        return false;
    out->local_port = (int)local_port;
    out->half = state == TCP_IS_CLOSE_WAIT;
    write_peer(address, words, remote_port, out);
    return true;
}

static void add_lines(const char *text, int words, int port, struct nd_connections *out)
{
    size_t capacity = out->count;

    for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n')) {
        struct nd_connection found;

        if (!read_line(line + 1, words, port, &found))
            continue;
        if (out->count == capacity) {
            capacity = capacity ? capacity * 2 : 16;
            out->items = nd_realloc(out->items, capacity * sizeof *out->items);
        }
        out->items[out->count++] = found;
    }
}

static int no_process(const char *root, pid_t pid, struct nd_err *err)
{
    return nd_err_set(err, "not_found", NULL, "there is no process %ld in %s", (long)pid, root);
}

int nd_proc_connections(const char *proc_root, pid_t pid, int port, struct nd_connections *out,
                        struct nd_err *err)
{
    struct nd_buf text = {0};
    char name[64];
    int rc;

    memset(out, 0, sizeof *out);
    snprintf(name, sizeof name, "%ld/net/tcp", (long)pid);
    rc = read_file(proc_root, name, &text, err);
    if (rc == -ENOENT || rc == -ESRCH)
        no_process(proc_root, pid, err);
    else if (rc == 0)
        add_lines(text.data, 1, port, out);
    nd_buf_clear(&text);
    strcat(name, "6"); /* absent where IPv6 is switched off */
    if (rc == 0 && read_file(proc_root, name, &text, NULL) == 0)
        add_lines(text.data, 4, port, out);
    nd_buf_fini(&text);
    return rc < 0 ? -1 : 0;
}

/* ---- a process ---- */

int nd_proc_process(const char *proc_root, pid_t pid, struct nd_proc_process *out,
                    struct nd_err *err)
{
    struct nd_buf text = {0};
    const char *after; /* the name in parentheses may hold anything, spaces and ')' too */
    char name[64];
    long parent, pages;
    int rc;

    snprintf(name, sizeof name, "%ld/stat", (long)pid);
    rc = read_file(proc_root, name, &text, err);
    if (rc < 0) {
        if (rc == -ENOENT || rc == -ESRCH)
            no_process(proc_root, pid, err);
        goto out;
    }
    after = strrchr(text.data, ')');
    /* proc(5): state is field 3, ppid 4, starttime 22, rss 24 */
    if (!after || sscanf(after + 1,
                         " %c %ld %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
                         "%*d %*d %" SCNu64 " %*u %ld",
                         &out->state, &parent, &out->start, &pages) != 4) {
        rc = malformed(err, proc_root, name);
        goto out;
    }
    out->parent = (pid_t)parent;
    out->rss = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
out:
    nd_buf_fini(&text);
    return rc < 0 ? -1 : 0;
}

static int64_t count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int64_t count = -3; /* ".", ".." and the one it is read through */

    if (!dir)
        return 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

int nd_proc_self(struct nd_proc_self *out, struct nd_err *err)
{
    struct nd_host_metrics host = {0};
    struct nd_proc_process process;
    struct nd_buf text = {0};
    struct rlimit limit;
    struct rusage usage;
    uint64_t pages = 0;

    memset(out, 0, sizeof *out);
    if (nd_proc_process("/proc", getpid(), &process, err) < 0 || read_cpu("/proc", &host, err) < 0)
        return -1;
    out->rss = process.rss;
    out->start = (double)host.boot_time + (double)process.start / (double)sysconf(_SC_CLK_TCK);
    getrusage(RUSAGE_SELF, &usage);
    out->cpu = (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6 +
               (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6;
    getrlimit(RLIMIT_NOFILE, &limit);
    out->fds = count_fds();
    out->fds_most = (int64_t)limit.rlim_cur;
    if (read_file("/proc/self", "statm", &text, NULL) == 0)
        sscanf(text.data, "%" SCNu64, &pages);
    out->virtual = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    nd_buf_fini(&text);
    return 0;
}
