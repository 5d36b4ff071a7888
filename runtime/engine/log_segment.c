#include "engine/log_segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"

#define MAGIC 0x316c646eu /* "ndl1" */
#define HINT_DISK "free some space, or lower `log_bytes`"

enum { BLOCK_RAW = 256 * 1024, RAW_MOST = 16 * 1024 * 1024, REST_TIMES = 3 };

struct head { /* of a block on disk, in the host's byte order */
    uint32_t magic;
    uint32_t crc; /* of all that follows it */
    uint32_t stored;
    uint32_t raw;
    uint64_t first, last;
    int64_t first_time, last_time;
    uint64_t lines;
    uint64_t deflated;
};

static char *path_of(const char *dir, uint64_t first, const char *suffix)
{
    return nd_printf("%s/%020" PRIu64 ".%s", dir, first, suffix);
}

/* --- reading ---------------------------------------------------------------------------------- */

static int map_file(struct nd_log_map *map, const char *path)
{
    struct stat st;
    void *data = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    *map = (struct nd_log_map){0};
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && st.st_size > 0)
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (data == MAP_FAILED)
        return -1;
    if (data)
        *map = (struct nd_log_map){data, (size_t)st.st_size};
    return 0;
}

/* A segment may be sealed between the look for one name and the look for the other. */
int nd_log_map_open(struct nd_log_map *map, const char *dir, uint64_t first, struct nd_err *err)
{
    static const char *const suffixes[] = {"raw", "z", "raw"};
    int rc = -1;

    for (size_t i = 0; i < 3 && rc < 0; i++) {
        char *path = path_of(dir, first, suffixes[i]);

        rc = map_file(map, path);
        free(path);
    }
    if (rc < 0)
        return nd_err_errno(err, errno, "log_disk", "", "can't read a part of the log in %s", dir);
    return 0;
}

void nd_log_map_close(struct nd_log_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->length);
    *map = (struct nd_log_map){0};
}

static uint32_t checksum(const struct head *head, const char *payload)
{
    uLong crc =
        crc32(0, (const Bytef *)&head->stored, sizeof *head - offsetof(struct head, stored));

    return (uint32_t)crc32(crc, (const Bytef *)payload, head->stored);
}

bool nd_log_map_next(const struct nd_log_map *map, size_t *at, struct nd_log_block *block)
{
    struct head head;

    if (map->length - *at < sizeof head)
        return false;
    memcpy(&head, map->data + *at, sizeof head);
    if (head.magic != MAGIC || head.stored > map->length - *at - sizeof head || head.raw > RAW_MOST)
        return false;
    *block = (struct nd_log_block){
        .first = head.first,
        .last = head.last,
        .first_time = head.first_time,
        .last_time = head.last_time,
        .lines = head.lines,
        .raw = head.raw,
        .payload = map->data + *at + sizeof head,
        .stored = head.stored,
        .deflated = head.deflated,
    };
    *at += sizeof head + head.stored;
    return true;
}

/* Whether a block of a map is as it was written. */
static bool is_whole(const struct nd_log_block *block)
{
    struct head head;

    memcpy(&head, block->payload - sizeof head, sizeof head);
    return head.crc == checksum(&head, block->payload);
}

const char *nd_log_block_records(const struct nd_log_block *block, struct nd_buf *room)
{
    uLongf length = block->raw;

    if (!is_whole(block))
        return NULL;
    if (!block->deflated)
        return block->stored == block->raw ? block->payload : NULL;
    nd_buf_clear(room);
    nd_buf_reserve(room, block->raw);
    if (uncompress((Bytef *)room->data, &length, (const Bytef *)block->payload, block->stored) !=
            Z_OK ||
        length != block->raw)
        return NULL;
    room->length = length;
    return room->data;
}

/* --- opening ---------------------------------------------------------------------------------- */

/* Adds a block to what a segment is known to hold. */
static void count_block(struct nd_log_segment *s, const struct nd_log_block *b, size_t bytes)
{
    if (!s->bytes || b->first_time < s->first_time)
        s->first_time = b->first_time;
    if (!s->bytes || b->last_time > s->last_time)
        s->last_time = b->last_time;
    s->last = b->last;
    s->bytes += bytes;
}

