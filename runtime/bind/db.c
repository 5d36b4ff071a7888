/*
 * db.c - require "db": the database, as engine/store.h describes it.
 *
 *   open(path) -> c                      waits
 *   c:get(sql, ...) -> row | nil         at once: a point read by key
 *   c:rows(sql, ...) -> {row...}         at once: the few rows of one key, by an index
 *   c:all(sql, ...) -> {row...}          waits: a scan on the reader thread
 *   c:write{ {sql, p1, ..., expect=N}, ... } -> { {changes=, id=, rows={row...}}, ... }
 *       waits: one transaction; returns when it is durable. `expect` is the number of rows that the
 *       statement must change (a query: bring); else all is taken back, with code `stale`.
 *   c:script(sql)                        waits: many statements, one transaction; for migrations
 *   c:backup(path)                       waits: a consistent copy
 *   c:version() -> integer that grows with each commit
 *   c:recall(key, stamp) -> text | nil   what c:remember(key, stamp, version, text) was given, if
 *       nothing was committed since `version` and the stamp (an integer) is the same; see memo.h
 *   c:stats() -> {transactions, commits, failed, commit_ms (total), commit_most_ms, wal_pages,
 *       waiting}
 *   c:close()                            waits; also by <close>, and when collected
 *
 * A row is a table by column name; NULL is absent. Parameters: nil or db.null for NULL (in a
 * statement's list only db.null), booleans as 1 and 0, numbers, strings as TEXT, db.blob(bytes) as
 * BLOB; both come back as strings.
 *
 * Errors: constraint (data.constraint is SQLite's text), stale, both with data.statement, its place
 * in the list; db_full, db_io, db_corrupt, db_locked, db_open, db_closed, db_sql.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "engine/memo.h"
#include "engine/store.h"

#define DB_META "nd.db"
#define BLOB_META "nd.blob"

struct db {
    struct nd_store *store;  /* owned; NULL after close */
    struct nd_statement get; /* the last read on the loop; kept until the next: errors leak none */
    struct nd_memo memo;
};

struct open_op {
    struct nd_op op;
    char *path;             /* owned */
    struct nd_store *store; /* owned until pushed */
};

struct request_op {
    struct nd_op op;
    struct nd_request *request; /* the store's until done, then owned */
};

/* ---- values ---- */

static bool is_value(lua_State *L, int index)
{
    switch (lua_type(L, index)) {
    case LUA_TNIL:
    case LUA_TBOOLEAN:
    case LUA_TNUMBER:
    case LUA_TSTRING:
        return true;
    case LUA_TLIGHTUSERDATA:
        return lua_touserdata(L, index) == NULL; /* db.null */
    default:
        return luaL_testudata(L, index, BLOB_META) != NULL;
    }
}

/* Adds the value at `index`, one that is_value accepts. */
static void add_value(lua_State *L, int index, struct nd_statement *st)
{
    const char *bytes;
    size_t length;

    switch (lua_type(L, index)) {
    case LUA_TBOOLEAN:
        nd_statement_integer(st, lua_toboolean(L, index));
        return;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index))
            nd_statement_integer(st, lua_tointeger(L, index));
        else
            nd_statement_real(st, lua_tonumber(L, index));
        return;
    case LUA_TSTRING:
        bytes = lua_tolstring(L, index, &length);
        nd_statement_text(st, bytes, length);
        return;
    case LUA_TUSERDATA:
        lua_getiuservalue(L, index, 1);
        bytes = lua_tolstring(L, -1, &length);
        nd_statement_blob(st, bytes, length);
        lua_pop(L, 1);
        return;
    default:
        nd_statement_null(st);
    }
}

static void push_value(lua_State *L, const struct nd_value *value)
{
    switch (value->type) {
    case ND_NULL:
        lua_pushnil(L);
        break;
    case ND_INTEGER:
        lua_pushinteger(L, value->integer);
        break;
    case ND_REAL:
        lua_pushnumber(L, value->real);
        break;
    case ND_TEXT:
    case ND_BLOB:
        lua_pushlstring(L, value->bytes, value->length);
        break;
    }
}

static void push_row(lua_State *L, const struct nd_rows *rows, size_t row)
{
    lua_createtable(L, 0, rows->columns);
    for (int i = 0; i < rows->columns; i++) {
        push_value(L, &rows->cells[row * (size_t)rows->columns + (size_t)i]);
        lua_setfield(L, -2, rows->names[i]);
    }
}

