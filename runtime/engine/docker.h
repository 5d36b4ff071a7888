/*
 * docker.h - one Docker Engine, through its unix socket: calls, their errors, the API's version.
 *
 * Nothing is sent until the first call. Before it the API version is settled by `GET /_ping` (0.3
 * ms;
 * `/version` makes dockerd run other programs): the lower of the server's and NEWEST. It is settled
 * again after a connection broke and after the server called our version too old or too new, in
 * which case the call, which was not acted on, is made once more.
 *
 * A call ends within its time-out, negotiation included, with one answer or one named error:
 * docker_unreachable (nobody there, or the connection broke: the outcome is unknown),
 * docker_timeout, docker_too_large, docker_protocol (not what the API documents), docker_version,
 * docker_not_found or the call's own `missing` (404), docker_conflict (409), docker_refused (other
 * 4xx), docker_error (5xx), cancelled. Messages carry Docker's own words.
 *
 * See docker_image.h for pull, push, load and build, docker_exec.h, docker_hijack.h for
 * conversations, and docker_follow.h for logs and events; the other calls differ only in path and
 * time-out (bind/docker.c has them as rows).
 */
#ifndef ND_ENGINE_DOCKER_H
#define ND_ENGINE_DOCKER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "io/loop.h"

#define ND_DOCKER_NEWEST "1.52" /* Engine 29; the newest whose documentation we followed */
#define ND_DOCKER_OLDEST "1.24" /* older ones lack what we rely on; 1.41 and up are tested */

struct nd_docker;
struct nd_docker_req; /* a call under way */

struct nd_docker_answer {
    int status;          /* HTTP status */
    bool json;           /* the body claims to be JSON */
    struct nd_buf *body; /* may be taken; empty for streams that went well */
};

struct nd_docker_call {
    const char *doing;   /* "start container web-1": what messages say can't be done */
    const char *missing; /* the code of a 404; NULL: docker_not_found */
    const char *method;  /* NULL: GET */
    const char *path;    /* encoded, with its query, without the version: "/containers/json" */
    const void *body;    /* NULL: none; copied, and zeroed after use */
    size_t body_length;
    const char *type;    /* of the body; NULL: application/json */
    const char *auth;    /* X-Registry-Auth, base64url; NULL: none; copied, zeroed after use */
    int timeout_ms;      /* for the whole call; 0: none */
    int head_timeout_ms; /* until Docker answers at all; 0: none */
    int idle_timeout_ms; /* without a byte; 0: none */
    size_t max_bytes;    /* of the answer; 0: 16 MiB; ignored for streams */
    const int *ok;       /* statuses, ended by 0, that are answers besides 200-299; may be NULL */
    void (*on_open)(void *arg);                                  /* a good head came; may be NULL */
    void (*on_data)(void *arg, const char *data, size_t length); /* set: a stream */
    /* Exactly once, never within nd_docker_start; one of `answer` and `err` is NULL. */
    void (*on_done)(void *arg, struct nd_docker_answer *answer, const struct nd_err *err);
    void *arg;
};

struct nd_docker *nd_docker_new(struct nd_loop *loop, const char *socket_path); /* returns owned */
void nd_docker_free(struct nd_docker *d); /* ends all calls with "cancelled"; NULL is fine */
struct nd_loop *nd_docker_loop(const struct nd_docker *d);
const char *nd_docker_socket(const struct nd_docker *d);
const char *nd_docker_api(const struct nd_docker *d); /* "1.41", or "" while not settled */

struct nd_docker_req *nd_docker_start(struct nd_docker *d, const struct nd_docker_call *call);
void nd_docker_cancel(struct nd_docker_req *req); /* on_done comes later, code "cancelled" */
void nd_docker_pause(struct nd_docker_req *req, bool stop);

#endif
