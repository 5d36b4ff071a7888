/*
 * log_tap.h - a container's output, as it goes into its app's log: one `attach` stream (Engine API,
 * "Attach to a container"), cut into lines, redacted, each stamped with the time of its arrival.
 *
 * Opened before the container is started it sees everything. Opened later it can `fill` what it
 * missed from Docker's own log (log_gap.h); what the stream brings meanwhile waits. Where the
 * container does not run there is no stream, and filling is all that is done.
 */
#ifndef ND_ENGINE_LOG_TAP_H
#define ND_ENGINE_LOG_TAP_H

#include "engine/docker.h"
#include "engine/log_store.h"

struct nd_log_tap;

struct nd_log_tap_call {
    const char *container; /* id or name */
    const char *instance;  /* its name in the log */
    int64_t release;
    bool tty;
    bool attach; /* there is, or will be, a stream */
    bool fill;
    void (*on_open)(void *arg); /* Docker accepted: nothing is missed from now on */
    /* Exactly once: the stream ended, as it does when the container stops, or broke. */
    void (*on_done)(void *arg, const struct nd_err *err);
    void *arg;
};

/* Strings are copied. */
struct nd_log_tap *nd_log_tap_start(struct nd_docker *docker, struct nd_log_app *app,
                                    const struct nd_log_tap_call *call);
void nd_log_tap_cancel(struct nd_log_tap *tap); /* on_done comes later, code "cancelled" */

#endif
