#include "io/ws.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <wslay/wslay.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"

const struct nd_ws_limits nd_ws_limits_default = {
    .message = 1024 * 1024,
    .high = 256 * 1024,
    .ping_ms = 30 * 1000,
    .close_ms = 5 * 1000,
};

enum { REASON_MOST = 123, MISSED_MOST = 2, PONG_HEAD = 6 /* bytes, with a mask */ };

struct nd_ws {
    wslay_event_context_ptr wslay; /* owned */
    struct nd_ws_limits limits;
    const struct nd_ws_transport *transport; /* borrowed */
    void *io;                                /* the transport's */
    const struct nd_ws_events *events;       /* borrowed from the user */
    void *arg;                               /* the user's */

    const uint8_t *in; /* what nd_ws_feed was given and wslay has not taken */
    size_t in_length;
    struct nd_buf out;     /* frames of one call, handed to the transport together */
    struct nd_buf message; /* the message being put together */
    bool binary;           /* its kind */
    bool control;          /* the frame being read is a control frame */

    bool client;
    bool inside;              /* wslay_event_recv is running: settle afterwards */
    bool closing;             /* our close frame is queued or sent */
    bool broken;              /* the peer broke the protocol: answer with fail_code, read no more */
    bool closed;              /* `closed` was called */
    bool finished;            /* the transport was told to finish */
    bool above;               /* buffered passed limits.high: `drained` is owed */
    bool user_paused;         /* nd_ws_pause */
    bool paused;              /* what the transport was told last */
    int fail_code;            /* the code we closed with because of an error; 0: none */
    size_t pongs;             /* bytes of pongs since little was queued last */
    int missed;               /* pings sent since the last byte came */
    int64_t ping_due;         /* ms, monotonic; 0 until the first tick */
    int64_t close_due;        /* ms: when to stop waiting for the peer's close; 0: not waiting */
    char reason[REASON_MOST]; /* of the peer's close frame */
    size_t reason_length;
};

