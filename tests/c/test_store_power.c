/*
 * test_store_power.c - the power fails at a random moment, hundreds of times.
 *
 * A VFS of SQLite stands between the store and the real one and keeps, of each file, what its last
 * sync made certain and what was written since. When the power fails, each write since then has
 * happened, or hasn't, or some of its 512-byte sectors have, in any order; a file whose directory
 * was not synced may be missing, a deletion may not have happened. The store goes on with what is
 * left: each transaction that was acknowledged is there, each other is there as a whole or not at
 * all, and PRAGMA integrity_check says ok. The last test has a disk that lies about its syncs, to
 * show that these would notice.
 *
 * ND_POWER_LOSSES: how many, 300 where it isn't set. ND_SEED: of the random numbers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/mem.h"
#include "engine/store.h"
#include "io/file.h"

enum {
    SECTOR = 512,
    FILES = 4,
    GROUP = 6,
    ROUNDS = 40,
    LOSSES_A_DISK = 12,
    MOST = LOSSES_A_DISK * ROUNDS * GROUP
};

/* ---- the disk ---- */

/* Something that happened to a file and is not certain yet. */
struct change {
    struct nd_list link; /* disk_file.changes, in order */
    bool cut;            /* truncated to `at` */
    sqlite3_int64 at;
    int length;
    unsigned char data[];
};

struct disk_file {
    char path[128];
    struct nd_buf sure; /* as its last sync left it */
    struct nd_list changes;
    bool there;    /* it has a name now */
    bool sure_dir; /* ... which the directory's last sync made certain */
};

struct power_file {
    sqlite3_file base;
    sqlite3_file *real;     /* behind this struct, in the same allocation */
    struct disk_file *disk; /* NULL: nothing that lasts */
    bool sync_dir;          /* new: its first sync is the directory's as well */
};

static struct {
    pthread_mutex_t lock;
    struct disk_file files[FILES];
    int calls_left; /* until the power fails; below 0: it doesn't */
    atomic_bool off;
    bool lies;      /* a sync does nothing */
    uint64_t state; /* of the random numbers */
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER};

static sqlite3_vfs power_vfs;
static sqlite3_vfs *real_vfs;

static uint32_t random_below(uint32_t most) /* xorshift64* */
{
    disk.state ^= disk.state >> 12;
    disk.state ^= disk.state << 25;
    disk.state ^= disk.state >> 27;
    return (uint32_t)((disk.state * 2685821657736338717u >> 32) % most);
}

static void forget_changes(struct disk_file *file)
{
    ND_LIST_EACH (link, &file->changes) {
        nd_list_remove(link);
        free(ND_CONTAINER(link, struct change, link));
    }
}

static void image_write(struct nd_buf *image, sqlite3_int64 at, const void *data, size_t length)
{
    static const char zeros[4096];

    while (image->length < (size_t)at + length) {
        size_t missing = (size_t)at + length - image->length;

        nd_buf_add(image, zeros, missing < sizeof zeros ? missing : sizeof zeros);
    }
    memcpy(image->data + at, data, length);
}

static void image_apply(struct nd_buf *image, const struct change *c)
{
    if (!c->cut)
        image_write(image, c->at, c->data, (size_t)c->length);
    else if ((size_t)c->at < image->length)
        image->length = (size_t)c->at;
}

/* What the power's loss left of a change: all, nothing, or some of its sectors. */
static void image_tear(struct nd_buf *image, const struct change *c)
{
    uint32_t fate = random_below(3);

    if (fate == 0)
        return;
    if (fate == 1 || c->cut) {
        image_apply(image, c);
        return;
    }
    for (int done = 0; done < c->length;) {
        int next = SECTOR - (int)((c->at + done) % SECTOR);

        if (next > c->length - done)
            next = c->length - done;
        if (random_below(2))
            image_write(image, c->at + done, c->data + done, (size_t)next);
        done += next;
    }
}

/* Each counts; true from the one on at which the power fails. */
static bool power_is_off(void)
{
    if (!disk.off && disk.calls_left >= 0 && disk.calls_left-- == 0)
        disk.off = true;
    return disk.off;
}

static void record(struct disk_file *file, bool cut, sqlite3_int64 at, const void *data, int length)
{
    struct change *c = nd_alloc(sizeof *c + (size_t)length);

    c->cut = cut;
    c->at = at;
    c->length = length;
    if (length)
        memcpy(c->data, data, (size_t)length);
    nd_list_append(&file->changes, &c->link);
}

static void sync_directory(void)
{
    for (int i = 0; i < FILES; i++)
        disk.files[i].sure_dir = disk.files[i].there;
}

