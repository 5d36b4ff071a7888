#include "script/namespaces.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef ND_SANITIZE

int nd_namespaces_begin_pids(void)
{
    return -1;
}

void nd_namespaces_end_pids(int own)
{
    (void)own;
}

void nd_namespaces_enter(void)
{
}

#else

enum { INSIDE = 65534, LINE = 64 };

int nd_namespaces_begin_pids(void)
{
    int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);

    if (own >= 0 && unshare(CLONE_NEWPID) < 0) {
        close(own);
        own = -1;
    }
    return own;
}

void nd_namespaces_end_pids(int own)
{
    if (own < 0)
        return;
    if (setns(own, CLONE_NEWPID) < 0) { /* it could start neither threads nor processes */
        fputs("nextdeploy: can't go back to the process namespace\n", stderr);
        abort();
    }
    close(own);
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    if (write(fd, text, strlen(text)) < 0)
        close(fd); /* it stays nobody, which is as well */
    else
        close(fd);
}

/* Root inside would be no more than we are outside; it is not even that. */
static void map_user(uid_t uid, gid_t gid)
{
    char line[LINE];

    write_file("/proc/self/setgroups", "deny");
    snprintf(line, sizeof line, "%d %u 1", INSIDE, uid);
    write_file("/proc/self/uid_map", line);
    snprintf(line, sizeof line, "%d %u 1", INSIDE, gid);
    write_file("/proc/self/gid_map", line);
}

/* An empty read-only root, put in place over a directory that every host has; the host's mounts go
 * from this namespace, so that none of them is kept busy. */
static void empty_root(void)
{
    unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;

    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
        mount("none", "/proc", "tmpfs", flags, "size=4k,mode=555") == 0 && chdir("/proc") == 0 &&
        syscall(SYS_pivot_root, ".", ".") == 0)
        umount2(".", MNT_DETACH);
}

void nd_namespaces_enter(void)
{
    int own = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC;
    uid_t uid = geteuid();
    gid_t gid = getegid();

    if (uid == 0) {
        if (unshare(own) == 0)
            empty_root();
    } else if (unshare(own | CLONE_NEWUSER) == 0) {
        map_user(uid, gid);
        empty_root();
    }
}

#endif
