#include "engine/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A memory.stat of v2 has some 1.5 KB; an io.stat 100 bytes for each device. */
enum { FILE_MOST = 32 * 1024, PATH_MOST = 1024, GROUP_MOST = 512 };

/* Where the groups of one process are. */
struct groups {
    const char *sys_root; /* borrowed */
    char v1[4096];        /* the lines of /proc/PID/cgroup */
    char v2[PATH_MOST];   /* the directory; "" where there is no v2 */
};

/* The file's text; false where it can't be read. */
static bool slurp(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    ssize_t got = -1;

    if (fd < 0)
        return false;
    while (length < size - 1 && (got = read(fd, out + length, size - 1 - length)) > 0)
        length += (size_t)got;
    close(fd);
    out[length] = '\0';
    return got >= 0;
}

/* ---- where ---- */

/* "4:cpu,cpuacct:/docker/ID" names `controller`; its path then. */
static bool line_names(const char *line, const char *controller, char *path, size_t size)
{
    const char *names = strchr(line, ':'), *end;
    size_t length = strlen(controller);

    if (!names || !(end = strchr(++names, ':')))
        return false;
    for (const char *name = names; name && name < end; name = strchr(name, ',')) {
        name += *name == ',';
        if (strncmp(name, controller, length) == 0 &&
            (name[length] == ',' || name[length] == ':')) {
            snprintf(path, size, "%.*s", (int)strcspn(end + 1, "\n"), end + 1);
            return true;
        }
    }
    return false;
}

static bool v1_path(const struct groups *g, const char *controller, char *path, size_t size)
{
    for (const char *line = g->v1; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (line_names(line, controller, path, size))
            return true;
    }
    return false;
}

/* Reads a file of v1; false where the controller isn't there or the file can't be read. */
static bool read_v1(const struct groups *g, const char *controller, const char *file, char *out)
{
    char group[GROUP_MOST], path[PATH_MOST];

    if (!v1_path(g, controller, group, sizeof group))
        return false;
    snprintf(path, sizeof path, "%s/fs/cgroup/%s%s/%s", g->sys_root, controller, group, file);
    return slurp(path, out, FILE_MOST);
}

static bool read_v2(const struct groups *g, const char *file, char *out)
{
    char path[PATH_MOST + 64];

    snprintf(path, sizeof path, "%s/%s", g->v2, file);
    return g->v2[0] && slurp(path, out, FILE_MOST);
}

static void find_v2(struct groups *g)
{
    const char *line = strncmp(g->v1, "0::", 3) == 0 ? g->v1 : strstr(g->v1, "\n0::");
    char path[PATH_MOST];
    bool alone;

    g->v2[0] = '\0';
    if (!line)
        return;
    line = strchr(line, '/');
    if (!line)
        return;
    snprintf(path, sizeof path, "%s/fs/cgroup/cgroup.controllers", g->sys_root);
    alone = access(path, F_OK) == 0;
    snprintf(g->v2, sizeof g->v2, "%s/fs/cgroup%s%.*s", g->sys_root, alone ? "" : "/unified",
             (int)strcspn(line, "\n"), line);
}

/* ---- what ---- */

/* The number after "name " at the beginning of a line; false where there is none. */
static bool field(const char *text, const char *name, uint64_t *value)
{
    size_t length = strlen(name);

    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) == 0 && line[length] == ' ')
            return sscanf(line + length, " %" SCNu64, value) == 1;
    }
    return false;
}

/* A limit: 0 for "max", and for the number near 2^63 by which v1 says so. */
static uint64_t limit_of(const char *text)
{
    uint64_t value = strtoull(text, NULL, 10);

    return value >= UINT64_C(1) << 60 ? 0 : value;
}

static void read_cpu(const struct groups *g, char *text, struct nd_cgroup_usage *out)
{
    uint64_t value;

    if (read_v1(g, "cpuacct", "cpuacct.usage", text) && sscanf(text, "%" SCNu64, &value) == 1) {
        out->cpu = (double)value / 1e9;
        out->have |= ND_CGROUP_CPU;
        if (read_v1(g, "cpu", "cpu.stat", text) && field(text, "throttled_time", &value))
            out->throttled = (double)value / 1e9;
    } else if (read_v2(g, "cpu.stat", text) && field(text, "usage_usec", &value)) {
        out->cpu = (double)value / 1e6;
        out->have |= ND_CGROUP_CPU;
        if (field(text, "throttled_usec", &value))
            out->throttled = (double)value / 1e6;
    }
}

static void set_memory(struct nd_cgroup_usage *out, uint64_t usage, uint64_t inactive)
{
    out->memory = usage;
    out->memory_working = usage > inactive ? usage - inactive : 0;
    out->have |= ND_CGROUP_MEMORY;
}

