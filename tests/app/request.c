/*
 * request.c - what the sample server answers.
 *
 *   /              "VERSION\n"                    /echo     the body back (POST)
 *   /health        HEALTH_STATUS, or 503          /slow     after ?ms=, chunked
 *   /ws            WebSocket: echoes frames, says the version once a second
 *   /size?bytes=N  N bytes                        /status?code=N
 *   /env?name=N    that variable                  /head     the request's own head
 *   /peer          the client's address           /log?lines=N  prints so many lines
 *   /stall         never answers                  /crash    ends the process (exit 3)
 *   /print?lines=N&rate=R&bytes=B  prints beside its other work (print.c)
 *
 * Every answer carries X-Version. Bodies are taken by Content-Length or chunked.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../load/wsframe.h"
#include "sample.h"

enum { HEAD_MOST = 32 * 1024, BODY_MOST = 1024 * 1024, FRAME_MOST = 1024 * 1024 };

struct request {
    char *head; /* NUL-terminated copy of request line and headers */
    char method[16];
    char path[256];    /* without the query */
    const char *query; /* in `head`'s request line copy below; "" when there is none */
    char target[2048];
    char *body; /* in the connection's buffer, chunks already joined */
    size_t body_length;
    size_t whole; /* bytes of `in` that the request takes */
    bool close;   /* the client wants it, or HTTP/1.0 */
};

/* The value of a header (name with its colon, any case) copied to `out`; false if there is none. */
static bool header(const struct request *r, const char *name, char *out, size_t size)
{
    size_t length = strlen(name);

    for (const char *p = strstr(r->head, "\r\n"); p != NULL; p = strstr(p, "\r\n")) {
        p += 2;
        if (strncasecmp(p, name, length) != 0)
            continue;
        p += length;
        p += strspn(p, " \t");
        snprintf(out, size, "%.*s", (int)strcspn(p, "\r"), p);
        return true;
    }
    return false;
}

/* The number of a query parameter such as "ms=", or `value`. */
static long parameter(const struct request *r, const char *name, long value)
{
    const char *p = strstr(r->query, name);

    return p != NULL ? strtol(p + strlen(name), NULL, 10) : value;
}

static void begin(struct conn *c, int status, const char *type)
{
    const char *reason = status == 200   ? "OK"
                         : status == 404 ? "Not Found"
                         : status == 503 ? "Service Unavailable"
                                         : "Status";

    conn_addf(c, "HTTP/1.1 %d %s\r\nServer: nd-sample\r\nX-Version: %s\r\nContent-Type: %s\r\n",
              status, reason, c->app->version, type);
    if (c->close_after)
        conn_addf(c, "Connection: close\r\n");
}

static void answer(struct conn *c, int status, const void *body, size_t length)
{
    begin(c, status, "text/plain");
    conn_addf(c, "Content-Length: %zu\r\n\r\n", length);
    conn_add(c, body, length);
    c->state = CONN_WRITING;
}

static void answer_text(struct conn *c, int status, const char *text)
{
    answer(c, status, text, strlen(text));
}

static void on_root(struct conn *c, struct request *r)
{
    char text[128];

    (void)r;
    snprintf(text, sizeof text, "%s\n", c->app->version);
    answer_text(c, 200, text);
}

static void on_health(struct conn *c, struct request *r)
{
    const struct sample *app = c->app;
    int64_t age = app->now - app->started;

    (void)r;
    if (age < app->health_after_ms)
        answer_text(c, 503, "not yet\n");
    else if (app->unhealthy_after_ms > 0 && age > app->unhealthy_after_ms)
        answer_text(c, 503, "no more\n");
    else
        answer_text(c, (int)app->health_status, app->health_status == 200 ? "ok\n" : "ill\n");
}

static void on_echo(struct conn *c, struct request *r)
{
    answer(c, 200, r->body, r->body_length);
}

static void on_slow(struct conn *c, struct request *r)
{
    c->state = CONN_WAITING;
    timer_set(c, c->app->now + parameter(r, "ms=", 3000));
}

void request_answer_slow(struct conn *c)
{
    begin(c, 200, "text/plain");
    conn_addf(c, "Transfer-Encoding: chunked\r\n\r\n");
    conn_addf(c, "%zx\r\n%s\r\n", strlen(c->app->version), c->app->version);
    conn_addf(c, "1\r\n\n\r\n0\r\n\r\n");
    c->state = CONN_WRITING;
}

