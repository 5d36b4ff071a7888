/*
 * store.h - the database: the only place where the truth lives.
 *
 * SQLite in WAL mode with synchronous=FULL. Three connections, each with a thread of its own:
 *   the loop    point reads by key (nd_store_get), answered at once
 *   the reader  scans (ND_STORE_QUERY) and backups
 *   the writer  transactions (ND_STORE_WRITE) and migrations (ND_STORE_SCRIPT)
 * Group commit: what queues up while the disk is busy is committed by one COMMIT, each transaction
 * in a savepoint of its own, so that a failing one takes back only itself. A transaction's callback
 * runs after that COMMIT returned, never before; if the COMMIT fails, all of its group fail.
 * Transactions run, and their callbacks are called, in the order in which they were submitted. A
 * read sees everything whose callback has run.
 *
 * Error codes: those of store_conn.h, and db_closed. Fault points: store.commit.before (fails as a
 * full disk does), store.commit.after (committed, but the answer is lost).
 *
 * What it doesn't do: schemas, versions, locks between daemons; those are its caller's.
 */
#ifndef ND_ENGINE_STORE_H
#define ND_ENGINE_STORE_H

#include "base/list.h"
#include "engine/store_value.h"
#include "io/loop.h"

struct nd_store;

enum nd_request_kind {
    ND_STORE_WRITE,  /* statements, in one transaction */
    ND_STORE_SCRIPT, /* text: SQL statements, in one transaction of its own; may set PRAGMAs */
    ND_STORE_QUERY,  /* one statement that reads */
    ND_STORE_BACKUP  /* text: the path of the copy; an older file there is replaced */
};

struct nd_request;
typedef void nd_store_done(void *arg, struct nd_request *request);

/* On its way to a store thread and back. Its owner fills it, submits it, and has it again, with
 * `err` and the statements' results filled in, when `done` is called. */
struct nd_request {
    struct nd_list link; /* the store's */
    enum nd_request_kind kind;
    struct nd_statement *statements; /* owned */
    int count;                       /* of statements */
    char *text;                      /* owned; of SCRIPT and BACKUP */
    struct nd_err err;               /* code "": it is done, and durable */
    int failed;          /* which statement failed, from 1; 0: none, or not one of them */
    nd_store_done *done; /* the store's */
    void *arg;           /* the store's */
};

struct nd_request *nd_request_new(enum nd_request_kind kind);
/* Adds a statement; add its parameters before the next. Valid until the next one is added. */
struct nd_statement *nd_request_add(struct nd_request *request, const char *sql, size_t length);
void nd_request_free(struct nd_request *request); /* NULL is allowed */

/* SQLite's text ("UNIQUE constraint failed: runs.app") of an error with the code `constraint`, else
 * NULL. Valid as long as `err`. */
const char *nd_store_constraint(const struct nd_err *err);

/* `store` is NULL where it failed, and `err` says why. */
typedef void nd_store_opened(void *arg, struct nd_store *store, const struct nd_err *err);
void nd_store_open(struct nd_loop *loop, const char *path, nd_store_opened *opened, void *arg);

/* Takes the request until `done` gives it back. */
void nd_store_submit(struct nd_store *store, struct nd_request *request, nd_store_done *done,
                     void *arg);
/* Reads a row, or the rows of one key, now, `most` at most. `st->rows` holds them. */
int nd_store_get(struct nd_store *store, struct nd_statement *st, size_t most, struct nd_err *err);
/* Counts commits: what was read at one version is as it was while this stays the same. */
uint64_t nd_store_version(struct nd_store *store);

/* Does what was submitted before, then closes; `closed` (may be NULL) runs when all is over. What
 * is submitted in between fails with db_closed. The store must not be used after `closed`. */
typedef void nd_store_closed(void *arg);
void nd_store_close(struct nd_store *store, nd_store_closed *closed, void *arg);

struct nd_store_stats {
    uint64_t transactions; /* committed */
    uint64_t commits;      /* COMMITs that they took */
    uint64_t failed;       /* transactions that were not committed */
    uint64_t commit_nanos; /* spent in COMMIT, in total */
    uint64_t commit_most;  /* ns: the slowest COMMIT so far */
    int wal_pages;         /* in the write-ahead log after the last COMMIT */
    int waiting;           /* requests on their way */
};
void nd_store_stats(struct nd_store *store, struct nd_store_stats *stats);

#endif