static void sync_file(struct power_file *file)
{
    ND_LIST_EACH (link, &file->disk->changes)
        image_apply(&file->disk->sure, ND_CONTAINER(link, struct change, link));
    forget_changes(file->disk);
    if (file->sync_dir)
        sync_directory();
    file->sync_dir = false;
}

static struct disk_file *find_file(const char *path)
{
    struct disk_file *unused = NULL;

    for (int i = 0; i < FILES; i++) {
        if (strcmp(disk.files[i].path, path) == 0)
            return &disk.files[i];
        if (!unused && !disk.files[i].path[0])
            unused = &disk.files[i];
    }
    assert_non_null(unused);
    snprintf(unused->path, sizeof unused->path, "%s", path);
    return unused;
}

static void disk_init(uint64_t seed)
{
    for (int i = 0; i < FILES; i++) {
        memset(&disk.files[i], 0, sizeof disk.files[i]);
        nd_list_init(&disk.files[i].changes);
    }
    disk.calls_left = -1;
    disk.off = false;
    disk.state = seed * 0x9e3779b97f4a7c15u | 1;
}

static void disk_fini(void)
{
    for (int i = 0; i < FILES; i++) {
        forget_changes(&disk.files[i]);
        nd_buf_fini(&disk.files[i].sure);
    }
}

/* A new file, or one in the place of a deleted one, which then is certain. */
static void begin_file(struct disk_file *file)
{
    forget_changes(file);
    file->sure.length = 0;
    file->there = true;
    file->sure_dir = false;
}

/* The power is back: the files are what the loss left of them. */
static void disk_restart(void)
{
    for (int i = 0; i < FILES; i++) {
        struct disk_file *f = &disk.files[i];

        if (!f->path[0])
            continue;
        ND_LIST_EACH (link, &f->changes)
            image_tear(&f->sure, ND_CONTAINER(link, struct change, link));
        forget_changes(f);
        if (f->there != f->sure_dir)
            f->there = random_below(2);
        f->sure_dir = f->there;
        unlink(f->path);
        if (f->there)
            assert_int_equal(nd_file_write(f->path, f->sure.data, f->sure.length, 0600, NULL), 0);
        else
            f->sure.length = 0;
    }
    disk.off = false;
    disk.calls_left = -1;
}

/* ---- as SQLite sees it ---- */

static sqlite3_file *real_of(sqlite3_file *file)
{
    return ((struct power_file *)file)->real;
}

