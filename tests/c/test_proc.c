/*
 * test_proc.c - metrics and connections from a /proc made by hand, and from the real one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/proc.h"
#include "io/file.h"

struct fixture {
    char root[64];
    char sys[96];
};

static void put(struct fixture *f, const char *name, const char *text)
{
    char path[256], *slash;

    snprintf(path, sizeof path, "%s/%s", f->root, name);
    slash = strrchr(path, '/');
    *slash = '\0';
    assert_int_equal(nd_file_mkdir(path, 0755, NULL), 0);
    *slash = '/';
    assert_int_equal(nd_file_write(path, text, strlen(text), 0644, NULL), 0);
}

static int set_up(void **state)
{
    struct fixture *f = nd_alloc(sizeof *f);

    strcpy(f->root, "/tmp/nd-test-proc-XXXXXX");
    assert_non_null(mkdtemp(f->root));
    snprintf(f->sys, sizeof f->sys, "%s/sys", f->root);
    put(f, "stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 1\n");
    put(f, "meminfo",
        "MemTotal:        1000 kB\nMemFree: 1 kB\nMemAvailable:     250 kB\n"
        "SwapTotal: 8 kB\nSwapFree: 4 kB\n");
    put(f, "loadavg", "0.50 1.25 2.00 1/100 4242\n");
    put(f, "uptime", "6130.50 1000.00\n");
    put(f, "net/dev",
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n"
        "    lo:    1000       1    0    0    0     0          0         0     1000       1 0 0 0 "
        "0 0 0\n"
        "  eth0: 5000 1 0 0 0 0 0 0 700 1 0 0 0 0 0 0\n"
        "veth12: 9000 1 0 0 0 0 0 0 900 1 0 0 0 0 0 0\n");
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

static void test_the_host_in_numbers(void **state)
{
    struct fixture *f = *state;
    struct nd_host_metrics m;
    struct nd_err err = {0};

    assert_int_equal(nd_proc_host(f->root, f->sys, "/", &m, &err), 0);
    assert_true(m.cpu_times[0] == 100.0 / (double)sysconf(_SC_CLK_TCK)); /* user */
    assert_true(m.cpu_times[3] == 7 * m.cpu_times[0] && m.cpu_times[1] == 0);
    assert_true(fabs(m.memory - 75) < 1e-9);
    assert_true(m.memory_total == 1000 * 1024 && m.memory_available == 250 * 1024);
    assert_true(m.swap_total == 8192 && m.swap_free == 4096);
    assert_int_equal(m.cores, 2);
    assert_true(m.load[0] == 0.5 && m.load[1] == 1.25 && m.load[2] == 2);
    assert_true(m.uptime == 6130.5);
    assert_true(m.network_received == 5000 && m.network_sent == 700);
    assert_true(m.pressure_cpu == -1);
    assert_true(m.disk > 0 && m.disk <= 100 && m.disk_total > m.disk_free);
}

static void test_pressure_and_hardware_interfaces_where_there_are_any(void **state)
{
    struct fixture *f = *state;
    struct nd_host_metrics m;

    put(f, "pressure/cpu", "some avg10=1.50 avg60=0.05 avg300=0.16 total=5678553\n");
    put(f, "pressure/memory", "some avg10=0.25 avg60=0 avg300=0 total=0\n");
    put(f, "pressure/io", "some avg10=0.00 avg60=0 avg300=0 total=0\n");
    put(f, "sys/class/net/veth12/device/x", "");
    nd_proc_host(f->root, f->sys, "/", &m, NULL);
    assert_true(m.pressure_cpu == 1.5 && m.pressure_memory == 0.25 && m.pressure_io == 0);
    assert_true(m.network_received == 9000);
    assert_true(fabs(m.waited_cpu - 5.678553) < 1e-9 && m.waited_io == 0);
}

