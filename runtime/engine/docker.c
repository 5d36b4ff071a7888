#include "engine/docker.h"

#include <errno.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "io/http_client.h"

enum {
    ASK_TIMEOUT_MS = 10000,     /* for each question of the negotiation */
    ERROR_BODY_MAX = 64 * 1024, /* what is kept of a failed stream's answer */
    MESSAGE_MAX = 400,          /* of Docker's own words in an error */
};

#define HINT_START                                                                                 \
    "is dockerd running? try `systemctl start docker`, or name its socket with --docker-host"
#define HINT_RIGHTS "run nextdeployd as root, or as a user in the group that owns the socket"
#define HINT_LOG "see dockerd's own log: `journalctl -u docker -n 50`"

enum stage { ASK_PING, ASK_VERSION, CALL };

struct nd_docker {
    struct nd_loop *loop;
    struct nd_http *http; /* owned */
    char *socket_path;    /* owned */
    char api[16];         /* the settled version, "" while there is none */
};

struct nd_docker_req {
    struct nd_docker *docker;
    struct nd_http_transfer *transfer; /* there is always exactly one */
    struct nd_docker_call call;        /* its strings are owned */
    enum stage stage;
    int64_t deadline; /* ms, monotonic; INT64_MAX: none */
    int status;       /* of the call's answer */
    bool good;        /* the status is one of the call's */
    bool again;       /* a second attempt after a change of version */
    bool pause;
    struct nd_buf rest; /* of a stream's bad answer */
};

/* --- errors ----------------------------------------------------------------------------------- */

static int transport_error(const struct nd_docker_req *req, const struct nd_http_response *response,
                           const struct nd_err *why, struct nd_err *err)
{
    static const struct {
        const char *http, *docker, *hint;
    } codes[] = {
        {"http_connect", "docker_unreachable", HINT_START},
        {"http_closed", "docker_unreachable", HINT_LOG},
        {"http_timeout", "docker_timeout", HINT_LOG},
        {"http_too_large", "docker_too_large", ""},
        {"http_protocol", "docker_protocol", "is this the socket of a Docker Engine?"},
        {"cancelled", "cancelled", ""},
    };
    const char *code = "docker_protocol";
    const char *hint = "";

    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strcmp(why->code, codes[i].http) == 0) {
            code = codes[i].docker;
            hint = codes[i].hint;
        }
    if (response->os_errno == EACCES || response->os_errno == EPERM)
        hint = HINT_RIGHTS;
    return nd_err_set(err, code, hint, "can't %s: %s", req->call.doing, why->message);
}

/* Docker's own words from {"message": "..."}; false if the body holds none. */
static bool own_words(const struct nd_buf *body, char *out, size_t size)
{
    json_t *root = NULL;
    const char *text;

    if (body->length && body->length <= ERROR_BODY_MAX)
        root = json_loadb(body->data, body->length, 0, NULL);
    text = json_string_value(json_object_get(root, "message"));
    if (text)
        snprintf(out, size, "%s", text);
    json_decref(root);
    for (size_t n = text ? strlen(out) : 0; n && (out[n - 1] == '\n' || out[n - 1] == ' '); n--)
        out[n - 1] = '\0';
    return text != NULL;
}

static bool wrong_version(int status, const char *words)
{
    return status == 400 && strstr(words, "client version") &&
           (strstr(words, "too new") || strstr(words, "too old"));
}

static int status_error(const struct nd_docker_req *req, int status, const char *words,
                        struct nd_err *err)
{
    const char *code = "docker_protocol";
    const char *hint = "";

    if (wrong_version(status, words)) {
        code = "docker_version";
        hint = "this nextdeployd speaks Docker API " ND_DOCKER_OLDEST " to " ND_DOCKER_NEWEST
               ": upgrade the older of the two";
    } else if (status == 404) {
        code = req->call.missing ? req->call.missing : "docker_not_found";
        /* Creating a container can miss its image or something else. */
        if (strcmp(code, "image_not_found") == 0 && !strstr(words, "image") &&
            !strstr(words, "manifest") && !strstr(words, "repository"))
            code = "docker_not_found";
    } else if (status == 409) {
        code = "docker_conflict";
    } else if (status >= 400 && status < 500) {
        code = "docker_refused";
    } else if (status >= 500 && status < 600) {
        code = "docker_error";
        hint = HINT_LOG;
    }
    return nd_err_set(err, code, hint, "can't %s: %s (HTTP %d)", req->call.doing, words, status);
}

/* --- the end of a request --------------------------------------------------------------------- */

static void req_free(struct nd_docker_req *req)
{
    if (req->call.body)
        nd_zero((void *)req->call.body, req->call.body_length);
    if (req->call.auth)
        nd_zero((void *)req->call.auth, strlen(req->call.auth));
    free((void *)req->call.body);
    free((void *)req->call.auth);
    free((void *)req->call.doing);
    free((void *)req->call.method);
    free((void *)req->call.path);
    free((void *)req->call.type);
    nd_buf_fini(&req->rest);
    free(req);
}

