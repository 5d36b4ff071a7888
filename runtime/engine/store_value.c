#include "engine/store_value.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void nd_statement_init(struct nd_statement *st, const char *sql, size_t sql_length)
{
    memset(st, 0, sizeof *st);
    st->sql = nd_strndup(sql, sql_length);
    st->expect = -1;
}

static struct nd_value *add_param(struct nd_statement *st, enum nd_value_type type)
{
    struct nd_value *value;

    st->params = nd_realloc(st->params, (size_t)(st->count + 1) * sizeof *st->params);
    value = &st->params[st->count++];
    memset(value, 0, sizeof *value);
    value->type = type;
    return value;
}

static void add_bytes(struct nd_statement *st, enum nd_value_type type, const void *data, size_t n)
{
    struct nd_value *value = add_param(st, type);

    value->bytes = nd_alloc(n + 1);
    value->length = n;
    if (n)
        memcpy(value->bytes, data, n);
}

void nd_statement_null(struct nd_statement *st)
{
    add_param(st, ND_NULL);
}

void nd_statement_integer(struct nd_statement *st, int64_t value)
{
    add_param(st, ND_INTEGER)->integer = value;
}

void nd_statement_real(struct nd_statement *st, double value)
{
    add_param(st, ND_REAL)->real = value;
}

void nd_statement_text(struct nd_statement *st, const char *text, size_t length)
{
    add_bytes(st, ND_TEXT, text, length);
}

void nd_statement_blob(struct nd_statement *st, const void *data, size_t length)
{
    add_bytes(st, ND_BLOB, data, length);
}

void nd_statement_fini(struct nd_statement *st)
{
    for (int i = 0; i < st->count; i++)
        free(st->params[i].bytes);
    free(st->params);
    free(st->sql);
    nd_rows_fini(&st->rows);
    memset(st, 0, sizeof *st);
}

void nd_rows_fini(struct nd_rows *rows)
{
    for (size_t i = 0; i < rows->count * (size_t)rows->columns; i++)
        free(rows->cells[i].bytes);
    for (int i = 0; i < rows->columns; i++)
        free(rows->names[i]);
    free(rows->cells);
    free(rows->names);
    memset(rows, 0, sizeof *rows);
}

const struct nd_value *nd_rows_at(const struct nd_rows *rows, size_t row, const char *name)
{
    if (row >= rows->count)
        return NULL;
    for (int i = 0; i < rows->columns; i++)
        if (strcmp(rows->names[i], name) == 0)
            return &rows->cells[row * (size_t)rows->columns + (size_t)i];
    return NULL;
}
