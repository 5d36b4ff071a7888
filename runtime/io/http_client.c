#include "io/http_client.h"

#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"

enum { CONNECT_TIMEOUT_MS = 10000, BODY_MAX = 16 * 1024 * 1024, IDLE_CONNECTIONS = 16 };

struct nd_http {
    struct nd_loop *loop; /* borrowed */
    CURLM *multi;
    uv_timer_t curl_timer;    /* curl's own clock */
    uv_timer_t chores;        /* deadlines, and what can't be done inside one of curl's callbacks */
    int64_t chores_at;        /* ms, monotonic: when `chores` fires; INT64_MAX: not armed */
    struct nd_list transfers; /* struct nd_http_transfer */
    int running;              /* transfers */
    int handles;              /* uv handles whose close callback is still to come */
    int in_curl;              /* depth of calls into curl: its callbacks may not call it back */
    bool closing;
};

struct nd_http_transfer {
    struct nd_list link;
    struct nd_http *http;
    struct nd_http_request req; /* strings in it are not ours after nd_http_start */
    struct nd_http_response response;
    CURL *easy;
    struct curl_slist *headers;
    char *method;      /* owned */
    char *where;       /* owned: the URL or socket, for messages */
    struct nd_err err; /* set by us; stronger than curl's own reason */
    char text[CURL_ERROR_SIZE];
    int64_t deadline;      /* ms, monotonic; INT64_MAX: none */
    int64_t head_deadline; /* the same, for the answer's head */
    int64_t active_at;     /* ms, monotonic: when the last byte moved */
    size_t head_bytes;
    size_t body_bytes;
    bool added;        /* to the multi handle */
    bool headers_done; /* on_headers was called */
    bool pause;        /* the receiver wants no data now */
    bool held;         /* curl holds data back for us */
    bool resume;       /* curl_easy_pause is due */
    bool cancelled;
};

/* A watched descriptor of curl's. */
struct watch {
    uv_poll_t handle;
    struct nd_http *http;
    curl_socket_t fd;
};

/* --- deferred work ---------------------------------------------------------------------------- */

static void on_chores(uv_timer_t *timer);

static void wake_at(struct nd_http *http, int64_t at)
{
    int64_t now;

    if (at >= http->chores_at || http->closing)
        return;
    now = nd_clock_monotonic();
    http->chores_at = at;
    uv_timer_start(&http->chores, on_chores, at > now ? (uint64_t)(at - now) : 0, 0);
}

static void wake_now(struct nd_http *http)
{
    wake_at(http, 0);
}

/* --- the end of a transfer -------------------------------------------------------------------- */

static void describe(struct nd_http_transfer *t, CURLcode code)
{
    const char *why = t->text[0] ? t->text : curl_easy_strerror(code);
    long number = 0;
    char system[128];

    curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &number);
    t->response.os_errno = (int)number;
    switch (code) {
    case CURLE_COULDNT_CONNECT:
        if (number)
            why = strerror_r((int)number, system, sizeof system);
        nd_err_set(&t->err, "http_connect", NULL, "can't connect to %s: %s", t->where, why);
        return;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        nd_err_set(&t->err, "http_dns", NULL, "can't find the address of %s: %s", t->where, why);
        return;
    case CURLE_OPERATION_TIMEDOUT:
        nd_err_set(&t->err, "http_timeout", NULL, "%s did not accept a connection in time",
                   t->where);
        return;
    case CURLE_ABORTED_BY_CALLBACK:
        nd_err_set(&t->err, "cancelled", NULL, "the body of the request to %s was given up",
                   t->where);
        return;
    case CURLE_OUT_OF_MEMORY: /* what curl says of a header of more than 100 KB */
    case CURLE_FILESIZE_EXCEEDED:
        nd_err_set(&t->err, "http_too_large", NULL, "the answer of %s is larger than %zu bytes",
                   t->where, t->req.max_bytes);
        return;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_USE_SSL_FAILED:
        nd_err_set(&t->err, "http_tls", NULL, "no secure connection to %s: %s", t->where, why);
        return;
    case CURLE_RECV_ERROR:
        if (!number) /* a malformed chunk, not a broken connection */
            break;
        /* fall through */
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_SEND_FAIL_REWIND:
    case CURLE_PARTIAL_FILE:
        nd_err_set(&t->err, "http_closed", NULL,
                   "%s closed the connection before it had answered: %s", t->where, why);
        return;
    default:
        break;
    }
    nd_err_set(&t->err, "http_protocol", NULL, "%s gave no valid HTTP answer: %s", t->where, why);
}