/* Takes in a file; false where nothing of it is of use, and it was removed. */
static bool look_at(const char *dir, const char *name, struct nd_log_segment *s)
{
    char *path = nd_printf("%s/%s", dir, name);
    struct nd_log_map map;
    struct nd_log_block block;
    size_t at = 0;
    bool good = false;

    if (map_file(&map, path) < 0)
        goto out;
    /* A sealed segment was synced before it got its name: its bytes are looked at when read. */
    for (size_t next = 0; nd_log_map_next(&map, &next, &block) && (s->sealed || is_whole(&block));
         at = next)
        count_block(s, &block, next - at);
    /* Failing here costs nothing but the next look: readers stop where a block is none, and what
     * is appended begins a segment of its own. */
    if (at < map.length && at > 0 && truncate(path, (off_t)at) < 0)
        s->broken = true;
    good = at > 0;
    nd_log_map_close(&map);
    if (!good)
        unlink(path);
out:
    free(path);
    return good;
}

static int by_first(const void *a, const void *b)
{
    const struct nd_log_segment *left = a, *right = b;

    if (left->first != right->first)
        return left->first < right->first ? -1 : 1;
    return left->sealed - right->sealed;
}

/* A raw segment beside its sealed form is what a crash left between the two. */
static int drop_doubles(const char *dir, struct nd_log_segment *list, int count)
{
    int kept = 0;

    for (int i = 0; i < count; i++) {
        if (i + 1 < count && list[i].first == list[i + 1].first) {
            char *path = path_of(dir, list[i].first, "raw");

            unlink(path);
            free(path);
        } else {
            list[kept++] = list[i];
        }
    }
    return kept;
}

struct nd_log_segment *nd_log_segment_list(const char *dir, int *count, struct nd_err *err)
{
    struct nd_log_segment *list = NULL;
    struct dirent *entry;
    DIR *d;

    d = opendir(dir);
    *count = d || errno == ENOENT ? 0 : -1;
    if (!d && *count == 0)
        return NULL;
    if (!d) {
        nd_err_errno(err, errno, "log_disk", "", "can't read %s", dir);
        return NULL;
    }
    while ((entry = readdir(d))) {
        struct nd_log_segment s = {0};
        const char *name = entry->d_name;
        char *end;

        s.first = strtoull(name, &end, 10);
        s.sealed = strcmp(end, ".z") == 0;
        if (strcmp(end, ".tmp") == 0) {
            unlinkat(dirfd(d), name, 0);
        } else if (end != name && (s.sealed || strcmp(end, ".raw") == 0) &&
                   look_at(dir, name, &s)) {
            list = nd_realloc(list, (size_t)(*count + 1) * sizeof *list);
            list[(*count)++] = s;
        }
    }
    closedir(d);
    if (*count) {
        qsort(list, (size_t)*count, sizeof *list, by_first);
        *count = drop_doubles(dir, list, *count);
    }
    return list;
}

/* --- writing ---------------------------------------------------------------------------------- */

static void make_head(struct head *head, const struct nd_log_block *b)
{
    *head = (struct head){
        .magic = MAGIC,
        .stored = (uint32_t)b->stored,
        .raw = (uint32_t)b->raw,
        .first = b->first,
        .last = b->last,
        .first_time = b->first_time,
        .last_time = b->last_time,
        .lines = b->lines,
        .deflated = b->deflated,
    };
    head->crc = checksum(head, b->payload);
}

