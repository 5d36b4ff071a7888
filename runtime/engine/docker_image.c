#include "engine/docker_image.h"

#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/docker_stream.h"
#include "io/http_client.h"

enum {
    PROGRESS_EVERY_MS = 200,
    IDLE_TIMEOUT_MS = 60000,
    BODY_TIMEOUT_MS = 600000,
    INSPECT_TIMEOUT_MS = 10000,
    REF_MAX = 512,
};

struct nd_docker_image_op {
    struct nd_docker *docker;
    struct nd_docker_req *req; /* under way; NULL: on_broken comes next */
    struct nd_docker_image_call call;
    struct nd_docker_messages messages;
    struct nd_docker_progress progress;
    char *doing;         /* owned */
    char *ref;           /* owned */
    char *repo;          /* owned: the part of ref before tag and digest */
    int64_t reported_at; /* ms, monotonic */
    struct nd_err err;   /* of the stream */
};

/* --- references ------------------------------------------------------------------------------- */

static bool plain(const char *text)
{
    if (!*text || strlen(text) > REF_MAX || strstr(text, "..") || strstr(text, "//"))
        return false;
    for (const char *p = text; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-/:@+[]", *p))
            return false;
    return isalnum((unsigned char)*text) || *text == '[';
}

int nd_docker_ref_split(const char *ref, char **repo, char **tag, char **digest, struct nd_err *err)
{
    const char *at = strchr(ref, '@');
    const char *end = at ? at : ref + strlen(ref);
    const char *colon = memrchr(ref, ':', (size_t)(end - ref));
    const char *slash = memrchr(ref, '/', (size_t)(end - ref));

    *repo = *tag = *digest = NULL;
    if (colon && slash && slash > colon) /* the colon of a registry's port */
        colon = NULL;
    if (!plain(ref) || end == ref || colon == ref || (at && strncmp(at, "@sha256:", 8)) ||
        (colon && colon + 1 == end) || end[-1] == '/')
        return nd_err_set(err, "docker_refused",
                          "write it as repository:tag or repository@sha256:…",
                          "'%.100s' is not the name of an image", ref);
    *repo = nd_strndup(ref, (size_t)((colon ? colon : end) - ref));
    if (at)
        *digest = nd_strdup(at + 1);
    else
        *tag = colon ? nd_strndup(colon + 1, (size_t)(end - colon - 1)) : nd_strdup("latest");
    return 0;
}

/* --- the end ---------------------------------------------------------------------------------- */

static void end(struct nd_docker_image_op *op, const char *name, const char *id,
                const struct nd_err *err)
{
    op->call.on_done(op->call.arg, name, id, err);
    nd_docker_messages_fini(&op->messages);
    nd_docker_progress_fini(&op->progress);
    free(op->doing);
    free(op->ref);
    free(op->repo);
    free(op);
}

/* The repo digest of the image that belongs to the repository asked for, else any, else NULL. */
static const char *repo_digest(const struct nd_docker_image_op *op, json_t *image)
{
    json_t *all = json_object_get(image, "RepoDigests");
    size_t length = op->repo ? strlen(op->repo) : 0;
    const char *found = NULL;

    for (size_t i = 0; i < json_array_size(all); i++) {
        const char *entry = json_string_value(json_array_get(all, i));
        bool same =
            entry && length && strncmp(entry, op->repo, length) == 0 && entry[length] == '@';

        if (!entry || !strchr(entry, '@'))
            continue;
        if (same && (!op->progress.digest[0] || strstr(entry, op->progress.digest)))
            return entry;
        if (same || !found)
            found = entry;
    }
    return found;
}

static void on_inspected(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_docker_image_op *op = arg;
    struct nd_err bad = {0};
    json_t *image = NULL;
    const char *id;
    const char *name;

    op->req = NULL;
    if (!err) {
        image =
            json_loadb(answer->body->data ? answer->body->data : "", answer->body->length, 0, NULL);
        id = json_string_value(json_object_get(image, "Id"));
        name = repo_digest(op, image);
        if (id) {
            end(op, name ? name : id, id, NULL);
            json_decref(image);
            return;
        }
        nd_err_set(&bad, "docker_protocol", "",
                   "can't %s: Docker described the image without an Id", op->doing);
        err = &bad;
    }
    end(op, NULL, NULL, err);
    json_decref(image);
}

static void inspect(struct nd_docker_image_op *op)
{
    struct nd_buf path = {0};
    struct nd_docker_call call = {.doing = op->doing,
                                  .missing = "image_not_found",
                                  .timeout_ms = INSPECT_TIMEOUT_MS,
                                  .on_done = on_inspected,
                                  .arg = op};

    nd_buf_adds(&path, "/images/");
    nd_http_encode(&path, op->ref, strlen(op->ref), "/:@");
    nd_buf_adds(&path, "/json");
    call.path = path.data;
    op->req = nd_docker_start(op->docker, &call);
    nd_buf_fini(&path);
}

/* --- the stream ------------------------------------------------------------------------------- */

static void report(struct nd_docker_image_op *op, bool last)
{
    int64_t now;

    if (!op->progress.fresh || !op->call.on_progress)
        return;
    now = nd_clock_monotonic();
    if (!last && now - op->reported_at < PROGRESS_EVERY_MS)
        return;
    op->reported_at = now;
    op->progress.fresh = false;
    op->call.on_progress(op->call.arg, op->progress.text, op->progress.done, op->progress.total);
}

static int on_message(void *arg, const char *text, size_t length, struct nd_err *err)
{
    struct nd_docker_image_op *op = arg;
    int rc = nd_docker_progress_add(&op->progress, text, length, err);

    if (rc == 0)
        report(op, false);
    return rc;
}

static void on_data(void *arg, const char *data, size_t length)
{
    struct nd_docker_image_op *op = arg;

    if (op->err.code[0])
        return;
    if (nd_docker_messages_feed(&op->messages, data, length, &op->err) < 0)
        nd_docker_cancel(op->req);
}

/* Before the first message, what a registry refused comes as an HTTP status. */
static const struct nd_err *refusal(struct nd_docker_image_op *op, const struct nd_err *err)
{
    const char *words = strstr(err->message, ": ");
    struct nd_err better = {0};

    if (strcmp(err->code, "docker_error") && strcmp(err->code, "docker_refused") &&
        strcmp(err->code, "docker_not_found"))
        return err;
    nd_docker_registry_error(op->doing, words ? words + 2 : err->message, &better);
    if (strcmp(err->code, "docker_error") && strcmp(better.code, "pull_failed") == 0)
        return err;
    op->err = better;
    return &op->err;
}

static void on_done(void *arg, struct nd_docker_answer *answer, const struct nd_err *err)
{
    struct nd_docker_image_op *op = arg;
    const struct nd_docker_progress *p = &op->progress;

    (void)answer;
    op->req = NULL;
    if (!err)
        nd_docker_messages_end(&op->messages, &op->err);
    if (op->err.code[0])
        err = &op->err;
    if (err && op->call.kind <= ND_DOCKER_PUSH)
        err = refusal(op, err);
    if (err) {
        end(op, NULL, NULL, err);
        return;
    }
    report(op, true);
    if (op->call.kind == ND_DOCKER_PULL) {
        inspect(op);
    } else if (op->call.kind == ND_DOCKER_PUSH && p->digest[0]) {
        end(op, p->digest, "", NULL);
    } else if (op->call.kind >= ND_DOCKER_LOAD && p->result[0]) {
        end(op, p->result, p->result, NULL);
    } else {
        nd_err_set(&op->err, "docker_protocol", "",
                   "can't %s: Docker ended its answer without saying what became of it", op->doing);
        end(op, NULL, NULL, &op->err);
    }
}

static void add_param(struct nd_buf *path, const char *name, const char *value)
{
    nd_buf_adds(path, strchr(path->data, '?') ? "&" : "?");
    nd_buf_adds(path, name);
    nd_buf_adds(path, "=");
    nd_http_encode(path, value, strlen(value), "");
}

static void put_path(struct nd_docker_image_op *op, struct nd_buf *path, const char *tag,
                     const char *digest)
{
    switch (op->call.kind) {
    case ND_DOCKER_PULL:
        nd_buf_adds(path, "/images/create");
        add_param(path, "fromImage", op->repo);
        add_param(path, "tag", digest ? digest : tag);
        break;
    case ND_DOCKER_PUSH:
        nd_buf_adds(path, "/images/");
        nd_http_encode(path, op->repo, strlen(op->repo), "/:");
        nd_buf_adds(path, "/push");
        add_param(path, "tag", tag ? tag : "");
        break;
    case ND_DOCKER_LOAD:
        nd_buf_adds(path, "/images/load?quiet=1");
        break;
    case ND_DOCKER_BUILD:
        nd_buf_adds(path, "/build?forcerm=1");
        if (op->ref)
            add_param(path, "t", op->ref);
        break;
    }
    if (op->call.query && *op->call.query) {
        nd_buf_adds(path, strchr(path->data, '?') ? "&" : "?");
        nd_buf_adds(path, op->call.query);
    }
}

static void send_call(struct nd_docker_image_op *op, const char *tag, const char *digest)
{
    bool registry = op->call.kind <= ND_DOCKER_PUSH;
    struct nd_buf path = {0};
    struct nd_docker_call call = {.doing = op->doing,
                                  .missing = registry ? "image_not_found" : NULL,
                                  .method = "POST",
                                  .body = op->call.body,
                                  .body_length = op->call.body_length,
                                  .type = "application/x-tar",
                                  .auth = op->call.auth,
                                  .timeout_ms = op->call.timeout_ms,
                                  .idle_timeout_ms = op->call.idle_timeout_ms,
                                  .on_data = on_data,
                                  .on_done = on_done,
                                  .arg = op};

    if (!registry && !call.timeout_ms)
        call.timeout_ms = BODY_TIMEOUT_MS;
    if (registry && !call.idle_timeout_ms)
        call.idle_timeout_ms = IDLE_TIMEOUT_MS;
    if (op->call.kind == ND_DOCKER_PUSH && !call.auth)
        call.auth =
            "e30="; /* "{}": Docker wants the header even where the registry wants nothing */
    put_path(op, &path, tag, digest);
    call.path = path.data;
    op->req = nd_docker_start(op->docker, &call);
    nd_buf_fini(&path);
}

struct nd_docker_image_op *nd_docker_image_start(struct nd_docker *d,
                                                 const struct nd_docker_image_call *call)
{
    static const char *const verbs[] = {"pull", "push", "load", "build"};
    struct nd_docker_image_op *op = nd_alloc(sizeof *op);
    char *tag = NULL;
    char *digest = NULL;

    op->docker = d;
    op->call = *call;
    op->ref = call->ref ? nd_strdup(call->ref) : NULL;
    op->doing = nd_printf("%s %s", verbs[call->kind], call->ref ? call->ref : "an image");
    op->messages.on_message = on_message;
    op->messages.arg = op;
    op->progress.doing = op->doing;
    op->progress.local = call->kind > ND_DOCKER_PUSH;
    if (call->ref)
        nd_docker_ref_split(call->ref, &op->repo, &tag, &digest, NULL);
    send_call(op, tag, digest);
    free(tag);
    free(digest);
    return op;
}

void nd_docker_image_cancel(struct nd_docker_image_op *op)
{
    nd_docker_cancel(op->req);
}