static void transfer_free(struct nd_http_transfer *t)
{
    if (t->req.secret)
        for (struct curl_slist *h = t->headers; h; h = h->next)
            nd_zero(h->data, strlen(h->data));
    curl_slist_free_all(t->headers);
    nd_buf_fini(&t->response.headers);
    nd_buf_fini(&t->response.body);
    free(t->method);
    free(t->where);
    free(t);
}

static void finish(struct nd_http_transfer *t)
{
    struct nd_http *http = t->http;

    nd_list_remove(&t->link);
    if (t->added)
        curl_multi_remove_handle(http->multi, t->easy);
    curl_easy_cleanup(t->easy);
    if (--http->running == 0 && !http->closing) {
        uv_unref((uv_handle_t *)&http->curl_timer);
        uv_unref((uv_handle_t *)&http->chores);
    }
    t->req.on_done(t->req.arg, &t->response, t->err.code[0] ? &t->err : NULL);
    transfer_free(t);
}

static void collect(struct nd_http *http)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(http->multi, &left))) {
        struct nd_http_transfer *t = NULL;

        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &t);
        /* To curl, a connection that closes within the head is one without a body. */
        if (message->data.result == CURLE_OK && !t->headers_done)
            message->data.result = CURLE_PARTIAL_FILE;
        if (message->data.result != CURLE_OK && !t->err.code[0])
            describe(t, message->data.result);
        finish(t);
    }
}

/* --- curl's callbacks into the loop ----------------------------------------------------------- */

static void act(struct nd_http *http, curl_socket_t fd, int events)
{
    int running;

    http->in_curl++;
    curl_multi_socket_action(http->multi, fd, events, &running);
    http->in_curl--;
    collect(http);
}

static void on_curl_timer(uv_timer_t *timer)
{
    act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static int set_timer(CURLM *multi, long ms, void *arg)
{
    struct nd_http *http = arg;

    (void)multi;
    if (ms < 0 || http->closing)
        uv_timer_stop(&http->curl_timer);
    else
        uv_timer_start(&http->curl_timer, on_curl_timer, (uint64_t)ms, 0);
    return 0;
}

static void on_ready(uv_poll_t *handle, int status, int events)
{
    struct watch *w = handle->data;
    int mask = 0;

    if (status < 0)
        mask = CURL_CSELECT_ERR;
    if (events & UV_READABLE)
        mask |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        mask |= CURL_CSELECT_OUT;
    act(w->http, w->fd, mask);
}

static void handle_closed(struct nd_http *http)
{
    if (--http->handles == 0)
        free(http);
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct watch *w = handle->data;
    struct nd_http *http = w->http;

    free(w);
    handle_closed(http);
}

static void watch_failed(CURL *easy, int uv_code)
{
    struct nd_http_transfer *t = NULL;

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t);
    nd_loop_err(&t->err, uv_code, "http_connect", NULL, "can't watch a connection");
    t->cancelled = true;
    wake_now(t->http);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
    struct nd_http *http = arg;
    struct watch *w = known;
    int events = 0;
    int rc;

    if (what == CURL_POLL_REMOVE) {
        if (w) {
            curl_multi_assign(http->multi, fd, NULL);
            uv_close((uv_handle_t *)&w->handle, on_watch_closed);
        }
        return 0;
    }
    if (!w) {
        w = nd_alloc(sizeof *w);
        w->http = http;
        w->fd = fd;
        w->handle.data = w;
        rc = uv_poll_init_socket(&http->loop->uv, &w->handle, fd);
        if (rc < 0) {
            free(w);
            watch_failed(easy, rc);
            return 0;
        }
        http->handles++;
        curl_multi_assign(http->multi, fd, w);
    }
    if (what & CURL_POLL_IN)
        events |= UV_READABLE;
    if (what & CURL_POLL_OUT)
        events |= UV_WRITABLE;
    rc = uv_poll_start(&w->handle, events, on_ready);
    if (rc < 0)
        watch_failed(easy, rc);
    return 0;
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
                    address->protocol);

    (void)arg;
    (void)purpose;
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

