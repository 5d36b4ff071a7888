/*
 * file.h - whole files and directories, done in one call each.
 *
 * They block: the loop calls them through nd_job_start. Codes: fs_not_found, fs_exists, fs_denied,
 * fs_full, fs_too_large, fs_io; and `locked`. Every message names the path.
 */
#ifndef ND_IO_FILE_H
#define ND_IO_FILE_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"

/* Appends the file to `out`; fs_too_large where it is longer than `max` bytes. */
int nd_file_read(const char *path, size_t max, struct nd_buf *out, struct nd_err *err);

/* Replaces the file as a whole: whoever opens it sees the old bytes or the new, also after a power
 * failure. (PATH.new, fsync, rename, fsync of the directory.) Who writes it meanwhile is waited
 * for. */
int nd_file_write(const char *path, const void *data, size_t length, mode_t mode,
                  struct nd_err *err);

/* With missing parents. One that exists is left as it is; else it has exactly `mode`. */
int nd_file_mkdir(const char *path, mode_t mode, struct nd_err *err);

/* 1: removed; 0: wasn't there. Symbolic links are removed, not followed. */
int nd_file_remove(const char *path, bool recursive, struct nd_err *err);

/* Appends the names in a directory, each followed by a NUL, in no order. */
int nd_file_list(const char *path, struct nd_buf *names, struct nd_err *err);

/* Takes an flock on the file, creating it, and writes our process id into it. Returns a descriptor
 * that holds the lock until it is closed; -1 with code `locked` where somebody else has it. */
int nd_file_lock(const char *path, struct nd_err *err);

/* A tmpfs of at most `size` bytes that no program can be started from, and that is never swapped
 * where the kernel knows how (6.4). */
int nd_file_mount_tmpfs(const char *path, size_t size, mode_t mode, struct nd_err *err);
int nd_file_unmount(const char *path, struct nd_err *err);

#endif
