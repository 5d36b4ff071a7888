/*
 * nd_worker.c - the process in which one recipe runs; it can compute and use one socket.
 *
 *     nd-worker --fd N --memory BYTES --cpu SECONDS [--uid N --gid N]
 *
 * Started by the daemon (script/worker.c), which holds the other end of the socket. It locks itself
 * in before it reads the first byte: namespaces of its own (script/namespaces.h), a user of its own
 * where it was started as root, no capabilities and no way to any, no core dumps, no tracing, death
 * with its parent, resource limits, no file descriptor but the socket, and of all system calls the
 * few that computing needs. Its own status says why it ended (script/recipe.h); a signal says what
 * ended it: SIGSYS for any other system call, SIGKILL for its owner.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "script/namespaces.h"
#include "script/recipe.h"
#include "script/seccomp.h"

struct options {
    long fd;     /* the socket; -1: not given */
    long memory; /* bytes of Lua and of what it sends and gets */
    long cpu;    /* seconds */
    long uid;    /* -1: one of its own where we are root, else who we are */
    long gid;
};

enum {
    FIRST_USER = 0x6e640000, /* by process id: above what hosts and user namespaces give out */
    NOBODY = 65534,
    OPEN_FILES = 8,
    OWN_BLOCKS = 256 * 1024,        /* larger ones go back to the system when they are freed */
    OTHER_SPACE = 64 * 1024 * 1024, /* addresses for code and stack */
    OTHER_DATA = 1024 * 1024,       /* before the recipe has any: measured 0.5 MB */
    SLACK = 32,                     /* a 32nd of the memory for what lies between blocks */
    PATIENCE = 10,                  /* nice: who computes without end holds up no daemon */
};

#ifdef LUAJIT_VERSION
enum { ND_COMPILES = true };
#else
enum { ND_COMPILES = false };
#endif

static int parse_options(int argc, char **argv, struct options *o)
{
    const struct {
        const char *name;
        long *value;
    } known[] = {{"--fd", &o->fd},
                 {"--memory", &o->memory},
                 {"--cpu", &o->cpu},
                 {"--uid", &o->uid},
                 {"--gid", &o->gid}};

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

static void on_cpu_limit(int signal_number)
{
    (void)signal_number;
    _exit(ND_WORKER_CPU);
}

static int limit_all(const struct options *o)
{
    /* The first process of a namespace gets no signal that it doesn't handle. */
    if (signal(SIGXCPU, on_cpu_limit) == SIG_ERR || setpriority(PRIO_PROCESS, 0, PATIENCE) < 0 ||
        limit(RLIMIT_CPU, (rlim_t)o->cpu, (rlim_t)o->cpu + 1) < 0 ||
        limit(RLIMIT_FSIZE, 0, 0) < 0 || limit(RLIMIT_CORE, 0, 0) < 0)
        return -1;
#ifndef ND_SANITIZE /* AddressSanitizer reserves terabytes, and starts a process to find leaks */
    rlim_t data = (rlim_t)o->memory + (rlim_t)o->memory / SLACK + OTHER_DATA;

    if (limit(RLIMIT_NOFILE, 0, 0) < 0 || limit(RLIMIT_NPROC, 0, 0) < 0 ||
        limit(RLIMIT_DATA, data, data) < 0 ||
        limit(RLIMIT_AS, data + OTHER_SPACE, data + OTHER_SPACE) < 0)
        return -1;
#endif
    return 0;
}

/* Moves the socket to 3 and closes all above. */
static int keep_only(int fd)
{
    if (fd != 3 && dup2(fd, 3) < 0)
        return -1;
    return (int)syscall(SYS_close_range, 4U, ~0U, 0U);
}

/* A user that no other process is: by our number as the host counts, in /proc. */
static long own_user(void)
{
    char pid[16] = "";

    return readlink("/proc/self", pid, sizeof pid - 1) > 0 ? FIRST_USER + atol(pid) : NOBODY;
}

static int become(uid_t uid, gid_t gid)
{
    return setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0 ? -1 : 0;
}

static int drop_privileges(long uid, long gid)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

    if (geteuid() == 0 && setgroups(0, NULL) < 0)
        return -1;
    /* A container around us may have no such user. */
    if (geteuid() == 0 && become((uid_t)uid, (gid_t)gid) < 0 && become(NOBODY, NOBODY) < 0)
        return -1;
    return (int)syscall(SYS_capset, &head, none); /* those of a user namespace */
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

    return nd_seccomp_allow(allowed, sizeof allowed / sizeof *allowed, ND_COMPILES);
#endif
}

static int hide(void)
{
    /* After the change of user, which clears both. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return -1;
#ifndef ND_SANITIZE /* LeakSanitizer traces its own process */
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return -1;
#endif
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* Whether who started us is gone, and with it the socket's other end. */
static bool is_alone(void)
{
    struct pollfd socket = {.fd = 3};

    return poll(&socket, 1, 0) > 0 && socket.revents & POLLHUP;
}

static int lock_in(const struct options *o)
{
    long own = own_user();

    if (keep_only((int)o->fd) < 0 || chdir("/") < 0)
        return -1;
    nd_namespaces_enter();
    if (drop_privileges(o->uid < 0 ? own : o->uid, o->gid < 0 ? own : o->gid) < 0 || hide() < 0)
        return -1;
    if (is_alone() || limit_all(o) < 0)
        return -1;
#ifndef ND_SANITIZE /* its findings */
    if (syscall(SYS_close_range, 0U, 2U, 0U) < 0)
        return -1;
#endif
    return compute_only();
}

int main(int argc, char **argv)
{
    struct options o = {.fd = -1, .uid = -1, .gid = -1};

    if (parse_options(argc, argv, &o) < 0) {
        fputs("nd-worker runs one recipe for nextdeployd and isn't started by hand\n", stderr);
        return ND_WORKER_USAGE;
    }
    mallopt(M_MMAP_THRESHOLD, OWN_BLOCKS);
    nd_recipe_prepare();
    if (lock_in(&o) < 0) {
        fprintf(stderr, "nd-worker: can't lock itself in: %s\n", strerror(errno));
        return ND_WORKER_SETUP;
    }
    return (int)nd_recipe_run(3, (size_t)o.memory);
}