/* --- curl's callbacks with the answer --------------------------------------------------------- */

static void head_complete(struct nd_http_transfer *t)
{
    long status = 0;

    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 && status != 101) /* 100, 103: another head follows */
        return;
    if (t->req.follow && status >= 300 && status < 400 && nd_http_header(&t->response, "location"))
        return;
    t->response.status = (int)status;
    t->headers_done = true;
    if (t->req.on_headers)
        t->req.on_headers(t->req.arg, &t->response);
}

static size_t on_header(char *line, size_t size, size_t count, void *arg)
{
    struct nd_http_transfer *t = arg;
    size_t length = size * count;

    t->active_at = nd_clock_monotonic();
    t->head_bytes += length;
    if (t->head_bytes > ND_HTTP_HEADER_MAX) {
        nd_err_set(&t->err, "http_too_large", NULL, "the head of %s's answer exceeds %d bytes",
                   t->where, ND_HTTP_HEADER_MAX);
        return 0;
    }
    if (t->headers_done) /* a trailer */
        return length;
    if (length > 5 && memcmp(line, "HTTP/", 5) == 0)
        nd_buf_clear(&t->response.headers);
    else if (length <= 2)
        head_complete(t);
    else
        nd_http_add_header(&t->response, line, length);
    return t->cancelled ? 0 : length;
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct nd_http_transfer *t = arg;
    size_t length = size * count;

    if (t->cancelled)
        return 0;
    if (t->pause) {
        t->held = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    t->active_at = nd_clock_monotonic();
    t->body_bytes += length;
    if (t->body_bytes > t->req.max_bytes) {
        nd_err_set(&t->err, "http_too_large", NULL, "the answer of %s is larger than %zu bytes",
                   t->where, t->req.max_bytes);
        return 0;
    }
    if (t->req.on_data)
        t->req.on_data(t->req.arg, data, length);
    else
        nd_buf_add(&t->response.body, data, length);
    return length;
}

static size_t on_upload(char *out, size_t size, size_t count, void *arg)
{
    struct nd_http_transfer *t = arg;
    long length;

    if (t->cancelled)
        return CURL_READFUNC_ABORT;
    t->active_at = nd_clock_monotonic();
    length = t->req.next(t->req.arg, out, size * count);
    if (length == ND_HTTP_PAUSE)
        return CURL_READFUNC_PAUSE;
    return length < 0 ? CURL_READFUNC_ABORT : (size_t)length;
}

/* --- the start of a transfer ------------------------------------------------------------------ */

static bool has_header(const struct nd_http_request *req, const char *name)
{
    size_t length = strlen(name);

    for (const char *const *h = req->headers; h && *h; h++)
        if (strncasecmp(*h, name, length) == 0 && ((*h)[length] == ':' || (*h)[length] == ';'))
            return true;
    return false;
}

static void set_headers(struct nd_http_transfer *t, const struct nd_http_request *req)
{
    for (const char *const *h = req->headers; h && *h; h++)
        t->headers = curl_slist_append(t->headers, *h);
    /* curl would ask for leave before it sends a larger body, and call a body a form. */
    t->headers = curl_slist_append(t->headers, "Expect:");
    if (!has_header(req, "Content-Type"))
        t->headers = curl_slist_append(t->headers, "Content-Type:");
    if (!has_header(req, "Accept"))
        t->headers = curl_slist_append(t->headers, "Accept:");
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
}

static void set_body(struct nd_http_transfer *t, const struct nd_http_request *req)
{
    CURL *easy = t->easy;
    bool sends =
        !strcmp(t->method, "POST") || !strcmp(t->method, "PUT") || !strcmp(t->method, "PATCH");

    if (req->next) {
        curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_upload);
        curl_easy_setopt(easy, CURLOPT_READDATA, t);
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, t->method);
    } else if (req->body || sends) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, req->body ? req->body : "");
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                         (curl_off_t)(req->body ? req->body_length : 0));
        if (strcmp(t->method, "POST"))
            curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, t->method);
    } else if (!strcmp(t->method, "HEAD")) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else if (strcmp(t->method, "GET")) {
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, t->method);
    }
}

