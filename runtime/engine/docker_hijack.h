/*
 * docker_hijack.h - a call that Docker turns into a conversation: bytes go both ways until the end.
 *
 * For exec (and attach) with input. The request asks for an upgrade on a connection of its own;
 * once Docker agrees, what it sends is unpacked from its frames (docker_stream.h) and what is
 * written goes to the command's stdin. Call it after another call has settled the API's version.
 */
#ifndef ND_ENGINE_DOCKER_HIJACK_H
#define ND_ENGINE_DOCKER_HIJACK_H

#include "engine/docker.h"
#include "engine/docker_stream.h"

struct nd_docker_hijack;

struct nd_docker_hijack_call {
    const char *doing; /* "run a command in web-1"; copied */
    const char *path;  /* without the version; copied */
    const char *body;  /* JSON; copied */
    bool tty;          /* no frames */
    void (*on_open)(void *arg);
    void (*on_data)(void *arg, enum nd_docker_stream stream, const char *data, size_t length);
    /* Exactly once, never within nd_docker_hijack_start; NULL: the other side has ended it. */
    void (*on_done)(void *arg, const struct nd_err *err);
    void *arg;
};

struct nd_docker_hijack *nd_docker_hijack_start(struct nd_docker *d,
                                                const struct nd_docker_hijack_call *call);

/* Copies the data. `on_written` (may be NULL) is called once, also where it can't be written. */
void nd_docker_hijack_write(struct nd_docker_hijack *h, const void *data, size_t length,
                            void (*on_written)(void *arg), void *arg);
void nd_docker_hijack_finish(struct nd_docker_hijack *h); /* no more input: stdin ends */
void nd_docker_hijack_pause(struct nd_docker_hijack *h, bool stop);
void nd_docker_hijack_cancel(struct nd_docker_hijack *h); /* on_done comes later, "cancelled" */

#endif
