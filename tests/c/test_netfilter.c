/*
 * test_netfilter.c - hearing of rule changes, counting and forgetting flows, hairpin mode; in a
 * network namespace of its own, so that the machine's rules are left alone. Needs root.
 */
#include <arpa/inet.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/hairpin.h"
#include "engine/netfilter.h"
#include "engine/netlink.h"
#include "io/loop.h"

static struct nd_loop loop;

/* Runs a command line; the tests' own, with nothing foreign in it. */
static void sh(const char *line)
{
    if (system(line) != 0)
        fail_msg("failed: %s", line);
}

static int enter(void **state)
{
    (void)state;
    if (unshare(CLONE_NEWNET) < 0)
        skip();
    sh("ip link set lo up");
    /* Connections are tracked once a rule needs it. */
    sh("iptables -t nat -A OUTPUT -d 10.9.0.1 -p udp -j DNAT --to-destination 127.0.0.1");
    return 0;
}

static int open_loop(void **state)
{
    struct nd_err err = {0};

    (void)state;
    return nd_loop_init(&loop, &err);
}

static int close_loop(void **state)
{
    (void)state;
    nd_loop_fini(&loop); /* aborts if a handle is left */
    return 0;
}

static void on_deadline(uv_timer_t *timer)
{
    fprintf(stderr, "the deadline passed\n");
    uv_close((uv_handle_t *)timer, NULL);
    nd_loop_stop(&loop);
}

/* Runs the loop until nd_loop_stop, for two seconds at most. */
static void run(void)
{
    uv_timer_t deadline;

    uv_timer_init(&loop.uv, &deadline);
    uv_timer_start(&deadline, on_deadline, 2000, 0);
    nd_loop_run(&loop);
    if (!uv_is_closing((uv_handle_t *)&deadline))
        uv_close((uv_handle_t *)&deadline, NULL);
    uv_run(&loop.uv, UV_RUN_NOWAIT);
}

static void on_changed(void *arg, const char *pids)
{
    snprintf(arg, 64, "%s", pids);
    nd_loop_stop(&loop);
}

static void a_change_is_told_with_the_process_that_made_it(void **state)
{
    struct nd_err err = {0};
    char pids[64] = "";
    struct nd_netfilter_watch *w = nd_netfilter_watch_open(&loop, false, on_changed, pids, &err);
    FILE *out;
    char pid[32] = "";

    (void)state;
    assert_non_null(w);
    out = popen("echo $$; exec iptables-nft -t nat -N ND-test", "r");
    assert_non_null(fgets(pid, sizeof pid, out));
    pclose(out);
    pid[strcspn(pid, "\n")] = 0;
    run();
    assert_string_equal(pids, pid);
    pids[0] = 0;
    sh("nft flush ruleset");
    run();
    assert_true(strlen(pids) > 0);
    nd_netfilter_watch_close(w);
    sh("iptables -t nat -A OUTPUT -d 10.9.0.1 -p udp -j DNAT --to-destination 127.0.0.1");
}

static void a_watch_can_be_closed_with_a_change_under_way(void **state)
{
    struct nd_err err = {0};
    char pids[64] = "";
    struct nd_netfilter_watch *w = nd_netfilter_watch_open(&loop, false, on_changed, pids, &err);

    (void)state;
    assert_non_null(w);
    sh("iptables-nft -t nat -N ND-late");
    uv_run(&loop.uv, UV_RUN_NOWAIT);
    nd_netfilter_watch_close(w);
    uv_run(&loop.uv, UV_RUN_NOWAIT);
    assert_string_equal(pids, "");
}

static void the_legacy_tables_are_looked_at(void **state)
{
    struct nd_err err = {0};
    char pids[64] = "";
    struct nd_netfilter_watch *w;

    (void)state;
    if (system("iptables-legacy -t nat -N ND-first 2>/dev/null") != 0)
        skip(); /* a kernel without them */
    w = nd_netfilter_watch_open(&loop, true, on_changed, pids, &err);
    assert_non_null(w);
    sh("iptables-legacy -t nat -N ND-second");
    run();
    assert_string_equal(pids, "0");
    nd_netfilter_watch_close(w);
    sh("iptables-legacy -t nat -X");
}

static void send_datagram(const char *to)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(53)};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    inet_pton(AF_INET, to, &a.sin_addr);
    sendto(fd, "x", 1, 0, (void *)&a, sizeof a);
    close(fd);
}