static int write_all(int fd, const struct head *head, const char *payload)
{
    size_t done = 0, length = sizeof *head + head->stored;

    while (done < length) {
        struct iovec parts[2] = {
            {(char *)(uintptr_t)head + done, done < sizeof *head ? sizeof *head - done : 0},
            {(char *)(uintptr_t)payload, head->stored},
        };
        int skip = done >= sizeof *head;
        ssize_t n;

        if (skip) {
            parts[1].iov_base = (char *)(uintptr_t)payload + (done - sizeof *head);
            parts[1].iov_len = length - done;
        }
        n = writev(fd, parts + skip, 2 - skip);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

/* Opens a raw segment, with its directory made where it is missing. */
static int open_raw(const char *dir, const char *path)
{
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
    int fd = open(path, flags, 0600);

    if (fd < 0 && errno == ENOENT && mkdir(dir, 0700) == 0)
        fd = open(path, flags, 0600);
    return fd;
}

int nd_log_segment_append(const char *dir, struct nd_log_segment *s, const struct nd_log_block *b,
                          struct nd_err *err)
{
    char *path = path_of(dir, s->first, "raw");
    int fd = open_raw(dir, path);
    struct head head;
    int rc = -1;

    if (fd < 0) {
        nd_err_errno(err, errno, "log_disk", HINT_DISK, "can't write %s", path);
        goto out;
    }
    make_head(&head, b);
    if (nd_fault("log.append"))
        errno = ENOSPC;
    else
        rc = write_all(fd, &head, b->payload);
    if (rc < 0) {
        nd_err_errno(err, errno, errno == ENOSPC ? "log_full" : "log_disk", HINT_DISK,
                     "can't write %s", path);
        if (ftruncate(fd, (off_t)s->bytes) < 0)
            s->broken = true;
    } else {
        count_block(s, b, sizeof head + b->stored);
    }
    close(fd);
out:
    free(path);
    return rc;
}

/* Deflates what is gathered and writes it as one block. */
static int put_block(int fd, struct nd_log_block *b, struct nd_buf *records, struct nd_buf *room,
                     size_t *bytes)
{
    uLongf length = compressBound(records->length);
    struct head head;

    nd_buf_clear(room);
    nd_buf_reserve(room, length);
    if (compress2((Bytef *)room->data, &length, (const Bytef *)records->data, records->length,
                  Z_BEST_SPEED) != Z_OK)
        return -1;
    b->payload = room->data;
    b->stored = length;
    b->raw = records->length;
    b->deflated = true;
    make_head(&head, b);
    *bytes += sizeof head + b->stored;
    nd_buf_clear(records);
    return write_all(fd, &head, b->payload);
}

/* Rests REST_TIMES as long as the last block took, so that sealing takes a small part of a
 * processor only, and no more than a moment of it at a time: even a thread of the least priority
 * makes those who wake up beside it wait for the end of its turn (3 ms). */
static void rest(uint64_t since)
{
    uint64_t ns = REST_TIMES * (nd_clock_nanos() - since);

    nanosleep(&(struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)}, NULL);
}

static int write_sealed(int fd, const struct nd_log_map *map, size_t *bytes)
{
    struct nd_buf records = {0}, room = {0};
    struct nd_log_block sum = {0}, block;
    uint64_t since = nd_clock_nanos();
    int rc = 0;

    for (size_t at = 0; rc == 0 && nd_log_map_next(map, &at, &block) && is_whole(&block);) {
        if (records.length && records.length + block.raw > BLOCK_RAW) {
            rc = put_block(fd, &sum, &records, &room, bytes);
            rest(since);
            since = nd_clock_nanos();
        }
        if (rc == 0 && !records.length)
            sum = block;
        else
            sum.lines += block.lines;
        sum.last = block.last;
        if (block.first_time < sum.first_time)
            sum.first_time = block.first_time;
        if (block.last_time > sum.last_time)
            sum.last_time = block.last_time;
        nd_buf_add(&records, block.payload, block.stored);
    }
    if (rc == 0 && records.length)
        rc = put_block(fd, &sum, &records, &room, bytes);
    nd_buf_fini(&records);
    nd_buf_fini(&room);
    return rc;
}

int nd_log_segment_seal(const char *dir, struct nd_log_segment *s, struct nd_err *err)
{
    char *raw = path_of(dir, s->first, "raw");
    char *tmp = path_of(dir, s->first, "z.tmp");
    char *sealed = path_of(dir, s->first, "z");
    struct nd_log_map map = {0};
    size_t bytes = 0;
    int fd = -1, rc = -1;

    if (map_file(&map, raw) < 0)
        goto out;
    fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write_sealed(fd, &map, &bytes) < 0 || fdatasync(fd) < 0 ||
        rename(tmp, sealed) < 0)
        goto out;
    nd_fault("log.sealed");
    unlink(raw);
    s->bytes = bytes;
    s->sealed = true;
    rc = 0;
out:
    if (rc < 0) {
        nd_err_errno(err, errno, "log_disk", HINT_DISK, "can't write %s", sealed);
        unlink(tmp);
    }
    if (fd >= 0)
        close(fd);
    nd_log_map_close(&map);
    free(raw);
    free(tmp);
    free(sealed);
    return rc;
}

void nd_log_segment_remove(const char *dir, uint64_t first)
{
    static const char *const suffixes[] = {"raw", "z"};

    for (size_t i = 0; i < 2; i++) {
        char *path = path_of(dir, first, suffixes[i]);

        unlink(path);
        free(path);
    }
}
