#include "engine/store_conn.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/store_sum.h"

struct cached {
    struct nd_list link; /* nd_conn.cache */
    uint64_t hash;       /* of the SQL text */
    char *sql;           /* owned */
    sqlite3_stmt *stmt;  /* owned; reset whenever nobody steps it */
};

static const char locked_hint[] = "another process holds the database: stop it, then try again";
static const char corrupt_hint[] =
    "stop the daemon, keep a copy of the state directory, and restore the latest backup";
static const char open_hint[] = "check that the directory exists and may be written";

/* The codes by SQLite's primary result code. */
static const struct {
    int result;
    const char *code;
    const char *hint;
} codes[] = {
    {SQLITE_FULL, "db_full", "free space on the file system of the state directory"},
    {SQLITE_IOERR, "db_io", "look at the kernel log for errors of the disk"},
    {SQLITE_READONLY, "db_io", "the file or its file system is read-only: check mount and owner"},
    {SQLITE_CORRUPT, "db_corrupt", corrupt_hint},
    {SQLITE_NOTADB, "db_corrupt", corrupt_hint},
    {SQLITE_BUSY, "db_locked", locked_hint},
    {SQLITE_LOCKED, "db_locked", locked_hint},
    {SQLITE_PROTOCOL, "db_locked", locked_hint},
    {SQLITE_CANTOPEN, "db_open", open_hint},
    {SQLITE_PERM, "db_open", open_hint},
};

int nd_conn_err(struct nd_conn *conn, int rc, const char *sql, struct nd_err *err)
{
    int result = rc & 0xff;
    const char *text = conn->db && (sqlite3_errcode(conn->db) & 0xff) == result
                           ? sqlite3_errmsg(conn->db)
                           : sqlite3_errstr(rc);

    if (result == SQLITE_CONSTRAINT)
        return nd_err_set(err, "constraint", NULL, "the database refuses it: %s", text);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].result == result)
            return nd_err_set(err, codes[i].code, codes[i].hint, "database %s: %s (SQLite %d)",
                              conn->path, text, rc);
    return nd_err_set(err, "db_sql", NULL, "database %s: %s (SQLite %d) in: %.200s", conn->path,
                      text, rc, sql ? sql : "-");
}

/* A caller's statement must not end the transaction that a group shares. */
static int authorize(void *arg, int action, const char *a, const char *b, const char *c,
                     const char *d)
{
    struct nd_conn *conn = arg;

    (void)a, (void)b, (void)c, (void)d;
    if (conn->mode == ND_CONN_FREE)
        return SQLITE_OK;
    switch (action) {
    case SQLITE_TRANSACTION:
    case SQLITE_SAVEPOINT:
    case SQLITE_ATTACH:
    case SQLITE_DETACH:
        return SQLITE_DENY;
    case SQLITE_PRAGMA:
        return conn->mode == ND_CONN_WRITE ? SQLITE_DENY : SQLITE_OK;
    default:
        return SQLITE_OK;
    }
}

/* SQLite would make it readable for all; what it holds is for its owner alone. A file that is there
 * is not touched: closing a descriptor of it drops all locks that this process has on it, and
 * another program that opened the database would then take its log for abandoned, and remove it. */
static int create_file(const char *path, struct nd_err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0 && errno == EEXIST)
        return 0;
    if (fd < 0)
        return nd_err_errno(err, errno, errno == ENOSPC ? "db_full" : "db_open", open_hint,
                            "can't open the database %s", path);
    close(fd);
    return 0;
}

static int want_wal(struct nd_conn *conn, struct nd_err *err)
{
    static const char sql[] = "PRAGMA journal_mode = WAL";
    struct nd_statement st;
    int rc;

    nd_statement_init(&st, sql, sizeof sql - 1);
    rc = nd_conn_run(conn, &st, 1, err);
    if (rc == 0 && (st.rows.count != 1 || strcmp(st.rows.cells[0].bytes, "wal") != 0))
        rc = nd_err_set(err, "db_open", "keep the state directory on a local file system",
                        "database %s: write-ahead logging doesn't work there", conn->path);
    nd_statement_fini(&st);
    return rc;
}

int nd_conn_open(struct nd_conn *conn, const char *path, enum nd_conn_mode mode, int busy_ms,
                 struct nd_err *err)
{
    static const char settings[] = "PRAGMA synchronous = FULL;"
                                   "PRAGMA foreign_keys = ON;"
                                   "PRAGMA trusted_schema = OFF;"
                                   "PRAGMA cell_size_check = ON;"
                                   "PRAGMA temp_store = MEMORY;"
                                   "PRAGMA wal_autocheckpoint = 0;"
                                   "PRAGMA journal_size_limit = 16777216;";
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | SQLITE_OPEN_READWRITE;
    int rc;

