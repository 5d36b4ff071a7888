/*
 * test_cgroup.c - what a container uses, from control groups of v1, v2 and both, made by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/cgroup.h"
#include "io/file.h"

#define ID "90e41a4b7bc3ee16f1dc14bbd50e00153d466d33cdb6f4ebd765b4b0945c9e82"
#define V1 "sys/fs/cgroup/"
#define V2 "sys/fs/cgroup/system.slice/docker-" ID ".scope/"
#define UNIFIED "sys/fs/cgroup/unified/docker/" ID "/"

struct fixture {
    char root[64];
    char sys[96];
    struct nd_cgroup_usage u;
    struct nd_err err;
};

static void put(struct fixture *f, const char *name, const char *text)
{
    char path[512], *slash;

    snprintf(path, sizeof path, "%s/%s", f->root, name);
    slash = strrchr(path, '/');
    *slash = '\0';
    assert_int_equal(nd_file_mkdir(path, 0755, NULL), 0);
    *slash = '/';
    assert_int_equal(nd_file_write(path, text, strlen(text), 0644, NULL), 0);
}

static void drop(struct fixture *f, const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", f->root, name);
    assert_int_not_equal(nd_file_remove(path, true, NULL), -1);
}

static int set_up(void **state)
{
    struct fixture *f = nd_alloc(sizeof *f);

    strcpy(f->root, "/tmp/nd-test-cgroup-XXXXXX");
    assert_non_null(mkdtemp(f->root));
    snprintf(f->sys, sizeof f->sys, "%s/sys", f->root);
    put(f, "7/net/dev",
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n"
        "    lo:  999999 1 0 0 0 0 0 0 999999 1 0 0 0 0 0 0\n"
        "  eth0:    5000 9 1 2 0 0 0 0     700 8 3 4 0 0 0 0\n"
        "  eth1:      10 1 0 0 0 0 0 0      20 1 0 0 0 0 0 0\n");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    nd_file_remove(f->root, true, NULL);
    free(f);
    return 0;
}

static void put_v1(struct fixture *f)
{
    put(f, "7/cgroup",
        "11:name=systemd:/docker/" ID "\n8:pids:/docker/" ID "\n7:blkio:/docker/" ID
        "\n4:memory:/docker/" ID "\n3:cpuset:/\n2:cpu,cpuacct:/docker/" ID "\n0::/docker/" ID "\n");
    put(f, V1 "cpuacct/docker/" ID "/cpuacct.usage", "20761606000\n");
    put(f, V1 "cpu/docker/" ID "/cpu.stat",
        "nr_periods 7\nnr_throttled 3\nthrottled_time 1500000000\n");
    put(f, V1 "memory/docker/" ID "/memory.usage_in_bytes", "7000000\n");
    put(f, V1 "memory/docker/" ID "/memory.limit_in_bytes", "9223372036854771712\n");
    put(f, V1 "memory/docker/" ID "/memory.stat",
        "cache 1\ninactive_file 4096\ntotal_cache 5\ntotal_inactive_file 2000000\n");
    put(f, V1 "memory/docker/" ID "/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
    put(f, V1 "blkio/docker/" ID "/blkio.throttle.io_service_bytes_recursive",
        "8:0 Read 4096\n8:0 Write 512\n8:0 Sync 4608\n8:0 Total 4608\n"
        "254:0 Read 100\n254:0 Write 8\n254:0 Total 108\nTotal 4716\n");
    put(f, V1 "blkio/docker/" ID "/blkio.throttle.io_serviced_recursive",
        "8:0 Read 3\n8:0 Write 1\nTotal 4\n");
    put(f, V1 "pids/docker/" ID "/pids.current", "5\n");
    put(f, V1 "pids/docker/" ID "/pids.max", "max\n");
}

static void put_v2(struct fixture *f, const char *group)
{
    static const char *const files[][2] = {
        {"cpu.stat", "usage_usec 20761606\nuser_usec 20000000\nsystem_usec 761606\n"
                     "nr_periods 7\nnr_throttled 3\nthrottled_usec 1500000\n"},
        {"memory.current", "7000000\n"},
        {"memory.max", "268435456\n"},
        {"memory.stat", "anon 5000000\nfile 2000000\ninactive_anon 1\ninactive_file 2000000\n"},
        {"memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"},
        {"io.stat", "8:0 rbytes=4096 wbytes=512 rios=3 wios=1 dbytes=7 dios=9\n"
                    "254:0 rbytes=100 wbytes=8 rios=0 wios=0 dbytes=0 dios=0\n"},
        {"pids.current", "5\n"},
        {"pids.max", "100\n"},
    };
    char name[512];

    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(name, sizeof name, "%s%s", group, files[i][0]);
        put(f, name, files[i][1]);
    }
}

static int ask(struct fixture *f)
{
    return nd_cgroup_read(f->root, f->sys, 7, ID, &f->u, &f->err);
}

/* What both versions say of the same container. */
static void assert_usage(struct fixture *f)
{
    assert_int_equal(ask(f), 0);
    assert_int_equal(f->u.have, ND_CGROUP_CPU | ND_CGROUP_MEMORY | ND_CGROUP_IO | ND_CGROUP_PIDS |
                                    ND_CGROUP_NETWORK);
    assert_true(fabs(f->u.cpu - 20.761606) < 1e-9);
    assert_true(fabs(f->u.throttled - 1.5) < 1e-9);
    assert_int_equal(f->u.memory, 7000000);
    assert_int_equal(f->u.memory_working, 5000000);
    assert_int_equal(f->u.oom_kills, 2);
    assert_int_equal(f->u.read, 4196);
    assert_int_equal(f->u.written, 520);
    assert_int_equal(f->u.reads, 3);
    assert_int_equal(f->u.writes, 1);
    assert_int_equal(f->u.pids, 5);
    assert_int_equal(f->u.received, 5010);
    assert_int_equal(f->u.sent, 720);
    assert_int_equal(f->u.errored, 4);
    assert_int_equal(f->u.dropped, 6);
}

