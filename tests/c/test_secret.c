/*
 * test_secret.c - memory for secrets: what it holds, where it is written, and what a child sees of
 * it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/secret.h"

static struct nd_secret of(const char *text)
{
    struct nd_secret s;
    struct nd_err err = {0};

    assert_int_equal(nd_secret_init(&s, strlen(text), &err), 0);
    assert_int_equal(nd_secret_add(&s, text, strlen(text), &err), 0);
    return s;
}

static void it_takes_what_fits_and_nothing_more(void **state)
{
    struct nd_secret s = of("s3cr3t");
    struct nd_err err = {0};

    (void)state;
    assert_int_equal(nd_secret_add(&s, "", 0, &err), 0);
    assert_int_equal(nd_secret_add(&s, "x", 1, &err), -1);
    assert_string_equal(err.code, "secret_too_large");
    assert_memory_equal(s.data, "s3cr3t", 6);
    nd_secret_fini(&s);
    nd_secret_fini(&s);
    assert_null(s.data);
    assert_int_equal(nd_secret_init(&s, (size_t)ND_SECRET_MOST + 1, &err), -1);
    s = of("");
    assert_non_null(s.data);
    nd_secret_fini(&s);
}

/* The line of /proc/self/smaps that lists the flags of the mapping that begins at `data`. */
static void flags_of(const void *data, char *out, size_t size)
{
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[512];
    int found = 0;

    assert_non_null(maps);
    out[0] = '\0';
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to;

        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            found = from <= (unsigned long)data && (unsigned long)data < to;
        if (found && strncmp(line, "VmFlags:", 8) == 0)
            snprintf(out, size, "%s", line);
    }
    fclose(maps);
}

static void it_is_locked_and_in_no_dump_and_no_child(void **state)
{
    struct nd_secret s = of("s3cr3t");
    char flags[512];
    int status;
    pid_t child;

    (void)state;
    flags_of(s.data, flags, sizeof flags);
#ifndef ND_SANITIZE                        /* which leaves mlock out */
    assert_non_null(strstr(flags, " lo")); /* locked */
#endif
    assert_non_null(strstr(flags, " dd")); /* not dumped */
    assert_non_null(strstr(flags, " dc")); /* not copied to a child */
    child = fork();
    if (child == 0) {
        int pipes[2];

        /* write(2) says whether the memory is there, without a signal */
        _exit(pipe(pipes) == 0 && write(pipes[1], s.data, 1) == 1 ? 1 : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    nd_secret_fini(&s);
}

static void a_file_is_read_whole_or_not_at_all(void **state)
{
    char path[] = "/dev/shm/nd-test-XXXXXX";
    struct nd_secret s;
    struct nd_err err = {0};
    int fd = mkstemp(path);

    (void)state;
    assert_int_equal(write(fd, "12345678", 8), 8);
    close(fd);
    nd_secret_init(&s, 8, &err);
    assert_int_equal(nd_secret_read(&s, path, &err), 0);
    assert_int_equal(s.length, 8);
    nd_secret_fini(&s);
    nd_secret_init(&s, 7, &err);
    assert_int_equal(nd_secret_read(&s, path, &err), -1);
    assert_string_equal(err.code, "fs_too_large");
    unlink(path);
    assert_int_equal(nd_secret_read(&s, path, &err), -1);
    assert_string_equal(err.code, "fs_not_found");
    nd_secret_fini(&s);
}

static void a_file_changes_by_rename_and_only_where_it_differs(void **state)
{
    char dir[] = "/dev/shm/nd-test-XXXXXX", path[64], next[80];
    struct nd_secret one = of("one"), two = of("two, longer");
    struct nd_err err = {0};
    struct stat before, after;
    int fd;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/NAME", dir);
    snprintf(next, sizeof next, "%s.new", path);
    assert_int_equal(nd_secret_put(&one, path, 0444, &err), 1);
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(before.st_mode & 07777, 0444);
    assert_int_equal(nd_secret_put(&one, path, 0444, &err), 0);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_ino, before.st_ino);
    assert_int_equal(nd_secret_put(&one, path, 0400, &err), 1);
    fd = open(next, O_CREAT | O_WRONLY, 0600); /* of a writer that was killed */
    close(fd);
    assert_int_equal(nd_secret_put(&two, path, 0444, &err), 1);
    assert_int_equal(access(next, F_OK), -1);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_size, 11);
    assert_int_equal(nd_secret_put(&one, "/proc/self/NAME", 0444, &err), -1);
    unlink(path);
    rmdir(dir);
    nd_secret_fini(&one);
    nd_secret_fini(&two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_takes_what_fits_and_nothing_more),
        cmocka_unit_test(it_is_locked_and_in_no_dump_and_no_child),
        cmocka_unit_test(a_file_is_read_whole_or_not_at_all),
        cmocka_unit_test(a_file_changes_by_rename_and_only_where_it_differs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
