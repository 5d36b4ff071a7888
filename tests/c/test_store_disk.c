/*
 * test_store_disk.c - a disk that fails at the n-th write or sync, for n = 1, 2, 3 ... until the
 * whole story passes untouched.
 *
 * A VFS of SQLite stands between the store and the real one, and refuses the n-th call of one kind
 * once. After each: no transaction was acknowledged that a store opened afterwards doesn't have,
 * each error has a name, and the store that met the error either goes on or says why not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/store.h"
#include "io/file.h"

enum { ROUNDS = 12, GROUP = 5, ROWS = ROUNDS * GROUP };

/* ---- the disk ---- */

enum fault { FAIL_WRITE, FAIL_SYNC, FAULTS };

struct bad_file {
    sqlite3_file base;
    sqlite3_file *real; /* behind this struct, in the same allocation */
};

static sqlite3_vfs bad_vfs;
static sqlite3_vfs *real_vfs;
static atomic_int calls_left[FAULTS]; /* the one that counts down to 0 fails */
static atomic_int failed_calls;
static int failure; /* what a failing write returns */

static bool fails(enum fault fault)
{
    if (atomic_fetch_sub(&calls_left[fault], 1) != 1)
        return false;
    atomic_fetch_add(&failed_calls, 1);
    return true;
}

static sqlite3_file *real_of(sqlite3_file *file)
{
    return ((struct bad_file *)file)->real;
}

static int bad_write(sqlite3_file *file, const void *data, int length, sqlite3_int64 at)
{
    sqlite3_file *real = real_of(file);

    if (fails(FAIL_WRITE)) {
        real->pMethods->xWrite(real, data, length / 2, at); /* torn */
        return failure;
    }
    return real->pMethods->xWrite(real, data, length, at);
}

static int bad_sync(sqlite3_file *file, int flags)
{
    sqlite3_file *real = real_of(file);

    if (fails(FAIL_SYNC))
        return SQLITE_IOERR_FSYNC;
    return real->pMethods->xSync(real, flags);
}

#define PASS(name, params, args)                                                                   \
    static int bad_##name params                                                                   \
    {                                                                                              \
        sqlite3_file *real = real_of(file);                                                        \
        return real->pMethods->name args;                                                          \
    }
PASS(xClose, (sqlite3_file * file), (real))
PASS(xRead, (sqlite3_file * file, void *out, int n, sqlite3_int64 at), (real, out, n, at))
PASS(xTruncate, (sqlite3_file * file, sqlite3_int64 size), (real, size))
PASS(xFileSize, (sqlite3_file * file, sqlite3_int64 *size), (real, size))
PASS(xLock, (sqlite3_file * file, int level), (real, level))
PASS(xUnlock, (sqlite3_file * file, int level), (real, level))
PASS(xCheckReservedLock, (sqlite3_file * file, int *out), (real, out))
PASS(xFileControl, (sqlite3_file * file, int op, void *arg), (real, op, arg))
PASS(xSectorSize, (sqlite3_file * file), (real))
PASS(xDeviceCharacteristics, (sqlite3_file * file), (real))
PASS(xShmMap, (sqlite3_file * file, int page, int size, int extend, void volatile **out),
     (real, page, size, extend, out))
PASS(xShmLock, (sqlite3_file * file, int offset, int n, int flags), (real, offset, n, flags))
PASS(xShmUnmap, (sqlite3_file * file, int delete_it), (real, delete_it))

