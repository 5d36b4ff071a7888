/*
 * nth.c - the n-th call of a kind, of the whole process, kills it or fails. A library to preload.
 *
 * ND_NTH names a file of 64-bit numbers, which is mapped and read at each call:
 *
 *   call left action hit  passed of each of the calls, in the order of the enum  part parts
 *
 * Where `call` is not 0, its `left`-th call from then on gets SIGKILL (action 0) or fails with the
 * errno `action`, and `hit` becomes 1. The call `place` is a malloc, calloc or realloc by a chain
 * of five callers that did none before; where `parts` is not 0, only each chain whose hash leaves
 * `part`. Who did it is said on stderr. Only nextdeployd is looked at, not its children, and
 * nothing counts between fork and exec.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { NONE, WRITE, PWRITE, FDATASYNC, FSYNC, SENDMSG, RENAME, OPEN, MALLOC, PLACE, CALLS };

enum { PLACES = 32768, OURS = 2, DEPTH = OURS + 6 };

static const char *const names[] = {"",        "write",  "pwrite64", "fdatasync", "fsync",
                                    "sendmsg", "rename", "openat",   "malloc",    "malloc"};

struct page {
    _Atomic int64_t call;
    _Atomic int64_t left;
    _Atomic int64_t action;
    _Atomic int64_t hit;
    _Atomic int64_t passed[CALLS];
    _Atomic int64_t part;
    _Atomic int64_t parts;
    _Atomic uint64_t places[PLACES]; /* hashes; 0: free */
};

static struct page *page; /* NULL: nothing counts */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern int __open64_2(const char *path, int flags);

static void forget(void)
{
    page = NULL;
}

/* Is this chain of callers a new one? Now it is known. */
static bool is_new_place(struct page *p)
{
    static __thread bool busy;
    void *frames[DEPTH];
    uint64_t hash = 14695981039346656037u, known = 0, parts = (uint64_t)atomic_load(&p->parts);
    int n;

    if (busy)
        return false;
    busy = true;
    n = backtrace(frames, DEPTH);
    busy = false;
    for (int i = OURS; i < n; i++)
        hash = (hash ^ (uint64_t)(uintptr_t)frames[i]) * 1099511628211u;
    if (parts && hash % parts != (uint64_t)atomic_load(&p->part))
        return false;
    for (uint64_t at = hash % PLACES;; at = (at + 1) % PLACES) {
        known = 0;
        if (atomic_compare_exchange_strong(&p->places[at], &known, hash))
            return true;
        if (known == hash)
            return false;
    }
}

static void say(enum call call)
{
    void *frames[24];
    char line[80];
    int n = snprintf(line, sizeof line, "nth: %s is hit\n", names[call]);

    (void)!syscall(SYS_write, 2, line, (size_t)n);
    backtrace_symbols_fd(frames, backtrace(frames, 24), 2);
}

/* 0: go on; else the errno to fail with. */
static int pass(enum call call)
{
    struct page *p = page;
    int action;

    if (!p)
        return 0;
    atomic_fetch_add(&p->passed[call], 1);
    if (call == MALLOC && atomic_load(&p->call) == PLACE) {
        if (!is_new_place(p))
            return 0;
        atomic_fetch_add(&p->passed[PLACE], 1);
        call = PLACE;
    }
    if (atomic_load(&p->call) != call || atomic_fetch_sub(&p->left, 1) != 1)
        return 0;
    action = (int)atomic_load(&p->action);
    atomic_store(&p->call, NONE);
    atomic_store(&p->hit, 1);
    if (!action)
        kill(getpid(), SIGKILL);
    say(call);
    return action;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("ND_NTH");
    bool wanted = path && strcmp(program_invocation_short_name, "nextdeployd") == 0;
    int fd = wanted ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *frames[4];
    void *there;

    if (fd < 0)
        return;
    unsetenv("LD_PRELOAD");
    unsetenv("ND_NTH");
    backtrace(frames, 4); /* loads what it needs */
    pthread_atfork(NULL, NULL, forget);
    there = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (there != MAP_FAILED)
        page = there;
}

