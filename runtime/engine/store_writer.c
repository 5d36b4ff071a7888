/*
 * store_writer.c - the writer: opens the store, commits in groups, keeps the write-ahead log short,
 * closes the store.
 */
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "engine/store_thread.h"

enum {
    GROUP_MOST = 256,        /* transactions that share a COMMIT; bounds the wait of the first */
    CHECKPOINT_PAGES = 1000, /* of the log, SQLite's own default; at 4 KiB a page */
    BUSY_MS = 5000,          /* how long to wait for another process's lock */
    LOOP_BUSY_MS = 50        /* the same on the loop, where only recovery takes a lock */
};

enum control { BEGIN, SAVEPOINT, RELEASE, ROLLBACK_TO, COMMIT, ROLLBACK, CONTROLS };

static const char *const control_sql[CONTROLS] = {
    [BEGIN] = "BEGIN IMMEDIATE",       [SAVEPOINT] = "SAVEPOINT one", [RELEASE] = "RELEASE one",
    [ROLLBACK_TO] = "ROLLBACK TO one", [COMMIT] = "COMMIT",           [ROLLBACK] = "ROLLBACK",
};

struct writer {
    struct nd_store *store;
    struct nd_conn *conn;
    sqlite3_stmt *control[CONTROLS];
    int wal_pages;         /* after the last COMMIT */
    uint64_t commit_nanos; /* of the last COMMIT */
};

static int control(struct writer *w, enum control what, struct nd_err *err)
{
    int rc;

    w->conn->mode = ND_CONN_FREE; /* after a change of the schema it is compiled anew */
    rc = sqlite3_step(w->control[what]);
    w->conn->mode = ND_CONN_WRITE;
    if (rc != SQLITE_DONE)
        nd_conn_err(w->conn, rc, control_sql[what], err);
    sqlite3_reset(w->control[what]);
    return rc == SQLITE_DONE ? 0 : -1;
}

/* A deferred foreign key would make the COMMIT fail, and with it the whole group: look here. */
static int check_keys(struct writer *w, struct nd_err *err)
{
    int open_keys = 0, most;

    sqlite3_db_status(w->conn->db, SQLITE_DBSTATUS_DEFERRED_FKS, &open_keys, &most, 0);
    if (!open_keys)
        return 0;
    return nd_err_set(err, "constraint", NULL,
                      "the database refuses it: FOREIGN KEY constraint failed");
}

static int run_statements(struct writer *w, struct nd_request *r)
{
    if (r->kind == ND_STORE_SCRIPT) {
        int rc;

        w->conn->mode = ND_CONN_SCRIPT;
        rc = nd_conn_exec(w->conn, r->text, &r->err);
        w->conn->mode = ND_CONN_WRITE;
        return rc;
    }
    for (int i = 0; i < r->count; i++)
        if (nd_conn_run(w->conn, &r->statements[i], SIZE_MAX, &r->err) < 0) {
            r->failed = i + 1;
            return -1;
        }
    return 0;
}

/* -1 where the whole group is lost, not only this request. */
static int run_one(struct writer *w, struct nd_request *r)
{
    if (control(w, SAVEPOINT, &r->err) < 0)
        return -1;
    if (run_statements(w, r) == 0 && check_keys(w, &r->err) == 0)
        return control(w, RELEASE, &r->err);
    if (sqlite3_get_autocommit(w->conn->db)) /* SQLite has rolled back everything */
        return -1;
    return control(w, ROLLBACK_TO, NULL) < 0 || control(w, RELEASE, NULL) < 0 ? -1 : 0;
}

static int commit(struct writer *w, struct nd_err *err)
{
    uint64_t start = nd_clock_nanos();
    int rc;

    if (nd_fault("store.commit.before"))
        return nd_err_set(err, "db_full", NULL, "fault store.commit.before");
    rc = control(w, COMMIT, err);
    w->commit_nanos = nd_clock_nanos() - start;
    w->store->version++; /* also where it failed: it may have happened */
    if (rc == 0 && nd_fault("store.commit.after"))
        return nd_err_set(err, "db_io", NULL, "fault store.commit.after");
    return rc;
}

static int run_group(struct writer *w, struct nd_list *group, struct nd_err *err)
{
    if (control(w, BEGIN, err) < 0)
        return -1;
    ND_LIST_EACH (link, group) {
        struct nd_request *r = ND_CONTAINER(link, struct nd_request, link);

        if (run_one(w, r) < 0) {
            *err = r->err;
            return -1;
        }
    }
    return commit(w, err);
}

static void note_stats(struct writer *w, struct nd_list *group, bool committed)
{
    struct nd_store_stats *stats = &w->store->stats;

    uv_mutex_lock(&w->store->lock);
    ND_LIST_EACH (link, group) {
        if (ND_CONTAINER(link, struct nd_request, link)->err.code[0])
            stats->failed++;
        else
            stats->transactions++;
    }
    if (committed) {
        stats->commits++;
        stats->commit_nanos += w->commit_nanos;
        if (w->commit_nanos > stats->commit_most)
            stats->commit_most = w->commit_nanos;
    }
    stats->wal_pages = w->wal_pages;
    uv_mutex_unlock(&w->store->lock);
}