static void flows_are_counted_by_where_they_were_sent_and_where_they_went(void **state)
{
    struct nd_err err = {0};
    struct nd_flow_count *list = NULL;
    struct nd_flow_filter all = {.first = 0x0a090000, .last = 0x0a09ffff};
    struct nd_flow_filter one = {.first = 0x0a090001, .last = 0x0a090001, .proto = IPPROTO_TCP};

    (void)state;
    sh("ip route add 10.9.0.0/16 dev lo src 127.0.0.1");
    send_datagram("10.9.0.1");
    send_datagram("10.9.0.1");
    send_datagram("10.9.0.2");
    assert_int_equal(nd_flow_list(&all, &list, &err), 2);
    assert_int_equal(list[0].address, 0x0a090001);
    assert_int_equal(list[0].count, 2);
    assert_int_equal(list[1].count, 1);
    free(list);
    assert_int_equal(nd_flow_list(&one, &list, &err), 0);
    assert_null(list);
    assert_int_equal(nd_flow_forget(&one, &err), 0);
    one.proto = IPPROTO_UDP;
    assert_int_equal(nd_flow_forget(&one, &err), 2);
    assert_int_equal(nd_flow_list(&all, &list, &err), 1);
    assert_int_equal(list[0].address, 0x0a090002);
    free(list);
}

static bool port_has_hairpin(const char *port)
{
    char line[160];

    snprintf(line, sizeof line, "bridge -d link show dev %s | grep -q 'hairpin on'", port);
    return system(line) == 0;
}

static void a_container_s_port_gets_hairpin_mode_whenever_it_comes(void **state)
{
    struct nd_err err = {0};
    struct nd_hairpin *hp;

    (void)state;
    if (system("command -v bridge >/dev/null") != 0)
        skip();
    sh("ip link add ndab12-1 type bridge && ip link add other0 type bridge && "
       "ip link add old type veth peer name old1 && ip link set old master ndab12-1 && "
       "ip link add new type veth peer name new1 && ip link add far type veth peer name far1");
    hp = nd_hairpin_open(&loop, "ndab12-", &err);
    assert_non_null(hp);
    sh("ip link set new master ndab12-1 && ip link set far master other0 && ip link set new up");
    for (int i = 0; i < 200 && !(port_has_hairpin("old") && port_has_hairpin("new")); i++)
        uv_run(&loop.uv, UV_RUN_NOWAIT);
    assert_true(port_has_hairpin("old"));
    assert_true(port_has_hairpin("new"));
    assert_false(port_has_hairpin("far"));
    nd_hairpin_close(hp);
}

static void a_short_attribute_is_not_read_past(void **state)
{
    struct {
        struct nlattr a;
        char data[4];
        struct nlattr b;
    } m = {.a = {.nla_len = 8, .nla_type = 1}, .b = {.nla_len = 4, .nla_type = 2}};

    (void)state;
    assert_ptr_equal(nd_netlink_attribute(&m, sizeof m, 2), &m.b);
    assert_null(nd_netlink_attribute(&m, sizeof m, 3));
    assert_null(nd_netlink_attribute(&m, 8, 2));
    assert_null(nd_netlink_attribute(&m, 3, 1));
    m.a.nla_len = 0;
    assert_null(nd_netlink_attribute(&m, sizeof m, 2));
    m.a.nla_len = 200;
    assert_null(nd_netlink_attribute(&m, sizeof m, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_attribute_is_not_read_past),
        cmocka_unit_test_setup_teardown(a_change_is_told_with_the_process_that_made_it, open_loop,
                                        close_loop),
        cmocka_unit_test_setup_teardown(a_watch_can_be_closed_with_a_change_under_way, open_loop,
                                        close_loop),
        cmocka_unit_test_setup_teardown(the_legacy_tables_are_looked_at, open_loop, close_loop),
        cmocka_unit_test(flows_are_counted_by_where_they_were_sent_and_where_they_went),
        cmocka_unit_test_setup_teardown(a_container_s_port_gets_hairpin_mode_whenever_it_comes,
                                        open_loop, close_loop),
    };

    if (getuid() != 0) {
        puts("1..0 # skipped: needs root");
        return 0;
    }
    return cmocka_run_group_tests(tests, enter, NULL);
}