static void test_v1(void **state)
{
    struct fixture *f = *state;

    put_v1(f);
    assert_usage(f);
    assert_int_equal(f->u.memory_limit, 0);
    assert_int_equal(f->u.pids_limit, 0);
    put(f, V1 "memory/docker/" ID "/memory.limit_in_bytes", "268435456\n");
    ask(f);
    assert_int_equal(f->u.memory_limit, 268435456);
}

static void test_v1_of_a_kernel_without_recursive_counters(void **state)
{
    struct fixture *f = *state;

    put_v1(f);
    drop(f, V1 "blkio/docker/" ID);
    put(f, V1 "blkio/docker/" ID "/blkio.throttle.io_service_bytes", "8:0 Read 1\n8:0 Write 2\n");
    assert_int_equal(ask(f), 0);
    assert_int_equal(f->u.read, 1);
    assert_int_equal(f->u.written, 2);
}

static void test_v2(void **state)
{
    struct fixture *f = *state;

    put(f, "7/cgroup", "0::/system.slice/docker-" ID ".scope\n");
    put(f, "sys/fs/cgroup/cgroup.controllers", "cpu io memory pids\n");
    put_v2(f, V2);
    assert_usage(f);
    assert_int_equal(f->u.memory_limit, 268435456);
    assert_int_equal(f->u.pids_limit, 100);
    put(f, V2 "memory.max", "max\n");
    ask(f);
    assert_int_equal(f->u.memory_limit, 0);
}

static void test_v2_beside_v1(void **state)
{
    struct fixture *f = *state;

    put(f, "7/cgroup", "4:memory:/docker/" ID "\n0::/docker/" ID "\n");
    put(f, V1 "memory/docker/" ID "/memory.usage_in_bytes", "1234\n");
    put_v2(f, UNIFIED);
    assert_int_equal(ask(f), 0);
    assert_int_equal(f->u.memory, 1234); /* v1 has the controller */
    assert_true(fabs(f->u.cpu - 20.761606) < 1e-9);
    assert_int_equal(f->u.pids, 5);
}

