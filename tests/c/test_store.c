/*
 * test_store.c - what would lose a user's data, or tell them that it is safe when it isn't.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/store.h"
#include "io/file.h"

enum { WRITES = 1000, IN_FLIGHT = 20 };

struct fixture {
    struct nd_loop loop;
    char dir[64];
    char path[96];
    struct nd_store *store;
    struct nd_err err; /* of the last open */
    int closed;
};

static void on_opened(void *arg, struct nd_store *store, const struct nd_err *err)
{
    struct fixture *f = arg;

    f->store = store;
    if (err)
        f->err = *err;
}

static void on_closed(void *arg)
{
    struct fixture *f = arg;

    f->closed++;
}

static void reopen(struct fixture *f)
{
    nd_store_open(&f->loop, f->path, on_opened, f);
    nd_loop_run(&f->loop);
}

static void close_store(struct fixture *f)
{
    nd_store_close(f->store, on_closed, f);
    nd_loop_run(&f->loop);
    f->store = NULL;
}

static int set_up(void **state)
{
    struct fixture *f = nd_alloc(sizeof *f);

    strcpy(f->dir, "/tmp/nd-test-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/t.db", f->dir);
    assert_int_equal(nd_loop_init(&f->loop, NULL), 0);
    reopen(f);
    assert_non_null(f->store);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    if (f->store)
        close_store(f);
    nd_loop_fini(&f->loop);
    nd_file_remove(f->dir, true, NULL);
    free(f);
    return 0;
}

/* ---- requests ---- */

struct outcome {
    int done;          /* how many came back */
    int failed;        /* of them */
    int order[WRITES]; /* the requests' numbers as they came back */
    struct nd_err err; /* of the last that failed */
    int64_t number;    /* the first cell of the last one's last statement, if an integer */
};

struct ticket {
    struct outcome *outcome;
    int number;
};

static void on_done(void *arg, struct nd_request *r)
{
    struct ticket *ticket = arg;
    struct outcome *outcome = ticket->outcome;
    struct nd_statement *last = r->count ? &r->statements[r->count - 1] : NULL;

    outcome->order[outcome->done++ % WRITES] = ticket->number;
    if (r->err.code[0]) {
        outcome->failed++;
        outcome->err = r->err;
    } else if (last && last->rows.count && last->rows.cells[0].type == ND_INTEGER) {
        outcome->number = last->rows.cells[0].integer;
    }
    nd_request_free(r);
    free(ticket);
}

static void submit(struct fixture *f, struct nd_request *r, struct outcome *outcome, int number)
{
    struct ticket *ticket = nd_alloc(sizeof *ticket);

    ticket->outcome = outcome;
    ticket->number = number;
    nd_store_submit(f->store, r, on_done, ticket);
}

static struct nd_statement *add(struct nd_request *r, const char *sql)
{
    return nd_request_add(r, sql, strlen(sql));
}

static void init(struct nd_statement *st, const char *sql)
{
    nd_statement_init(st, sql, strlen(sql));
}

static void script(struct fixture *f, const char *sql)
{
    struct nd_request *r = nd_request_new(ND_STORE_SCRIPT);
    struct outcome outcome = {0};

    r->text = nd_strdup(sql);
    submit(f, r, &outcome, 0);
    nd_loop_run(&f->loop);
    assert_string_equal(outcome.err.message, "");
}

static void insert(struct fixture *f, int64_t n, struct outcome *outcome)
{
    struct nd_request *r = nd_request_new(ND_STORE_WRITE);

    nd_statement_integer(add(r, "INSERT INTO t(n) VALUES (?)"), n);
    submit(f, r, outcome, (int)n);
}

static int64_t count_rows(struct fixture *f)
{
    struct nd_statement st;
    struct nd_err err = {0};
    int64_t n = -1;

    init(&st, "SELECT count(*) AS n FROM t");
    assert_int_equal(nd_store_get(f->store, &st, 1, &err), 0);
    n = nd_rows_at(&st.rows, 0, "n")->integer;
    nd_statement_fini(&st);
    return n;
}

static void make_table(struct fixture *f)
{
    script(f,
           "CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT, data BLOB) STRICT;"
           "CREATE TABLE child (n INTEGER REFERENCES t(n) DEFERRABLE INITIALLY DEFERRED) STRICT");
}

/* ---- the tests ---- */

