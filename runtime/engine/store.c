#include "engine/store.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/store_thread.h"

struct nd_request *nd_request_new(enum nd_request_kind kind)
{
    struct nd_request *request = nd_alloc(sizeof *request);

    request->kind = kind;
    nd_list_init(&request->link);
    return request;
}

struct nd_statement *nd_request_add(struct nd_request *request, const char *sql, size_t length)
{
    struct nd_statement *st;

    request->statements =
        nd_realloc(request->statements, (size_t)(request->count + 1) * sizeof *st);
    st = &request->statements[request->count++];
    nd_statement_init(st, sql, length);
    return st;
}

void nd_request_free(struct nd_request *request)
{
    if (!request)
        return;
    for (int i = 0; i < request->count; i++)
        nd_statement_fini(&request->statements[i]);
    free(request->statements);
    free(request->text);
    free(request);
}

const char *nd_store_constraint(const struct nd_err *err)
{
    const char *colon = strstr(err->message, ": ");

    return strcmp(err->code, "constraint") == 0 && colon ? colon + 2 : NULL;
}

int nd_store_thread(uv_thread_t *thread, uv_thread_cb run, struct nd_store *store)
{
    sigset_t all, before;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = uv_thread_create(thread, run, store);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

void nd_store_finish(struct nd_store *s, struct nd_list *list, const struct nd_err *lost)
{
    uv_mutex_lock(&s->lock);
    if (lost) { /* at once with its requests: the loop ends it when it has told of them */
        s->lost = true;
        s->lost_err = *lost;
    }
    ND_LIST_EACH (link, list) {
        nd_list_remove(link);
        nd_list_append(&s->finished, link);
    }
    uv_mutex_unlock(&s->lock);
    uv_async_send(&s->async);
}

static void keep_loop_alive(struct nd_store *s)
{
    if (s->outstanding > 0 || s->telling || s->shut || !s->announced)
        uv_ref((uv_handle_t *)&s->async);
    else
        uv_unref((uv_handle_t *)&s->async);
}

static void on_async_closed(uv_handle_t *handle)
{
    struct nd_store *s = handle->data;

    if (!s->announced)
        s->on_opened(s->opened_arg, NULL, &s->open_err);
    else if (s->on_closed)
        s->on_closed(s->closed_arg);
    uv_mutex_destroy(&s->lock);
    uv_cond_destroy(&s->wake);
    free(s->path);
    free(s);
}

static void give_back(struct nd_store *s, struct nd_list *finished)
{
    while (!nd_list_empty(finished)) {
        struct nd_request *r = ND_CONTAINER(finished->next, struct nd_request, link);

        nd_list_remove(&r->link);
        s->outstanding--;
        r->done(r->arg, r);
    }
}

static bool is_write(const struct nd_request *r)
{
    return r->kind == ND_STORE_WRITE || r->kind == ND_STORE_SCRIPT;
}

/* Writes go on in a turn of the loop in which no more of them are to be told of, and none waits
 * that the writer has yet to refuse; lock held. */
static void end_of_loss(struct nd_store *s, struct nd_list *finished)
{
    s->telling = false;
    if (!s->lost)
        return;
    ND_LIST_EACH (link, finished)
        s->telling |= is_write(ND_CONTAINER(link, struct nd_request, link));
    s->lost = s->telling || !nd_list_empty(&s->writes);
    if (s->telling)
        uv_async_send(&s->async);
}

static void on_async(uv_async_t *async)
{
    struct nd_store *s = async->data;
    struct nd_list finished;
    bool opened, ended;

    nd_list_init(&finished);
    uv_mutex_lock(&s->lock);
    ND_LIST_EACH (link, &s->finished) {
        nd_list_remove(link);
        nd_list_append(&finished, link);
    }
    end_of_loss(s, &finished);
    opened = s->opened;
    ended = s->ended;
    uv_mutex_unlock(&s->lock);
    if (opened && !s->announced && !s->open_err.code[0]) {
        s->announced = true;
        s->on_opened(s->opened_arg, s, NULL);
    }
    give_back(s, &finished);
    keep_loop_alive(s);
    if (ended && !uv_is_closing((uv_handle_t *)async)) {
        uv_thread_join(&s->writer);
        uv_close((uv_handle_t *)async, on_async_closed);
    }
}

void nd_store_open(struct nd_loop *loop, const char *path, nd_store_opened *opened, void *arg)
{
    struct nd_store *s = nd_alloc(sizeof *s);

    s->loop = loop;
    s->path = nd_strdup(path);
    s->on_opened = opened;
    s->opened_arg = arg;
    nd_list_init(&s->writes);
    nd_list_init(&s->reads);
    nd_list_init(&s->finished);
    uv_mutex_init(&s->lock);
    uv_cond_init(&s->wake);
    uv_async_init(&loop->uv, &s->async, on_async);
    s->async.data = s;
    if (nd_store_thread(&s->writer, nd_store_writer, s) != 0) {
        nd_err_set(&s->open_err, "db_open", "raise the limit on threads",
                   "can't start the thread that writes the database %s", path);
        uv_close((uv_handle_t *)&s->async, on_async_closed);
    }
}

void nd_store_submit(struct nd_store *s, struct nd_request *r, nd_store_done *done, void *arg)
{
    r->done = done;
    r->arg = arg;
    r->failed = 0;
    memset(&r->err, 0, sizeof r->err);
    if (s->shut) {
        nd_err_set(&r->err, "db_closed", NULL, "the database %s is closed", s->path);
        done(arg, r);
        return;
    }
    s->outstanding++;
    keep_loop_alive(s);
    uv_mutex_lock(&s->lock);
    nd_list_append(is_write(r) ? &s->writes : &s->reads, &r->link);
    uv_cond_broadcast(&s->wake);
    uv_mutex_unlock(&s->lock);
}

int nd_store_get(struct nd_store *s, struct nd_statement *st, size_t most, struct nd_err *err)
{
    if (s->shut)
        return nd_err_set(err, "db_closed", NULL, "the database %s is closed", s->path);
    return nd_conn_run(&s->loop_conn, st, most, err);
}

uint64_t nd_store_version(struct nd_store *s)
{
    return s->version;
}

void nd_store_close(struct nd_store *s, nd_store_closed *closed, void *arg)
{
    s->on_closed = closed;
    s->closed_arg = arg;
    s->shut = true;
    keep_loop_alive(s);
    uv_mutex_lock(&s->lock);
    s->closing = true;
    uv_cond_broadcast(&s->wake);
    uv_mutex_unlock(&s->lock);
}

void nd_store_stats(struct nd_store *s, struct nd_store_stats *stats)
{
    uv_mutex_lock(&s->lock);
    *stats = s->stats;
    uv_mutex_unlock(&s->lock);
    stats->waiting = s->outstanding;
}
