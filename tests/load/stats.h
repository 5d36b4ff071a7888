/*
 * stats.h - what the load generator counts.
 *
 * Latencies go into log-linear histograms (64 steps an octave: 1.6 % wide), one a kind for the
 * whole run and one for the running second. Everything is bounded: versions, seconds, cuts and
 * failures beyond the tables are counted but not listed.
 */
#ifndef ND_TESTS_STATS_H
#define ND_TESTS_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* X(name, what it does) */
#define LOAD_KINDS(X)                                                                              \
    X(get, "GET, keep-alive")                                                                      \
    X(post, "POST, keep-alive")                                                                    \
    X(new, "GET, new connection")                                                                  \
    X(slow, "slow GET")                                                                            \
    X(ws, "WebSocket")

enum kind {
#define X(name, text) KIND_##name,
    LOAD_KINDS(X)
#undef X
        KINDS
};

/* X(name): why a request failed. */
#define LOAD_CAUSES(X)                                                                             \
    X(refused)                                                                                     \
    X(connect_timeout)                                                                             \
    X(no_port)        /* every local port is taken: too many connections in TIME_WAIT */           \
    X(connect_failed) /* unreachable, ... */                                                       \
    X(reset)                                                                                       \
    X(closed) /* the connection ended before any byte of the answer */                             \
    X(short)  /* ... within the answer */                                                          \
    X(timeout)                                                                                     \
    X(status_5xx)                                                                                  \
    X(status_other) /* neither 2xx nor 5xx */                                                      \
    X(wrong_body)                                                                                  \
    X(protocol)                                                                                    \
    X(handshake) /* of a WebSocket: an answer other than a good 101 */

enum cause {
#define X(name) CAUSE_##name,
    LOAD_CAUSES(X)
#undef X
        CAUSES
};

extern const char *const kind_names[KINDS];
extern const char *const kind_texts[KINDS];
extern const char *const cause_names[CAUSES];

enum {
    BUCKETS = 22 * 64,
    VERSIONS_MOST = 1024,
    SECONDS_MOST = 7200,
    CUTS_MOST = 20000,
    FAILURES_MOST = 500
};

struct histogram {
    uint64_t count;
    uint64_t max; /* µs */
    uint32_t bucket[BUCKETS];
};

struct version {
    char name[64];
    uint64_t answers;
    int64_t first, last; /* ms, wall: of its first and last answer */
};

struct second {
    uint32_t ok, failed;
    uint32_t p50, p99, max; /* µs, of get, post and new */
};

struct cut {
    int64_t at;  /* ms, wall */
    int64_t age; /* ms the WebSocket had been open */
    int code;    /* close code; 0: end of stream, -1: reset, -2: silent too long */
    char version[64];
};

struct failure {
    int64_t at; /* ms, wall */
    enum kind kind;
    enum cause cause;
    int status; /* of HTTP, or 0 */
};

struct stats {
    int64_t started, ended; /* ms, wall */
    uint64_t ok[KINDS];
    uint64_t failed[KINDS];
    uint64_t causes[KINDS][CAUSES];
    uint64_t unfinished; /* requests still in flight when the run ended; neither ok nor failed */
    uint64_t reconnects; /* keep-alive connections that the server closed between requests */
    struct histogram latency[KINDS];
    struct histogram of_second;
    struct second seconds[SECONDS_MOST];
    size_t seconds_count;
    uint32_t second_ok, second_failed;
    struct version versions[VERSIONS_MOST];
    size_t versions_count;
    struct cut cuts[CUTS_MOST];
    uint64_t cuts_count; /* also those that found no room */
    uint64_t ws_messages;
    struct failure failures[FAILURES_MOST];
    uint64_t last_ok; /* ns, monotonic: the last good answer of get, post or new; 0: none yet */
    uint64_t gap;     /* ns: the longest time without one */
    int64_t gap_at;   /* ms, wall: when it ended */
};

void stats_ok(struct stats *s, enum kind kind, uint64_t nanos, const char *version);
void stats_failed(struct stats *s, enum kind kind, enum cause cause, int status);
void stats_cut(struct stats *s, int code, int64_t age, const char *version);
void stats_second(struct stats *s); /* ends the running second */
void stats_end(struct stats *s);    /* no more requests: an outage until now is a gap too */
uint64_t stats_total_failed(const struct stats *s);
uint64_t histogram_at(const struct histogram *h, double quantile); /* µs */

void report_text(const struct stats *s, FILE *out);
void report_json(const struct stats *s, FILE *out);

int64_t wall_ms(void);
uint64_t now_ns(void);

#endif