static void test_many_writers_share_commits_and_keep_their_order(void **state)
{
    struct fixture *f = *state;
    struct outcome outcome = {0};
    struct nd_store_stats stats;

    make_table(f);
    for (int i = 0; i < WRITES; i++)
        insert(f, i, &outcome);
    nd_loop_run(&f->loop);
    assert_int_equal(outcome.done, WRITES);
    assert_int_equal(outcome.failed, 0);
    for (int i = 0; i < WRITES; i++)
        assert_int_equal(outcome.order[i], i);
    assert_int_equal(count_rows(f), WRITES);
    nd_store_stats(f->store, &stats);
    assert_int_equal(stats.transactions, WRITES + 1);
    assert_true(stats.commits < WRITES / 10);
    assert_int_equal(stats.waiting, 0);
}

static void test_a_failing_transaction_takes_back_only_itself(void **state)
{
    struct fixture *f = *state;
    struct outcome good = {0}, bad = {0};

    make_table(f);
    for (int i = 0; i < 100; i++) {
        struct nd_request *r = nd_request_new(ND_STORE_WRITE);

        insert(f, i, &good);
        nd_statement_integer(add(r, "INSERT INTO t(n) VALUES (?)"), 1000 + i);
        nd_statement_integer(add(r, "INSERT INTO t(n) VALUES (?)"), i); /* taken already */
        submit(f, r, &bad, i);
    }
    nd_loop_run(&f->loop);
    assert_int_equal(good.failed, 0);
    assert_int_equal(bad.failed, 100);
    assert_string_equal(bad.err.code, "constraint");
    assert_string_equal(nd_store_constraint(&bad.err), "UNIQUE constraint failed: t.n");
    assert_int_equal(count_rows(f), 100);
}

static void test_a_deferred_key_fails_its_own_transaction_not_the_group(void **state)
{
    struct fixture *f = *state;
    struct outcome good = {0}, bad = {0}, mended = {0};
    struct nd_request *r = nd_request_new(ND_STORE_WRITE);

    make_table(f);
    insert(f, 1, &good);
    add(r, "INSERT INTO child(n) VALUES (77)");
    submit(f, r, &bad, 0);
    r = nd_request_new(ND_STORE_WRITE);
    add(r, "INSERT INTO child(n) VALUES (78)");
    add(r, "INSERT INTO t(n) VALUES (78)");
    submit(f, r, &mended, 0);
    nd_loop_run(&f->loop);
    assert_int_equal(good.failed, 0);
    assert_int_equal(mended.failed, 0);
    assert_int_equal(bad.failed, 1);
    assert_string_equal(nd_store_constraint(&bad.err), "FOREIGN KEY constraint failed");
}

static void test_a_wrong_row_count_is_stale_and_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct nd_request *r = nd_request_new(ND_STORE_WRITE);
    struct outcome outcome = {0};

    make_table(f);
    add(r, "INSERT INTO t(n) VALUES (1)")->expect = 1;
    add(r, "UPDATE t SET text = 'x' WHERE n = 2")->expect = 1;
    submit(f, r, &outcome, 0);
    nd_loop_run(&f->loop);
    assert_string_equal(outcome.err.code, "stale");
    assert_int_equal(count_rows(f), 0);
}

static void test_an_earlier_change_is_not_counted_again(void **state)
{
    struct fixture *f = *state;
    struct nd_request *r = nd_request_new(ND_STORE_WRITE);
    struct outcome outcome = {0};

    make_table(f);
    add(r, "INSERT INTO t(n) VALUES (1)");
    add(r, "CREATE TABLE late (x)")->expect = 0; /* sqlite3_changes would still say 1 */
    add(r, "SELECT n FROM t")->expect = 1;
    submit(f, r, &outcome, 0);
    nd_loop_run(&f->loop);
    assert_string_equal(outcome.err.message, "");
    assert_int_equal(outcome.number, 1);
}

static void test_an_or_rollback_does_not_lie_to_its_group(void **state)
{
    struct fixture *f = *state;
    struct outcome others = {0}, culprit = {0};
    struct nd_request *r = nd_request_new(ND_STORE_WRITE);

    make_table(f);
    insert(f, 1, &others);
    nd_loop_run(&f->loop);
    add(r, "INSERT OR ROLLBACK INTO t(n) VALUES (1)");
    submit(f, r, &culprit, 0);
    insert(f, 2, &others);
    nd_loop_run(&f->loop);
    assert_int_equal(culprit.failed, 1);
    assert_int_equal(others.done, 2);
    assert_int_equal(count_rows(f), 2 - others.failed); /* whoever was told "done" is there */
}