static void test_disks_by_their_own_names_and_hardware(void **state)
{
    struct fixture *f = *state;
    struct nd_host_metrics m;

    put(f, "diskstats",
        "   7 0 loop0 9 0 9 0 9 0 9 0 0 0 0\n"
        " 254 0 vda 5 0 1000 0 7 0 200 0 0 0 0 1 0 1 0\n"
        " 254 1 vda1 5 0 900 0 7 0 100 0 0 0 0\n"
        " 253 0 dm-0 5 0 900 0 7 0 100 0 0 0 0\n"
        "   8 0 sda 5 0 10 0 7 0 20 0 0 0 0\n"
        "odd\n");
    put(f, "sys/block/vda/size", "");
    put(f, "sys/block/sda/size", "");
    put(f, "sys/block/dm-0/size", "");
    put(f, "sys/block/loop0/size", "");
    assert_int_equal(nd_proc_host(f->root, f->sys, "/", &m, NULL), 0);
    assert_true(m.disk_read == 1010 * 512 && m.disk_written == 220 * 512);
    put(f, "sys/block/sda/device/x", "");
    assert_int_equal(nd_proc_host(f->root, f->sys, "/", &m, NULL), 0);
    assert_true(m.disk_read == 10 * 512 && m.disk_written == 20 * 512);
}

static void test_a_file_that_is_missing_or_odd_is_named(void **state)
{
    static const char *const names[] = {"stat", "meminfo", "loadavg", "uptime"};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct nd_host_metrics m;
        struct nd_err err = {0};
        char path[128];

        put(f, names[i], "");
        assert_int_equal(nd_proc_host(f->root, f->sys, "/", &m, &err), -1);
        assert_string_equal(err.code, "proc_unreadable");
        assert_non_null(strstr(err.message, names[i]));
        snprintf(path, sizeof path, "%s/%s", f->root, names[i]);
        unlink(path);
        assert_int_equal(nd_proc_host(f->root, f->sys, "/", &m, &err), -1);
        assert_non_null(strstr(err.message, names[i]));
        tear_down(state);
        set_up(state);
        f = *state;
    }
    struct nd_err err = {0};
    struct nd_host_metrics m;

    assert_int_equal(nd_proc_host(f->root, f->sys, "/no/where", &m, &err), -1);
    assert_non_null(strstr(err.message, "/no/where"));
}

static void test_durations_read_like_go(void **state)
{
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {{6130.5, "1h42m"}, {0, "0s"},      {59.9, "59s"},     {60, "1m0s"},
                 {312, "5m12s"},    {3600, "1h0m"}, {266640, "74h4m"}, {-1, "0s"}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];

        nd_proc_duration(cases[i].seconds, text, sizeof text);
        assert_string_equal(text, cases[i].text);
    }
}

static void test_connections_of_a_port_by_peer(void **state)
{
    static const char head[] =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";
    struct fixture *f = *state;
    struct nd_connections found;
    struct nd_err err = {0};
    char text[2048];

    snprintf(text, sizeof text,
             "%s"
             "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0\n"
             "   1: 020011AC:1F90 010011AC:D431 01 00000000:00000000 00:00000000 00000000 0\n"
             "   2: 020011AC:1F90 010011AC:D432 06 00000000:00000000 00:00000000 00000000 0\n"
             "   3: 020011AC:1F91 010011AC:D433 01 00000000:00000000 00:00000000 00000000 0\n"
             "   4: 020011AC:D434 010011AC:1F90 01 00000000:00000000 00:00000000 00000000 0\n"
             "   5: 020011AC:1F90 0700000A:0050 08 00000000:00000000 00:00000000 00000000 0\n",
             head);
    put(f, "77/net/tcp", text);
    snprintf(
        text, sizeof text,
        "%s"
        "   0: 0000000000000000FFFF0000020011AC:1F90 0000000000000000FFFF0000010011AC:D435 01 0\n"
        "   1: B80D0120000000000000000002000000:1F90 B80D0120000000000000000001000000:01BB 01 0\n"
        "   2: garbage\n   3: 00:1F90 00:0000 01\n",
        head);
    put(f, "77/net/tcp6", text);
    assert_int_equal(nd_proc_connections(f->root, 77, 8080, &found, &err), 0);
    assert_int_equal(found.count, 4);
    assert_string_equal(found.items[0].peer, "172.17.0.1:54321");
    assert_false(found.items[0].half);
    assert_int_equal(found.items[0].local_port, 8080);
    assert_string_equal(found.items[1].peer, "10.0.0.7:80");
    assert_true(found.items[1].half);
    assert_string_equal(found.items[2].peer, "172.17.0.1:54325");
    assert_string_equal(found.items[3].peer, "[2001:db8::1]:443");
    free(found.items);
    assert_int_equal(nd_proc_connections(f->root, 77, 0, &found, &err), 0);
    assert_int_equal(found.count, 6);
    free(found.items);
    assert_int_equal(nd_proc_connections(f->root, 78, 8080, &found, &err), -1);
    assert_string_equal(err.code, "not_found");
}

