/*
 * A WebSocket against any bytes, in either role: no crash, no message above the limit, `closed`
 * exactly once and last, nothing read after the transport was told to finish.
 *
 * The first byte of the input is the role (its lowest bit) and the size of the pieces.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/ws.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGE_MOST = 512 };

struct end {
    struct nd_ws *ws;
    bool finished;
    int closed;
};

static void io_send(void *io, const void *data, size_t length)
{
    struct end *e = io;

    (void)data;
    assert(!e->finished && length);
}

static size_t io_queued(void *io)
{
    (void)io;
    return 0;
}

static void io_pause(void *io, bool stop)
{
    (void)io;
    (void)stop;
}

static void io_finish(void *io)
{
    struct end *e = io;

    assert(!e->finished);
    e->finished = true;
}

static const struct nd_ws_transport transport = {
    .send = io_send,
    .queued = io_queued,
    .pause = io_pause,
    .finish = io_finish,
};

static void on_message(void *arg, bool binary, const void *data, size_t length)
{
    struct end *e = arg;

    assert(!e->closed && length <= MESSAGE_MOST);
    if (length && *(const char *)data == 'c')
        nd_ws_close(e->ws, 1000, "told to", 7);
    else
        nd_ws_send(e->ws, binary, data, length);
}

static void on_closed(void *arg, int code, const char *reason, size_t length)
{
    struct end *e = arg;

    (void)reason;
    assert(!e->closed && code >= 1000 && code < 5000 && length <= 123);
    e->closed++;
}

static const struct nd_ws_events events = {.message = on_message, .closed = on_closed};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nd_ws_limits limits = nd_ws_limits_default;
    struct end e = {0};
    size_t step;

    if (size < 2)
        return 0;
    limits.message = MESSAGE_MOST;
    step = data[0] / 2u + 1;
    e.ws = nd_ws_new(data[0] & 1, &limits, &transport, &e);
    nd_ws_listen(e.ws, &events, &e);
    for (size_t at = 1; at < size && !e.finished; at += step) {
        size_t length = size - at < step ? size - at : step;
        char *bytes = nd_alloc(length);

        memcpy(bytes, data + at, length);
        nd_ws_feed(e.ws, bytes, length);
        free(bytes);
    }
    assert(e.closed == e.finished);
    nd_ws_free(e.ws);
    assert(e.closed == 1);
    return 0;
}