static void write_group(struct writer *w, struct nd_list *group)
{
    struct nd_err err = {0};
    int rc = run_group(w, group, &err);

    if (rc < 0) {
        if (!sqlite3_get_autocommit(w->conn->db))
            control(w, ROLLBACK, NULL);
        ND_LIST_EACH (link, group) {
            struct nd_request *r = ND_CONTAINER(link, struct nd_request, link);

            if (!r->err.code[0])
                r->err = err;
        }
    }
    note_stats(w, group, rc == 0);
    nd_store_finish(w->store, group, rc < 0 ? &err : NULL);
}

/* Gives back all writes that stand behind one that was lost; lock held. */
static void refuse_waiting(struct nd_store *s)
{
    ND_LIST_EACH (link, &s->writes) {
        ND_CONTAINER(link, struct nd_request, link)->err = s->lost_err;
        s->stats.failed++;
        nd_list_remove(link);
        nd_list_append(&s->finished, link);
    }
    uv_async_send(&s->async);
}

/* Moves the next requests that may share a COMMIT into `group`; false at the end. */
static bool take_group(struct nd_store *s, struct nd_list *group)
{
    int taken = 0;

    uv_mutex_lock(&s->lock);
    for (;;) {
        if (s->lost && !nd_list_empty(&s->writes))
            refuse_waiting(s);
        if (!nd_list_empty(&s->writes) || s->closing)
            break;
        uv_cond_wait(&s->wake, &s->lock);
    }
    ND_LIST_EACH (link, &s->writes) {
        bool script = ND_CONTAINER(link, struct nd_request, link)->kind == ND_STORE_SCRIPT;

        if (taken == GROUP_MOST || (script && taken > 0))
            break;
        nd_list_remove(link);
        nd_list_append(group, link);
        taken++;
        if (script)
            break;
    }
    uv_mutex_unlock(&s->lock);
    return taken > 0;
}

static int on_wal(void *arg, sqlite3 *db, const char *name, int pages)
{
    struct writer *w = arg;

    (void)db, (void)name;
    w->wal_pages = pages;
    return SQLITE_OK;
}

static void close_store(struct writer *w)
{
    struct nd_store *s = w->store;

    for (int i = 0; i < CONTROLS; i++)
        sqlite3_finalize(w->control[i]);
    nd_conn_close(&s->loop_conn);
    nd_conn_close(&s->read_conn);
    nd_conn_close(&s->write_conn); /* the last one empties the log */
}

static int open_store(struct writer *w, struct nd_err *err)
{
    struct nd_store *s = w->store;

    if (nd_conn_open(&s->write_conn, s->path, ND_CONN_FREE, BUSY_MS, err) < 0 ||
        nd_conn_open(&s->read_conn, s->path, ND_CONN_READ, BUSY_MS, err) < 0 ||
        nd_conn_open(&s->loop_conn, s->path, ND_CONN_READ, LOOP_BUSY_MS, err) < 0)
        return -1;
    for (int i = 0; i < CONTROLS; i++) {
        int rc = sqlite3_prepare_v3(w->conn->db, control_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                                    &w->control[i], NULL);

        if (rc != SQLITE_OK)
            return nd_conn_err(w->conn, rc, control_sql[i], err);
    }
    sqlite3_wal_hook(w->conn->db, on_wal, w);
    w->conn->mode = ND_CONN_WRITE;
    if (nd_store_thread(&s->reader, nd_store_reader, s) != 0)
        return nd_err_set(err, "db_open", "raise the limit on threads",
                          "can't start the thread that reads the database %s", s->path);
    return 0;
}

static void announce(struct nd_store *s, bool *flag)
{
    uv_mutex_lock(&s->lock);
    *flag = true;
    /* Under the lock: once the loop has seen `ended` it may free the handle. */
    uv_async_send(&s->async);
    uv_mutex_unlock(&s->lock);
}

void nd_store_writer(void *arg)
{
    struct writer w = {.store = arg, .conn = &((struct nd_store *)arg)->write_conn};
    struct nd_store *s = w.store;
    struct nd_list group;
    int rc = open_store(&w, &s->open_err);

    announce(s, &s->opened);
    if (rc == 0) {
        nd_list_init(&group);
        while (take_group(s, &group)) {
            write_group(&w, &group);
            if (w.wal_pages >=
                    CHECKPOINT_PAGES && /* after the answers, so that none waits for it */
                sqlite3_wal_checkpoint_v2(w.conn->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL,
                                          NULL) == SQLITE_OK)
                w.wal_pages = 0;
        }
        uv_thread_join(&s->reader);
    }
    close_store(&w);
    announce(s, &s->ended);
}
