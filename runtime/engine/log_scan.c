#include "engine/log_scan.h"

#include <stdlib.h>

#include "base/mem.h"

static bool has(const struct nd_log_scan *scan, uint64_t first, uint64_t last, int64_t first_time,
                int64_t last_time)
{
    const struct nd_log_filter *f = scan->filter;

    return last > scan->after && first <= scan->upto && last_time >= f->since &&
           (!f->until || first_time < f->until);
}

/* The next block that may hold what is asked for. */
static bool next_block(const struct nd_log_scan *scan, const struct nd_log_map *map, size_t *at,
                       struct nd_log_block *block)
{
    while (nd_log_map_next(map, at, block))
        if (has(scan, block->first, block->last, block->first_time, block->last_time))
            return true;
    return false;
}

static bool is_wanted(const struct nd_log_scan *scan, const struct nd_log_record *record)
{
    return record->seq > scan->after && record->seq <= scan->upto &&
           nd_log_filter_match(scan->filter, record);
}

/* --- the beginning of a tail ------------------------------------------------------------------ */

/* The last seqs of what matches, as many as are wanted. */
struct ring {
    uint64_t *seq; /* owned */
    uint64_t size;
    uint64_t count; /* all that matched */
};

static void match_block(const struct nd_log_scan *scan, const struct nd_log_block *block,
                        struct nd_buf *room, struct ring *ring)
{
    struct nd_log_walk walk = {.data = nd_log_block_records(block, room), .length = block->raw};
    struct nd_log_record record;

    while (walk.data && nd_log_walk_next(&walk, &record))
        if (is_wanted(scan, &record))
            ring->seq[ring->count++ % ring->size] = record.seq;
}

/* Matches of one segment go into `ring`; the blocks are read from the first. */
static void match_segment(const struct nd_log_scan *scan, int i, struct nd_buf *room,
                          struct ring *ring)
{
    struct nd_log_map map;
    struct nd_log_block block;

    if (nd_log_map_open(&map, scan->dir, scan->list[i].first, NULL) < 0)
        return;
    for (size_t at = 0; next_block(scan, &map, &at, &block);)
        match_block(scan, &block, room, ring);
    nd_log_map_close(&map);
}

/* Moves `after` to just before the last `tail` lines: from the newest segment backwards. */
static void find_tail(struct nd_log_scan *scan)
{
    struct ring ring = {.size = scan->tail};
    struct nd_buf room = {0};
    uint64_t left = scan->tail;

    ring.seq = nd_alloc(ring.size * sizeof *ring.seq);
    for (int i = scan->count; left && i-- > 0;) {
        const struct nd_log_segment *s = &scan->list[i];

        if (!has(scan, s->first, s->last, s->first_time, s->last_time))
            continue;
        ring.count = 0;
        ring.size = left;
        match_segment(scan, i, &room, &ring);
        if (ring.count >= left) {
            scan->after = ring.seq[ring.count % ring.size] - 1;
            left = 0;
        } else {
            left -= ring.count;
        }
    }
    nd_buf_fini(&room);
    free(ring.seq);
}

/* --- reading ---------------------------------------------------------------------------------- */

/* false: it has as much as is wanted. */
static bool read_block(struct nd_log_scan *scan, const struct nd_log_block *block,
                       struct nd_buf *room)
{
    struct nd_log_walk walk = {.data = nd_log_block_records(block, room), .length = block->raw};
    struct nd_log_record record;

    while (walk.data && nd_log_walk_next(&walk, &record)) {
        if (!is_wanted(scan, &record))
            continue;
        scan->after = record.seq;
        if (scan->each) {
            scan->each(scan->arg, &record);
            continue;
        }
        nd_log_frames_add(&scan->frames, &record);
        if (scan->frames.text.length >= scan->most)
            return false;
    }
    if (block->last > scan->after)
        scan->after = block->last < scan->upto ? block->last : scan->upto;
    return true;
}

static bool read_segment(struct nd_log_scan *scan, int i, struct nd_buf *room)
{
    struct nd_log_map map;
    struct nd_log_block block;
    bool more = true;

    if (nd_log_map_open(&map, scan->dir, scan->list[i].first, NULL) < 0)
        return true;
    for (size_t at = 0; more && next_block(scan, &map, &at, &block);)
        more = read_block(scan, &block, room);
    nd_log_map_close(&map);
    return more;
}

void nd_log_scan_run(struct nd_log_scan *scan)
{
    struct nd_buf room = {0};
    bool more = true;

    if (scan->tail == 0)
        scan->after = scan->upto;
    else if (scan->tail != ND_LOG_ALL)
        find_tail(scan);
    for (int i = 0; more && i < scan->count; i++) {
        const struct nd_log_segment *s = &scan->list[i];

        if (has(scan, s->first, s->last, s->first_time, s->last_time))
            more = read_segment(scan, i, &room);
    }
    nd_log_frames_end(&scan->frames);
    scan->ended = more;
    if (more)
        scan->after = scan->upto;
    nd_buf_fini(&room);
}
