/*
 * docker_follow.h - what Docker tells as long as one listens: a container's log, and its events.
 *
 * Both call on_open once Docker accepted, then give items, then on_done exactly once. A log ends
 * without an error when it is not followed or the container stopped; events never do: their end is
 * an error (docker_unreachable), upon which the caller lists anew. dockerd accepts before it
 * subscribes: whoever lists after on_open must pass `since`, which closes the gap.
 */
#ifndef ND_ENGINE_DOCKER_FOLLOW_H
#define ND_ENGINE_DOCKER_FOLLOW_H

#include "engine/docker.h"
#include "engine/docker_stream.h"

struct nd_docker_follow;

struct nd_docker_logs_call {
    const char *container; /* id or name */
    const char *query;     /* encoded: "stdout=1&stderr=1&follow=1&tail=100" */
    bool timestamps;       /* as in the query */
    int timeout_ms;        /* until Docker accepts, or for all without follow; 0: 10 s */
    bool follow;           /* as in the query */
    void (*on_open)(void *arg);
    void (*on_line)(void *arg, const struct nd_docker_line *line);
    void (*on_done)(void *arg, const struct nd_err *err);
    void *arg;
};

struct nd_docker_events_call {
    const char *query; /* encoded, or "" */
    int timeout_ms;    /* until Docker accepts; 0: 10 s */
    void (*on_open)(void *arg);
    void (*on_event)(void *arg, const char *json, size_t length);
    void (*on_done)(void *arg, const struct nd_err *err); /* err is never NULL */
    void *arg;
};

struct nd_docker_follow *nd_docker_logs_start(struct nd_docker *d,
                                              const struct nd_docker_logs_call *call);
struct nd_docker_follow *nd_docker_events_start(struct nd_docker *d,
                                                const struct nd_docker_events_call *call);
void nd_docker_follow_cancel(struct nd_docker_follow *f);
void nd_docker_follow_pause(struct nd_docker_follow *f, bool stop);

#endif