static void bad_xShmBarrier(sqlite3_file *file)
{
    real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static const sqlite3_io_methods bad_methods = {
    .iVersion = 2,
    .xClose = bad_xClose,
    .xRead = bad_xRead,
    .xWrite = bad_write,
    .xTruncate = bad_xTruncate,
    .xSync = bad_sync,
    .xFileSize = bad_xFileSize,
    .xLock = bad_xLock,
    .xUnlock = bad_xUnlock,
    .xCheckReservedLock = bad_xCheckReservedLock,
    .xFileControl = bad_xFileControl,
    .xSectorSize = bad_xSectorSize,
    .xDeviceCharacteristics = bad_xDeviceCharacteristics,
    .xShmMap = bad_xShmMap,
    .xShmLock = bad_xShmLock,
    .xShmBarrier = bad_xShmBarrier,
    .xShmUnmap = bad_xShmUnmap,
};

static int bad_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    struct bad_file *bad = (struct bad_file *)file;
    int rc;

    (void)vfs;
    bad->real = (sqlite3_file *)(bad + 1);
    rc = real_vfs->xOpen(real_vfs, name, bad->real, flags, out);
    bad->base.pMethods = bad->real->pMethods ? &bad_methods : NULL;
    return rc;
}

static int install_disk(void **state)
{
    (void)state;
    real_vfs = sqlite3_vfs_find(NULL);
    bad_vfs = *real_vfs;
    bad_vfs.zName = "bad";
    bad_vfs.szOsFile = (int)sizeof(struct bad_file) + real_vfs->szOsFile;
    bad_vfs.xOpen = bad_open;
    return sqlite3_vfs_register(&bad_vfs, 1);
}

static int remove_disk(void **state)
{
    (void)state;
    return sqlite3_vfs_unregister(&bad_vfs);
}

/* ---- the story ---- */

struct story {
    struct nd_loop loop;
    char dir[64], path[96];
    struct nd_store *store;
    struct nd_err open_err;
    bool acknowledged[ROWS];
    int errors;
    struct nd_err err; /* the last */
};

struct row {
    struct story *story;
    int number;
};

static void on_opened(void *arg, struct nd_store *store, const struct nd_err *err)
{
    struct story *s = arg;

    s->store = store;
    if (err)
        s->open_err = *err;
}

static void on_written(void *arg, struct nd_request *r)
{
    struct row *row = arg;

    if (r->err.code[0]) {
        row->story->errors++;
        row->story->err = r->err;
    } else if (row->number >= 0) {
        row->story->acknowledged[row->number] = true;
    }
    nd_request_free(r);
    free(row);
}

static void submit(struct story *s, struct nd_request *r, int number)
{
    struct row *row = nd_alloc(sizeof *row);

    row->story = s;
    row->number = number;
    nd_store_submit(s->store, r, on_written, row);
}

static void make_table(struct story *s)
{
    struct nd_request *r = nd_request_new(ND_STORE_SCRIPT);

    r->text = nd_strdup("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, b BLOB) STRICT");
    submit(s, r, -1);
    nd_loop_run(&s->loop);
}

static void write_rows(struct story *s)
{
    static const char sql[] = "INSERT INTO t(n, b) VALUES (?, zeroblob(100000))";

    for (int round = 0; round < ROUNDS; round++) { /* 6 MB: past a checkpoint */
        for (int i = 0; i < GROUP; i++) {
            struct nd_request *r = nd_request_new(ND_STORE_WRITE);

            nd_statement_integer(nd_request_add(r, sql, sizeof sql - 1), round * GROUP + i);
            submit(s, r, round * GROUP + i);
        }
        nd_loop_run(&s->loop);
    }
}

static void open_store(struct story *s)
{
    nd_store_open(&s->loop, s->path, on_opened, s);
    nd_loop_run(&s->loop);
}

static void close_store(struct story *s)
{
    if (s->store)
        nd_store_close(s->store, NULL, NULL);
    s->store = NULL;
    nd_loop_run(&s->loop);
}

static bool has_row(struct story *s, int number)
{
    static const char sql[] = "SELECT n FROM t WHERE n = ?";
    struct nd_statement st;
    struct nd_err err = {0};
    bool found;

    nd_statement_init(&st, sql, sizeof sql - 1);
    nd_statement_integer(&st, number);
    assert_int_equal(nd_store_get(s->store, &st, 1, &err), 0);
    found = st.rows.count == 1;
    nd_statement_fini(&st);
    return found;
}

static void check_named(const struct nd_err *err, const char *code)
{
    if (err->code[0] && strcmp(err->code, code) != 0)
        fail_msg("an error was called %s: %s", err->code, err->message);
}