static void push_rows(lua_State *L, const struct nd_rows *rows)
{
    lua_createtable(L, (int)rows->count, 0);
    for (size_t i = 0; i < rows->count; i++) {
        push_row(L, rows, i);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static int db_blob(lua_State *L)
{
    luaL_checkstring(L, 1);
    lua_newuserdatauv(L, 0, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    luaL_setmetatable(L, BLOB_META);
    return 1;
}

/* ---- requests ---- */

static void request_fini(void *arg)
{
    struct request_op *op = arg;

    nd_request_free(op->request);
}

static int raise_request(lua_State *L, const struct nd_request *request)
{
    const char *constraint = nd_store_constraint(&request->err);

    nd_push_err(L, &request->err);
    if (request->failed || constraint) {
        lua_createtable(L, 0, 2); // err data
        if (request->failed) {
            lua_pushinteger(L, request->failed);
            lua_setfield(L, -2, "statement");
        }
        lua_pushstring(L, constraint);
        lua_setfield(L, -2, "constraint");
        lua_setfield(L, -2, "data");
    }
    return lua_error(L);
}

static int nothing_push(lua_State *L, void *arg)
{
    struct request_op *op = arg;

    return op->request->err.code[0] ? raise_request(L, op->request) : 0;
}

static int all_push(lua_State *L, void *arg)
{
    struct request_op *op = arg;

    if (op->request->err.code[0])
        return raise_request(L, op->request);
    push_rows(L, &op->request->statements[0].rows);
    return 1;
}

static int write_push(lua_State *L, void *arg)
{
    struct request_op *op = arg;
    struct nd_request *request = op->request;

    if (request->err.code[0])
        return raise_request(L, request);
    lua_createtable(L, request->count, 0);
    for (int i = 0; i < request->count; i++) {
        lua_createtable(L, 0, 3);
        lua_pushinteger(L, request->statements[i].changes);
        lua_setfield(L, -2, "changes");
        lua_pushinteger(L, request->statements[i].id);
        lua_setfield(L, -2, "id");
        push_rows(L, &request->statements[i].rows);
        lua_setfield(L, -2, "rows");
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static const struct nd_op_type all_type = {"db.all", sizeof(struct request_op), all_push, NULL,
                                           request_fini};
static const struct nd_op_type write_type = {"db.write", sizeof(struct request_op), write_push,
                                             NULL, request_fini};
static const struct nd_op_type script_type = {"db.script", sizeof(struct request_op), nothing_push,
                                              NULL, request_fini};
static const struct nd_op_type backup_type = {"db.backup", sizeof(struct request_op), nothing_push,
                                              NULL, request_fini};

static void on_done(void *arg, struct nd_request *request)
{
    struct request_op *op = arg;

    op->request = request;
    nd_op_done(op);
}

static struct db *check_db(lua_State *L)
{
    struct db *db = luaL_checkudata(L, 1, DB_META);
    struct nd_err err;

    if (db->store)
        return db;
    nd_err_set(&err, "db_closed", NULL, "the database is closed");
    nd_raise(L, &err);
    return NULL;
}

static void check_values(lua_State *L, int first, int last)
{
    for (int i = first; i <= last; i++)
        luaL_argcheck(L, is_value(L, i), i, "not a value that a database stores");
}

/* Reads on the loop what the arguments say; the rows are in db->get. */
ND_RAISES static struct db *read_now(lua_State *L, size_t most)
{
    struct db *db = check_db(L);
    int last = lua_gettop(L);
    size_t length;
    const char *sql = luaL_checklstring(L, 2, &length);
    struct nd_err err;

    check_values(L, 3, last);
    nd_statement_fini(&db->get);
    nd_statement_init(&db->get, sql, length);
    for (int i = 3; i <= last; i++)
        add_value(L, i, &db->get);
    if (nd_store_get(db->store, &db->get, most, &err) < 0)
        nd_raise(L, &err);
    return db;
}

static int db_get(lua_State *L)
{
    struct db *db = read_now(L, 1);

    if (db->get.rows.count == 0)
        lua_pushnil(L);
    else
        push_row(L, &db->get.rows, 0);
    return 1;
}

static int db_rows(lua_State *L)
{
    push_rows(L, &read_now(L, SIZE_MAX)->get.rows);
    return 1;
}

static int db_all(lua_State *L)
{
    struct db *db = check_db(L);
    int last = lua_gettop(L);
    size_t length;
    const char *sql = luaL_checklstring(L, 2, &length);
    struct nd_request *request;
    struct nd_statement *st;
    struct request_op *op;

    check_values(L, 3, last);
    op = nd_op_new(L, &all_type);
    request = nd_request_new(ND_STORE_QUERY);
    st = nd_request_add(request, sql, length);
    for (int i = 3; i <= last; i++)
        add_value(L, i, st);
    nd_store_submit(db->store, request, on_done, op);
    return nd_op_park(L, op);
}

/* Raises unless the list at `index` is statements, each {sql, values..., expect=integer|nil}. */
static lua_Integer check_statements(lua_State *L, int index)
{
    lua_Integer count;

    luaL_checktype(L, index, LUA_TTABLE);
    count = luaL_len(L, index);
    luaL_argcheck(L, count > 0, index, "no statements");
    luaL_checkstack(L, 8, NULL);
    for (lua_Integer i = 1; i <= count; i++) {
        if (lua_rawgeti(L, index, i) != LUA_TTABLE)
            return luaL_error(L, "statement %d: not a table {sql, values...}", (int)i);
        if (lua_rawgeti(L, -1, 1) != LUA_TSTRING)
            return luaL_error(L, "statement %d: begins without its SQL text", (int)i);
        lua_getfield(L, -2, "expect"); // statement sql expect
        if (!lua_isnil(L, -1) && !lua_isinteger(L, -1))
            return luaL_error(L, "statement %d: expect must be a whole number", (int)i);
        lua_pop(L, 2);
        for (lua_Integer k = 2; k <= (lua_Integer)lua_rawlen(L, -1); k++) {
            lua_rawgeti(L, -1, k);
            if (!is_value(L, -1) || lua_isnil(L, -1))
                return luaL_error(L, "statement %d: value %d can't be stored (%s)", (int)i,
                                  (int)k - 1, luaL_typename(L, -1));
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    return count;
}

/* Adds the statement on top of the stack, one that check_statements accepted. */
static void add_statement(lua_State *L, struct nd_request *request)
{
    lua_Integer last = (lua_Integer)lua_rawlen(L, -1);
    struct nd_statement *st;
    const char *sql;
    size_t length;

    lua_rawgeti(L, -1, 1); // statement sql
    sql = lua_tolstring(L, -1, &length);
    st = nd_request_add(request, sql, length);
    lua_pop(L, 1);
    if (lua_getfield(L, -1, "expect") != LUA_TNIL) // statement expect
        st->expect = lua_tointeger(L, -1);
    lua_pop(L, 1);
    for (lua_Integer k = 2; k <= last; k++) {
        lua_rawgeti(L, -1, k);
        add_value(L, lua_gettop(L), st);
        lua_pop(L, 1);
    }
}

static int db_write(lua_State *L)
{
    struct db *db = check_db(L);
    lua_Integer count = check_statements(L, 2);
    struct request_op *op = nd_op_new(L, &write_type);
    struct nd_request *request = nd_request_new(ND_STORE_WRITE);

    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, 2, i);
        add_statement(L, request);
        lua_pop(L, 1);
    }
    nd_store_submit(db->store, request, on_done, op);
    return nd_op_park(L, op);
}

static int submit_text(lua_State *L, const struct nd_op_type *type, enum nd_request_kind kind)
{
    struct db *db = check_db(L);
    const char *text = luaL_checkstring(L, 2);
    struct request_op *op = nd_op_new(L, type);
    struct nd_request *request = nd_request_new(kind);

    request->text = nd_strdup(text);
    nd_store_submit(db->store, request, on_done, op);
    return nd_op_park(L, op);
}

static int db_script(lua_State *L)
{
    return submit_text(L, &script_type, ND_STORE_SCRIPT);
}

static int db_backup(lua_State *L)
{
    return submit_text(L, &backup_type, ND_STORE_BACKUP);
}

static int db_stats(lua_State *L)
{
    struct nd_store_stats stats;

    nd_store_stats(check_db(L)->store, &stats);
    lua_createtable(L, 0, 7);
    lua_pushinteger(L, (lua_Integer)stats.transactions);
    lua_setfield(L, -2, "transactions");
    lua_pushinteger(L, (lua_Integer)stats.commits);
    lua_setfield(L, -2, "commits");
    lua_pushinteger(L, (lua_Integer)stats.failed);
    lua_setfield(L, -2, "failed");
    lua_pushnumber(L, (double)stats.commit_nanos / 1e6);
    lua_setfield(L, -2, "commit_ms");
    lua_pushnumber(L, (double)stats.commit_most / 1e6);
    lua_setfield(L, -2, "commit_most_ms");
    lua_pushinteger(L, stats.wal_pages);
    lua_setfield(L, -2, "wal_pages");
    lua_pushinteger(L, stats.waiting);
    lua_setfield(L, -2, "waiting");
    return 1;
}

/* ---- what is remembered until the next commit ---- */

static int db_version(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)nd_store_version(check_db(L)->store));
    return 1;
}

ND_RAISES static struct nd_memo_text check_text(lua_State *L, int index)
{
    struct nd_memo_text text;

    text.data = luaL_checklstring(L, index, &text.length);
    return text;
}

static int db_recall(lua_State *L)
{
    struct db *db = check_db(L);
    struct nd_memo_version version = {nd_store_version(db->store), luaL_checkinteger(L, 3)};
    struct nd_memo_text text = nd_memo_find(&db->memo, check_text(L, 2), version);

    if (text.data)
        lua_pushlstring(L, text.data, text.length);
    else
        lua_pushnil(L);
    return 1;
}

static int db_remember(lua_State *L)
{
    struct db *db = check_db(L);
    struct nd_memo_version version = {(uint64_t)luaL_checkinteger(L, 4), luaL_checkinteger(L, 3)};

    nd_memo_keep(&db->memo, check_text(L, 2), version, check_text(L, 5));
    return 0;
}

/* ---- open and close ---- */

static int open_push(lua_State *L, void *arg)
{
    struct open_op *op = arg;
    struct db *db = lua_newuserdatauv(L, sizeof *db, 0);

    memset(db, 0, sizeof *db);
    nd_memo_init(&db->memo);
    luaL_setmetatable(L, DB_META);
    db->store = op->store;
    op->store = NULL;
    return 1;
}

static void open_fini(void *arg)
{
    struct open_op *op = arg;

    if (op->store) /* the task left before it was open */
        nd_store_close(op->store, NULL, NULL);
    free(op->path);
}

static const struct nd_op_type open_type = {"db.open", sizeof(struct open_op), open_push, NULL,
                                            open_fini};

static void on_opened(void *arg, struct nd_store *store, const struct nd_err *err)
{
    struct open_op *op = arg;

    op->store = store;
    if (!store)
        op->op.err = *err;
    nd_op_done(op);
}

static int db_open(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct open_op *op = nd_op_new(L, &open_type);

    op->path = nd_strdup(path);
    nd_store_open(nd_host_loop(nd_host_of(L)), op->path, on_opened, op);
    return nd_op_park(L, op);
}

static const struct nd_op_type close_type = {"db.close", sizeof(struct nd_op), NULL, NULL, NULL};

static void on_closed(void *arg)
{
    nd_op_done(arg);
}

static int db_close(lua_State *L)
{
    struct db *db = luaL_checkudata(L, 1, DB_META);
    struct nd_op *op;

    if (!db->store)
        return 0;
    op = nd_op_new(L, &close_type);
    nd_store_close(db->store, on_closed, op);
    db->store = NULL;
    return nd_op_park(L, op);
}

static int db_gc(lua_State *L)
{
    struct db *db = luaL_checkudata(L, 1, DB_META);

    if (db->store)
        nd_store_close(db->store, NULL, NULL);
    db->store = NULL;
    nd_statement_fini(&db->get);
    nd_memo_fini(&db->memo);
    return 0;
}

static const luaL_Reg methods[] = {
    {"get", db_get},         {"rows", db_rows},     {"all", db_all},
    {"write", db_write},     {"script", db_script}, {"backup", db_backup},
    {"version", db_version}, {"recall", db_recall}, {"remember", db_remember},
    {"stats", db_stats},     {"close", db_close},   {"__close", db_close},
    {"__gc", db_gc},         {NULL, NULL},
};

static const luaL_Reg functions[] = {{"open", db_open}, {"blob", db_blob}, {NULL, NULL}};

int nd_open_db(lua_State *L)
{
    luaL_newmetatable(L, BLOB_META);
    luaL_newmetatable(L, DB_META);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    luaL_newlib(L, functions);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}