/* The same, by a descriptor. What a process writes into a pipe of its own doesn't fail. */
static int pass_fd(enum call call, int fd)
{
    struct stat st;

    if (page && atomic_load(&page->call) == call && atomic_load(&page->action) &&
        fstat(fd, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISSOCK(st.st_mode))
        return 0;
    return pass(call);
}

/* ---- the calls ---- */

#define REAL(type, name, ...)                                                                      \
    static type (*real)(__VA_ARGS__);                                                              \
    if (!real)                                                                                     \
    *(void **)(void *)&real = dlsym(RTLD_NEXT, #name)

/* FAILS(pass, value): returns `value` with errno set where it is the call's turn. */
#define FAILS(turn, value)                                                                         \
    do {                                                                                           \
        int failure = turn;                                                                        \
                                                                                                   \
        if (failure) {                                                                             \
            errno = failure;                                                                       \
            return value;                                                                          \
        }                                                                                          \
    } while (0)

void *malloc(size_t size)
{
    FAILS(pass(MALLOC), NULL);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    FAILS(pass(MALLOC), NULL);
    return __libc_calloc(count, size);
}

void *realloc(void *p, size_t size)
{
    if (size)
        FAILS(pass(MALLOC), NULL);
    return __libc_realloc(p, size);
}

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(ssize_t, write, int, const void *, size_t);
    FAILS(pass_fd(WRITE, fd), -1);
    return real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(ssize_t, writev, int, const struct iovec *, int);
    FAILS(pass_fd(WRITE, fd), -1);
    return real(fd, parts, count);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    FAILS(pass(PWRITE), -1);
    return real(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    FAILS(pass(PWRITE), -1);
    return real(fd, data, size, at);
}

int fdatasync(int fd)
{
    REAL(int, fdatasync, int);
    FAILS(pass(FDATASYNC), -1);
    return real(fd);
}

int fsync(int fd)
{
    REAL(int, fsync, int);
    FAILS(pass(FSYNC), -1);
    return real(fd);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(ssize_t, sendmsg, int, const struct msghdr *, int);
    FAILS(pass(SENDMSG), -1);
    return real(fd, message, flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    REAL(ssize_t, send, int, const void *, size_t, int);
    FAILS(pass(SENDMSG), -1);
    return real(fd, data, size, flags);
}

int rename(const char *from, const char *to)
{
    REAL(int, rename, const char *, const char *);
    FAILS(pass(RENAME), -1);
    return real(from, to);
}

static mode_t mode_of(int flags, va_list args)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    REAL(int, open, const char *, int, ...);
    va_start(args, flags);
    mode = mode_of(flags, args);
    va_end(args);
    FAILS(pass(OPEN), -1);
    return real(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    REAL(int, open64, const char *, int, ...);
    va_start(args, flags);
    mode = mode_of(flags, args);
    va_end(args);
    FAILS(pass(OPEN), -1);
    return real(path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    REAL(int, openat, int, const char *, int, ...);
    va_start(args, flags);
    mode = mode_of(flags, args);
    va_end(args);
    FAILS(pass(OPEN), -1);
    return real(dir, path, flags, mode);
}

int __open64_2(const char *path, int flags)
{
    REAL(int, __open64_2, const char *, int);
    FAILS(pass(OPEN), -1);
    return real(path, flags);
}

FILE *fopen(const char *path, const char *mode)
{
    REAL(FILE *, fopen, const char *, const char *);
    FAILS(pass(OPEN), NULL);
    return real(path, mode);
}

DIR *opendir(const char *path)
{
    REAL(DIR *, opendir, const char *);
    FAILS(pass(OPEN), NULL);
    return real(path);
}
