/*
 * store_sum.h - checksums of rows: what SQLite reads back is what was written, or it is told.
 *
 * A table may have a last column `checksum`; lua/nd/store_sums.lua has triggers write nd_sum(all
 * columns before it) there. A result whose first columns are such a table's (SELECT *, SELECT t.*)
 * then has a column `damaged` in its place: 1 where the row is not what was written, else NULL.
 * A checksum of 0 is a person's word that the row is right.
 *
 * It finds what a failing disk does, not what somebody does who knows it.
 */
#ifndef ND_ENGINE_STORE_SUM_H
#define ND_ENGINE_STORE_SUM_H

#include <sqlite3.h>

#include "engine/store_value.h"

/* Adds the SQL function nd_sum(value, ...) to a connection; returns SQLite's result code. */
int nd_sum_register(sqlite3 *db);

/* The place of `checksum` among the columns, -1 where there is none; the column is then `damaged`.
 */
int nd_sum_find(struct nd_rows *rows);
/* Makes of a row's checksum, in the cell at `place`, what it says about the cells before. */
void nd_sum_judge(struct nd_value *cells, int place);

#endif
