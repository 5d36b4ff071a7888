/*
 * log_gap.h - joins what is stored of a container, what Docker's own log tells, and what its stream
 * brings, so that each line is there once.
 *
 * While nobody read the stream, Docker logged on. Its log is asked from shortly before the last
 * stored line, while the stream is open again; so its beginning overlaps with what is stored, and
 * its end with what has come by the stream. Lines have no numbers that all three know: both joins
 * are made by the lines themselves, stream by stream, where the longest overlap fits. Only among
 * lines that can't be told apart can it be wrong about how many they were.
 */
#ifndef ND_ENGINE_LOG_GAP_H
#define ND_ENGINE_LOG_GAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct nd_log_entry {
    int64_t time; /* UTC ms */
    uint64_t hash;
    size_t at, length; /* of the text, in the list's */
    bool is_stderr;
    bool known; /* the line is in another list: not to be taken from this one */
};

struct nd_log_lines {
    struct nd_log_entry *list; /* owned */
    size_t count, room;
    struct nd_buf text; /* empty in a list that is only compared with */
    bool bare;          /* keep no text */
};

void nd_log_lines_add(struct nd_log_lines *lines, int64_t time, bool is_stderr, const char *text,
                      size_t length);
void nd_log_lines_fini(struct nd_log_lines *lines);

/* Marks what `docker` tells of what is `stored`, and what is `live` of what `docker` tells. Lines
 * of `live` came after `opened` (UTC ms), when the stream was asked for. False: there are lines of
 * `live` and none of them in `docker`, so some may be missing between: Docker's log has them by
 * now. */
bool nd_log_gap_join(const struct nd_log_lines *stored, struct nd_log_lines *docker,
                     struct nd_log_lines *live, int64_t opened);

#endif
