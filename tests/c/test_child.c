/*
 * test_child.c - jobs and child processes: what would hang the daemon, or leave something behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/proc.h"
#include "io/child.h"
#include "io/job.h"

struct fixture {
    struct nd_loop loop;
    struct nd_child_result last; /* of the last child; its buffers are ours */
    int done;
};

static int set_up(void **state)
{
    struct fixture *f = nd_alloc(sizeof *f);

    assert_int_equal(nd_loop_init(&f->loop, NULL), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    nd_loop_fini(&f->loop);
    nd_buf_fini(&f->last.output);
    nd_buf_fini(&f->last.errors);
    free(f);
    return 0;
}

static void on_done(void *arg, struct nd_child_result *result)
{
    struct fixture *f = arg;

    f->last = *result;
    memset(&result->output, 0, sizeof result->output);
    memset(&result->errors, 0, sizeof result->errors);
    f->done++;
}

static const char *text(const struct nd_buf *buf)
{
    return buf->data ? buf->data : "";
}

/* Starts `sh -c script` with the other options given. */
static struct nd_child *start(struct fixture *f, const char *script,
                              struct nd_child_options options)
{
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    struct nd_err err = {0};
    struct nd_child *child;

    nd_buf_fini(&f->last.output);
    nd_buf_fini(&f->last.errors);
    options.argv = argv;
    child = nd_child_start(&f->loop, &options, on_done, f, &err);
    assert_string_equal(err.message, "");
    return child;
}

static void run(struct fixture *f, const char *script, struct nd_child_options options)
{
    start(f, script, options);
    nd_loop_run(&f->loop);
    assert_int_equal(f->done, 1);
    f->done = 0;
}

static void test_output_errors_and_status_come_back(void **state)
{
    struct fixture *f = *state;

    run(f, "echo out; echo err >&2; exit 7", (struct nd_child_options){0});
    assert_string_equal(text(&f->last.output), "out\n");
    assert_string_equal(text(&f->last.errors), "err\n");
    assert_int_equal(f->last.status, 7);
    assert_int_equal(f->last.signal, 0);
    run(f, "kill -KILL $$", (struct nd_child_options){0});
    assert_int_equal(f->last.signal, SIGKILL);
    assert_int_equal(f->last.status, 128 + SIGKILL); /* never taken for a success */
}

static void test_input_of_a_megabyte_goes_in_and_comes_out(void **state)
{
    struct fixture *f = *state;
    size_t length = 1024 * 1024;
    char *input = nd_alloc(length);

    memset(input, 'a', length);
    run(f, "cat", (struct nd_child_options){.input = input, .input_length = length});
    assert_int_equal(f->last.output.length, length);
    assert_memory_equal(f->last.output.data, input, length);
    assert_false(f->last.truncated);
    free(input);
}

static void test_a_child_that_ignores_its_input_is_no_error(void **state)
{
    struct fixture *f = *state;
    size_t length = 1024 * 1024;
    char *input = nd_alloc(length);

    run(f, "exec <&-; echo fine",
        (struct nd_child_options){.input = input, .input_length = length});
    assert_string_equal(text(&f->last.output), "fine\n");
    assert_int_equal(f->last.status, 0);
    free(input);
}

static void test_output_beyond_the_cap_is_dropped_and_said_so(void **state)
{
    struct fixture *f = *state;

    run(f, "head -c 300000 /dev/zero; head -c 10 /dev/zero >&2",
        (struct nd_child_options){.max_output = 1000});
    assert_int_equal(f->last.output.length, 1000);
    assert_int_equal(f->last.errors.length, 10);
    assert_true(f->last.truncated);
    assert_int_equal(f->last.status, 0);
}

static void test_the_environment_is_what_was_given_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    const char *env[] = {"GREETING=hello world", NULL};

    setenv("ND_SECRET_OF_OURS", "1", 1);
    run(f, "/usr/bin/env", (struct nd_child_options){.env = env, .cwd = "/"});
    unsetenv("ND_SECRET_OF_OURS");
    assert_non_null(strstr(text(&f->last.output), "GREETING=hello world\n"));
    assert_null(strstr(text(&f->last.output), "ND_SECRET_OF_OURS"));
    assert_null(strstr(text(&f->last.output), "HOME="));
}

static void test_a_child_inherits_no_descriptor(void **state)
{
    struct fixture *f = *state;
    int leaky = open("/dev/null", O_RDONLY); /* on purpose without O_CLOEXEC */

    assert_true(leaky > 2);
    run(f, "ls /proc/$$/fd; :", (struct nd_child_options){0}); /* a pipe would be the shell's own */
    close(leaky);
    assert_string_equal(text(&f->last.output), "0\n1\n2\n");
}

static void test_a_time_out_ends_by_term(void **state)
{
    struct fixture *f = *state;

    run(f, "sleep 60", (struct nd_child_options){.timeout_ms = 50});
    assert_true(f->last.timed_out);
    assert_int_equal(f->last.signal, SIGTERM);
}

static bool is_gone(pid_t pid)
{
    struct nd_proc_process process;

    return nd_proc_process("/proc", pid, &process, NULL) < 0 || process.state == 'Z';
}