static void read_memory(const struct groups *g, char *text, struct nd_cgroup_usage *out)
{
    uint64_t usage, inactive = 0;

    if (read_v1(g, "memory", "memory.usage_in_bytes", text) &&
        sscanf(text, "%" SCNu64, &usage) == 1) {
        if (read_v1(g, "memory", "memory.stat", text))
            field(text, "total_inactive_file", &inactive);
        set_memory(out, usage, inactive);
        if (read_v1(g, "memory", "memory.limit_in_bytes", text))
            out->memory_limit = limit_of(text);
        if (read_v1(g, "memory", "memory.oom_control", text))
            field(text, "oom_kill", &out->oom_kills);
    } else if (read_v2(g, "memory.current", text) && sscanf(text, "%" SCNu64, &usage) == 1) {
        if (read_v2(g, "memory.stat", text))
            field(text, "inactive_file", &inactive);
        set_memory(out, usage, inactive);
        if (read_v2(g, "memory.max", text))
            out->memory_limit = limit_of(text);
        if (read_v2(g, "memory.events", text))
            field(text, "oom_kill", &out->oom_kills);
    }
}

/* Lines "8:0 Read 4096"; devices add up, the line "Total" aside. */
static void add_blkio(const char *text, uint64_t *reads, uint64_t *writes)
{
    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        char what[16];
        uint64_t value;

        line += *line == '\n';
        if (sscanf(line, "%*u:%*u %15s %" SCNu64, what, &value) != 2)
            continue;
        if (strcmp(what, "Read") == 0)
            *reads += value;
        else if (strcmp(what, "Write") == 0)
            *writes += value;
    }
}

/* "8:0 rbytes=1 wbytes=2 rios=3 wios=4 ..." */
static uint64_t sum_of(const char *text, const char *name)
{
    uint64_t sum = 0;

    for (const char *at = strstr(text, name); at; at = strstr(at + 1, name))
        if (at > text && at[-1] == ' ')
            sum += strtoull(at + strlen(name), NULL, 10);
    return sum;
}

/* Older kernels have only the files that leave out the groups below. */
static bool read_blkio(const struct groups *g, const char *file, char *text)
{
    char recursive[64];

    snprintf(recursive, sizeof recursive, "%s_recursive", file);
    return read_v1(g, "blkio", recursive, text) || read_v1(g, "blkio", file, text);
}

static void read_io(const struct groups *g, char *text, struct nd_cgroup_usage *out)
{
    if (read_blkio(g, "blkio.throttle.io_service_bytes", text)) {
        add_blkio(text, &out->read, &out->written);
        if (read_blkio(g, "blkio.throttle.io_serviced", text))
            add_blkio(text, &out->reads, &out->writes);
        out->have |= ND_CGROUP_IO;
    } else if (read_v2(g, "io.stat", text)) {
        out->read = sum_of(text, "rbytes=");
        out->written = sum_of(text, "wbytes=");
        out->reads = sum_of(text, "rios=");
        out->writes = sum_of(text, "wios=");
        out->have |= ND_CGROUP_IO;
    }
}

static bool read_either(const struct groups *g, const char *controller, const char *file,
                        char *text)
{
    return read_v1(g, controller, file, text) || read_v2(g, file, text);
}

static void read_pids(const struct groups *g, char *text, struct nd_cgroup_usage *out)
{
    if (!read_either(g, "pids", "pids.current", text) || sscanf(text, "%" SCNu64, &out->pids) != 1)
        return;
    out->have |= ND_CGROUP_PIDS;
    if (read_either(g, "pids", "pids.max", text))
        out->pids_limit = limit_of(text);
}

/* "eth0: bytes packets errs drop fifo frame compressed multicast | bytes packets errs drop ..." */
static void add_interfaces(const char *text, struct nd_cgroup_usage *out)
{
    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        uint64_t in, in_errors, in_drops, sent, out_errors, out_drops;
        char name[32];

        line += *line == '\n';
        if (sscanf(line,
                   " %31[^:\n]: %" SCNu64 " %*u %" SCNu64 " %" SCNu64 " %*u %*u %*u %*u %" SCNu64
                   " %*u %" SCNu64 " %" SCNu64,
                   name, &in, &in_errors, &in_drops, &sent, &out_errors, &out_drops) != 7 ||
            strcmp(name, "lo") == 0)
            continue;
        out->received += in;
        out->sent += sent;
        out->errored += in_errors + out_errors;
        out->dropped += in_drops + out_drops;
    }
}

int nd_cgroup_read(const char *proc_root, const char *sys_root, pid_t pid, const char *id,
                   struct nd_cgroup_usage *out, struct nd_err *err)
{
    struct groups g = {.sys_root = sys_root};
    char path[PATH_MOST], text[FILE_MOST];

    memset(out, 0, sizeof *out);
    /* The network first: that the process is the container's is known only after. */
    snprintf(path, sizeof path, "%s/%ld/net/dev", proc_root, (long)pid);
    if (slurp(path, text, sizeof text)) {
        add_interfaces(text, out);
        out->have |= ND_CGROUP_NETWORK;
    }
    snprintf(path, sizeof path, "%s/%ld/cgroup", proc_root, (long)pid);
    if (!slurp(path, g.v1, sizeof g.v1) || !strstr(g.v1, id))
        return nd_err_set(err, "not_found", NULL, "process %ld isn't in the container %s",
                          (long)pid, id);
    find_v2(&g);
    read_cpu(&g, text, out);
    read_memory(&g, text, out);
    read_io(&g, text, out);
    read_pids(&g, text, out);
    if (!(out->have & (ND_CGROUP_CPU | ND_CGROUP_MEMORY | ND_CGROUP_PIDS | ND_CGROUP_IO)))
        return nd_err_set(err, "not_found", NULL, "the control groups of %s are gone", id);
    return 0;
}
