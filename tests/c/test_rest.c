/* A process at rest: what it can have again from a file it lets go of, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rest.h"

enum { SIZE = 1 << 20 };

/* A file of SIZE bytes 'f', mapped. */
static char *map(int rights)
{
    char path[] = "/tmp/nd-rest-XXXXXX";
    int fd = mkstemp(path);
    char *bytes = malloc(SIZE), *mapped;

    assert_true(fd >= 0);
    unlink(path);
    memset(bytes, 'f', SIZE);
    assert_int_equal(write(fd, bytes, SIZE), SIZE);
    free(bytes);
    mapped = mmap(NULL, SIZE, rights, MAP_PRIVATE, fd, 0);
    assert_true(mapped != MAP_FAILED);
    close(fd);
    return mapped;
}

/* kB of the mapping at `at` that are in memory. */
static long resident(const char *at)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    uintptr_t from;
    long kb = -1;
    int found = 0;

    while (kb < 0 && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%*x", &from) == 1 && strchr(line, '-') && from == (uintptr_t)at)
            found = 1;
        else if (found)
            (void)!sscanf(line, "Rss: %ld", &kb);
    }
    fclose(file);
    return kb;
}

static int sum(const char *mapped)
{
    int odd = 0;

    for (size_t i = 0; i < SIZE; i++)
        odd += mapped[i] != 'f';
    return odd;
}

static void test_lets_go_of_what_a_file_has(void **state)
{
    char *mapped = map(PROT_READ);

    (void)state;
    assert_int_equal(sum(mapped), 0);
    assert_true(resident(mapped) >= SIZE / 1024);
    nd_rest();
    assert_int_equal(resident(mapped), 0);
    assert_int_equal(sum(mapped), 0);
    munmap(mapped, SIZE);
}

static void test_keeps_what_was_written(void **state)
{
    char *mapped = map(PROT_READ | PROT_WRITE);

    (void)state;
    mapped[SIZE / 2] = 'w';
    nd_rest();
    assert_int_equal(mapped[SIZE / 2], 'w');
    mprotect(mapped, SIZE, PROT_READ); /* as the linker leaves what it has relocated */
    nd_rest();
    assert_int_equal(mapped[SIZE / 2], 'w');
    assert_int_equal(sum(mapped), 1);
    munmap(mapped, SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lets_go_of_what_a_file_has),
        cmocka_unit_test(test_keeps_what_was_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