/* ---- wslay's callbacks ---- */

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *buf, size_t length, int flags,
                       void *user)
{
    struct nd_ws *ws = user;

    (void)flags;
    if (!ws->in_length || ws->broken) {
        wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (length > ws->in_length)
        length = ws->in_length;
    memcpy(buf, ws->in, length);
    ws->in += length;
    ws->in_length -= length;
    return (ssize_t)length;
}

static ssize_t on_send(wslay_event_context_ptr ctx, const uint8_t *data, size_t length, int flags,
                       void *user)
{
    struct nd_ws *ws = user;

    (void)ctx;
    (void)flags;
    nd_buf_add(&ws->out, data, length);
    return (ssize_t)length;
}

static int on_mask(wslay_event_context_ptr ctx, uint8_t *buf, size_t length, void *user)
{
    (void)user;
    if (getrandom(buf, length, 0) == (ssize_t)length)
        return 0;
    wslay_event_set_error(ctx, WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

/* Ends the connection from inside wslay's callbacks; the close frame goes out when it settles. */
static void fail(struct nd_ws *ws, int code)
{
    if (ws->broken)
        return;
    ws->broken = true;
    ws->fail_code = code;
    wslay_event_shutdown_read(ws->wslay);
}

static void on_frame(wslay_event_context_ptr ctx,
                     const struct wslay_event_on_frame_recv_start_arg *frame, void *user)
{
    struct nd_ws *ws = user;

    (void)ctx;
    ws->control = wslay_is_ctrl_frame(frame->opcode);
    if (frame->opcode == WSLAY_CONNECTION_CLOSE && frame->payload_length == 1)
        fail(ws, WSLAY_CODE_PROTOCOL_ERROR); /* half a status code; wslay takes it for none */
    if (ws->control)
        return;
    if (frame->opcode != WSLAY_CONTINUATION_FRAME) {
        nd_buf_clear(&ws->message);
        ws->binary = frame->opcode == WSLAY_BINARY_FRAME;
    }
    if (frame->payload_length > ws->limits.message - ws->message.length)
        fail(ws, WSLAY_CODE_MESSAGE_TOO_BIG);
}

static void on_chunk(wslay_event_context_ptr ctx,
                     const struct wslay_event_on_frame_recv_chunk_arg *chunk, void *user)
{
    struct nd_ws *ws = user;

    (void)ctx;
    if (!ws->control && !ws->broken && !ws->closing)
        nd_buf_add(&ws->message, chunk->data, chunk->data_length);
}

static void on_message(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *msg,
                       void *user)
{
    struct nd_ws *ws = user;

    (void)ctx;
    if (msg->opcode == WSLAY_CONNECTION_CLOSE) {
        if (msg->msg_length > 2) {
            ws->reason_length = msg->msg_length - 2;
            memcpy(ws->reason, msg->msg + 2, ws->reason_length);
        }
        ws->closing = true;
        return;
    }
    if (msg->opcode == WSLAY_PING)
        ws->pongs += PONG_HEAD + msg->msg_length;
    if (wslay_is_ctrl_frame(msg->opcode) || ws->broken || ws->closing || ws->closed)
        return;
    if (ws->events)
        ws->events->message(ws->arg, ws->binary, ws->message.data ? ws->message.data : "",
                            ws->message.length);
    if (ws->message.capacity > 64 * 1024)
        nd_buf_fini(&ws->message);
    else
        nd_buf_clear(&ws->message);
}

/* ---- */

struct nd_ws *nd_ws_new(bool client, const struct nd_ws_limits *limits,
                        const struct nd_ws_transport *transport, void *io)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_recv,
        .send_callback = on_send,
        .genmask_callback = on_mask,
        .on_frame_recv_start_callback = on_frame,
        .on_frame_recv_chunk_callback = on_chunk,
        .on_msg_recv_callback = on_message,
    };
    struct nd_ws *ws = nd_alloc(sizeof *ws);
    int rc;

    ws->limits = *limits;
    ws->transport = transport;
    ws->io = io;
    ws->client = client;
    rc = client ? wslay_event_context_client_init(&ws->wslay, &callbacks, ws)
                : wslay_event_context_server_init(&ws->wslay, &callbacks, ws);
    if (rc)
        abort(); /* only for want of memory */
    wslay_event_config_set_no_buffering(ws->wslay, 1);
    wslay_event_config_set_max_recv_msg_length(ws->wslay, limits->message);
    return ws;
}

static void tell_closed(struct nd_ws *ws, int code)
{
    if (ws->closed)
        return;
    ws->closed = true;
    if (ws->events)
        ws->events->closed(ws->arg, code, ws->reason, ws->reason_length);
}

void nd_ws_free(struct nd_ws *ws)
{
    if (!ws)
        return;
    tell_closed(ws, WSLAY_CODE_ABNORMAL_CLOSURE);
    wslay_event_context_free(ws->wslay);
    nd_buf_fini(&ws->out);
    nd_buf_fini(&ws->message);
    free(ws);
}

void nd_ws_listen(struct nd_ws *ws, const struct nd_ws_events *events, void *arg)
{
    ws->events = events;
    ws->arg = arg;
}

bool nd_ws_full(const struct nd_ws *ws)
{
    return ws->above;
}

size_t nd_ws_buffered(const struct nd_ws *ws)
{
    return wslay_event_get_queued_msg_length(ws->wslay) + ws->out.length +
           ws->transport->queued(ws->io);
}

static bool little_queued(const struct nd_ws *ws)
{
    return ws->transport->queued(ws->io) <= ws->limits.high / 2;
}

/* Unread pongs alone stop the reading, since nobody else holds them back. Were it what the user
 * sends, two sides that send much at once would each wait for the other to read. */
static void apply_pause(struct nd_ws *ws)
{
    bool choked = ws->pongs > ws->limits.high;
    bool stop = (ws->user_paused || choked) && !ws->closing;

    if (stop == ws->paused || ws->finished)
        return;
    ws->paused = stop;
    ws->transport->pause(ws->io, stop);
}

/* A close frame of our own making, for when wslay's can't say what was wrong. */
static void add_close_frame(struct nd_ws *ws, int code)
{
    uint8_t frame[8] = {0x88, 2};
    size_t at = 2;

    if (ws->client) { /* masked with zeros: nothing in it is the user's */
        frame[1] |= 0x80;
        at = 6;
    }
    frame[at] = (uint8_t)(code >> 8);
    frame[at + 1] = (uint8_t)code;
    nd_buf_add(&ws->out, frame, at + 2);
}

static void finish(struct nd_ws *ws, int code)
{
    if (ws->finished)
        return;
    ws->finished = true;
    tell_closed(ws, code);
    ws->transport->finish(ws->io);
}

/* Sends what is queued, and ends what is at its end. */
static void settle(struct nd_ws *ws)
{
    bool sent;

    if (ws->inside || ws->finished)
        return;
    if (!ws->broken && wslay_event_want_write(ws->wslay) && wslay_event_send(ws->wslay) != 0)
        ws->broken = true;
    sent = wslay_event_get_close_sent(ws->wslay);
    if (ws->broken && !sent)
        add_close_frame(ws, ws->fail_code ? ws->fail_code : WSLAY_CODE_PROTOCOL_ERROR);
    if (ws->out.length) {
        ws->transport->send(ws->io, ws->out.data, ws->out.length);
        if (ws->out.capacity > 64 * 1024)
            nd_buf_fini(&ws->out);
        else
            nd_buf_clear(&ws->out);
    }
    if (ws->transport->queued(ws->io) > ws->limits.high)
        ws->above = true;
    if (ws->broken)
        finish(ws, ws->fail_code ? ws->fail_code : WSLAY_CODE_PROTOCOL_ERROR);
    else if (sent && wslay_event_get_close_received(ws->wslay))
        finish(ws, wslay_event_get_status_code_received(ws->wslay));
    else if (sent && !ws->close_due)
        ws->close_due = nd_clock_monotonic() + ws->limits.close_ms;
}

void nd_ws_feed(struct nd_ws *ws, const void *data, size_t length)
{
    int rc;

    if (ws->finished)
        return;
    ws->missed = 0;
    ws->in = data;
    ws->in_length = length;
    ws->inside = true;
    rc = wslay_event_recv(ws->wslay);
    ws->inside = false;
    ws->in_length = 0;
    if (rc != 0 && !ws->broken) {
        ws->broken = true;
        ws->fail_code = WSLAY_CODE_PROTOCOL_ERROR;
    } else if (!wslay_event_get_read_enabled(ws->wslay) && !ws->broken &&
               !wslay_event_get_close_received(ws->wslay)) {
        /* wslay has queued its own close frame for what it found */
        wslay_event_send(ws->wslay);
        ws->broken = true;
        ws->fail_code = wslay_event_get_status_code_sent(ws->wslay);
    }
    settle(ws);
    if (ws->finished)
        return;
    if (little_queued(ws))
        ws->pongs = 0;
    apply_pause(ws);
}

void nd_ws_lost(struct nd_ws *ws)
{
    finish(ws, ws->fail_code ? ws->fail_code : WSLAY_CODE_ABNORMAL_CLOSURE);
}

void nd_ws_flushed(struct nd_ws *ws)
{
    if (ws->finished || !little_queued(ws))
        return;
    ws->pongs = 0;
    apply_pause(ws);
    if (!ws->above)
        return;
    ws->above = false;
    if (!ws->closed && ws->events && ws->events->drained)
        ws->events->drained(ws->arg);
}

void nd_ws_tick(struct nd_ws *ws, int64_t now)
{
    struct wslay_event_msg ping = {.opcode = WSLAY_PING};

    if (ws->finished)
        return;
    if (ws->close_due && now >= ws->close_due) {
        nd_ws_lost(ws);
        return;
    }
    if (!ws->ping_due)
        ws->ping_due = now + ws->limits.ping_ms;
    if (now < ws->ping_due)
        return;
    ws->ping_due = now + ws->limits.ping_ms;
    if (ws->missed >= MISSED_MOST && !ws->paused) {
        nd_ws_lost(ws);
        return;
    }
    ws->missed++;
    wslay_event_queue_msg(ws->wslay, &ping);
    settle(ws);
}

int nd_ws_send(struct nd_ws *ws, bool binary, const void *data, size_t length)
{
    struct wslay_event_msg msg = {
        .opcode = binary ? WSLAY_BINARY_FRAME : WSLAY_TEXT_FRAME,
        .msg = data,
        .msg_length = length,
    };

    if (ws->closing || ws->broken || ws->finished || wslay_event_queue_msg(ws->wslay, &msg) != 0)
        return -1;
    settle(ws);
    return 0;
}

void nd_ws_pause(struct nd_ws *ws, bool stop)
{
    ws->user_paused = stop;
    apply_pause(ws);
}

void nd_ws_close(struct nd_ws *ws, int code, const char *reason, size_t length)
{
    if (ws->closing || ws->broken || ws->finished)
        return;
    ws->closing = true;
    if (length >= REASON_MOST) {
        length = REASON_MOST - 1;
        while (length && (reason[length] & 0xc0) == 0x80) /* not in the middle of a character */
            length--;
    }
    wslay_event_queue_close(ws->wslay, (uint16_t)code, (const uint8_t *)reason, length);
    apply_pause(ws);
    settle(ws);
}

/* ---- the handshake ---- */

bool nd_ws_key_is_valid(const char *key, size_t length)
{
    unsigned char raw[ND_WS_KEY];

    return length == ND_WS_KEY && key[22] == '=' && key[23] == '=' &&
           EVP_DecodeBlock(raw, (const unsigned char *)key, ND_WS_KEY) == 18;
}

void nd_ws_key_new(char key[ND_WS_KEY + 1])
{
    unsigned char raw[16];

    if (getrandom(raw, sizeof raw, 0) != sizeof raw)
        abort();
    EVP_EncodeBlock((unsigned char *)key, raw, sizeof raw);
}

void nd_ws_accept(const char *key, char accept[ND_WS_ACCEPT + 1])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* RFC 6455, 1.3 */
    char text[ND_WS_KEY + sizeof guid];
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned int length = 0;

    memcpy(text, key, ND_WS_KEY);
    memcpy(text + ND_WS_KEY, guid, sizeof guid);
    EVP_Digest(text, sizeof text - 1, hash, &length, EVP_sha1(), NULL);
    EVP_EncodeBlock((unsigned char *)accept, hash, (int)length);
}
