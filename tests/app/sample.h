/*
 * sample.h - the sample server's parts, and what its environment can make it do.
 */
#ifndef ND_TESTS_SAMPLE_H
#define ND_TESTS_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(NAME, field, default): numbers read from the environment. */
#define SAMPLE_NUMBERS(X)                                                                          \
    X(PORT, port, 8080)                                                                            \
    X(HEALTH_STATUS, health_status, 200)                                                           \
    X(HEALTH_AFTER_MS, health_after_ms, 0)       /* /health is 503 before this */                  \
    X(UNHEALTHY_AFTER_MS, unhealthy_after_ms, 0) /* ... and after this; 0: never */                \
    X(ANSWER_STATUS, answer_status, 0)           /* of all but /health and /ws; 0: as usual */     \
    X(CLOSE_DELAY_MS, close_delay_ms,                                                              \
      0) /* keep a connection open so long after its last answer */                                \
    X(START_DELAY_MS, start_delay_ms, 0) /* before listening */                                    \
    X(EXIT_AFTER_MS, exit_after_ms, 0)   /* 0: never */                                            \
    X(EXIT_CODE, exit_code, 0)           /* for EXIT_AFTER_MS, and at once when CRASH=1 */         \
    X(CRASH, crash, 0)                   /* 1: exit with EXIT_CODE before listening */             \
    X(ALLOC_MB, alloc_mb, 0)             /* touch that much memory before listening */             \
    X(IGNORE_TERM, ignore_term, 0)                                                                 \
    X(LOG_LINES, log_lines, 0)       /* print so many lines before listening */                    \
    X(LOG_REQUESTS, log_requests, 0) /* a line for each request */

struct sample {
#define X(name, field, value) long field;
    SAMPLE_NUMBERS(X)
#undef X
    const char *version; /* VERSION */
    const char *listen;  /* LISTEN: the address, default 0.0.0.0 */
    int epoll;           /* fd */
    int listener;        /* fd; -1 once stopping */
    int64_t started;     /* ms, monotonic */
    int64_t now;         /* ms, monotonic, of this turn of the loop */
    bool stopping;       /* SIGTERM was received */
    size_t connections;  /* open */
    struct conn *first;  /* all of them */
    struct conn **heap;  /* those with a deadline, the earliest first */
    size_t heap_count;
    size_t heap_size;
};

enum conn_state {
    CONN_READING, /* a request, or idle between two */
    CONN_WAITING, /* for the time to answer */
    CONN_WRITING,
    CONN_LINGER, /* answered; closes when its time comes */
    CONN_SOCKET, /* a WebSocket */
};

struct conn {
    struct conn *next, *prev;
    struct sample *app;
    int fd;
    enum conn_state state;
    int64_t due;       /* ms, monotonic: when on_due runs; meaningless when heap_index is 0 */
    size_t heap_index; /* 1-based place in the heap; 0: not in it */
    char *in;          /* received, not yet handled */
    size_t in_length, in_size;
    char *out; /* to be sent */
    size_t out_length, out_sent, out_size;
    bool close_after; /* close when `out` has been sent */
    bool wants_write; /* registered for EPOLLOUT */
    bool answered;    /* at least once: the connection is an idle keep-alive one while READING */
};

/* conn.c */
void conn_accept_all(struct sample *app);
void conn_event(struct conn *c, uint32_t events);
void conn_due(struct conn *c);
void conn_stop(struct conn *c); /* SIGTERM came: close if idle, say goodbye if a WebSocket */
void conn_add(struct conn *c, const void *data, size_t length);
void conn_addf(struct conn *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
void conn_drop(struct conn *c, size_t length); /* handled bytes of `in` */

/* heap in sample.c */
void timer_set(struct conn *c, int64_t due);
void timer_clear(struct conn *c);

/* request.c: one request from the front of `in`. False: it isn't complete yet. */
bool request_handle(struct conn *c);
void request_answer_slow(struct conn *c);
bool socket_handle(struct conn *c); /* frames of a WebSocket; false: close it */
void socket_say(struct conn *c, int opcode, const void *data, size_t length);

/* tools.c: `nd-sample env|get|cat|exit|version`, for images that hold nothing else. */
int tool_main(int argc, char **argv);

/* print.c: a process that prints `lines` lines of `bytes` bytes each, `rate` a second (0: as fast
 * as they are taken): "NANOSECONDS NUMBER xxx...", the time being CLOCK_MONOTONIC's. */
void print_beside(long lines, long rate, long bytes);

#endif
