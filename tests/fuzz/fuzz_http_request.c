/*
 * The HTTP parser against any bytes, cut up in any way: it must not crash, must not go outside what
 * it was given, and a path that it lets through must not climb.
 *
 * The first byte of the input says in pieces of how many bytes the rest arrives.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/http_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct nd_http_sizes sizes = {
    .target = 256, .head = 1024, .body = 4096, .body_unknown = 2048, .bodies = 3000};

static void check_target(struct nd_http_parse *p)
{
    struct nd_http_text target = nd_http_parse_text(p, p->target);
    struct nd_http_target parts;
    struct nd_http_text query;
    struct nd_buf path = {0}, name = {0}, value = {0};

    if (nd_http_target_split(target.data, target.length, &parts, NULL) == 0) {
        query = parts.query;
        while (nd_http_query_next(&query, &name, &value))
            assert(name.length + value.length <= target.length);
        if (nd_http_path_decode(parts.path, &path, NULL) == 0) {
            assert(strlen(path.data) == path.length);
            assert(*path.data == '/' || strcmp(path.data, "*") == 0);
            assert(!strstr(path.data, "/../") && !strstr(path.data, "/./"));
        }
    }
    nd_buf_fini(&path);
    nd_buf_fini(&name);
    nd_buf_fini(&value);
}

static void check_request(struct nd_http_parse *p)
{
    volatile char sum = 0;

    assert(p->head <= sizes.head && p->fields <= ND_HTTP_FIELDS);
    assert(p->body.length <= sizes.body && p->target.length <= sizes.target);
    for (int i = 0; i < p->fields; i++) {
        struct nd_http_text name = nd_http_parse_text(p, p->name[i]);
        struct nd_http_text value = nd_http_parse_text(p, p->value[i]);

        assert(name.length);
        for (size_t j = 0; j < name.length; j++)
            assert(name.data[j] != ' ' && name.data[j] != ':');
        for (size_t j = 0; j < value.length; j++)
            assert(value.data[j] != '\r' && value.data[j] != '\n' && value.data[j]);
    }
    for (size_t i = 0; i < p->body.length; i++)
        sum += p->body.data[i];
    check_target(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nd_http_parse p;
    size_t step = size ? data[0] + 1u : 1, have = 0, done = 0, bodies = 0;
    char *bytes;

    if (size < 2)
        return 0;
    size--;
    nd_http_parse_init(&p, &sizes, &bodies);
    while (done < size && p.state != ND_HTTP_FAILED) {
        size_t used;

        have = have + step < size ? have + step : size;
        bytes = nd_alloc(have - done); /* of its own, so that reading beyond it shows */
        memcpy(bytes, data + 1 + done, have - done);
        if (nd_http_parse_feed(&p, bytes, have - done, &used) == ND_HTTP_DONE) {
            check_request(&p);
            nd_http_parse_next(&p);
        } else if (p.state == ND_HTTP_BODY) {
            assert(used == have - done);
        }
        assert(used <= have - done);
        assert(bodies == p.body_held.length && bodies <= sizes.bodies);
        done += used;
        free(bytes);
        if (have == size && !used)
            break;
    }
    nd_http_parse_fini(&p);
    assert(bodies == 0);
    return 0;
}