static void set_tls(CURL *easy, const struct nd_tls_files *files, const char *pin)
{
    if (files->ca)
        curl_easy_setopt(easy, CURLOPT_CAINFO, files->ca);
    if (files->cert) {
        curl_easy_setopt(easy, CURLOPT_SSLCERT, files->cert);
        curl_easy_setopt(easy, CURLOPT_SSLKEY, files->key);
    }
    if (pin) {
        curl_easy_setopt(easy, CURLOPT_PINNEDPUBLICKEY, pin);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
    }
}

static void set_options(struct nd_http_transfer *t, const struct nd_http_request *req)
{
    CURL *easy = t->easy;

    curl_easy_setopt(easy, CURLOPT_PRIVATE, t);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t->text);
    curl_easy_setopt(easy, CURLOPT_URL, req->url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "nextdeploy/" ND_VERSION);
    /* Don't wait for a name server's answer that nobody needs any more. */
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(
        easy, CURLOPT_CONNECTTIMEOUT_MS,
        (long)(req->connect_timeout_ms ? req->connect_timeout_ms : CONNECT_TIMEOUT_MS));
    curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)t->req.max_bytes);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, t);
    /* Where a kept connection turns out to be dead, curl sends the request again, though the server
     * may have acted on it: what may not be done twice gets a connection of its own. */
    if (!strcmp(t->method, "POST") || !strcmp(t->method, "PATCH"))
        curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
    set_tls(easy, &req->tls, req->pin);
    if (req->unix_path)
        curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, req->unix_path);
    if (req->follow) {
        curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
        curl_easy_setopt(easy, CURLOPT_MAXREDIRS, 5L);
    }
}

static void add(struct nd_http_transfer *t)
{
    CURLMcode code = curl_multi_add_handle(t->http->multi, t->easy);

    if (code == CURLM_OK) {
        t->added = true;
        return;
    }
    nd_err_set(&t->err, "http_connect", NULL, "can't start a request to %s: %s", t->where,
               curl_multi_strerror(code));
    t->cancelled = true;
    wake_now(t->http);
}

struct nd_http_transfer *nd_http_start(struct nd_http *http, const struct nd_http_request *req)
{
    struct nd_http_transfer *t = nd_alloc(sizeof *t);

    assert(!http->closing);
    t->http = http;
    t->req = *req;
    t->req.max_bytes = req->max_bytes ? req->max_bytes : BODY_MAX;
    t->method = nd_strdup(req->method ? req->method : "GET");
    t->where = nd_strdup(req->unix_path ? req->unix_path : req->url);
    t->active_at = nd_clock_monotonic();
    t->deadline = req->timeout_ms ? t->active_at + req->timeout_ms : INT64_MAX;
    t->head_deadline = req->head_timeout_ms ? t->active_at + req->head_timeout_ms : INT64_MAX;
    t->easy = curl_easy_init();
    if (!t->easy)
        abort(); /* out of memory, like nd_alloc */
    set_options(t, req);
    set_body(t, req);
    set_headers(t, req);
    nd_list_append(&http->transfers, &t->link);
    if (http->running++ == 0) {
        uv_ref((uv_handle_t *)&http->curl_timer);
        uv_ref((uv_handle_t *)&http->chores);
    }
    if (http->in_curl)
        wake_now(http);
    else
        add(t);
    wake_at(http, t->deadline);
    wake_at(http, t->head_deadline);
    if (req->idle_timeout_ms)
        wake_at(http, t->active_at + req->idle_timeout_ms);
    return t;
}