static void on_size(struct conn *c, struct request *r)
{
    long n = parameter(r, "bytes=", 1024);
    char *body = n >= 0 && n <= 64 * 1024 * 1024 ? malloc((size_t)n + 1) : NULL;

    if (body == NULL) {
        answer_text(c, 400, "bytes=0…67108864\n");
        return;
    }
    memset(body, 'x', (size_t)n);
    answer(c, 200, body, (size_t)n);
    free(body);
}

static void on_status(struct conn *c, struct request *r)
{
    answer_text(c, (int)parameter(r, "code=", 200), "as asked\n");
}

static void on_env(struct conn *c, struct request *r)
{
    const char *name = strstr(r->query, "name=");
    const char *value = name != NULL ? getenv(name + 5) : NULL;

    answer_text(c, value != NULL ? 200 : 404, value != NULL ? value : "not set\n");
}

static void on_head(struct conn *c, struct request *r)
{
    answer_text(c, 200, r->head);
}

static void on_peer(struct conn *c, struct request *r)
{
    struct sockaddr_in peer = {0};
    socklen_t length = sizeof peer;
    char text[64];

    (void)r;
    getpeername(c->fd, (struct sockaddr *)&peer, &length);
    snprintf(text, sizeof text, "%s:%d\n", inet_ntoa(peer.sin_addr), ntohs(peer.sin_port));
    answer_text(c, 200, text);
}

static void on_log(struct conn *c, struct request *r)
{
    long lines = parameter(r, "lines=", 10);

    for (long i = 1; i <= lines; i++)
        printf("log line %ld of %ld from version %s\n", i, lines, c->app->version);
    fflush(stdout);
    answer_text(c, 200, "printed\n");
}

static void on_print(struct conn *c, struct request *r)
{
    print_beside(parameter(r, "lines=", 10), parameter(r, "rate=", 0), parameter(r, "bytes=", 100));
    answer_text(c, 200, "printing\n");
}

static void on_stall(struct conn *c, struct request *r)
{
    (void)r;
    c->state = CONN_WAITING;
}

static void on_crash(struct conn *c, struct request *r)
{
    (void)r;
    fprintf(stderr, "nd-sample: version %s crashes, as /crash asks\n", c->app->version);
    _exit(3);
}

static void on_socket(struct conn *c, struct request *r)
{
    char key[128], accept[WS_ACCEPT_SIZE];

    if (!header(r, "Sec-WebSocket-Key:", key, sizeof key)) {
        answer_text(c, 426, "a WebSocket lives here\n");
        return;
    }
    ws_accept(key, accept);
    conn_addf(c,
              "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
              "X-Version: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n",
              c->app->version, accept);
    c->state = CONN_SOCKET;
    c->close_after = false;
    socket_say(c, WS_TEXT, c->app->version, strlen(c->app->version));
    timer_set(c, c->app->now + 1000);
}

static const struct {
    const char *path;
    void (*handle)(struct conn *c, struct request *r);
} paths[] = {
    {"/", on_root},     {"/health", on_health}, {"/echo", on_echo},   {"/slow", on_slow},
    {"/size", on_size}, {"/status", on_status}, {"/env", on_env},     {"/head", on_head},
    {"/peer", on_peer}, {"/log", on_log},       {"/stall", on_stall}, {"/crash", on_crash},
    {"/ws", on_socket}, {"/print", on_print},
};

/* Joins a chunked body in place. 1 whole, 0 more to come, -1 malformed. */
static int join_chunks(struct request *r, char *data, size_t length)
{
    char *p = data, *end = data + length, *out = data;

    for (;;) {
        char *line = memchr(p, '\n', (size_t)(end - p));
        unsigned long n;

        if (line == NULL)
            return end - p > 64 ? -1 : 0;
        n = strtoul(p, NULL, 16);
        if (n > BODY_MOST || (size_t)(out - data) + n > BODY_MOST)
            return -1;
        if ((size_t)(end - line) < n + 3)
            return 0;
        if (n == 0) {
            r->body = data;
            r->body_length = (size_t)(out - data);
            r->whole = (size_t)(line + 3 - data);
            return 1;
        }
        memmove(out, line + 1, n);
        out += n;
        p = line + 1 + n + 2;
    }
}

