/*
 * store_reader.c - the reader: scans, one after the other, each in a snapshot of its own; and
 * backups, which are a scan of everything. Writers aren't held up by either.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/store_thread.h"

/* Copies the database into the empty file `path`. */
static int copy_to(struct nd_conn *source, const char *path, struct nd_err *err)
{
    struct nd_conn target = {.path = path};
    sqlite3_backup *backup = NULL;
    int rc = sqlite3_open_v2(path, &target.db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);

    if (rc == SQLITE_OK) {
        backup = sqlite3_backup_init(target.db, "main", source->db, "main");
        if (backup) {
            sqlite3_backup_step(backup, -1);
            rc = sqlite3_backup_finish(backup);
        } else {
            rc = sqlite3_errcode(target.db);
        }
    }
    if (rc != SQLITE_OK)
        nd_conn_err(&target, rc, NULL, err);
    sqlite3_close(target.db);
    return rc == SQLITE_OK ? 0 : -1;
}

static int sync_path(const char *path, int flags, struct nd_err *err)
{
    int fd = open(path, flags | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd);

    if (rc < 0)
        nd_err_errno(err, errno, "db_io", NULL, "can't make %s durable", path);
    if (fd >= 0)
        close(fd);
    return rc;
}

static int back_up(struct nd_conn *source, const char *path, struct nd_err *err)
{
    char *part = nd_printf("%s.part", path);
    char *copy = nd_strdup(path);
    int fd = open(part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = -1;

    if (fd < 0) {
        nd_err_errno(err, errno, errno == ENOSPC ? "db_full" : "db_open", NULL, "can't write %s",
                     part);
        goto out;
    }
    close(fd);
    if (copy_to(source, part, err) < 0 || sync_path(part, O_RDONLY, err) < 0) {
        unlink(part);
        goto out;
    }
    if (rename(part, path) < 0) {
        nd_err_errno(err, errno, "db_io", NULL, "can't rename %s to %s", part, path);
        unlink(part);
        goto out;
    }
    rc = sync_path(dirname(copy), O_RDONLY | O_DIRECTORY, err);
out:
    free(copy);
    free(part);
    return rc;
}

static struct nd_request *take(struct nd_store *s)
{
    struct nd_request *r = NULL;

    uv_mutex_lock(&s->lock);
    while (nd_list_empty(&s->reads) && !s->closing)
        uv_cond_wait(&s->wake, &s->lock);
    if (!nd_list_empty(&s->reads)) {
        r = ND_CONTAINER(s->reads.next, struct nd_request, link);
        nd_list_remove(&r->link);
    }
    uv_mutex_unlock(&s->lock);
    return r;
}

void nd_store_reader(void *arg)
{
    struct nd_store *s = arg;
    struct nd_list finished;
    struct nd_request *r;

    nd_list_init(&finished);
    while ((r = take(s)) != NULL) {
        if (r->kind == ND_STORE_BACKUP)
            back_up(&s->read_conn, r->text, &r->err);
        else
            nd_conn_run(&s->read_conn, &r->statements[0], SIZE_MAX, &r->err);
        nd_list_append(&finished, &r->link);
        nd_store_finish(s, &finished, NULL);
    }
}
