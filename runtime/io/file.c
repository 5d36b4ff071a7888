#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

enum { READ_CHUNK = 64 * 1024 };

static int fail(struct nd_err *err, int number, const char *doing, const char *path)
{
    const char *code = "fs_io", *hint = NULL;

    switch (number) {
    case ENOENT:
    case ENOTDIR:
        code = "fs_not_found";
        break;
    case EEXIST:
    case ENOTEMPTY:
        code = "fs_exists";
        break;
    case EACCES:
    case EPERM:
    case EROFS:
        code = "fs_denied";
        hint = "check the owner, the mode and the mount of the path";
        break;
    case ENOSPC:
    case EDQUOT:
        code = "fs_full";
        hint = "free space on that file system, then try again";
        break;
    default:
        break;
    }
    return nd_err_errno(err, number, code, hint, "can't %s %s", doing, path);
}

int nd_file_read(const char *path, size_t max, struct nd_buf *out, struct nd_err *err)
{
    size_t start = out->length;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : 1;

    while (got > 0 && out->length - start <= max) {
        nd_buf_reserve(out, READ_CHUNK);
        got = read(fd, out->data + out->length, READ_CHUNK);
        if (got > 0) {
            out->length += (size_t)got;
            out->data[out->length] = '\0';
        }
    }
    if (got < 0)
        fail(err, errno, "read", path);
    if (fd >= 0)
        close(fd);
    if (got >= 0 && out->length - start > max)
        return nd_err_set(err, "fs_too_large", NULL, "%s is longer than %zu bytes", path, max);
    return got < 0 ? -1 : 0;
}

static int write_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t done = write(fd, data, length);

        if (done < 0 && errno != EINTR)
            return -1;
        if (done > 0) {
            data += done;
            length -= (size_t)done;
        }
    }
    return 0;
}

static int sync_parent(const char *path)
{
    char *copy = nd_strdup(path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd);

    if (fd >= 0)
        close(fd);
    free(copy);
    return rc;
}

static bool is_at(int fd, const char *path)
{
    struct stat ours, there;

    return fstat(fd, &ours) == 0 && lstat(path, &there) == 0 && ours.st_dev == there.st_dev &&
           ours.st_ino == there.st_ino;
}

/* One that a crash has left is taken over; another writer's is waited for, until it is elsewhere.
 * Ours until it is closed. */
static int open_temporary(const char *path)
{
    int fd;

    while ((fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600)) >= 0) {
        while (flock(fd, LOCK_EX) < 0 && errno == EINTR)
            ;
        if (is_at(fd, path))
            break;
        close(fd);
    }
    return fd;
}

int nd_file_write(const char *path, const void *data, size_t length, mode_t mode,
                  struct nd_err *err)
{
    char *temporary = nd_printf("%s.new", path);
    int fd = open_temporary(temporary);
    int rc = -1;

    if (fd < 0) {
        fail(err, errno, "write", path);
        goto out;
    }
    rc = ftruncate(fd, 0);
    if (rc == 0)
        rc = write_all(fd, data, length);
    if (rc == 0)
        rc = fchmod(fd, mode);
    if (rc == 0)
        rc = fsync(fd);
    if (rc == 0)
        rc = rename(temporary, path);
    if (rc < 0) {
        fail(err, errno, "write", path);
        unlink(temporary);
    }
    close(fd);
    if (rc == 0 && (rc = sync_parent(path)) < 0)
        fail(err, errno, "make durable", path);
out:
    free(temporary);
    return rc;
}

static int make_one(const char *path, mode_t mode)
{
    struct stat st;

    if (mkdir(path, 0700) == 0)
        return chmod(path, mode); /* mkdir's mode passes through the umask */
    if (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    return -1;
}

int nd_file_mkdir(const char *path, mode_t mode, struct nd_err *err)
{
    char *copy = nd_strdup(path);
    int rc = 0;

    for (char *slash = copy; rc == 0 && slash && (slash = strchr(slash + 1, '/')) != NULL;) {
        *slash = '\0';
        rc = make_one(copy, mode);
        *slash = '/';
    }
    if (rc == 0)
        rc = make_one(copy, mode);
    if (rc < 0)
        fail(err, errno, "make the directory", path);
    free(copy);
    return rc;
}

/* Removes what the directory `fd` (taken) holds. */
static int empty_dir(int fd)
{
    DIR *dir = fdopendir(fd);
    struct dirent *entry;
    int rc = 0;

    if (!dir) {
        close(fd);
        return -1;
    }
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        rc = unlinkat(fd, entry->d_name, 0);
        if (rc < 0 && (errno == EISDIR || errno == EPERM)) {
            int child = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

            rc = child < 0 ? -1 : empty_dir(child);
            if (rc == 0)
                rc = unlinkat(fd, entry->d_name, AT_REMOVEDIR);
        }
    }
    closedir(dir);
    return rc;
}

int nd_file_remove(const char *path, bool recursive, struct nd_err *err)
{
    struct stat st;
    int rc = lstat(path, &st);

    if (rc < 0 && errno == ENOENT)
        return 0;
    if (rc == 0 && !S_ISDIR(st.st_mode)) {
        rc = unlink(path);
    } else if (rc == 0) {
        int fd = recursive ? open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;

        rc = recursive ? fd < 0 ? -1 : empty_dir(fd) : 0;
        if (rc == 0)
            rc = rmdir(path);
    }
    return rc < 0 ? fail(err, errno, "remove", path) : 1;
}

int nd_file_list(const char *path, struct nd_buf *names, struct nd_err *err)
{
    DIR *dir = opendir(path);
    struct dirent *entry;

    if (!dir)
        return fail(err, errno, "list", path);
    while ((entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            nd_buf_add(names, entry->d_name, strlen(entry->d_name) + 1);
    closedir(dir);
    return 0;
}

static int refuse_lock(int fd, const char *path, struct nd_err *err)
{
    char text[32] = "";
    ssize_t got = pread(fd, text, sizeof text - 1, 0);
    long pid = got > 0 ? strtol(text, NULL, 10) : 0;

    close(fd);
    if (pid > 0)
        return nd_err_set(err, "locked", "stop that process, or choose another directory",
                          "%s is locked by process %ld", path, pid);
    return nd_err_set(err, "locked", "stop the other process, or choose another directory",
                      "%s is locked by another process", path);
}

int nd_file_lock(const char *path, struct nd_err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    char text[32];
    int length;

    if (fd < 0)
        return fail(err, errno, "lock", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int number = errno;

        if (number == EWOULDBLOCK)
            return refuse_lock(fd, path, err);
        close(fd);
        return fail(err, number, "lock", path);
    }
    length = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    /* The process id is for people; on a full disk the lock holds all the same. */
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)length, 0) < 0)
        errno = 0;
    return fd;
}

int nd_file_mount_tmpfs(const char *path, size_t size, mode_t mode, struct nd_err *err)
{
    static const char *const more[] = {",noswap", ""};
    char options[64];

    for (int i = 0; i < 2; i++) {
        snprintf(options, sizeof options, "size=%zu,mode=%04o%s", size, (unsigned)mode, more[i]);
        if (mount("nextdeploy", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) == 0)
            return 0;
        if (errno != EINVAL)
            break;
    }
    return fail(err, errno, "mount a tmpfs on", path);
}

int nd_file_unmount(const char *path, struct nd_err *err)
{
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
        return fail(err, errno, "unmount", path);
    return 0;
}