/* The whole length of a chunked body that join_chunks would take, without touching it; 0: more. */
static int chunks_whole(const char *data, size_t length)
{
    const char *p = data, *end = data + length;

    for (;;) {
        const char *line = memchr(p, '\n', (size_t)(end - p));
        unsigned long n;

        if (line == NULL)
            return end - p > 64 ? -1 : 0;
        n = strtoul(p, NULL, 16);
        if (n > BODY_MOST)
            return -1;
        if ((size_t)(end - line) < n + 3)
            return 0;
        if (n == 0)
            return 1;
        p = line + 1 + n + 2;
    }
}

/* Finds the body behind a head of `head` bytes. 1 whole, 0 more to come, -1 malformed. */
static int find_body(struct conn *c, struct request *r, size_t head)
{
    char text[64];
    char *data = c->in + head;
    size_t length = c->in_length - head;
    int whole = 1;

    r->whole = 0;
    if (header(r, "Transfer-Encoding:", text, sizeof text)) {
        whole = chunks_whole(data, length);
        if (whole == 1)
            whole = join_chunks(r, data, length);
    } else if (header(r, "Content-Length:", text, sizeof text)) {
        r->body = data;
        r->body_length = strtoul(text, NULL, 10);
        r->whole = r->body_length;
        whole = r->body_length > BODY_MOST ? -1 : length >= r->body_length;
    }
    r->whole += head;
    return whole;
}

/* Splits the request line; false if it isn't one. */
static bool read_line(struct request *r)
{
    char *query;
    char version[4];
    char text[64];

    if (sscanf(r->head, "%15s %2047s HTTP/1.%1[01]", r->method, r->target, version) != 3)
        return false;
    r->close = version[0] == '0';
    if (header(r, "Connection:", text, sizeof text))
        r->close = strcasestr(text, "close") != NULL;
    query = strchr(r->target, '?');
    r->query = query != NULL ? query + 1 : "";
    snprintf(r->path, sizeof r->path, "%.*s", (int)strcspn(r->target, "?"), r->target);
    return true;
}

static void dispatch(struct conn *c, struct request *r)
{
    if (c->app->log_requests) {
        printf("%s %s %zu bytes\n", r->method, r->target, r->body_length);
        fflush(stdout);
    }
    if (c->app->answer_status != 0 && strcmp(r->path, "/health") != 0 &&
        strcmp(r->path, "/ws") != 0) {
        answer_text(c, (int)c->app->answer_status, "as told\n");
        return;
    }
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        if (strcmp(r->path, paths[i].path) == 0) {
            paths[i].handle(c, r);
            return;
        }
    }
    answer_text(c, 404, "no such path\n");
}

bool request_handle(struct conn *c)
{
    struct request r = {.query = ""};
    char *end;
    size_t head;
    int whole;

    if (c->in_length == 0)
        return false;
    c->in[c->in_length] = '\0';
    end = strstr(c->in, "\r\n\r\n");
    if (end == NULL && c->in_length < HEAD_MOST)
        return false;
    head = end != NULL ? (size_t)(end - c->in) + 4 : c->in_length;
    r.head = strndup(c->in, head);
    if (r.head == NULL)
        abort();
    whole = end != NULL && read_line(&r) ? find_body(c, &r, head) : -1;
    if (whole != 0) {
        timer_clear(c);
        c->close_after = whole < 0 || r.close || c->app->stopping;
    }
    if (whole < 0) {
        answer_text(c, 400, "bad request\n");
        c->in_length = 0;
    } else if (whole > 0) {
        dispatch(c, &r);
        conn_drop(c, r.whole);
    }
    free(r.head);
    return whole != 0;
}

void socket_say(struct conn *c, int opcode, const void *data, size_t length)
{
    unsigned char head[WS_HEAD_SIZE];

    conn_add(c, head, ws_head(head, opcode, true, length, false));
    conn_add(c, data, length);
}

bool socket_handle(struct conn *c)
{
    struct ws_frame frame;
    ssize_t n;

    while ((n = ws_parse((unsigned char *)c->in, c->in_length, FRAME_MOST, &frame)) > 0) {
        unsigned char head[WS_HEAD_SIZE];
        int opcode = frame.opcode == WS_PING ? WS_PONG : frame.opcode;

        if (frame.opcode == WS_CLOSE) {
            if (c->app->stopping)
                return false; /* the answer to ours */
            c->close_after = true;
        }
        if (frame.opcode != WS_PONG) {
            conn_add(c, head, ws_head(head, opcode, frame.fin, frame.length, false));
            conn_add(c, frame.data, frame.length);
        }
        conn_drop(c, (size_t)n);
        if (c->close_after)
            return true;
    }
    return n == 0;
}