static void test_a_scan_sees_what_was_acknowledged(void **state)
{
    struct fixture *f = *state;

    make_table(f);
    for (int i = 0; i < 50; i++) {
        struct nd_request *r = nd_request_new(ND_STORE_QUERY);
        struct outcome write = {0}, scan = {0};

        insert(f, i, &write);
        nd_loop_run(&f->loop);
        add(r, "SELECT count(*) FROM t");
        submit(f, r, &scan, 0);
        nd_loop_run(&f->loop);
        assert_int_equal(scan.number, i + 1);
    }
}

static void test_the_type_of_each_value_survives(void **state)
{
    struct fixture *f = *state;
    struct nd_request *r = nd_request_new(ND_STORE_WRITE);
    struct outcome outcome = {0};
    struct nd_statement *st, get;
    struct nd_err err = {0};

    make_table(f);
    st = add(r, "INSERT INTO t(n, text, data) VALUES (?, ?, ?)");
    nd_statement_integer(st, INT64_MIN);
    nd_statement_text(st, "a\0b", 3);
    nd_statement_blob(st, "\0\xff", 2);
    submit(f, r, &outcome, 0);
    nd_loop_run(&f->loop);
    assert_string_equal(outcome.err.message, "");
    init(&get, "SELECT n, text, data, 1.5 AS r, NULL AS absent FROM t WHERE n = ?");
    nd_statement_integer(&get, INT64_MIN);
    assert_int_equal(nd_store_get(f->store, &get, 1, &err), 0);
    assert_true(nd_rows_at(&get.rows, 0, "n")->integer == INT64_MIN);
    assert_int_equal(nd_rows_at(&get.rows, 0, "text")->type, ND_TEXT);
    assert_int_equal(nd_rows_at(&get.rows, 0, "text")->length, 3);
    assert_int_equal(nd_rows_at(&get.rows, 0, "data")->type, ND_BLOB);
    assert_memory_equal(nd_rows_at(&get.rows, 0, "data")->bytes, "\0\xff", 2);
    assert_true(nd_rows_at(&get.rows, 0, "r")->real == 1.5);
    assert_int_equal(nd_rows_at(&get.rows, 0, "absent")->type, ND_NULL);
    assert_null(nd_rows_at(&get.rows, 0, "missing"));
    nd_statement_fini(&get);
}

static void test_more_statements_than_the_cache_holds(void **state)
{
    struct fixture *f = *state;
    struct nd_statement get;
    struct nd_err err = {0};

    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 300; i++) {
            char sql[32];

            snprintf(sql, sizeof sql, "SELECT %d AS n", i);
            nd_statement_init(&get, sql, strlen(sql));
            assert_int_equal(nd_store_get(f->store, &get, 1, &err), 0);
            assert_int_equal(nd_rows_at(&get.rows, 0, "n")->integer, i);
            nd_statement_fini(&get);
        }
}

static void test_close_finishes_what_was_submitted(void **state)
{
    struct fixture *f = *state;
    struct outcome before = {0}, after = {0};

    make_table(f);
    for (int i = 0; i < WRITES; i++)
        insert(f, i, &before);
    nd_store_close(f->store, on_closed, f);
    insert(f, WRITES, &after);
    assert_string_equal(after.err.code, "db_closed");
    nd_loop_run(&f->loop);
    assert_int_equal(f->closed, 1);
    assert_int_equal(before.done, WRITES);
    assert_int_equal(before.failed, 0);
    reopen(f);
    assert_int_equal(count_rows(f), WRITES);
}

static void test_a_file_that_is_no_database_is_refused_by_name(void **state)
{
    struct fixture *f = *state;
    char junk[8192];

    close_store(f);
    memset(junk, 'x', sizeof junk);
    assert_int_equal(nd_file_write(f->path, junk, sizeof junk, 0600, NULL), 0);
    reopen(f);
    assert_null(f->store);
    assert_string_equal(f->err.code, "db_corrupt");
    assert_non_null(strstr(f->err.message, f->path));
}

