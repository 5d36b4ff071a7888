/*
 * nd_worker.c - the process in which one recipe runs; it can compute and use one socket.
 *
 *     nd-worker --fd N --memory BYTES --cpu SECONDS [--uid N --gid N] [--parent PID]
 *
 * Started by the daemon (script/worker.c), which holds the other end of the socket. It locks itself
 * in before it reads the first byte: every other file descriptor closed, resource limits, no new
 * privileges, no core dumps, no tracing, an unprivileged user where it was started as root, death
 * with its parent, and of all system calls the few that computing needs. Its own status says why it
 * ended (script/recipe.h); a signal says what ended it: SIGXCPU for the CPU limit, SIGSYS for any
 * other system call, SIGKILL for its owner.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <jansson.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "script/recipe.h"
#include "script/seccomp.h"

struct options {
    long fd;     /* the socket; -1: not given */
    long memory; /* bytes of Lua */
    long cpu;    /* seconds */
    long uid;    /* -1: stay who we are */
    long gid;
    long parent; /* pid; 0: whoever it is */
};

/* Beside Lua's memory: code, stacks, frames in both directions, the allocator's slack. */
enum { OTHER_MEMORY = 256 * 1024 * 1024, OPEN_FILES = 8 };

static int parse_options(int argc, char **argv, struct options *o)
{
    const struct {
        const char *name;
        long *value;
    } known[] = {{"--fd", &o->fd},   {"--memory", &o->memory}, {"--cpu", &o->cpu},
                 {"--uid", &o->uid}, {"--gid", &o->gid},       {"--parent", &o->parent}};

    for (int i = 1; i + 1 < argc; i += 2) {
        char *end = NULL;

        for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
            if (strcmp(argv[i], known[k].name) != 0)
                continue;
            *known[k].value = strtol(argv[i + 1], &end, 10);
        }
        if (!end || *end)
            return -1;
    }
    return argc % 2 == 1 && o->fd > 2 && o->memory > 0 && o->cpu > 0 ? 0 : -1;
}

static int limit(int resource, rlim_t soft, rlim_t hard)
{
    struct rlimit now, wanted = {soft, hard};

    if (getrlimit(resource, &now) < 0)
        return -1;
    if (now.rlim_max != RLIM_INFINITY && wanted.rlim_max > now.rlim_max)
        wanted.rlim_max = now.rlim_max;
    if (wanted.rlim_cur > wanted.rlim_max)
        wanted.rlim_cur = wanted.rlim_max;
    return setrlimit(resource, &wanted);
}

static int limit_all(const struct options *o)
{
    if (limit(RLIMIT_CPU, (rlim_t)o->cpu, (rlim_t)o->cpu + 1) < 0 ||
        limit(RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES) < 0 || limit(RLIMIT_FSIZE, 0, 0) < 0 ||
        limit(RLIMIT_CORE, 0, 0) < 0)
        return -1;
#ifndef ND_SANITIZE /* AddressSanitizer reserves terabytes, and starts a process to find leaks */
    rlim_t space = (rlim_t)o->memory * 2 + OTHER_MEMORY;

    if (limit(RLIMIT_NPROC, 0, 0) < 0 || limit(RLIMIT_AS, space, space) < 0)
        return -1;
#endif
    return 0;
}

/* Moves the socket to 3 and closes all above; 0, 1 and 2 become /dev/null where they are closed. */
static int keep_only(int fd)
{
    for (int i = 0; i < 3; i++)
        if (fcntl(i, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            return -1;
    if (fd != 3 && dup2(fd, 3) < 0)
        return -1;
    return (int)syscall(SYS_close_range, 4U, ~0U, 0U);
}

static int drop_privileges(const struct options *o)
{
    gid_t gid = (gid_t)o->gid;
    uid_t uid = (uid_t)o->uid;

    if (o->uid < 0 || geteuid() != 0)
        return 0;
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        return -1;
    return 0;
}

/* Memory, the socket, and an end. */
static int compute_only(void)
{
#ifdef ND_SANITIZE /* AddressSanitizer needs many more */
    return 0;
#else
    static const int allowed[] = {
        /* memory; qsort asks sysinfo how much there is */
        SYS_brk,
        SYS_mmap,
        SYS_munmap,
        SYS_mremap,
        SYS_mprotect,
        SYS_madvise,
        SYS_sysinfo,
        /* the socket; malloc's and Lua's seeds, and the clock where the kernel must be asked */
        SYS_read,
        SYS_sendmsg,
        SYS_sendto,
        SYS_restart_syscall,
        SYS_getrandom,
        SYS_clock_gettime,
        /* an end, also by abort, which may say why */
        SYS_write,
        SYS_exit,
        SYS_exit_group,
        SYS_rt_sigreturn,
        SYS_rt_sigprocmask,
        SYS_rt_sigaction,
        SYS_getpid,
        SYS_gettid,
        SYS_tgkill,
    };

    return nd_seccomp_allow(allowed, sizeof allowed / sizeof *allowed);
#endif
}

static int lock_in(const struct options *o)
{
    if (keep_only((int)o->fd) < 0 || chdir("/") < 0 || drop_privileges(o) < 0)
        return -1;
    /* After the change of user, which clears both. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return -1;
#ifndef ND_SANITIZE /* LeakSanitizer traces its own process */
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return -1;
#endif
    if (o->parent > 0 && getppid() != (pid_t)o->parent)
        return -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return limit_all(o) < 0 ? -1 : compute_only();
}

int main(int argc, char **argv)
{
    struct options o = {.fd = -1, .uid = -1, .gid = -1};

    if (parse_options(argc, argv, &o) < 0) {
        fputs("nd-worker runs one recipe for nextdeployd and isn't started by hand\n", stderr);
        return ND_WORKER_USAGE;
    }
    json_object_seed(0); /* reads /dev/urandom, which is out of reach later */
    if (lock_in(&o) < 0) {
        fprintf(stderr, "nd-worker: can't lock itself in: %s\n", strerror(errno));
        return ND_WORKER_SETUP;
    }
    return (int)nd_recipe_run(3, (size_t)o.memory);
}
