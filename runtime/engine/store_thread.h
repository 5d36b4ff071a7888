/*
 * store_thread.h - what the three files of the store share: the struct and its two threads.
 *
 * Handover: the loop appends to `writes` or `reads`, a thread takes from there, works without the
 * lock, and gives back with nd_store_finish. Whoever has a request is the only one to touch it.
 * Nothing overtakes what was lost: what is queued behind a group that the disk refused, and what
 * comes before the loop has told, fails with it. Who has seen the error writes again, in his order.
 * The end: `closing` is set; the reader empties its queue and ends; the writer empties its own,
 * joins the reader, closes the connections, sets `ended`, and is joined by the loop.
 */
#ifndef ND_ENGINE_STORE_THREAD_H
#define ND_ENGINE_STORE_THREAD_H

#include "engine/store.h"
#include "engine/store_conn.h"

struct nd_store {
    struct nd_loop *loop;
    char *path;       /* owned */
    uv_async_t async; /* a thread has something for the loop; referenced while `outstanding` */

    uv_mutex_t lock;
    uv_cond_t wake;              /* something queued, or closing */
    struct nd_list writes;       /* lock; nd_request.link */
    struct nd_list reads;        /* lock */
    struct nd_list finished;     /* lock; for the loop */
    bool lost;                   /* lock: a write was lost, and who asked may not know yet */
    struct nd_err lost_err;      /* lock */
    bool closing;                /* lock */
    bool opened;                 /* lock: the writer has opened it, or failed to */
    bool ended;                  /* lock: the writer has closed everything */
    struct nd_store_stats stats; /* lock; all but `waiting` */

    uv_thread_t writer;
    uv_thread_t reader;
    struct nd_conn write_conn; /* the writer's */
    struct nd_conn read_conn;  /* the reader's */
    struct nd_conn loop_conn;  /* the loop's between `opened` and `closing` */
    struct nd_err open_err;    /* written before `opened` is set */

    _Atomic uint64_t version; /* grows with each commit, before anybody is told of it */

    int outstanding; /* loop: submitted and not yet given back */
    bool telling;    /* loop: of a loss */
    bool announced;  /* loop: on_opened was called */
    bool shut;       /* loop: nd_store_close was called */
    nd_store_opened *on_opened;
    void *opened_arg; /* borrowed */
    nd_store_closed *on_closed;
    void *closed_arg; /* borrowed */
};

/* The writer's thread, and the reader's, which the writer starts. */
void nd_store_writer(void *store);
void nd_store_reader(void *store);

/* uv_thread_create, but signals stay with the loop's thread. */
int nd_store_thread(uv_thread_t *thread, uv_thread_cb run, struct nd_store *store);
/* Hands a list of finished requests to the loop; `list` is empty afterwards. `lost`: why all of it
 * was, or NULL. */
void nd_store_finish(struct nd_store *store, struct nd_list *list, const struct nd_err *lost);

#endif
