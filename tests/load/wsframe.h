/*
 * wsframe.h - just enough WebSocket (RFC 6455) for the sample server and the load generator.
 *
 * Both are ours, so this is no judge of the daemon's own WebSocket code, which is tested by other
 * means. No allocation, no extensions, no UTF-8 check.
 */
#ifndef ND_TESTS_WSFRAME_H
#define ND_TESTS_WSFRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };
enum { WS_HEAD_SIZE = 14, WS_ACCEPT_SIZE = 29 };

struct ws_frame {
    int opcode;
    bool fin;
    unsigned char *data; /* in the buffer parsed, unmasked in place */
    size_t length;       /* bytes of data */
};

/* The Sec-WebSocket-Accept that answers `key`. */
void ws_accept(const char *key, char out[WS_ACCEPT_SIZE]);

/* Writes a frame's head to `out` (WS_HEAD_SIZE bytes) and returns its length. With `masked` the
 * mask is zero, which leaves the data as it is. */
size_t ws_head(unsigned char *out, int opcode, bool fin, size_t length, bool masked);

/* Takes one frame from the front of `data`: its whole length, 0 when there is more to come, -1 when
 * it breaks the protocol or is longer than `most`. */
ssize_t ws_parse(unsigned char *data, size_t length, size_t most, struct ws_frame *frame);

#endif
