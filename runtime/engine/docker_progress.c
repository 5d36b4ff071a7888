/*
 * docker_progress.c - what a pull, push, load or build says about itself, summed up.
 *
 * The messages are meant for a terminal: a line of text, or a layer's id with its state and bytes.
 * Layers are told apart by id; what was downloaded counts, unpacking is only mentioned.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "engine/docker_stream.h"

static const char *string_of(json_t *root, const char *name)
{
    const char *text = json_string_value(json_object_get(root, name));

    return text && *text ? text : NULL;
}

int nd_docker_registry_error(const char *doing, const char *words, struct nd_err *err)
{
    static const struct {
        const char *words, *code, *hint;
    } kinds[] = {
        /* The Hub says "denied" of what does not exist: the more likely reason goes first. */
        {"repository does not exist", "image_not_found",
         "check the name; for a private image: ndctl registry login HOST"},
        {"manifest unknown", "image_not_found", "check the tag or digest"},
        {"not found", "image_not_found", "check the name and the tag"},
        {"no such image", "image_not_found", "check the name and the tag"},
        {"name unknown", "image_not_found", "check the name and the tag"},
        {"unauthorized", "registry_denied", "ndctl registry login HOST stores credentials for it"},
        {"authentication required", "registry_denied", "ndctl registry login HOST stores them"},
        {"no basic auth", "registry_denied", "ndctl registry login HOST stores credentials for it"},
        {"denied", "registry_denied", "ndctl registry list shows whose credentials are used"},
        {"no space left", "pull_failed", "free disk space: `docker system df` shows what uses it"},
        {"", "pull_failed", "can this host reach the registry? `docker pull` on it tells more"},
    };
    size_t i = 0;

    while (kinds[i].words[0] && !strcasestr(words, kinds[i].words))
        i++;
    return nd_err_set(err, kinds[i].code, kinds[i].hint, "can't %s: %.400s", doing, words);
}

static struct nd_docker_layer *layer_of(struct nd_docker_progress *p, const char *id)
{
    struct nd_docker_layer *layer;

    for (int i = 0; i < p->count; i++)
        if (strcmp(p->layers[i].id, id) == 0)
            return &p->layers[i];
    if (p->count == ND_DOCKER_LAYERS_MAX || strlen(id) >= sizeof layer->id)
        return NULL;
    if (!p->layers)
        p->layers = nd_alloc(ND_DOCKER_LAYERS_MAX * sizeof *p->layers);
    layer = &p->layers[p->count++];
    snprintf(layer->id, sizeof layer->id, "%s", id);
    return layer;
}

static bool ends_layer(const char *status)
{
    static const char *const ends[] = {"Pull complete", "Already exists", "Pushed",
                                       "Layer already exists"};

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (strcmp(status, ends[i]) == 0)
            return true;
    return strncmp(status, "Mounted from", 12) == 0;
}

static void sum_up(struct nd_docker_progress *p, const char *status)
{
    int64_t done = 0;
    int64_t total = 0;

    for (int i = 0; i < p->count; i++) {
        done += p->layers[i].done;
        total += p->layers[i].total;
    }
    if (done > p->done)
        p->done = done;
    if (total > p->total)
        p->total = total;
    snprintf(p->text, sizeof p->text, "%.80s, %d of %d layers complete", status, p->complete,
             p->count);
}

static int64_t bytes_of(json_t *detail, const char *name)
{
    int64_t value = json_integer_value(json_object_get(detail, name));

    /* 2^50 bytes: what a lie could add up to stays an integer. */
    return value < 0 || value > ((int64_t)1 << 50) ? 0 : value;
}

static void add_layer(struct nd_docker_progress *p, const char *id, const char *status,
                      json_t *detail)
{
    struct nd_docker_layer *layer;

    /* "Pulling from library/x" has the tag as its id. */
    if (strncmp(status, "Pulling from", 12) == 0) {
        snprintf(p->text, sizeof p->text, "%.150s", status);
        return;
    }
    layer = layer_of(p, id);
    if (!layer)
        return;
    if (strcmp(status, "Downloading") == 0 || strcmp(status, "Pushing") == 0) {
        layer->done = bytes_of(detail, "current");
        layer->total = bytes_of(detail, "total");
        if (layer->done > layer->total)
            layer->total = layer->done;
    } else if (strcmp(status, "Download complete") == 0) {
        layer->done = layer->total;
    } else if (ends_layer(status) && !layer->complete) {
        layer->done = layer->total;
        layer->complete = true;
        p->complete++;
    }
    sum_up(p, status);
}

static void add_text(struct nd_docker_progress *p, const char *text)
{
    static const char *const loaded[] = {"Loaded image ID: ", "Loaded image: "};
    int length = (int)strcspn(text, "\r\n");
    const char *digest = strstr(text, "sha256:");

    if (!length)
        return;
    snprintf(p->text, sizeof p->text, "%.*s", length > 190 ? 190 : length, text);
    if (strncmp(text, "Digest: ", 8) == 0 && digest)
        snprintf(p->digest, sizeof p->digest, "%.71s", digest);
    for (size_t i = 0; i < sizeof loaded / sizeof *loaded; i++) {
        size_t prefix = strlen(loaded[i]);

        if (strncmp(text, loaded[i], prefix) == 0)
            snprintf(p->result, sizeof p->result, "%.*s", length - (int)prefix, text + prefix);
    }
}

static void add_aux(struct nd_docker_progress *p, json_t *aux)
{
    const char *id = string_of(aux, "ID");
    const char *digest = string_of(aux, "Digest");

    if (id)
        snprintf(p->result, sizeof p->result, "%s", id);
    if (digest)
        snprintf(p->digest, sizeof p->digest, "%s", digest);
}

int nd_docker_progress_add(struct nd_docker_progress *p, const char *text, size_t length,
                           struct nd_err *err)
{
    json_error_t why;
    json_t *root = json_loadb(text, length, 0, &why);
    const char *id = string_of(root, "id");
    const char *status = string_of(root, "status");
    const char *stream = string_of(root, "stream");
    const char *failed;
    int rc = 0;

    if (!json_is_object(root)) {
        json_decref(root);
        return nd_err_set(err, "docker_protocol", "",
                          "can't %s: Docker sent a message that is no "
                          "JSON object: %.60s",
                          p->doing, text);
    }
    failed = string_of(json_object_get(root, "errorDetail"), "message");
    if (!failed)
        failed = string_of(root, "error");
    if (!failed && json_object_get(root, "errorDetail"))
        failed = "an error without words";
    if (failed && p->local)
        rc = nd_err_set(err, "docker_refused", "", "can't %s: %.400s", p->doing, failed);
    else if (failed)
        rc = nd_docker_registry_error(p->doing, failed, err);
    else if (id && status)
        add_layer(p, id, status, json_object_get(root, "progressDetail"));
    else if (status || stream)
        add_text(p, status ? status : stream);
    add_aux(p, json_object_get(root, "aux"));
    p->fresh = true;
    json_decref(root);
    return rc;
}

void nd_docker_progress_fini(struct nd_docker_progress *p)
{
    free(p->layers);
    p->layers = NULL;
}