static int power_write(sqlite3_file *file, const void *data, int length, sqlite3_int64 at)
{
    struct disk_file *f = ((struct power_file *)file)->disk;
    int rc = SQLITE_IOERR_WRITE;

    pthread_mutex_lock(&disk.lock);
    if (f && !disk.off)
        record(f, false, at, data, length);
    if (!power_is_off())
        rc = real_of(file)->pMethods->xWrite(real_of(file), data, length, at);
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static int power_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    struct disk_file *f = ((struct power_file *)file)->disk;
    int rc = SQLITE_IOERR_TRUNCATE;

    pthread_mutex_lock(&disk.lock);
    if (f && !disk.off)
        record(f, true, size, NULL, 0);
    if (!power_is_off())
        rc = real_of(file)->pMethods->xTruncate(real_of(file), size);
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static int power_sync(sqlite3_file *file, int flags)
{
    struct power_file *f = (struct power_file *)file;
    bool off;

    (void)flags;
    pthread_mutex_lock(&disk.lock);
    off = power_is_off();
    if (!off && f->disk && !disk.lies)
        sync_file(f);
    pthread_mutex_unlock(&disk.lock);
    return off ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

#define PASS(name, params, args)                                                                   \
    static int power_##name params                                                                 \
    {                                                                                              \
        sqlite3_file *real = real_of(file);                                                        \
        return real->pMethods->name args;                                                          \
    }
PASS(xClose, (sqlite3_file * file), (real))
PASS(xRead, (sqlite3_file * file, void *out, int n, sqlite3_int64 at), (real, out, n, at))
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

static void power_xShmBarrier(sqlite3_file *file)
{
    real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static const sqlite3_io_methods power_methods = {
    .iVersion = 2,
    .xClose = power_xClose,
    .xRead = power_xRead,
    .xWrite = power_write,
    .xTruncate = power_truncate,
    .xSync = power_sync,
    .xFileSize = power_xFileSize,
    .xLock = power_xLock,
    .xUnlock = power_xUnlock,
    .xCheckReservedLock = power_xCheckReservedLock,
    .xFileControl = power_xFileControl,
    .xSectorSize = power_xSectorSize,
    .xDeviceCharacteristics = power_xDeviceCharacteristics,
    .xShmMap = power_xShmMap,
    .xShmLock = power_xShmLock,
    .xShmBarrier = power_xShmBarrier,
    .xShmUnmap = power_xShmUnmap,
};

static int power_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    struct power_file *f = (struct power_file *)file;
    int rc = SQLITE_CANTOPEN;

    (void)vfs;
    memset(f, 0, sizeof *f);
    f->real = (sqlite3_file *)(f + 1);
    pthread_mutex_lock(&disk.lock);
    if (!disk.off)
        rc = real_vfs->xOpen(real_vfs, name, f->real, flags, out);
    if (rc == SQLITE_OK) {
        f->base.pMethods = &power_methods;
        if (name && flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_WAL)) {
            f->disk = find_file(name);
            f->sync_dir = !(flags & SQLITE_OPEN_MAIN_DB); /* as SQLite's own VFS */
            if (!f->disk->there)
                begin_file(f->disk);
        }
    }
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static int power_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    int rc = SQLITE_IOERR_DELETE;

    (void)vfs;
    pthread_mutex_lock(&disk.lock);
    if (!power_is_off()) {
        struct disk_file *f = find_file(name);

        rc = real_vfs->xDelete(real_vfs, name, 0);
        f->there = false;
        if (sync && !disk.lies)
            sync_directory();
    }
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static int install_disk(void **state)
{
    (void)state;
    real_vfs = sqlite3_vfs_find(NULL);
    power_vfs = *real_vfs;
    power_vfs.zName = "power";
    power_vfs.szOsFile = (int)sizeof(struct power_file) + real_vfs->szOsFile;
    power_vfs.xOpen = power_open;
    power_vfs.xDelete = power_delete;
    return sqlite3_vfs_register(&power_vfs, 1);
}

static int remove_disk(void **state)
{
    (void)state;
    return sqlite3_vfs_unregister(&power_vfs);
}

/* ---- the story ---- */

/* Each transaction adds a row to two tables, 1 KB to 80 KB, and counts in a third. */
struct story {
    struct nd_loop loop;
    char dir[64], path[96];
    struct nd_store *store;
    int64_t next;              /* number of the next transaction */
    bool acknowledged[MOST];   /* of each transaction */
    long transactions, losses; /* so far */
    long lost;                 /* acknowledged, and not there afterwards */
    long broken;               /* half there, or the file is not sound */
};

struct sent {
    struct story *story;
    int64_t number;
};

static void on_opened(void *arg, struct nd_store *store, const struct nd_err *err)
{
    (void)err;
    ((struct story *)arg)->store = store;
}

static void on_done(void *arg, struct nd_request *r)
{
    struct sent *sent = arg;

    if (!r->err.code[0] && sent->number >= 0)
        sent->story->acknowledged[sent->number] = true;
    nd_request_free(r);
    free(sent);
}

static void submit(struct story *s, struct nd_request *r, int64_t number)
{
    struct sent *sent = nd_alloc(sizeof *sent);

    sent->story = s;
    sent->number = number;
    nd_store_submit(s->store, r, on_done, sent);
}

static void add(struct nd_request *r, const char *sql, int64_t number, int64_t size)
{
    struct nd_statement *st = nd_request_add(r, sql, strlen(sql));

    nd_statement_integer(st, number);
    if (size)
        nd_statement_integer(st, size);
}

static void write_one(struct story *s)
{
    struct nd_request *r = nd_request_new(ND_STORE_WRITE);
    int64_t size = 1000 + (random_below(8) ? 0 : random_below(80000));

    add(r, "INSERT INTO one(n, b) VALUES (?, randomblob(?))", s->next, size);
    add(r, "INSERT INTO two(n, b) SELECT n, b FROM one WHERE n = ?", s->next, 0);
    add(r, "UPDATE total SET n = n + (? >= 0)", s->next, 0);
    if (s->next % 16 == 15) /* pages become free, and are used again */
        add(r, "UPDATE one SET b = substr(b, 1, 10) WHERE n < ? - 40", s->next, 0);
    submit(s, r, s->next++);
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

static void make_tables(struct story *s)
{
    struct nd_request *r = nd_request_new(ND_STORE_SCRIPT);

    r->text = nd_strdup("CREATE TABLE IF NOT EXISTS one (n INTEGER PRIMARY KEY, b BLOB) STRICT;"
                        "CREATE TABLE IF NOT EXISTS two (n INTEGER PRIMARY KEY, b BLOB) STRICT;"
                        "CREATE INDEX IF NOT EXISTS two_b ON two (substr(b, 1, 8));"
                        "CREATE TABLE IF NOT EXISTS total (n INTEGER) STRICT;"
                        "INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);");
    submit(s, r, -1);
    nd_loop_run(&s->loop);
}

/* The first cells of the rows, as numbers. */
static struct nd_statement numbers(struct story *s, const char *sql)
{
    struct nd_statement st;
    struct nd_err err = {0};

    nd_statement_init(&st, sql, strlen(sql));
    if (nd_store_get(s->store, &st, SIZE_MAX, &err) < 0) {
        print_error("%s: %s\n", err.code, err.message);
        s->broken++;
    }
    return st;
}

static void check_none(struct story *s, const char *sql)
{
    struct nd_statement st = numbers(s, sql);

    if (st.rows.count > 0)
        s->broken++;
    nd_statement_fini(&st);
}

static void check_acknowledged(struct story *s)
{
    struct nd_statement st = numbers(s, "SELECT n FROM one ORDER BY n");
    size_t row = 0;

    for (int64_t n = 0; n < s->next; n++) {
        bool there = row < st.rows.count && st.rows.cells[row].integer == n;

        if (there)
            row++;
        else if (s->acknowledged[n])
            s->lost++;
        s->acknowledged[n] = there; /* whoever has seen it once may count on it */
    }
    nd_statement_fini(&st);
}

static void check(struct story *s)
{
    open_store(s);
    if (!s->store) {
        s->broken++;
        return;
    }
    make_tables(s); /* the loss may have come before them */
    check_acknowledged(s);
    check_none(s, "SELECT 1 FROM pragma_integrity_check WHERE integrity_check <> 'ok'");
    check_none(s, "SELECT 1 FROM total WHERE n <> (SELECT count(*) FROM one)");
    check_none(s, "SELECT 1 FROM one LEFT JOIN two USING (n)"
                  " WHERE substr(two.b, 1, length(one.b)) IS NOT one.b");
    check_none(s, "SELECT 1 FROM two WHERE n NOT IN (SELECT n FROM one)");
}

/* Writes until the power fails. */
static void lose_power(struct story *s)
{
    disk.calls_left = (int)random_below(random_below(2) ? 60 : 1200);
    for (int i = 0; i < ROUNDS && !disk.off && s->store; i++) {
        for (uint32_t k = 1 + random_below(GROUP); k > 0; k--)
            write_one(s);
        nd_loop_run(&s->loop);
    }
    if (random_below(4) == 0) /* while it is being closed */
        close_store(s);
    disk.off = true;
    close_store(s);
    disk_restart();
    s->losses++;
}

/* A disk that loses its power again and again. */
static void play(struct story *s, uint64_t seed)
{
    snprintf(s->dir, sizeof s->dir, "/tmp/nd-test-power-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->path, sizeof s->path, "%s/t.db", s->dir);
    disk_init(seed);
    s->next = 0;
    memset(s->acknowledged, 0, sizeof s->acknowledged);
    nd_loop_init(&s->loop, NULL);
    for (int i = 0; i < LOSSES_A_DISK && s->lost + s->broken == 0; i++) {
        check(s);
        if (s->store)
            lose_power(s);
    }
    if (s->lost + s->broken == 0)
        check(s);
    close_store(s);
    s->transactions += s->next;
    nd_loop_fini(&s->loop);
    nd_file_remove(s->dir, true, NULL);
    disk_fini();
}

static uint64_t number_in_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 10) : otherwise;
}

static void test_nothing_acknowledged_is_lost_with_the_power(void **state)
{
    static struct story s;
    uint64_t seed = number_in_environment("ND_SEED", (uint64_t)getpid() << 20);
    long losses = (long)number_in_environment("ND_POWER_LOSSES", 300);

    (void)state;
    for (; s.losses < losses; seed++) {
        play(&s, seed);
        if (s.lost + s.broken > 0)
            fail_msg("ND_SEED=%llu: %ld acknowledged transactions lost, %ld times broken",
                     (unsigned long long)seed, s.lost, s.broken);
    }
    print_message("%ld power losses, %ld transactions, 0 lost\n", s.losses, s.transactions);
}

static void test_a_disk_that_lies_about_its_syncs_is_noticed(void **state)
{
    static struct story s;

    (void)state;
    disk.lies = true;
    for (uint64_t seed = 1; seed < 20 && s.lost + s.broken == 0; seed++)
        play(&s, seed);
    disk.lies = false;
    assert_true(s.lost + s.broken > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_acknowledged_is_lost_with_the_power),
        cmocka_unit_test(test_a_disk_that_lies_about_its_syncs_is_noticed),
    };

    return cmocka_run_group_tests(tests, install_disk, remove_disk);
}
