/*
 * wsframe.c - WebSocket frames and the handshake's digest; see wsframe.h.
 */
#include "wsframe.h"

#include <stdio.h>
#include <string.h>

static uint32_t rotate(uint32_t x, int n)
{
    return x << n | x >> (32 - n);
}

static void sha1_block(uint32_t h[5], const unsigned char *p)
{
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];

    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
               (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f, k, t;

        if (i < 20) {
            f = (b & c) | (~b & d);
            k = 0x5a827999;
        } else if (i < 40) {
            f = b ^ c ^ d;
            k = 0x6ed9eba1;
        } else if (i < 60) {
            f = (b & c) | (b & d) | (c & d);
            k = 0x8f1bbcdc;
        } else {
            f = b ^ c ^ d;
            k = 0xca62c1d6;
        }
        t = rotate(a, 5) + f + e + k + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = t;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

/* Of texts up to 119 bytes: two blocks at most. */
static void sha1(const char *text, size_t length, unsigned char out[20])
{
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    unsigned char block[128] = {0};
    size_t blocks = length + 9 > 64 ? 2 : 1;

    memcpy(block, text, length);
    block[length] = 0x80;
    block[blocks * 64 - 2] = (unsigned char)(length * 8 >> 8);
    block[blocks * 64 - 1] = (unsigned char)(length * 8);
    for (size_t i = 0; i < blocks; i++)
        sha1_block(h, block + 64 * i);
    for (int i = 0; i < 20; i++)
        out[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

void ws_accept(const char *key, char out[WS_ACCEPT_SIZE])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[112];
    unsigned char d[21] = {0};
    int length = snprintf(text, sizeof text, "%.64s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);

    sha1(text, (size_t)length, d);
    for (int i = 0, o = 0; i < 21; i += 3) {
        uint32_t v = (uint32_t)d[i] << 16 | (uint32_t)d[i + 1] << 8 | d[i + 2];

        for (int k = 18; k >= 0; k -= 6)
            out[o++] = digits[v >> k & 63];
    }
    out[27] = '=';
    out[28] = '\0';
}

size_t ws_head(unsigned char *out, int opcode, bool fin, size_t length, bool masked)
{
    size_t at = 2;

    out[0] = (unsigned char)((fin ? 0x80 : 0) | opcode);
    if (length < 126) {
        out[1] = (unsigned char)length;
    } else if (length < 65536) {
        out[1] = 126;
        out[2] = (unsigned char)(length >> 8);
        out[3] = (unsigned char)length;
        at = 4;
    } else {
        out[1] = 127;
        for (int i = 0; i < 8; i++)
            out[2 + i] = (unsigned char)((uint64_t)length >> (56 - 8 * i));
        at = 10;
    }
    if (masked) {
        out[1] |= 0x80;
        memset(out + at, 0, 4);
        at += 4;
    }
    return at;
}

ssize_t ws_parse(unsigned char *data, size_t length, size_t most, struct ws_frame *frame)
{
    size_t at = 2;
    uint64_t size;
    const unsigned char *mask = NULL;

    if (length < 2)
        return 0;
    size = data[1] & 0x7f;
    if (size >= 126) {
        size_t bytes = size == 126 ? 2 : 8;

        if (length < 2 + bytes)
            return 0;
        size = 0;
        for (size_t i = 0; i < bytes; i++)
            size = size << 8 | data[2 + i];
        at += bytes;
    }
    if (size > most || (data[0] & 0x70) != 0)
        return -1;
    if (data[1] & 0x80) {
        mask = data + at;
        at += 4;
    }
    if (length < at + size)
        return 0;
    frame->opcode = data[0] & 0x0f;
    frame->fin = (data[0] & 0x80) != 0;
    frame->data = data + at;
    frame->length = (size_t)size;
    for (size_t i = 0; mask != NULL && i < frame->length; i++)
        frame->data[i] ^= mask[i & 3];
    return (ssize_t)(at + frame->length);
}
