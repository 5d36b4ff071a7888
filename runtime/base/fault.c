#include "base/fault.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static struct {
    pthread_once_t once;
    char *name;       /* owned; NULL where no fault was asked for */
    atomic_long left; /* passes until it fires; points are passed on several threads */
    int signal;       /* sent to the process; 0: the call fails */
    bool trace;       /* tells of each point that is passed */
} fault = {.once = PTHREAD_ONCE_INIT};

static void read_request(void)
{
    const char *text = getenv("ND_FAULT");
    const char *colon = text ? strchr(text, ':') : NULL;
    char *end;

    fault.trace = text && strcmp(text, "trace") == 0;
    if (!colon)
        return;
    atomic_store(&fault.left, strtol(colon + 1, &end, 10));
    fault.signal = strcmp(end, ":kill") == 0 ? SIGKILL : strcmp(end, ":stop") == 0 ? SIGSTOP : 0;
    fault.name = nd_strndup(text, (size_t)(colon - text));
}

bool nd_fault(const char *name)
{
    pthread_once(&fault.once, read_request);
    if (fault.trace)
        fprintf(stderr, "fault: %s\n", name);
    if (!fault.name || strcmp(fault.name, name) != 0 || atomic_fetch_sub(&fault.left, 1) != 1)
        return false;
    if (fault.signal)
        raise(fault.signal);
    return fault.signal == 0;
}
