#include "engine/log_gap.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { FAR_MS = 60 * 1000 }; /* apart, two lines are not the same one */

static uint64_t hash_of(const char *text, size_t length)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a, 64 bits */

    for (size_t i = 0; i < length; i++)
        h = (h ^ (unsigned char)text[i]) * 1099511628211u;
    return h;
}

void nd_log_lines_add(struct nd_log_lines *lines, int64_t time, bool is_stderr, const char *text,
                      size_t length)
{
    if (lines->count == lines->room) {
        lines->room = lines->room ? 2 * lines->room : 64;
        lines->list = nd_realloc(lines->list, lines->room * sizeof *lines->list);
    }
    lines->list[lines->count++] = (struct nd_log_entry){
        .time = time,
        .hash = hash_of(text, length),
        .at = lines->text.length,
        .length = length,
        .is_stderr = is_stderr,
    };
    if (!lines->bare)
        nd_buf_add(&lines->text, text, length);
}

void nd_log_lines_fini(struct nd_log_lines *lines)
{
    free(lines->list);
    nd_buf_fini(&lines->text);
    *lines = (struct nd_log_lines){0};
}

/* The lines of one stream of a container, in order. */
struct view {
    struct nd_log_entry **list; /* owned */
    size_t count;
};

static struct view view_of(const struct nd_log_lines *lines, bool is_stderr)
{
    struct view v = {.list = nd_alloc((lines->count + 1) * sizeof *v.list)};

    for (size_t i = 0; i < lines->count; i++)
        if (lines->list[i].is_stderr == is_stderr)
            v.list[v.count++] = &lines->list[i];
    return v;
}

static bool same(const struct nd_log_entry *a, const struct nd_log_entry *b)
{
    return a->hash == b->hash && a->length == b->length;
}

/* How many lines of `docker` before `end` are the last ones stored. */
static size_t stored_before(const struct view *stored, const struct view *docker, size_t end)
{
    size_t i = 0;

    while (i < end && i < stored->count &&
           same(stored->list[stored->count - 1 - i], docker->list[end - 1 - i]))
        i++;
    return i;
}

/* How many of the first lines of `docker` are stored: as far back as both go. Where several numbers
 * fit, the lines are all alike, and their times tell: ours is when a line reached us, Docker's when
 * it was logged; under load either may be the earlier one. Where none fits, lines were lost once:
 * then the one after which the most do. */
static size_t stored_overlap(const struct view *stored, const struct view *docker)
{
    int64_t last = stored->count ? stored->list[stored->count - 1]->time : 0;
    int64_t nearest = FAR_MS;
    size_t best = 0, longest = 0;

    for (size_t end = docker->count; stored->count && end > 0; end--) {
        int64_t apart = llabs(docker->list[end - 1]->time - last);
        size_t run = apart < FAR_MS ? stored_before(stored, docker, end) : 0;

        if (run && (run == end || run == stored->count))
            run = SIZE_MAX; /* all there is to compare */
        if (run > longest || (run && run == longest && apart < nearest)) {
            longest = run;
            nearest = apart;
            best = end;
        }
    }
    return best;
}

static bool ends_with(const struct nd_log_lines *docker, const struct nd_log_entry *whole,
                      const struct nd_log_lines *live, const struct nd_log_entry *rest)
{
    return rest->length && rest->length < whole->length &&
           memcmp(docker->text.data + whole->at + whole->length - rest->length,
                  live->text.data + rest->at, rest->length) == 0;
}

/* Whether the lines of `docker` from `from` on are the first of `live`. The first of these may lack
 * its beginning (`torn`), since the stream was opened within it. */
static bool fits(const struct nd_log_lines *docker, const struct view *d, size_t from,
                 const struct nd_log_lines *live, const struct view *l, bool torn)
{
    size_t i = 0;

    if (torn && !ends_with(docker, d->list[from], live, l->list[0]))
        return false;
    for (i = torn; from + i < d->count && i < l->count; i++)
        if (!same(d->list[from + i], l->list[i]))
            return false;
    return true;
}

/* Marks the lines of `live` that Docker's log had too; false: it does not reach up to them. */
static bool mark_live(const struct nd_log_lines *docker, const struct view *d,
                      const struct nd_log_lines *live, const struct view *l, int64_t opened)
{
    size_t begin = d->count;

    while (begin > 0 && d->list[begin - 1]->time >= opened)
        begin--;
    for (int torn = 0; torn < 2 && l->count; torn++)
        for (size_t from = begin; from < d->count; from++) {
            if (!fits(docker, d, from, live, l, torn))
                continue;
            for (size_t i = 0; from + i < d->count && i < l->count; i++)
                l->list[i]->known = true;
            return true;
        }
    return l->count == 0;
}

bool nd_log_gap_join(const struct nd_log_lines *stored, struct nd_log_lines *docker,
                     struct nd_log_lines *live, int64_t opened)
{
    bool joined = true;

    for (size_t i = 0; i < live->count; i++)
        live->list[i].known = false;
    for (int is_stderr = 0; is_stderr < 2; is_stderr++) {
        struct view s = view_of(stored, is_stderr);
        struct view d = view_of(docker, is_stderr);
        struct view l = view_of(live, is_stderr);
        size_t known = stored_overlap(&s, &d);

        for (size_t i = 0; i < known; i++)
            d.list[i]->known = true;
        joined = mark_live(docker, &d, live, &l, opened) && joined;
        free(s.list);
        free(d.list);
        free(l.list);
    }
    return joined;
}