static void test_a_child_that_ignores_term_is_killed_with_all_it_started(void **state)
{
    struct fixture *f = *state;
    int64_t deadline = nd_clock_monotonic() + 10000;
    pid_t left;

    run(f, "trap '' TERM; sleep 600 & echo $!; while :; do sleep 1; done",
        (struct nd_child_options){.timeout_ms = 200, .grace_ms = 100});
    assert_true(f->last.timed_out);
    assert_int_equal(f->last.signal, SIGKILL);
    left = (pid_t)atoi(text(&f->last.output));
    assert_true(left > 0);
    while (!is_gone(left) && nd_clock_monotonic() < deadline)
        usleep(1000);
    assert_true(is_gone(left));
}

static void test_a_grandchild_that_keeps_the_output_open_is_not_waited_for(void **state)
{
    struct fixture *f = *state;
    int64_t start_ms = nd_clock_monotonic();
    pid_t left;

    run(f, "sleep 60 & echo $!", (struct nd_child_options){.grace_ms = 100});
    assert_int_equal(f->last.status, 0);
    assert_true(nd_clock_monotonic() - start_ms < 10000);
    left = (pid_t)atoi(text(&f->last.output));
    assert_true(left > 0);
    kill(left, SIGKILL);
}

static void test_a_cancelled_child_ends_and_says_so(void **state)
{
    struct fixture *f = *state;
    struct nd_child *child = start(f, "sleep 60", (struct nd_child_options){0});

    assert_true(nd_child_pid(child) > 0);
    nd_child_cancel(child);
    nd_child_cancel(child);
    nd_loop_run(&f->loop);
    assert_int_equal(f->done, 1);
    assert_true(f->last.cancelled);
    assert_false(f->last.timed_out);
}

static void test_many_at_once(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 30; i++)
        start(f, "exit 0", (struct nd_child_options){.timeout_ms = 30000});
    nd_loop_run(&f->loop);
    assert_int_equal(f->done, 30);
}

static void test_a_program_that_is_not_there_is_named(void **state)
{
    struct fixture *f = *state;
    const char *argv[] = {"/no/such/program", NULL};
    struct nd_child_options options = {.argv = argv};
    struct nd_err err = {0};

    assert_null(nd_child_start(&f->loop, &options, on_done, f, &err));
    assert_string_equal(err.code, "process_start");
    assert_non_null(strstr(err.message, "/no/such/program"));
    assert_non_null(strstr(err.message, "no such file"));
    nd_loop_run(&f->loop);
    assert_int_equal(f->done, 0);
}

static void test_another_user_has_no_groups_of_ours(void **state)
{
    struct fixture *f = *state;

    if (getuid() != 0)
        skip();
    run(f, "id -u; id -g; id -G",
        (struct nd_child_options){.set_ids = true, .uid = 65534, .gid = 65534});
    assert_string_equal(text(&f->last.output), "65534\n65534\n65534\n");
}

/* ---- jobs ---- */

struct job_note {
    atomic_int worked;
    int ran, cancelled;
    atomic_bool hold;
};

static void work(void *arg)
{
    struct job_note *note = arg;

    while (atomic_load(&note->hold))
        usleep(1000);
    atomic_fetch_add(&note->worked, 1);
}

static void on_job(void *arg, bool ran)
{
    struct job_note *note = arg;

    if (ran)
        note->ran++;
    else
        note->cancelled++;
}

static void test_a_job_runs_once_and_a_cancelled_one_never(void **state)
{
    enum { BUSY = 64 };
    struct fixture *f = *state;
    struct job_note busy = {.hold = true}, late = {0};
    struct nd_job *job;

    for (int i = 0; i < BUSY; i++) /* fill the pool */
        nd_job_start(&f->loop, work, on_job, &busy);
    job = nd_job_start(&f->loop, work, on_job, &late);
    nd_job_cancel(job);
    atomic_store(&busy.hold, false);
    nd_loop_run(&f->loop);
    assert_int_equal(busy.ran, BUSY);
    assert_int_equal(busy.worked, BUSY);
    assert_int_equal(late.cancelled, 1);
    assert_int_equal(late.worked, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_output_errors_and_status_come_back),
        TEST(test_input_of_a_megabyte_goes_in_and_comes_out),
        TEST(test_a_child_that_ignores_its_input_is_no_error),
        TEST(test_output_beyond_the_cap_is_dropped_and_said_so),
        TEST(test_the_environment_is_what_was_given_and_nothing_else),
        TEST(test_a_child_inherits_no_descriptor),
        TEST(test_a_time_out_ends_by_term),
        TEST(test_a_child_that_ignores_term_is_killed_with_all_it_started),
        TEST(test_a_grandchild_that_keeps_the_output_open_is_not_waited_for),
        TEST(test_a_cancelled_child_ends_and_says_so),
        TEST(test_many_at_once),
        TEST(test_a_program_that_is_not_there_is_named),
        TEST(test_another_user_has_no_groups_of_ours),
        TEST(test_a_job_runs_once_and_a_cancelled_one_never),
#undef TEST
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
