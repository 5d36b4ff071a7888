#include "engine/store_sum.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* FNV-1a over type, length and bytes of each value: each step is a bijection of the state, so that
 * no single changed byte goes unnoticed. Integers and reals count as their 8 bytes. */

static const uint64_t START = 14695981039346656037u;

static uint64_t sum_bytes(uint64_t sum, const void *data, size_t length)
{
    const unsigned char *bytes = data;

    for (size_t i = 0; i < length; i++)
        sum = (sum ^ bytes[i]) * 1099511628211u;
    return sum;
}

static uint64_t sum_value(uint64_t sum, enum nd_value_type type, const void *data, size_t length)
{
    unsigned char kind = (unsigned char)type;
    uint64_t size = length;

    sum = sum_bytes(sum, &kind, 1);
    sum = sum_bytes(sum, &size, sizeof size);
    return sum_bytes(sum, data, length);
}

/* As it is stored; never 0. */
static int64_t sum_end(uint64_t sum)
{
    return sum ? (int64_t)sum : 1;
}

static uint64_t sum_sqlite(uint64_t sum, sqlite3_value *value)
{
    int64_t integer;
    double real;
    const void *data;

    switch (sqlite3_value_type(value)) {
    case SQLITE_INTEGER:
        integer = sqlite3_value_int64(value);
        return sum_value(sum, ND_INTEGER, &integer, sizeof integer);
    case SQLITE_FLOAT:
        real = sqlite3_value_double(value);
        return sum_value(sum, ND_REAL, &real, sizeof real);
    case SQLITE_TEXT:
        data = sqlite3_value_text(value); /* before its length is asked for */
        return sum_value(sum, ND_TEXT, data, (size_t)sqlite3_value_bytes(value));
    case SQLITE_BLOB:
        data = sqlite3_value_blob(value);
        return sum_value(sum, ND_BLOB, data, (size_t)sqlite3_value_bytes(value));
    default:
        return sum_value(sum, ND_NULL, NULL, 0);
    }
}

static void nd_sum(sqlite3_context *context, int count, sqlite3_value **values)
{
    uint64_t sum = START;

    for (int i = 0; i < count; i++)
        sum = sum_sqlite(sum, values[i]);
    sqlite3_result_int64(context, sum_end(sum));
}

int nd_sum_register(sqlite3 *db)
{
    return sqlite3_create_function_v2(db, "nd_sum", -1,
                                      SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS, NULL,
                                      nd_sum, NULL, NULL, NULL);
}

int nd_sum_find(struct nd_rows *rows)
{
    for (int i = 0; i < rows->columns; i++)
        if (strcmp(rows->names[i], "checksum") == 0) {
            free(rows->names[i]);
            rows->names[i] = nd_strdup("damaged");
            return i;
        }
    return -1;
}

static int64_t sum_cells(const struct nd_value *cells, int count)
{
    uint64_t sum = START;

    for (int i = 0; i < count; i++) {
        const struct nd_value *cell = &cells[i];

        if (cell->type == ND_TEXT || cell->type == ND_BLOB)
            sum = sum_value(sum, cell->type, cell->bytes, cell->length);
        else
            sum = sum_value(sum, cell->type, &cell->integer,
                            cell->type == ND_NULL ? 0 : sizeof cell->integer);
    }
    return sum_end(sum);
}

void nd_sum_judge(struct nd_value *cells, int place)
{
    struct nd_value *cell = &cells[place];
    bool sound = cell->type == ND_INTEGER &&
                 (cell->integer == 0 || cell->integer == sum_cells(cells, place));

    if (cell->type == ND_TEXT || cell->type == ND_BLOB)
        free(cell->bytes);
    memset(cell, 0, sizeof *cell);
    cell->type = sound ? ND_NULL : ND_INTEGER;
    cell->integer = !sound;
}