static void end(struct nd_docker_req *req, struct nd_docker_answer *answer,
                const struct nd_err *err)
{
    req->call.on_done(req->call.arg, answer, err);
    req_free(req);
}

/* --- settling the version --------------------------------------------------------------------- */

static void send_stage(struct nd_docker_req *req, enum stage stage);

/* Reads "1.41"; 0 if it is none, else 1041. */
static int version_number(const char *text)
{
    int major = 0;
    int minor = 0;
    int used = 0;

    if (!text || sscanf(text, "%3d.%3d%n", &major, &minor, &used) != 2 || text[used] || major < 1 ||
        minor < 0)
        return 0;
    return major * 1000 + minor;
}

static int settle(struct nd_docker_req *req, const char *server, const char *least,
                  struct nd_err *err)
{
    int newest = version_number(ND_DOCKER_NEWEST);
    int number = version_number(server);

    if (!number)
        return nd_err_set(err, "docker_version", "is this the socket of a Docker Engine?",
                          "can't %s: %s does not say which version of the API it speaks",
                          req->call.doing, req->docker->socket_path);
    if (number < version_number(ND_DOCKER_OLDEST))
        return nd_err_set(err, "docker_version", "upgrade Docker to version 20.10 or newer",
                          "can't %s: this Docker speaks API %s, " ND_DOCKER_OLDEST
                          " is the oldest that works",
                          req->call.doing, server);
    if (version_number(least) > newest)
        return nd_err_set(err, "docker_version", "upgrade nextdeployd",
                          "can't %s: this Docker wants API %s or newer, and nextdeployd speaks "
                          "up to " ND_DOCKER_NEWEST,
                          req->call.doing, least);
    if (number > newest)
        number = newest;
    snprintf(req->docker->api, sizeof req->docker->api, "%d.%d", number / 1000, number % 1000);
    return 0;
}

static int settle_by_version(struct nd_docker_req *req, const struct nd_buf *body,
                             struct nd_err *err)
{
    json_t *root = body->data ? json_loadb(body->data, body->length, 0, NULL) : NULL;
    const char *server = json_string_value(json_object_get(root, "ApiVersion"));
    const char *least = json_string_value(json_object_get(root, "MinAPIVersion"));
    int rc = settle(req, server, least, err);

    json_decref(root);
    return rc;
}

static void asked(struct nd_docker_req *req, struct nd_http_response *response)
{
    struct nd_err err = {0};
    char words[MESSAGE_MAX];
    const char *server = nd_http_header(response, "api-version");
    int rc;

    if (response->status >= 300 && response->status != 404) {
        if (!own_words(&response->body, words, sizeof words))
            snprintf(words, sizeof words, "the question for its version was answered badly");
        status_error(req, response->status, words, &err);
        end(req, NULL, &err);
        return;
    }
    if (req->stage == ASK_PING && (response->status == 404 || !server)) {
        send_stage(req, ASK_VERSION);
        return;
    }
    if (req->stage == ASK_PING)
        rc = settle(req, server, NULL, &err);
    else
        rc = settle_by_version(req, &response->body, &err);
    if (rc < 0)
        end(req, NULL, &err);
    else
        send_stage(req, CALL);
}

/* --- the call --------------------------------------------------------------------------------- */

static bool accepted(const struct nd_docker_req *req, int status)
{
    if (status >= 200 && status < 300)
        return true;
    for (const int *ok = req->call.ok; ok && *ok; ok++)
        if (*ok == status)
            return true;
    return false;
}

static void on_http_headers(void *arg, const struct nd_http_response *response)
{
    struct nd_docker_req *req = arg;

    if (req->stage != CALL)
        return;
    req->status = response->status;
    req->good = accepted(req, response->status);
    if (req->good && req->call.on_open)
        req->call.on_open(req->call.arg);
}

static void on_http_data(void *arg, const char *data, size_t length)
{
    struct nd_docker_req *req = arg;

    if (req->good)
        req->call.on_data(req->call.arg, data, length);
    else if (req->rest.length + length <= ERROR_BODY_MAX)
        nd_buf_add(&req->rest, data, length);
}

static void answered(struct nd_docker_req *req, struct nd_http_response *response)
{
    struct nd_buf *body = req->call.on_data ? &req->rest : &response->body;
    const char *type = nd_http_header(response, "content-type");
    struct nd_docker_answer answer = {.status = response->status, .body = body};
    struct nd_err err = {0};
    char words[MESSAGE_MAX];

    answer.json = type && strncmp(type, "application/json", 16) == 0;
    if (accepted(req, response->status)) {
        end(req, &answer, NULL);
        return;
    }
    if (!own_words(body, words, sizeof words))
        snprintf(words, sizeof words, "an answer of type %s without a reason",
                 type ? type : "unknown");
    if (wrong_version(response->status, words)) {
        req->docker->api[0] = '\0';
        if (!req->again) {
            req->again = true;
            nd_buf_clear(&req->rest);
            send_stage(req, ASK_PING);
            return;
        }
    }
    status_error(req, response->status, words, &err);
    end(req, NULL, &err);
}

