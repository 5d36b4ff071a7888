/*
 * docker_stream.h - the three formats in which Docker streams: log frames, messages, progress.
 *
 * Pure parsers: bytes in, by any division, calls out; they do no I/O and hold a bounded amount of
 * memory whatever they are fed. A function that returns -1 has filled `err` (code docker_protocol
 * unless said otherwise), and the parser is not to be fed any more.
 *
 * *Frames* (Engine API, "Attach: stream format"): 8 bytes {stream, 0, 0, 0, length, big-endian},
 * then that many bytes; with a TTY there are no frames. *Messages* are JSON objects, one a line.
 * *Progress* sums up the messages of a pull, push, load or build.
 */
#ifndef ND_ENGINE_DOCKER_STREAM_H
#define ND_ENGINE_DOCKER_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum {
    ND_DOCKER_LINE_MAX = 16 * 1024,         /* bytes; longer lines come in pieces (Docker's size) */
    ND_DOCKER_FRAME_MAX = 16 * 1024 * 1024, /* bytes; dockerd writes at most 32 KiB */
    ND_DOCKER_MESSAGE_MAX = 1024 * 1024,    /* bytes */
    ND_DOCKER_LAYERS_MAX = 512,             /* an image has at most 127 */
};

enum nd_docker_stream { ND_DOCKER_STDIN, ND_DOCKER_STDOUT, ND_DOCKER_STDERR, ND_DOCKER_SYSTEM };

/* --- log frames ------------------------------------------------------------------------------- */

struct nd_docker_line {
    enum nd_docker_stream stream; /* of a TTY: stdout */
    int64_t time;                 /* UTC ms, or -1 if unknown */
    const char *text;             /* without the line's end; valid during the call */
    size_t length;
    bool cut; /* the line was too long, or its end hasn't come: it may go on with the next */
};

struct nd_docker_frames {
    bool tty;        /* raw bytes, lines end in \r\n */
    bool timestamps; /* a line begins with RFC 3339 and a space */
    bool raw;        /* no lines: what a frame brings is passed on as it comes */
    void (*on_line)(void *arg, const struct nd_docker_line *line);
    void *arg;
    unsigned char head[8]; /* private from here */
    unsigned have;         /* bytes of head */
    uint32_t left;         /* bytes of the frame still to come */
    struct nd_buf part[4]; /* a line begun, by stream */
};

int nd_docker_frames_feed(struct nd_docker_frames *f, const char *data, size_t length,
                          struct nd_err *err);
int nd_docker_frames_end(struct nd_docker_frames *f, struct nd_err *err); /* gives the last line */
void nd_docker_frames_fini(struct nd_docker_frames *f);

/* Reads RFC 3339 at the start of `text`; returns its length, or 0. */
size_t nd_docker_time(const char *text, size_t length, int64_t *ms);

/* --- messages --------------------------------------------------------------------------------- */

struct nd_docker_messages {
    /* One JSON text; -1 with `err` filled stops the stream. */
    int (*on_message)(void *arg, const char *text, size_t length, struct nd_err *err);
    void *arg;
    struct nd_buf part; /* private: a line begun */
};

int nd_docker_messages_feed(struct nd_docker_messages *m, const char *data, size_t length,
                            struct nd_err *err);
int nd_docker_messages_end(struct nd_docker_messages *m, struct nd_err *err);
void nd_docker_messages_fini(struct nd_docker_messages *m);

/* --- progress --------------------------------------------------------------------------------- */

struct nd_docker_layer {
    char id[72];
    int64_t done; /* bytes */
    int64_t total;
    bool complete;
};

struct nd_docker_progress {
    const char *doing;              /* "pull demo:1", for messages; borrowed */
    bool local;                     /* no registry is involved: errors are docker_refused */
    char text[200];                 /* where it stands, for a person */
    int64_t done;                   /* bytes over all layers; never falls */
    int64_t total;                  /* bytes over all layers known so far */
    char digest[80];                /* "sha256:..." where the stream told one */
    char result[300];               /* the image loaded ("demo:1" or an id) or built (an id) */
    bool fresh;                     /* changed since the caller last cleared it */
    struct nd_docker_layer *layers; /* private, owned */
    int count;
    int complete;
};

/* Takes in one message. -1: it reports an error (code image_not_found, registry_denied,
 * pull_failed, or docker_refused) or isn't one. */
int nd_docker_progress_add(struct nd_docker_progress *p, const char *text, size_t length,
                           struct nd_err *err);
void nd_docker_progress_fini(struct nd_docker_progress *p);

/* An error from Docker's words about a registry, as above; returns -1. */
int nd_docker_registry_error(const char *doing, const char *words, struct nd_err *err);

#endif