    memset(conn, 0, sizeof *conn);
    nd_list_init(&conn->cache);
    conn->path = path;
    conn->mode = ND_CONN_FREE;
    if (mode != ND_CONN_READ && create_file(path, err) < 0)
        return -1;
    rc = sqlite3_open_v2(path, &conn->db, flags, NULL);
    if (rc != SQLITE_OK) {
        nd_conn_err(conn, rc, NULL, err);
        goto out;
    }
    nd_sum_register(conn->db);
    sqlite3_busy_timeout(conn->db, busy_ms);
    sqlite3_db_config(conn->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_set_authorizer(conn->db, authorize, conn);
    if ((mode != ND_CONN_READ && want_wal(conn, err) < 0) ||
        nd_conn_exec(conn, settings, err) < 0 ||
        (mode == ND_CONN_READ && nd_conn_exec(conn, "PRAGMA query_only = ON", err) < 0))
        goto out;
    conn->mode = mode;
    return 0;
out:
    nd_conn_close(conn);
    return -1;
}

static void drop(struct nd_conn *conn, struct cached *entry)
{
    nd_list_remove(&entry->link);
    sqlite3_finalize(entry->stmt);
    free(entry->sql);
    free(entry);
    conn->cached--;
}

void nd_conn_close(struct nd_conn *conn)
{
    if (!conn->cache.next) /* never opened */
        return;
    ND_LIST_EACH (link, &conn->cache)
        drop(conn, ND_CONTAINER(link, struct cached, link));
    sqlite3_close(conn->db);
    conn->db = NULL;
}

static uint64_t hash_text(const char *text) /* FNV-1a */
{
    uint64_t hash = 14695981039346656037u;

    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 1099511628211u;
    return hash;
}

static struct cached *find(struct nd_conn *conn, const char *sql, uint64_t hash)
{
    ND_LIST_EACH (link, &conn->cache) {
        struct cached *entry = ND_CONTAINER(link, struct cached, link);

        if (entry->hash == hash && strcmp(entry->sql, sql) == 0)
            return entry;
    }
    return NULL;
}

static sqlite3_stmt *compile(struct nd_conn *conn, const char *sql, struct nd_err *err)
{
    sqlite3_stmt *stmt = NULL;
    const char *rest;
    int rc = sqlite3_prepare_v3(conn->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, &rest);

    if (rc != SQLITE_OK) {
        nd_conn_err(conn, rc, sql, err);
        return NULL;
    }
    if (stmt && rest[strspn(rest, " \t\r\n;")] == '\0')
        return stmt;
    sqlite3_finalize(stmt);
    nd_err_set(err, "db_sql", NULL, "one statement at a time, not: %.200s", sql);
    return NULL;
}

/* The compiled statement, from the cache or into it; it belongs to the cache. */
static sqlite3_stmt *prepare(struct nd_conn *conn, const char *sql, struct nd_err *err)
{
    uint64_t hash = hash_text(sql);
    struct cached *entry = find(conn, sql, hash);

    if (entry) {
        nd_list_remove(&entry->link);
    } else {
        sqlite3_stmt *stmt = compile(conn, sql, err);

        if (!stmt)
            return NULL;
        if (conn->cached == ND_STATEMENT_CACHE)
            drop(conn, ND_CONTAINER(conn->cache.prev, struct cached, link));
        entry = nd_alloc(sizeof *entry);
        entry->hash = hash;
        entry->sql = nd_strdup(sql);
        entry->stmt = stmt;
        conn->cached++;
    }
    nd_list_append(conn->cache.next, &entry->link); /* before the first */
    return entry->stmt;
}

static int bind_value(sqlite3_stmt *stmt, int place, const struct nd_value *value)
{
    switch (value->type) {
    case ND_INTEGER:
        return sqlite3_bind_int64(stmt, place, value->integer);
    case ND_REAL:
        return sqlite3_bind_double(stmt, place, value->real);
    case ND_TEXT:
        return sqlite3_bind_text64(stmt, place, value->bytes, value->length, SQLITE_STATIC,
                                   SQLITE_UTF8);
    case ND_BLOB:
        return sqlite3_bind_blob64(stmt, place, value->bytes, value->length, SQLITE_STATIC);
    case ND_NULL:
        break;
    }
    return sqlite3_bind_null(stmt, place);
}

static int bind_params(sqlite3_stmt *stmt, const struct nd_statement *st, struct nd_err *err)
{
    int wanted = sqlite3_bind_parameter_count(stmt);

    if (wanted != st->count)
        return nd_err_set(err, "db_sql", "write db.null for NULL",
                          "%d parameters for %d places in: %.200s", st->count, wanted, st->sql);
    for (int i = 0; i < st->count; i++) {
        int rc = bind_value(stmt, i + 1, &st->params[i]);

        if (rc != SQLITE_OK)
            return nd_err_set(err, "db_sql", NULL, "parameter %d: %s, in: %.200s", i + 1,
                              sqlite3_errstr(rc), st->sql);
    }
    return 0;
}

static void read_cell(sqlite3_stmt *stmt, int column, struct nd_value *cell)
{
    const void *data = NULL;

    memset(cell, 0, sizeof *cell);
    switch (sqlite3_column_type(stmt, column)) {
    case SQLITE_INTEGER:
        cell->type = ND_INTEGER;
        cell->integer = sqlite3_column_int64(stmt, column);
        return;
    case SQLITE_FLOAT:
        cell->type = ND_REAL;
        cell->real = sqlite3_column_double(stmt, column);
        return;
    case SQLITE_TEXT:
        cell->type = ND_TEXT;
        data = sqlite3_column_text(stmt, column);
        break;
    case SQLITE_BLOB:
        cell->type = ND_BLOB;
        data = sqlite3_column_blob(stmt, column);
        break;
    default:
        return;
    }
    cell->length = (size_t)sqlite3_column_bytes(stmt, column);
    cell->bytes = nd_alloc(cell->length + 1);
    if (cell->length)
        memcpy(cell->bytes, data, cell->length);
}

static void read_row(sqlite3_stmt *stmt, struct nd_rows *rows)
{
    size_t used = rows->count * (size_t)rows->columns;

    if (!rows->names) {
        rows->columns = sqlite3_column_count(stmt);
        rows->names = nd_alloc((size_t)rows->columns * sizeof *rows->names);
        for (int i = 0; i < rows->columns; i++)
            rows->names[i] = nd_strdup(sqlite3_column_name(stmt, i));
        rows->checksum = nd_sum_find(rows);
    }
    if (used + (size_t)rows->columns > rows->capacity) {
        rows->capacity = rows->capacity ? rows->capacity * 2 : (size_t)rows->columns;
        rows->cells = nd_realloc(rows->cells, rows->capacity * sizeof *rows->cells);
    }
    for (int i = 0; i < rows->columns; i++)
        read_cell(stmt, i, &rows->cells[used + (size_t)i]);
    if (rows->checksum >= 0)
        nd_sum_judge(&rows->cells[used], rows->checksum);
    rows->count++;
}

static int check_expected(const struct nd_statement *st, struct nd_err *err)
{
    if (st->expect < 0 || st->expect == st->changes)
        return 0;
    return nd_err_set(err, "stale", NULL,
                      "somebody else was first: %" PRId64 " rows instead of %" PRId64 " by: %.200s",
                      st->changes, st->expect, st->sql);
}

static int step_all(struct nd_conn *conn, sqlite3_stmt *stmt, struct nd_statement *st,
                    size_t max_rows, struct nd_err *err)
{
    sqlite3_int64 before = sqlite3_total_changes64(conn->db);
    int rc;

    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && st->rows.count < max_rows)
        read_row(stmt, &st->rows);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        return nd_conn_err(conn, rc, st->sql, err);
    if (sqlite3_stmt_readonly(stmt))
        st->changes = (int64_t)st->rows.count;
    else if (sqlite3_total_changes64(conn->db) != before)
        st->changes = sqlite3_changes64(conn->db);
    else
        st->changes = 0; /* sqlite3_changes64 would still tell of an earlier statement */
    st->id = sqlite3_last_insert_rowid(conn->db);
    return check_expected(st, err);
}

int nd_conn_run(struct nd_conn *conn, struct nd_statement *st, size_t max_rows, struct nd_err *err)
{
    sqlite3_stmt *stmt = prepare(conn, st->sql, err);
    int failed;

    nd_rows_fini(&st->rows);
    if (!stmt)
        return -1;
    failed = bind_params(stmt, st, err) < 0 || step_all(conn, stmt, st, max_rows, err) < 0;
    sqlite3_reset(stmt); /* ends its snapshot, too */
    sqlite3_clear_bindings(stmt);
    return failed ? -1 : 0;
}

int nd_conn_exec(struct nd_conn *conn, const char *sql, struct nd_err *err)
{
    int rc = sqlite3_exec(conn->db, sql, NULL, NULL, NULL);

    return rc == SQLITE_OK ? 0 : nd_conn_err(conn, rc, sql, err);
}
