/* A process that may make few system calls: what it asks beyond them ends it, and nothing else
 * does. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "script/seccomp.h"

enum { PAGE = 4096, DONE = 7 };

static const int few[] = {SYS_exit_group, SYS_exit, SYS_mmap, SYS_mprotect, SYS_getppid};

/* Runs `act` in a child under the list `few`; -> what waitpid says of it. */
static int child(void (*act)(void), bool compiles)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
            nd_seccomp_allow(few, sizeof few / sizeof *few, compiles) < 0)
            _exit(1);
        act();
        syscall(SYS_exit_group, DONE);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void allowed(void)
{
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    *page = 1;
    mprotect(page, PAGE, PROT_READ);
    syscall(SYS_getppid);
}

static void opens_a_socket(void)
{
    socket(AF_INET, SOCK_STREAM, 0);
}

static void starts_a_program(void)
{
    char *argv[] = {"true", NULL};

    execve("/bin/true", argv, NULL);
}

static void maps_code(void)
{
    mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void makes_code(void)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    mprotect(page, PAGE, PROT_READ | PROT_EXEC);
}

static void makes_code_that_it_can_write(void)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static void takes_it_back(void)
{
    prctl(PR_SET_SECCOMP, 0);
}

#ifdef __x86_64__
/* The same numbers mean other calls to the 32-bit entry: 20 is writev there. */
static void asks_as_32_bits(void)
{
    long result;

    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
}

static void asks_as_x32(void)
{
    syscall(0x40000000L + SYS_getppid);
}
#endif

static void test_allows_what_is_listed(void **state)
{
    int status = child(allowed, false);

    (void)state;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), DONE);
}

static void test_lets_a_compiler_make_code_but_never_write_where_it_runs(void **state)
{
    void (*const refused[])(void) = {maps_code, makes_code_that_it_can_write, opens_a_socket};
    int status = child(makes_code, true);

    (void)state;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), DONE);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        status = child(refused[i], true);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGSYS);
    }
}

static void test_ends_at_anything_else(void **state)
{
    void (*const acts[])(void) = {
        opens_a_socket,  starts_a_program, maps_code, makes_code, takes_it_back,
#ifdef __x86_64__
        asks_as_32_bits, asks_as_x32,
#endif
    };

    (void)state;
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        int status = child(acts[i], false);

        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGSYS);
    }
}

static void test_refuses_too_long_a_list(void **state)
{
    int many[65] = {0};

    (void)state;
    assert_int_equal(nd_seccomp_allow(many, 65, false), -1);
    assert_int_equal(errno, E2BIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allows_what_is_listed),
        cmocka_unit_test(test_lets_a_compiler_make_code_but_never_write_where_it_runs),
        cmocka_unit_test(test_ends_at_anything_else),
        cmocka_unit_test(test_refuses_too_long_a_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
