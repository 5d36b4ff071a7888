/*
 * memo.h - texts made from the database's rows, kept until the rows change.
 *
 * What is asked often and changes seldom (an app's status, whose a token is) is made once and kept
 * under a key with the version of what it was made from. A text whose version isn't the present one
 * is not found: nothing has to be told what a change concerns. Least recently used ones go first.
 */
#ifndef ND_ENGINE_MEMO_H
#define ND_ENGINE_MEMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

enum { ND_MEMO_BUCKETS = 256, ND_MEMO_BYTES = 1024 * 1024 /* of keys and texts, at most */ };

struct nd_memo {
    struct nd_list buckets[ND_MEMO_BUCKETS];
    struct nd_list order; /* of all entries, the most recently used first */
    size_t bytes;         /* of keys and texts */
};

struct nd_memo_text {
    const char *data; /* NULL: there is none; valid until the next call */
    size_t length;
};

/* Of what a text was made: the store's commits, and whatever else its maker counts. */
struct nd_memo_version {
    uint64_t commits;
    int64_t stamp;
};

void nd_memo_init(struct nd_memo *memo);
void nd_memo_fini(struct nd_memo *memo);
struct nd_memo_text nd_memo_find(struct nd_memo *memo, struct nd_memo_text key,
                                 struct nd_memo_version version);
void nd_memo_keep(struct nd_memo *memo, struct nd_memo_text key, struct nd_memo_version version,
                  struct nd_memo_text text); /* copies both */

#endif
