/*
 * fuzz_docker_stream.c - whatever Docker streams, the parsers neither crash nor grow without bound,
 * and give the same lines however the bytes are divided.
 *
 * The first byte chooses the parser and its options, the second the size of the pieces.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/docker_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A running sum of what came out, to compare two divisions of the same input. */
struct digest {
    uint64_t sum;
    uint64_t lines;
};

static void mix(struct digest *d, const void *data, size_t length)
{
    const unsigned char *p = data;

    for (size_t i = 0; i < length; i++)
        d->sum = (d->sum ^ p[i]) * 1099511628211u;
}

static void on_line(void *arg, const struct nd_docker_line *line)
{
    struct digest *d = arg;
    unsigned char stream = (unsigned char)line->stream;

    if (line->length > ND_DOCKER_LINE_MAX + 64)
        abort();
    mix(d, &stream, 1);
    mix(d, &line->time, sizeof line->time);
    mix(d, line->text, line->length);
    d->lines++;
}

static struct digest run_frames(uint8_t options, const char *data, size_t size, size_t piece)
{
    struct digest d = {14695981039346656037u, 0};
    struct nd_docker_frames f = {
        .tty = options & 4, .timestamps = options & 8, .on_line = on_line, .arg = &d};
    struct nd_err err = {0};
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < size; at += piece) {
        rc = nd_docker_frames_feed(&f, data + at, size - at < piece ? size - at : piece, &err);
        for (int i = 0; i < 4; i++)
            if (f.part[i].length > ND_DOCKER_LINE_MAX + 64)
                abort();
    }
    if (rc == 0)
        nd_docker_frames_end(&f, &err);
    nd_docker_frames_fini(&f);
    return d;
}

static int on_message(void *arg, const char *text, size_t length, struct nd_err *err)
{
    struct nd_docker_progress *p = arg;
    int64_t done = p->done;
    int rc = nd_docker_progress_add(p, text, length, err);

    if (p->done < done || p->total < 0 || p->count > ND_DOCKER_LAYERS_MAX)
        abort();
    if (rc < 0 && !err->code[0])
        abort();
    return rc;
}

static void run_messages(uint8_t options, const char *data, size_t size, size_t piece)
{
    struct nd_docker_progress p = {.doing = "pull x", .local = options & 4};
    struct nd_docker_messages m = {.on_message = on_message, .arg = &p};
    struct nd_err err = {0};
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < size; at += piece)
        rc = nd_docker_messages_feed(&m, data + at, size - at < piece ? size - at : piece, &err);
    if (rc == 0)
        nd_docker_messages_end(&m, &err);
    nd_docker_messages_fini(&m);
    nd_docker_progress_fini(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data + 2;
    struct digest whole, divided;
    int64_t ms;

    if (size < 2)
        return 0;
    size -= 2;
    if (data[0] & 1) {
        run_messages(data[0], text, size, (size_t)data[1] + 1);
        return 0;
    }
    nd_docker_time(text, size, &ms);
    whole = run_frames(data[0], text, size, size ? size : 1);
    divided = run_frames(data[0], text, size, (size_t)data[1] % 64 + 1);
    if (whole.sum != divided.sum || whole.lines != divided.lines)
        abort();
    return 0;
}