static void test_another_process_that_holds_the_lock_is_waited_for_and_then_named(void **state)
{
    struct fixture *f = *state;
    struct outcome outcome = {0};
    sqlite3 *other;

    make_table(f);
    assert_int_equal(sqlite3_open(f->path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    insert(f, 1, &outcome);
    nd_loop_run(&f->loop);
    sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_close(other);
    assert_string_equal(outcome.err.code, "db_locked");
    assert_non_null(strstr(outcome.err.message, f->path));
    insert(f, 1, &outcome);
    nd_loop_run(&f->loop);
    assert_int_equal(outcome.failed, 1);
    assert_int_equal(count_rows(f), 1);
}

/* Whether another process would find the file locked, as SQLite locks what it reads. */
static bool is_held(const char *path)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        struct flock lock = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0x40000002, .l_len = 510};
        int fd = open(path, O_RDWR);

        _exit(fd >= 0 && fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_opened_twice_it_is_still_held_against_others(void **state)
{
    struct fixture *f = *state;
    struct nd_store *first = f->store;

    assert_true(is_held(f->path));
    reopen(f);
    assert_non_null(f->store);
    assert_true(is_held(f->path));
    close_store(f);
    assert_true(is_held(f->path));
    f->store = first;
}

static void test_the_log_stays_short(void **state)
{
    struct fixture *f = *state;
    struct nd_store_stats stats;
    static char data[100000];
    struct outcome outcome = {0};
    struct stat st;
    char wal[128];

    make_table(f);
    for (int i = 0; i < 200; i++) { /* 20 MB through a log of about 4 */
        struct nd_request *r = nd_request_new(ND_STORE_WRITE);
        struct nd_statement *s = add(r, "INSERT OR REPLACE INTO t(n, data) VALUES (1, ?)");

        nd_statement_blob(s, data, sizeof data);
        submit(f, r, &outcome, i);
        nd_loop_run(&f->loop);
    }
    assert_int_equal(outcome.failed, 0);
    nd_store_stats(f->store, &stats);
    assert_true(stats.wal_pages < 1200);
    snprintf(wal, sizeof wal, "%s-wal", f->path);
    assert_int_equal(stat(wal, &st), 0);
    assert_true(st.st_size < 6000000);
}

/* ---- a full disk ---- */

static void test_a_full_disk_acknowledges_nothing_it_lost(void **state)
{
    struct fixture *f = *state;
    static char data[20000];
    struct outcome outcome = {0};
    struct nd_err err = {0};
    char filler[96];
    int acknowledged;

    close_store(f);
    if (nd_file_mount_tmpfs(f->dir, 2 * 1024 * 1024, 0700, &err) < 0)
        skip(); /* not root */
    reopen(f);
    if (!f->store)
        goto out;
    make_table(f);
    snprintf(filler, sizeof filler, "%s/filler", f->dir);
    nd_file_write(filler, data, sizeof data, 0600, NULL);
    for (int i = 0; i < 300; i++) {
        struct nd_request *r = nd_request_new(ND_STORE_WRITE);
        struct nd_statement *st = add(r, "INSERT INTO t(n, data) VALUES (?, ?)");

        nd_statement_integer(st, i);
        nd_statement_blob(st, data, sizeof data);
        submit(f, r, &outcome, i);
        if (i % 7 == 0)
            nd_loop_run(&f->loop);
    }
    nd_loop_run(&f->loop);
    acknowledged = outcome.done - outcome.failed;
    err.code[0] = count_rows(f) == acknowledged && outcome.failed > 0 ? '\0' : '!';
    close_store(f);
    f->err = outcome.err;
    reopen(f); /* on the still full disk */
    if (f->store && !err.code[0])
        err.code[0] = count_rows(f) == acknowledged ? '\0' : '?';
    if (f->store)
        close_store(f);
out:
    nd_file_unmount(f->dir, NULL);
    assert_string_equal(outcome.err.code, "db_full");
    assert_non_null(strstr(outcome.err.hint, "free space"));
    assert_int_equal(err.code[0], '\0');
}

/* ---- killed ---- */

/* The child: writes rows 0, 1, 2, ... with IN_FLIGHT at once, and prints each acknowledged one. */
static struct fixture child;
static int64_t next_row;

static void on_child_done(void *arg, struct nd_request *r)
{
    if (!r->err.code[0]) {
        char line[32];
        int length = snprintf(line, sizeof line, "%" PRId64 "\n", r->statements[0].id);

        if (write(STDOUT_FILENO, line, (size_t)length) < 0)
            _exit(3);
    }
    nd_request_free(r);
    r = nd_request_new(ND_STORE_WRITE);
    nd_statement_integer(add(r, "INSERT INTO t(n) VALUES (?)"), ++next_row);
    nd_store_submit(child.store, r, on_child_done, arg);
}

static int run_child(const char *path)
{
    snprintf(child.path, sizeof child.path, "%s", path);
    nd_loop_init(&child.loop, NULL);
    reopen(&child);
    make_table(&child);
    for (int i = 0; i < IN_FLIGHT; i++) {
        struct nd_request *r = nd_request_new(ND_STORE_WRITE);

        nd_statement_integer(add(r, "INSERT INTO t(n) VALUES (?)"), ++next_row);
        nd_store_submit(child.store, r, on_child_done, NULL);
    }
    nd_loop_run(&child.loop);
    return 0;
}

/* Starts the child, reads what it acknowledges, kills it after `enough`; the largest row told. */
static int64_t run_and_kill(const char *path, const char *fault, int enough)
{
    int64_t last = 0, row;
    int ends[2], status, got = 0;
    FILE *lines;
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        if (fault)
            setenv("ND_FAULT", fault, 1);
        execl("/proc/self/exe", "test_store", "--child", path, (char *)NULL);
        _exit(2);
    }
    close(ends[1]);
    lines = fdopen(ends[0], "r");
    while (fscanf(lines, "%" SCNd64, &row) == 1) {
        if (row > last)
            last = row;
        if (++got == enough)
            kill(pid, SIGKILL);
    }
    fclose(lines);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return last;
}

/* Rows are acknowledged in order: with `last` told, 1 .. last must be there, and nothing torn. */
static void check_after_kill(struct fixture *f, int64_t last)
{
    struct nd_statement st;
    struct nd_err err = {0};

    reopen(f);
    assert_non_null(f->store);
    assert_true(count_rows(f) >= last);
    init(&st, "PRAGMA integrity_check");
    assert_int_equal(nd_store_get(f->store, &st, 1, &err), 0);
    assert_string_equal(st.rows.cells[0].bytes, "ok");
    nd_statement_fini(&st);
    init(&st, "SELECT ifnull(max(n), 0) = count(*) AS whole FROM t");
    assert_int_equal(nd_store_get(f->store, &st, 1, &err), 0);
    assert_int_equal(nd_rows_at(&st.rows, 0, "whole")->integer, 1);
    nd_statement_fini(&st);
}

static void restart_empty(struct fixture *f)
{
    char path[128];

    close_store(f);
    for (int i = 0; i < 3; i++) {
        static const char *const ends[] = {"", "-wal", "-shm"};

        snprintf(path, sizeof path, "%s%s", f->path, ends[i]);
        unlink(path);
    }
}

static void test_killed_while_writing_every_acknowledged_row_is_there(void **state)
{
    struct fixture *f = *state;

    for (int enough = 1; enough < 4000; enough = enough * 4 + 3) {
        int64_t last;

        restart_empty(f);
        last = run_and_kill(f->path, NULL, enough);
        assert_true(last >= enough);
        check_after_kill(f, last);
    }
}

static void test_killed_at_the_commit_nothing_acknowledged_is_missing(void **state)
{
    struct fixture *f = *state;
    char fault[64];

    for (int n = 2; n < 8; n++) { /* the first commit is the schema's */
        for (int after = 0; after < 2; after++) {
            int64_t last;

            restart_empty(f);
            snprintf(fault, sizeof fault, "store.commit.%s:%d:kill", after ? "after" : "before", n);
            last = run_and_kill(f->path, fault, -1);
            check_after_kill(f, last);
            if (after)
                assert_true(count_rows(f) > last); /* committed, and nobody was told */
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_many_writers_share_commits_and_keep_their_order),
        TEST(test_a_failing_transaction_takes_back_only_itself),
        TEST(test_a_deferred_key_fails_its_own_transaction_not_the_group),
        TEST(test_a_wrong_row_count_is_stale_and_leaves_nothing),
        TEST(test_an_earlier_change_is_not_counted_again),
        TEST(test_an_or_rollback_does_not_lie_to_its_group),
        TEST(test_a_scan_sees_what_was_acknowledged),
        TEST(test_the_type_of_each_value_survives),
        TEST(test_more_statements_than_the_cache_holds),
        TEST(test_close_finishes_what_was_submitted),
        TEST(test_a_file_that_is_no_database_is_refused_by_name),
        TEST(test_another_process_that_holds_the_lock_is_waited_for_and_then_named),
        TEST(test_opened_twice_it_is_still_held_against_others),
        TEST(test_the_log_stays_short),
        TEST(test_a_full_disk_acknowledges_nothing_it_lost),
        TEST(test_killed_while_writing_every_acknowledged_row_is_there),
        TEST(test_killed_at_the_commit_nothing_acknowledged_is_missing),
#undef TEST
    };

    if (argc == 3 && strcmp(argv[1], "--child") == 0)
        return run_child(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