static void on_http_done(void *arg, struct nd_http_response *response, const struct nd_err *why)
{
    struct nd_docker_req *req = arg;
    struct nd_err err = {0};

    req->transfer = NULL;
    if (why) {
        if (strcmp(why->code, "http_connect") == 0 || strcmp(why->code, "http_closed") == 0)
            req->docker->api[0] = '\0';
        transport_error(req, response, why, &err);
        end(req, NULL, &err);
    } else if (req->stage == CALL) {
        answered(req, response);
    } else {
        asked(req, response);
    }
}

static int time_left(const struct nd_docker_req *req, int most)
{
    int64_t left;

    if (req->deadline == INT64_MAX)
        return most;
    left = req->deadline - nd_clock_monotonic();
    if (left < 1)
        left = 1;
    return most && left > most ? most : (int)left;
}

/* How long a question of the negotiation may take. */
static int ask_timeout(const struct nd_docker_call *call)
{
    int ms = call->head_timeout_ms;

    return ms && ms < ASK_TIMEOUT_MS ? ms : ASK_TIMEOUT_MS;
}

static void send_stage(struct nd_docker_req *req, enum stage stage)
{
    const struct nd_docker_call *call = &req->call;
    struct nd_http_request request = {.unix_path = req->docker->socket_path,
                                      .on_headers = on_http_headers,
                                      .on_done = on_http_done,
                                      .arg = req};
    const char *headers[3] = {NULL};
    char *type = NULL;
    char *auth = NULL;
    char *url = NULL;
    int count = 0;

    req->stage = stage;
    if (stage == CALL) {
        url = nd_printf("http://docker/v%s%s", req->docker->api, call->path);
        if (call->body)
            headers[count++] = type = nd_printf("Content-Type: %s", call->type);
        if (call->auth)
            headers[count++] = auth = nd_printf("X-Registry-Auth: %s", call->auth);
        request.method = call->method;
        request.body = call->body;
        request.body_length = call->body_length;
        request.secret = auth != NULL;
        request.timeout_ms = time_left(req, 0);
        request.head_timeout_ms = call->head_timeout_ms;
        request.idle_timeout_ms = call->idle_timeout_ms;
        request.max_bytes = call->on_data ? (size_t)INT64_MAX : call->max_bytes;
        request.on_data = call->on_data ? on_http_data : NULL;
    } else {
        url = nd_strdup(stage == ASK_PING ? "http://docker/_ping" : "http://docker/version");
        request.timeout_ms = time_left(req, ask_timeout(call));
    }
    request.url = url;
    request.headers = headers;
    request.connect_timeout_ms = request.timeout_ms;
    req->transfer = nd_http_start(req->docker->http, &request);
    if (stage == CALL && req->pause)
        nd_http_pause(req->transfer, true);
    if (auth)
        nd_zero(auth, strlen(auth));
    free(type);
    free(auth);
    free(url);
}

static char *copy(const char *text, const char *otherwise)
{
    return text || otherwise ? nd_strdup(text ? text : otherwise) : NULL;
}

struct nd_docker_req *nd_docker_start(struct nd_docker *d, const struct nd_docker_call *call)
{
    struct nd_docker_req *req = nd_alloc(sizeof *req);

    req->docker = d;
    req->call = *call;
    req->call.doing = copy(call->doing, "call Docker");
    req->call.method = copy(call->method, "GET");
    req->call.path = nd_strdup(call->path);
    req->call.type = copy(call->type, "application/json");
    req->call.auth = copy(call->auth, NULL);
    req->call.body = NULL;
    if (call->body) {
        void *body = nd_alloc(call->body_length + 1);

        memcpy(body, call->body, call->body_length);
        req->call.body = body;
    }
    req->deadline = call->timeout_ms ? nd_clock_monotonic() + call->timeout_ms : INT64_MAX;
    send_stage(req, d->api[0] ? CALL : ASK_PING);
    return req;
}

void nd_docker_cancel(struct nd_docker_req *req)
{
    nd_http_cancel(req->transfer);
}

void nd_docker_pause(struct nd_docker_req *req, bool stop)
{
    req->pause = stop;
    if (req->stage == CALL)
        nd_http_pause(req->transfer, stop);
}

/* --- the Engine ------------------------------------------------------------------------------- */

struct nd_docker *nd_docker_new(struct nd_loop *loop, const char *socket_path)
{
    struct nd_docker *d = nd_alloc(sizeof *d);

    d->loop = loop;
    d->http = nd_http_new(loop);
    d->socket_path = nd_strdup(socket_path);
    return d;
}

void nd_docker_free(struct nd_docker *d)
{
    if (!d)
        return;
    nd_http_free(d->http);
    free(d->socket_path);
    free(d);
}

struct nd_loop *nd_docker_loop(const struct nd_docker *d)
{
    return d->loop;
}

const char *nd_docker_socket(const struct nd_docker *d)
{
    return d->socket_path;
}

const char *nd_docker_api(const struct nd_docker *d)
{
    return d->api;
}
