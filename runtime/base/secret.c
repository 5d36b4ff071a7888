#include "base/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/locked.h"
#include "base/mem.h"

static size_t pages(size_t capacity)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (capacity + page) / page * page; /* one at least */
}

int nd_secret_init(struct nd_secret *s, size_t capacity, struct nd_err *err)
{
    size_t size = pages(capacity);
    void *data;

    memset(s, 0, sizeof *s);
    if (capacity > ND_SECRET_MOST)
        return nd_err_set(err, "secret_too_large", "", "a secret of more than %d bytes",
                          ND_SECRET_MOST);
    data = nd_locked_new(size);
    if (mlock(data, size) < 0) { /* for it alone the lock is no matter of luck */
        nd_err_errno(err, errno, "secret_memory",
                     "raise the limit of locked memory: LimitMEMLOCK= of the unit, `ulimit -l`",
                     "can't lock %zu bytes of memory for a secret", size);
        nd_locked_free(data, size);
        return -1;
    }
    s->data = data;
    s->capacity = capacity;
    return 0;
}

void nd_secret_fini(struct nd_secret *s)
{
    nd_locked_free(s->data, pages(s->capacity));
    memset(s, 0, sizeof *s);
}

int nd_secret_add(struct nd_secret *s, const void *data, size_t length, struct nd_err *err)
{
    if (length > s->capacity - s->length)
        return nd_err_set(err, "secret_too_large", "", "the secret is longer than %zu bytes",
                          s->capacity);
    if (length)
        memcpy(s->data + s->length, data, length);
    s->length += length;
    return 0;
}

/* Reads on until the end, or until it is full; 1 where there is more, -1 with errno. */
static int read_all(int fd, struct nd_secret *s)
{
    uint8_t more;

    for (;;) {
        size_t room = s->capacity - s->length;
        ssize_t n = read(fd, room ? s->data + s->length : &more, room ? room : 1);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        if (!room) {
            nd_zero(&more, 1);
            return 1;
        }
        s->length += (size_t)n;
    }
}

int nd_secret_read(struct nd_secret *s, const char *path, struct nd_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    int rc = fd < 0 ? -1 : read_all(fd, s);
    int number = errno;

    if (fd >= 0)
        close(fd);
    if (rc < 0)
        return nd_err_errno(err, number, number == ENOENT ? "fs_not_found" : "fs_io", "",
                            "can't read %s", path);
    if (rc > 0)
        return nd_err_set(err, "fs_too_large", "", "%s is longer than %zu bytes", path,
                          s->capacity);
    return 0;
}

/* Whether the file is there with these bytes and this mode. */
static bool holds(const struct nd_secret *s, const char *path, unsigned mode)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct nd_secret found;
    struct stat st;
    bool same = false;

    if (fd < 0)
        return false;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (size_t)st.st_size == s->length &&
        (st.st_mode & 07777) == mode && nd_secret_init(&found, s->length, NULL) == 0) {
        same = read_all(fd, &found) == 0 && found.length == s->length &&
               memcmp(found.data, s->data, s->length) == 0;
        nd_secret_fini(&found);
    }
    close(fd);
    return same;
}

static int write_all(int fd, const struct nd_secret *s)
{
    for (size_t done = 0; done < s->length;) {
        ssize_t n = write(fd, s->data + done, s->length - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

/* Whether what is open has no disk behind it. */
static int in_memory(int fd, const char *path, struct nd_err *err)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC))
        return 0;
    return nd_err_set(err, "not_in_memory", "restart nextdeployd, which mounts a tmpfs there",
                      "%s is not on a tmpfs: a secret is written to no disk", path);
}

int nd_secret_put(const struct nd_secret *s, const char *path, unsigned mode, struct nd_err *err)
{
    char next[4096];
    int fd, rc = -1;

    if (holds(s, path, mode))
        return 0;
    if (snprintf(next, sizeof next, "%s.new", path) >= (int)sizeof next)
        return nd_err_set(err, "fs_io", "", "the path %.200s... is too long", path);
    unlink(next); /* of a writer that was killed */
    fd = open(next, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return nd_err_errno(err, errno, errno == ENOSPC ? "fs_full" : "fs_io", "", "can't write %s",
                            path);
    if (in_memory(fd, path, err) < 0)
        goto out;
    if (write_all(fd, s) < 0 || fchmod(fd, mode) < 0 || rename(next, path) < 0) {
        nd_err_errno(err, errno, errno == ENOSPC ? "fs_full" : "fs_io", "", "can't write %s", path);
        goto out;
    }
    rc = 1;
out:
    close(fd);
    if (rc < 0)
        unlink(next);
    return rc;
}