void nd_http_cancel(struct nd_http_transfer *t)
{
    if (!t->err.code[0])
        nd_err_set(&t->err, "cancelled", NULL, "the request to %s was cancelled", t->where);
    t->cancelled = true;
    wake_now(t->http);
}

void nd_http_pause(struct nd_http_transfer *t, bool stop)
{
    t->pause = stop;
    if (stop || !t->held)
        return;
    t->resume = true;
    wake_now(t->http);
}

void nd_http_resume_body(struct nd_http_transfer *t)
{
    t->resume = true;
    wake_now(t->http);
}

static void timed_out(struct nd_http_transfer *t, const char *what, int ms)
{
    nd_err_set(&t->err, "http_timeout", NULL, "%s %s %d ms", t->where, what, ms);
}

/* Fills t->err where a deadline has passed; returns the next one. */
static int64_t check_deadline(struct nd_http_transfer *t, int64_t now)
{
    int64_t head_at = t->headers_done ? INT64_MAX : t->head_deadline;
    int64_t idle_at = INT64_MAX;
    int64_t next = t->deadline;

    if (t->held || t->pause)
        t->active_at = now;
    if (t->req.idle_timeout_ms)
        idle_at = t->active_at + t->req.idle_timeout_ms;
    if (now >= t->deadline)
        timed_out(t, "did not answer within", t->req.timeout_ms);
    else if (now >= head_at)
        timed_out(t, "did not answer within", t->req.head_timeout_ms);
    else if (now >= idle_at)
        timed_out(t, "sent nothing for", t->req.idle_timeout_ms);
    if (head_at < next)
        next = head_at;
    return idle_at < next ? idle_at : next;
}

static void on_chores(uv_timer_t *timer)
{
    struct nd_http *http = timer->data;
    int64_t now = nd_clock_monotonic();
    int64_t next = INT64_MAX;

    http->chores_at = INT64_MAX;
    ND_LIST_EACH (link, &http->transfers) {
        struct nd_http_transfer *t = ND_CONTAINER(link, struct nd_http_transfer, link);
        int64_t due = INT64_MAX;

        if (!t->cancelled)
            due = check_deadline(t, now);
        if (t->cancelled || t->err.code[0]) {
            finish(t); /* its on_done may add transfers, never remove another one */
            continue;
        }
        if (!t->added)
            add(t);
        if (t->resume) {
            t->resume = t->held = false;
            t->active_at = now;
            http->in_curl++;
            curl_easy_pause(t->easy, CURLPAUSE_CONT);
            http->in_curl--;
        }
        if (due < next)
            next = due;
    }
    collect(http);
    wake_at(http, next);
}

/* --- the client ------------------------------------------------------------------------------- */

struct nd_http *nd_http_new(struct nd_loop *loop)
{
    struct nd_http *http = nd_alloc(sizeof *http);

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        abort();
    http->loop = loop;
    http->chores_at = INT64_MAX;
    http->handles = 2;
    nd_list_init(&http->transfers);
    uv_timer_init(&loop->uv, &http->curl_timer);
    uv_timer_init(&loop->uv, &http->chores);
    http->curl_timer.data = http->chores.data = http;
    uv_unref((uv_handle_t *)&http->curl_timer);
    uv_unref((uv_handle_t *)&http->chores);
    http->multi = curl_multi_init();
    if (!http->multi)
        abort();
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, set_timer);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long)IDLE_CONNECTIONS);
    return http;
}

static void on_timer_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

void nd_http_free(struct nd_http *http)
{
    if (!http)
        return;
    assert(!http->in_curl);
    http->closing = true;
    while (!nd_list_empty(&http->transfers)) {
        struct nd_http_transfer *t =
            ND_CONTAINER(http->transfers.next, struct nd_http_transfer, link);

        if (!t->err.code[0])
            nd_err_set(&t->err, "cancelled", NULL, "the client of the request to %s was closed",
                       t->where);
        finish(t);
    }
    curl_multi_cleanup(http->multi);
    curl_global_cleanup();
    uv_close((uv_handle_t *)&http->curl_timer, on_timer_closed);
    uv_close((uv_handle_t *)&http->chores, on_timer_closed);
}
