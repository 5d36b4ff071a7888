/*
 * store_value.h - what goes into the store and comes out: values, statements, rows.
 *
 * SQLite's five storage classes are kept as they are: an integer stays one, TEXT and BLOB stay
 * apart. Everything here is plain owned memory, built on the loop, filled on a store thread and
 * read on the loop again; only one thread has it at a time.
 */
#ifndef ND_ENGINE_STORE_VALUE_H
#define ND_ENGINE_STORE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum nd_value_type { ND_NULL, ND_INTEGER, ND_REAL, ND_TEXT, ND_BLOB };

struct nd_value {
    enum nd_value_type type;
    union {
        int64_t integer;
        double real;
    };
    char *bytes;   /* owned; of TEXT and BLOB, followed by a NUL that isn't counted */
    size_t length; /* of bytes */
};

struct nd_rows {
    char **names;           /* owned; one for each column */
    int columns;            /* how many */
    int checksum;           /* the place of that column among them; -1: none */
    struct nd_value *cells; /* owned; count * columns, row by row */
    size_t count;           /* rows */
    size_t capacity;        /* cells allocated */
};

/* One SQL statement with its positional parameters, and, once it ran, what it brought. */
struct nd_statement {
    char *sql;               /* owned */
    struct nd_value *params; /* owned */
    int count;               /* of params */
    int64_t expect;          /* rows that must change (or, for a query, come back); -1: any */

    int64_t changes;     /* result: rows changed; for a query: rows that came back */
    int64_t id;          /* result: the rowid last inserted on this connection */
    struct nd_rows rows; /* result: of a query or RETURNING */
};

void nd_statement_init(struct nd_statement *st, const char *sql, size_t sql_length);
void nd_statement_fini(struct nd_statement *st);
void nd_statement_null(struct nd_statement *st);
void nd_statement_integer(struct nd_statement *st, int64_t value);
void nd_statement_real(struct nd_statement *st, double value);
void nd_statement_text(struct nd_statement *st, const char *text, size_t length); /* copies */
void nd_statement_blob(struct nd_statement *st, const void *data, size_t length); /* copies */

void nd_rows_fini(struct nd_rows *rows);
/* The cell of row `row` in the column `name`; NULL if there is none. Valid until nd_rows_fini. */
const struct nd_value *nd_rows_at(const struct nd_rows *rows, size_t row, const char *name);

#endif
