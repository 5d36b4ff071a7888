/*
 * store_conn.h - one SQLite connection: its settings, its prepared statements, its errors.
 *
 * A store has three, one for each thread that reads or writes; no connection is ever used by two
 * threads at once, so SQLite's own mutexes are off. Statements stay prepared in a cache, the least
 * recently used going first.
 *
 * Error codes: constraint (the message ends with SQLite's text), stale (a wrong number of rows),
 * db_full, db_io, db_corrupt, db_locked, db_open, db_sql (the statement itself is wrong: a bug).
 */
#ifndef ND_ENGINE_STORE_CONN_H
#define ND_ENGINE_STORE_CONN_H

#include <sqlite3.h>
#include <stdbool.h>

#include "base/err.h"
#include "base/list.h"
#include "engine/store_value.h"

enum { ND_STATEMENT_CACHE = 128 }; /* prepared statements a connection keeps */

/* What statements may do on a connection; none of a caller's may begin or end a transaction. */
enum nd_conn_mode {
    ND_CONN_READ,   /* query */
    ND_CONN_WRITE,  /* change rows and tables, but no settings */
    ND_CONN_SCRIPT, /* change settings as well: migrations */
    ND_CONN_FREE    /* anything: our own statements */
};

struct nd_conn {
    sqlite3 *db;
    const char *path;       /* borrowed from the store */
    enum nd_conn_mode mode; /* what is being prepared may do this */
    struct nd_list cache;   /* struct cached, the most recently used first */
    int cached;             /* how many */
};

/* Opens the file (creating it where the mode is not READ) and sets it up. */
int nd_conn_open(struct nd_conn *conn, const char *path, enum nd_conn_mode mode, int busy_ms,
                 struct nd_err *err);
void nd_conn_close(struct nd_conn *conn);

/* Runs one statement and stores its results in it; it stops after `max_rows` rows. */
int nd_conn_run(struct nd_conn *conn, struct nd_statement *st, size_t max_rows, struct nd_err *err);
/* Runs SQL text of any number of statements, without results. */
int nd_conn_exec(struct nd_conn *conn, const char *sql, struct nd_err *err);

/* Fills `err` for the result code `rc`; returns -1. */
int nd_conn_err(struct nd_conn *conn, int rc, const char *sql, struct nd_err *err);

#endif
