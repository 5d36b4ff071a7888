#include "engine/memo.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { MOST = ND_MEMO_BYTES / 16 }; /* of one entry */

struct entry {
    struct nd_list link;  /* in a bucket */
    struct nd_list order; /* in nd_memo.order */
    struct nd_memo_version version;
    size_t key_length;
    size_t text_length;
    char bytes[]; /* the key, then the text */
};

static struct nd_list *bucket_of(struct nd_memo *memo, struct nd_memo_text key)
{
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (size_t i = 0; i < key.length; i++)
        hash = (hash ^ (unsigned char)key.data[i]) * 16777619u;
    return &memo->buckets[hash % ND_MEMO_BUCKETS];
}

static size_t size_of(const struct entry *e)
{
    return sizeof *e + e->key_length + e->text_length;
}

static void drop(struct nd_memo *memo, struct entry *e)
{
    memo->bytes -= size_of(e);
    nd_list_remove(&e->link);
    nd_list_remove(&e->order);
    free(e);
}

static struct entry *find(struct nd_list *bucket, struct nd_memo_text key)
{
    ND_LIST_EACH (link, bucket) {
        struct entry *e = ND_CONTAINER(link, struct entry, link);

        if (e->key_length == key.length && memcmp(e->bytes, key.data, key.length) == 0)
            return e;
    }
    return NULL;
}

void nd_memo_init(struct nd_memo *memo)
{
    memo->bytes = 0;
    nd_list_init(&memo->order);
    for (int i = 0; i < ND_MEMO_BUCKETS; i++)
        nd_list_init(&memo->buckets[i]);
}

void nd_memo_fini(struct nd_memo *memo)
{
    ND_LIST_EACH (link, &memo->order)
        drop(memo, ND_CONTAINER(link, struct entry, order));
}

struct nd_memo_text nd_memo_find(struct nd_memo *memo, struct nd_memo_text key,
                                 struct nd_memo_version version)
{
    struct entry *e = find(bucket_of(memo, key), key);

    if (!e)
        return (struct nd_memo_text){0};
    if (e->version.commits != version.commits || e->version.stamp != version.stamp) {
        drop(memo, e);
        return (struct nd_memo_text){0};
    }
    nd_list_remove(&e->order);
    nd_list_append(memo->order.next, &e->order); /* before the first */
    return (struct nd_memo_text){e->bytes + e->key_length, e->text_length};
}

void nd_memo_keep(struct nd_memo *memo, struct nd_memo_text key, struct nd_memo_version version,
                  struct nd_memo_text text)
{
    struct nd_list *bucket = bucket_of(memo, key);
    struct entry *e = find(bucket, key);

    if (e)
        drop(memo, e);
    if (sizeof *e + key.length + text.length > MOST)
        return;
    e = nd_alloc(sizeof *e + key.length + text.length);
    e->version = version;
    e->key_length = key.length;
    e->text_length = text.length;
    memcpy(e->bytes, key.data, key.length);
    memcpy(e->bytes + key.length, text.data, text.length);
    nd_list_append(bucket, &e->link);
    nd_list_append(memo->order.next, &e->order);
    memo->bytes += size_of(e);
    while (memo->bytes > ND_MEMO_BYTES)
        drop(memo, ND_CONTAINER(memo->order.prev, struct entry, order));
}