static void test_a_process_of_another_container_is_refused(void **state)
{
    struct fixture *f = *state;

    put_v1(f);
    put(f, "7/cgroup", "4:memory:/docker/another\n0::/\n");
    assert_int_equal(ask(f), -1);
    assert_string_equal(f->err.code, "not_found");
    drop(f, "7");
    assert_int_equal(ask(f), -1);
    assert_string_equal(f->err.code, "not_found");
}

/* Docker removes the groups one after the other: whichever are gone, the others are told. */
static void test_groups_that_go_are_left_out(void **state)
{
    static const struct {
        const char *name;
        unsigned part;
    } groups[] = {
        {V1 "cpuacct", ND_CGROUP_CPU},
        {V1 "memory", ND_CGROUP_MEMORY},
        {V1 "blkio", ND_CGROUP_IO},
        {"7/net", ND_CGROUP_NETWORK},
    };
    struct fixture *f = *state;
    unsigned left =
        ND_CGROUP_CPU | ND_CGROUP_MEMORY | ND_CGROUP_IO | ND_CGROUP_PIDS | ND_CGROUP_NETWORK;

    put_v1(f);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        drop(f, groups[i].name);
        left &= ~groups[i].part;
        assert_int_equal(ask(f), 0);
        assert_int_equal(f->u.have, left);
    }
    drop(f, V1 "pids");
    assert_int_equal(ask(f), -1);
    assert_string_equal(f->err.code, "not_found");
}

static void test_files_that_are_empty_or_odd_are_left_out(void **state)
{
    static const char *const texts[] = {"", "\n", "none\n", "-", "usage_usec", "usage_usec x\n"};
    struct fixture *f = *state;

    put(f, "7/cgroup", "0::/system.slice/docker-" ID ".scope\n");
    put(f, "sys/fs/cgroup/cgroup.controllers", "cpu io memory pids\n");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put_v2(f, V2);
        put(f, V2 "cpu.stat", texts[i]);
        put(f, V2 "memory.current", texts[i]);
        put(f, V2 "memory.stat", texts[i]);
        put(f, V2 "io.stat", texts[i]);
        put(f, V2 "pids.max", texts[i]);
        put(f, "7/net/dev", texts[i]);
        assert_int_equal(ask(f), 0);
        assert_int_equal(f->u.have, ND_CGROUP_IO | ND_CGROUP_PIDS | ND_CGROUP_NETWORK);
        assert_true(f->u.read == 0 && f->u.received == 0 && f->u.pids_limit == 0);
    }
}

static void test_a_list_of_groups_that_is_odd_is_refused(void **state)
{
    static const char *const texts[] = {
        "", ID, ":" ID, "::" ID, "4:memory" ID "\n0::" ID "\n", "4:memory:\n0::\n" ID};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put(f, "7/cgroup", texts[i]);
        assert_int_equal(ask(f), -1);
    }
}

/* Until the file is longer than we read, nothing more may be written over. */
static void test_long_files_are_cut(void **state)
{
    struct fixture *f = *state;
    char *text = nd_alloc(100001);

    memset(text, 'x', 100000);
    put(f, "7/cgroup", text);
    assert_int_equal(ask(f), -1);
    put_v1(f);
    put(f, V1 "memory/docker/" ID "/memory.stat", text);
    assert_int_equal(ask(f), 0);
    assert_int_equal(f->u.memory_working, 7000000);
    free(text);
}

static void test_this_process_in_the_real_ones(void **state)
{
    struct nd_cgroup_usage u;

    (void)state;
    if (nd_cgroup_read("/proc", "/sys", getpid(), ":", &u, NULL) < 0)
        skip(); /* a machine whose groups can't be seen from here */
    assert_true(u.have & (ND_CGROUP_CPU | ND_CGROUP_MEMORY | ND_CGROUP_PIDS | ND_CGROUP_IO));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(test_v1),
        T(test_v1_of_a_kernel_without_recursive_counters),
        T(test_v2),
        T(test_v2_beside_v1),
        T(test_a_process_of_another_container_is_refused),
        T(test_groups_that_go_are_left_out),
        T(test_files_that_are_empty_or_odd_are_left_out),
        T(test_a_list_of_groups_that_is_odd_is_refused),
        T(test_long_files_are_cut),
        T(test_this_process_in_the_real_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
