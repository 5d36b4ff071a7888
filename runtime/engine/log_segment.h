/*
 * log_segment.h - an app's log on disk: segments, files named after their first line's seq.
 *
 * A segment is a run of blocks, each a head with a checksum and a payload of records
 * (log_record.h). The segment being written, SEQ.raw, grows by one write a block, so that what a
 * killed daemon had written is there; a block that was torn is cut off when the log is opened
 * again. A full segment is sealed: written anew as SEQ.z with larger, deflated blocks, synced,
 * renamed into place, and the raw one removed.
 *
 * All functions block, and know no loop: they are called on the thread pool.
 */
#ifndef ND_ENGINE_LOG_SEGMENT_H
#define ND_ENGINE_LOG_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct nd_log_segment {
    uint64_t first;                /* seq; its name */
    uint64_t last;                 /* seq */
    int64_t first_time, last_time; /* UTC ms, the least and the most */
    size_t bytes;                  /* on disk */
    bool sealed;
    bool busy;   /* for the log: being sealed */
    bool broken; /* for the log: it could not be sealed, and stays as it is */
};

struct nd_log_block { /* what the head of a block tells */
    uint64_t first, last;
    int64_t first_time, last_time;
    uint64_t lines;
    size_t raw;          /* bytes of records */
    const char *payload; /* borrowed from the map */
    size_t stored;       /* bytes of payload */
    bool deflated;
};

/* Reads the segments of a directory, oldest first, and cuts off what is torn. Returns an owned
 * array of `*count`; -1 in `*count` and an error where that can't be done. */
struct nd_log_segment *nd_log_segment_list(const char *dir, int *count, struct nd_err *err);

/* Appends a block to a raw segment, making the file where there is none. What was written of it is
 * taken back on failure (log_disk). Updates `s`. */
int nd_log_segment_append(const char *dir, struct nd_log_segment *s, const struct nd_log_block *b,
                          struct nd_err *err);
int nd_log_segment_seal(const char *dir, struct nd_log_segment *s, struct nd_err *err);
void nd_log_segment_remove(const char *dir, uint64_t first); /* sealed or not */

/* A segment's file in memory, to be read; it stays readable when the file is removed. */
struct nd_log_map {
    const char *data; /* NULL: empty */
    size_t length;
};

int nd_log_map_open(struct nd_log_map *map, const char *dir, uint64_t first, struct nd_err *err);
void nd_log_map_close(struct nd_log_map *map);
/* The block at `*at`, which it advances; false at the end and where the bytes are none. Looks at
 * its head only: nd_log_block_records finds what is damaged, and others need not be read. */
bool nd_log_map_next(const struct nd_log_map *map, size_t *at, struct nd_log_block *block);
/* The records of a block, inflated into `room` where needed; NULL: damaged. */
const char *nd_log_block_records(const struct nd_log_block *block, struct nd_buf *room);

#endif