/* A listener on loopback and `count` clients that it accepted; returns its port. */
static int connect_some(int *fds, int count)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;

    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fds[0], (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fds[0], count), 0);
    getsockname(fds[0], (struct sockaddr *)&at, &length);
    for (int i = 0; i < count; i++) {
        fds[1 + 2 * i] = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(fds[1 + 2 * i], (struct sockaddr *)&at, sizeof at), 0);
        fds[2 + 2 * i] = accept(fds[0], NULL, NULL);
    }
    return ntohs(at.sin_port);
}

static void test_the_kernel_s_own_table_is_understood(void **state)
{
    enum { CLIENTS = 3 };
    struct nd_connections found;
    struct nd_err err = {0};
    int fds[1 + 2 * CLIENTS];
    int port = connect_some(fds, CLIENTS);
    size_t half = 0;

    (void)state;
    shutdown(fds[1], SHUT_WR); /* the server's end is CLOSE_WAIT from here on */
    assert_int_equal(nd_proc_connections("/proc", getpid(), port, &found, &err), 0);
    assert_int_equal(found.count, CLIENTS);
    for (size_t i = 0; i < found.count; i++) {
        half += found.items[i].half;
        assert_int_equal(strncmp(found.items[i].peer, "127.0.0.1:", 10), 0);
    }
    assert_int_equal(half, 1);
    free(found.items);
    for (int i = 0; i < 1 + 2 * CLIENTS; i++)
        close(fds[i]);
}

static void test_a_process_is_known_by_pid_and_start(void **state)
{
    struct fixture *f = *state;
    struct nd_proc_process self, odd;
    struct nd_err err = {0};

    assert_int_equal(nd_proc_process("/proc", getpid(), &self, &err), 0);
    assert_int_equal(self.state, 'R');
    assert_int_equal(self.parent, getppid());
    assert_true(self.start > 0 && self.rss > 0);
    put(f, "5/stat", "5 (a) b) (c) Z 4 5 5 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 777 0 3 1 1\n");
    assert_int_equal(nd_proc_process(f->root, 5, &odd, &err), 0);
    assert_int_equal(odd.state, 'Z');
    assert_int_equal(odd.parent, 4);
    assert_true(odd.start == 777);
    assert_int_equal(nd_proc_process(f->root, 6, &odd, &err), -1);
    assert_string_equal(err.code, "not_found");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_the_host_in_numbers),
        TEST(test_disks_by_their_own_names_and_hardware),
        TEST(test_pressure_and_hardware_interfaces_where_there_are_any),
        TEST(test_a_file_that_is_missing_or_odd_is_named),
        TEST(test_durations_read_like_go),
        TEST(test_connections_of_a_port_by_peer),
        TEST(test_the_kernel_s_own_table_is_understood),
        TEST(test_a_process_is_known_by_pid_and_start),
#undef TEST
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