/* Plays the story with the n-th call of a kind failing; false once none failed any more. */
static bool play(enum fault fault, int n, const char *code)
{
    struct story s = {.dir = "/tmp/nd-test-disk-XXXXXX"};
    bool hit;

    assert_non_null(mkdtemp(s.dir));
    snprintf(s.path, sizeof s.path, "%s/t.db", s.dir);
    nd_loop_init(&s.loop, NULL);
    atomic_store(&failed_calls, 0);
    atomic_store(&calls_left[fault], n);
    open_store(&s);
    if (s.store) {
        make_table(&s);
        write_rows(&s);
    }
    close_store(&s);
    hit = atomic_load(&failed_calls) > 0;
    atomic_store(&calls_left[fault], 0);
    check_named(&s.open_err, code);
    if (s.err.code[0] &&
        strcmp(s.err.code, "db_sql") != 0) /* a missing table, after a failed script */
        check_named(&s.err, code);

    open_store(&s); /* on a sound disk */
    assert_non_null(s.store);
    make_table(&s);
    for (int i = 0; i < ROWS; i++)
        if (s.acknowledged[i])
            assert_true(has_row(&s, i));
    close_store(&s);
    nd_loop_fini(&s.loop);
    nd_file_remove(s.dir, true, NULL);
    return hit;
}

static void test_a_write_that_fails_loses_nothing_acknowledged(void **state)
{
    (void)state;
    failure = SQLITE_IOERR_WRITE;
    for (int n = 1; play(FAIL_WRITE, n, "db_io"); n = n < 40 ? n + 1 : n + 61)
        continue;
}

static void test_a_disk_that_fills_up_loses_nothing_acknowledged(void **state)
{
    (void)state;
    failure = SQLITE_FULL;
    for (int n = 1; play(FAIL_WRITE, n, "db_full"); n = n < 20 ? n + 1 : n + 97)
        continue;
}

static void test_a_sync_that_fails_loses_nothing_acknowledged(void **state)
{
    (void)state;
    for (int n = 1; play(FAIL_SYNC, n, "db_io"); n++)
        continue;
}

static void
test_a_failed_sync_fails_all_that_was_asked_for_behind_it_and_the_store_goes_on(void **state)
{
    struct story s = {.dir = "/tmp/nd-test-disk-XXXXXX"};

    (void)state;
    assert_non_null(mkdtemp(s.dir));
    snprintf(s.path, sizeof s.path, "%s/t.db", s.dir);
    nd_loop_init(&s.loop, NULL);
    open_store(&s);
    make_table(&s);
    for (int i = 0; i < 2 * GROUP; i++) {
        static const char sql[] = "INSERT INTO t(n) VALUES (?)";
        struct nd_request *r = nd_request_new(ND_STORE_WRITE);

        if (i == GROUP) {
            assert_int_equal(s.errors, 0);
            nd_loop_run(&s.loop);
            assert_int_equal(s.errors, GROUP);
            assert_string_equal(s.err.code, "db_io");
            for (int k = 0; k < GROUP; k++)
                assert_int_equal(s.acknowledged[k], has_row(&s, k));
            s.errors = 0;
        }
        nd_statement_integer(nd_request_add(r, sql, sizeof sql - 1), i);
        if (i == 0)
            atomic_store(&calls_left[FAIL_SYNC], 1);
        submit(&s, r, i);
    }
    nd_loop_run(&s.loop);
    assert_int_equal(s.errors, 0);
    close_store(&s);
    nd_loop_fini(&s.loop);
    nd_file_remove(s.dir, true, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_write_that_fails_loses_nothing_acknowledged),
        cmocka_unit_test(test_a_disk_that_fills_up_loses_nothing_acknowledged),
        cmocka_unit_test(test_a_sync_that_fails_loses_nothing_acknowledged),
        cmocka_unit_test(
            test_a_failed_sync_fails_all_that_was_asked_for_behind_it_and_the_store_goes_on),
    };

    return cmocka_run_group_tests(tests, install_disk, remove_disk);
}
