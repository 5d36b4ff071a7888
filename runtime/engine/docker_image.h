/*
 * docker_image.h - pull, push, load and build: the calls that Docker answers with a stream of
 * messages, errors among them.
 *
 * All are made through one operation: it sends the call, sums up the messages, reports progress at
 * most five times a second (and once at the end), and finds out what the image is called
 * afterwards.
 */
#ifndef ND_ENGINE_DOCKER_IMAGE_H
#define ND_ENGINE_DOCKER_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/docker.h"

struct nd_docker_image_op;

enum nd_docker_image_kind { ND_DOCKER_PULL, ND_DOCKER_PUSH, ND_DOCKER_LOAD, ND_DOCKER_BUILD };

struct nd_docker_image_call {
    enum nd_docker_image_kind kind;
    const char *ref;   /* one that nd_docker_ref_split accepts; for a build the tag to give, or
                          NULL; for load NULL */
    const char *query; /* more of the query, encoded ("platform=linux%2Farm64"), or NULL */
    const char *auth;  /* X-Registry-Auth, base64url, or NULL; zeroed after use */
    const void *body;  /* a tar for load and build; copied */
    size_t body_length;
    int timeout_ms;      /* for the whole; 0: none for pull and push, 10 min for load and build */
    int idle_timeout_ms; /* without a byte; 0: 60 s for pull and push, none for the others */
    void (*on_progress)(void *arg, const char *text, int64_t done, int64_t total); /* may be NULL */
    /* `name` pins the image: for a pull its repo digest ("repo@sha256:...") if there is one, else
     * its id; for a push the digest; for a load the name or id loaded; for a build the id. `id` is
     * the image's id or "". Exactly once; `err` is NULL on success. */
    void (*on_done)(void *arg, const char *name, const char *id, const struct nd_err *err);
    void *arg;
};

struct nd_docker_image_op *nd_docker_image_start(struct nd_docker *d,
                                                 const struct nd_docker_image_call *call);
void nd_docker_image_cancel(struct nd_docker_image_op *op);

/* Splits "repo[:tag][@digest]"; -1 if it is no image reference. The parts are owned by the caller;
 * the tag is "latest" where the reference has neither tag nor digest, and NULL with a digest. */
int nd_docker_ref_split(const char *ref, char **repo, char **tag, char **digest,
                        struct nd_err *err);

#endif
