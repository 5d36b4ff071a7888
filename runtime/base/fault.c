#include "base/fault.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static struct {
    bool read;
    char *name; /* owned; NULL where no fault was asked for */
    long left;  /* passes until it fires */
    bool kill;
} fault;

static void read_request(void)
{
    const char *text = getenv("ND_FAULT");
    const char *colon = text ? strchr(text, ':') : NULL;
    char *end;

    fault.read = true;
    if (!colon)
        return;
    fault.left = strtol(colon + 1, &end, 10);
    fault.kill = strcmp(end, ":kill") == 0;
    fault.name = nd_strndup(text, (size_t)(colon - text));
}

bool nd_fault(const char *name)
{
    if (!fault.read)
        read_request();
    if (!fault.name || strcmp(fault.name, name) != 0 || --fault.left != 0)
        return false;
    if (fault.kill)
        raise(SIGKILL);
    return true;
}
