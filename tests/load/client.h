/*
 * client.h - one client of the load generator, and the load as a whole.
 *
 * A client does one thing at a time, on one connection. It never retries: a request that fails is
 * counted and the next one is another request. After a failure it rests for 10 ms, so that a dead
 * server counts as some hundred failures a second and not as the speed of a loop.
 */
#ifndef ND_TESTS_CLIENT_H
#define ND_TESTS_CLIENT_H

#include <netinet/in.h>

#include "stats.h"

enum { CLIENTS_MOST = 4096, RESPONSE_MOST = 8 * 1024 * 1024 };

struct load {
    struct sockaddr_in address;
    char host[256]; /* of the Host header */
    char path[512]; /* for get and new */
    char post_path[512];
    char slow_path[512];
    char ws_path[512];
    char header[512];  /* a field of every request, with its line's end; empty: none */
    int counts[KINDS]; /* clients of each kind */
    long seconds;      /* 0: no limit but SECONDS_MOST */
    long requests;     /* 0: no limit; get, post and new together */
    long rate;         /* requests a second of all get, post and new clients; 0: full speed */
    long timeout_ms;   /* of a request; slow ones get slow_ms more */
    long slow_ms;
    long body_bytes; /* of a POST */
    bool check_body; /* a GET's body must be its X-Version and a newline */
    int epoll;
    long issued;    /* requests begun (get, post, new) */
    int busy;       /* clients with a request in flight */
    bool finishing; /* nothing new is begun */
    struct client *clients;
    int clients_count;
    uint64_t wake[CLIENTS_MOST]; /* ns, monotonic, by client: when client_due runs; 0: never */
    struct stats stats;
};

enum client_state { CLIENT_RESTING, CLIENT_CONNECTING, CLIENT_ASKING, CLIENT_KEPT, CLIENT_SOCKET };

struct client {
    struct load *load;
    int number;
    enum kind kind;
    enum client_state state;
    int fd;          /* -1: none */
    uint64_t begun;  /* ns, monotonic: when the request began (or should have, with a rate) */
    uint64_t next;   /* ns, monotonic: when the next one should begin, with a rate */
    uint64_t opened; /* ns: when the WebSocket opened */
    long serial;     /* of its requests or WebSocket messages */
    char *out;       /* the request */
    size_t out_length, out_sent, out_size;
    const char *body; /* in `out`: what was posted */
    size_t body_length;
    char *in; /* the answer so far */
    size_t in_length, in_size;
    char version[64]; /* the last X-Version seen */
};

void client_event(struct client *c, uint32_t events);
void client_due(struct client *c);
void client_finish(struct client *c); /* the run ends: close what is idle */
void client_free(struct client *c);   /* counts a request in flight as unfinished */

/* answer.c: what has arrived of an HTTP answer. */
struct answer {
    int status;
    bool whole;       /* all of it is there */
    bool until_close; /* ends with the connection */
    bool close;       /* the connection ends after it */
    bool malformed;
    bool upgraded; /* a good 101 */
    char version[64];
    const char *body; /* joined, in `body_buffer` when it was chunked */
    size_t body_length;
    size_t length; /* of the answer in the input, when whole */
};
/* `in` is NUL-terminated; chunked bodies are joined in place once whole. */
void answer_read(char *in, size_t length, struct answer *a);

#endif
