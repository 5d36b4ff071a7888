/*
 * log_record.h - lines of an app's log in memory: as bytes that are stored, and as JSON.
 *
 * A run of bytes holds records one after the other, each a head of fixed size and a text. Lines
 * name the container they come from by a small number, which a record of its own has explained
 * before in the same run; so a run can be read without anything else, and runs can be joined.
 *
 * `seq` numbers an app's lines, without gaps but for lines that were lost before they could be
 * stored: these take numbers too, and a record tells how many they were.
 */
#ifndef ND_ENGINE_LOG_RECORD_H
#define ND_ENGINE_LOG_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum {
    ND_LOG_LINE_MAX = 8 * 1024, /* bytes of one line; a longer one is stored as several */
    ND_LOG_FRAME_MAX =
        64 * 1024,             /* bytes of JSON told at once; the longest line fits (6 x 8 KiB) */
    ND_LOG_INSTANCE_MAX = 512, /* bytes of an instance's name */
};

enum nd_log_kind { ND_LOG_LINE = 1, ND_LOG_SOURCE, ND_LOG_LOST };

struct nd_log_record {
    enum nd_log_kind kind;
    bool is_stderr;
    uint16_t source; /* number of the container, within this run of records */
    int64_t time;    /* UTC ms */
    uint64_t seq;
    const char *text; /* not terminated; of a LOST record none */
    size_t length;
    uint64_t lost;        /* of a LOST record: how many lines, the last being `seq` */
    int64_t release;      /* from here on of the container */
    const char *instance; /* not terminated */
    size_t instance_length;
};

/* Appends a record to a run; of a SOURCE record only source, release and instance count. */
void nd_log_record_add(struct nd_buf *run, const struct nd_log_record *record);

/* Walks a run, which it borrows. The zeroed struct with `data` and `length` set is a beginning. */
struct nd_log_walk {
    const char *data;
    size_t length;
    size_t at;
    size_t source_at[64]; /* private: where explanations are, by number modulo 64, +1; 0: none */
};

/* The next LINE or LOST record; false at the end, or where the bytes are none. */
bool nd_log_walk_next(struct nd_log_walk *walk, struct nd_log_record *record);

/* What of a log is asked for. The zeroed one lets all pass. */
struct nd_log_filter {
    uint64_t after;  /* seq: only later ones */
    int64_t since;   /* UTC ms, inclusive; 0: any */
    int64_t until;   /* UTC ms, exclusive; 0: any */
    int64_t release; /* 0: any */
    char *instance;  /* owned; its whole name or what follows a '-' in it; NULL: any */
    char *grep;      /* owned; a text that the line contains, as it is; NULL: any */
};

void nd_log_filter_fini(struct nd_log_filter *filter);
bool nd_log_filter_is_open(const struct nd_log_filter *filter); /* nothing but `after` is set */
bool nd_log_filter_match(const struct nd_log_filter *filter, const struct nd_log_record *record);

/* Tells records as frames: JSON objects, one or an array of them, at most ND_LOG_FRAME_MAX bytes
 * each, one after the other in `text`. */
struct nd_log_frame {
    size_t at, length; /* in text */
    uint64_t lines;    /* in it, those that it tells to be lost included */
    uint64_t last;     /* seq */
};

struct nd_log_frames {
    const char *app; /* borrowed: the app's name */
    struct nd_buf text;
    struct nd_log_frame *list; /* owned */
    size_t count;
    size_t room;        /* private from here: entries allocated */
    struct nd_buf item; /* one object */
    struct nd_buf head; /* the part of an object between seq and line, and whose it is */
    int64_t head_time, head_release;
    uint16_t head_source;
    bool head_stderr, array;
};

void nd_log_frames_add(struct nd_log_frames *frames, const struct nd_log_record *record);
void nd_log_frames_end(struct nd_log_frames *frames); /* before the list is looked at */
void nd_log_frames_clear(struct nd_log_frames *frames);
void nd_log_frames_fini(struct nd_log_frames *frames);

/* Appends `text` as it may stand within a JSON string; what isn't UTF-8 becomes U+FFFD. */
void nd_log_json_text(struct nd_buf *out, const char *text, size_t length);

#endif
