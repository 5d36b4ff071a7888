/*
 * fs.c - require "fs": whole files and directories.
 *
 *   read(path[, max]) -> bytes           waits; max defaults to 16 MiB
 *   write(path, bytes[, mode])           waits; atomic and durable; mode defaults to 0600
 *   list(path) -> {name...} sorted       waits
 *   remove(path[, {recursive=true}]) -> whether it was there    waits
 *   mkdir(path[, mode])                  with parents; mode defaults to 0755
 *   exists(path) -> boolean
 *   stat(path) -> {type, size, mode, uid, gid, mtime (UTC ms), device} | nil
 *   readlink(path) -> text
 *   lock(path) -> handle                 raises `locked`; handle:unlock(), <close>
 *   chmod(path, mode), chown(path, uid, gid)      chown: of a link itself
 *   mount_tmpfs(path, {size=, mode=}), unmount(path)
 *   hostname() -> text, machine_id([path]) -> text | nil
 *
 * Codes: fs_not_found, fs_exists, fs_denied, fs_full, fs_too_large, fs_io, locked.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "bind/bind.h"
#include "bind/job_op.h"
#include "io/file.h"

#define LOCK_META "nd.lock"

enum { READ_MOST = 16 * 1024 * 1024 };

struct fs_op {
    struct nd_job_op job;
    char *path;        /* owned */
    char *data;        /* owned; what to write */
    size_t length;     /* of data; for a read, the most it may bring */
    mode_t mode;       /* of what is written */
    bool recursive;    /* remove */
    bool found;        /* remove: it was there */
    struct nd_buf out; /* what was read, or the names */
};

static void fs_op_fini(void *arg)
{
    struct fs_op *op = arg;

    free(op->path);
    free(op->data);
    nd_buf_fini(&op->out);
}

static void *new_op(lua_State *L, const struct nd_op_type *type, const char *path)
{
    struct fs_op *op = nd_op_new(L, type);

    op->path = nd_strdup(path);
    return op;
}

/* ---- read ---- */

static void read_work(void *arg)
{
    struct fs_op *op = arg;

    nd_file_read(op->path, op->length, &op->out, &op->job.op.err);
}

static int read_push(lua_State *L, void *arg)
{
    struct fs_op *op = arg;

    lua_pushlstring(L, op->out.data ? op->out.data : "", op->out.length);
    return 1;
}

static const struct nd_op_type read_type = {"fs.read", sizeof(struct fs_op), read_push,
                                            nd_job_op_cancel, fs_op_fini};

static int fs_read(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    lua_Integer max = luaL_optinteger(L, 2, READ_MOST);
    struct fs_op *op;

    luaL_argcheck(L, max >= 0, 2, "not a size");
    op = new_op(L, &read_type, path);
    op->length = (size_t)max;
    return nd_job_op_run(L, op, read_work);
}

/* ---- write ---- */

static void write_work(void *arg)
{
    struct fs_op *op = arg;

    nd_file_write(op->path, op->data, op->length, op->mode, &op->job.op.err);
}

static const struct nd_op_type write_type = {"fs.write", sizeof(struct fs_op), NULL,
                                             nd_job_op_cancel, fs_op_fini};

static int fs_write(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    size_t length;
    const char *data = luaL_checklstring(L, 2, &length);
    mode_t mode = (mode_t)luaL_optinteger(L, 3, 0600);
    struct fs_op *op = new_op(L, &write_type, path);

    op->data = nd_alloc(length);
    memcpy(op->data, data, length);
    op->length = length;
    op->mode = mode;
    return nd_job_op_run(L, op, write_work);
}

/* ---- list ---- */

static void list_work(void *arg)
{
    struct fs_op *op = arg;

    nd_file_list(op->path, &op->out, &op->job.op.err);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list_push(lua_State *L, void *arg)
{
    struct fs_op *op = arg;
    size_t count = 0;
    const char **names;

    for (size_t at = 0; at < op->out.length; at += strlen(op->out.data + at) + 1)
        count++;
    lua_createtable(L, (int)count, 0);
    names = lua_newuserdatauv(L, (count + 1) * sizeof *names, 0); // list names
    count = 0;
    for (size_t at = 0; at < op->out.length; at += strlen(op->out.data + at) + 1)
        names[count++] = op->out.data + at;
    qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++) {
        lua_pushstring(L, names[i]);
        lua_rawseti(L, -3, (lua_Integer)i + 1);
    }
    lua_pop(L, 1);
    return 1;
}

static const struct nd_op_type list_type = {"fs.list", sizeof(struct fs_op), list_push,
                                            nd_job_op_cancel, fs_op_fini};

static int fs_list(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);

    return nd_job_op_run(L, new_op(L, &list_type, path), list_work);
}

/* ---- remove ---- */

static void remove_work(void *arg)
{
    struct fs_op *op = arg;

    op->found = nd_file_remove(op->path, op->recursive, &op->job.op.err) > 0;
}

static int remove_push(lua_State *L, void *arg)
{
    struct fs_op *op = arg;

    lua_pushboolean(L, op->found);
    return 1;
}

static const struct nd_op_type remove_type = {"fs.remove", sizeof(struct fs_op), remove_push,
                                              nd_job_op_cancel, fs_op_fini};

static int fs_remove(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    bool recursive = false;
    struct fs_op *op;

    if (!lua_isnoneornil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        lua_getfield(L, 2, "recursive");
        recursive = lua_toboolean(L, -1);
    }
    op = new_op(L, &remove_type, path);
    op->recursive = recursive;
    return nd_job_op_run(L, op, remove_work);
}

/* ---- single system calls, made at once ---- */

static int check(lua_State *L, int rc, const struct nd_err *err)
{
    return rc < 0 ? nd_raise(L, err) : 0;
}

static int check_errno(lua_State *L, int rc, const char *doing, const char *path)
{
    struct nd_err err;

    if (rc == 0)
        return 0;
    nd_err_errno(&err, errno, errno == ENOENT ? "fs_not_found" : "fs_denied", NULL, "can't %s %s",
                 doing, path);
    return nd_raise(L, &err);
}

static int fs_mkdir(lua_State *L)
{
    struct nd_err err;
    const char *path = luaL_checkstring(L, 1);

    return check(L, nd_file_mkdir(path, (mode_t)luaL_optinteger(L, 2, 0755), &err), &err);
}

static int fs_exists(lua_State *L)
{
    lua_pushboolean(L, access(luaL_checkstring(L, 1), F_OK) == 0);
    return 1;
}

static const char *type_name(mode_t mode)
{
    if (S_ISREG(mode))
        return "file";
    if (S_ISDIR(mode))
        return "directory";
    if (S_ISSOCK(mode))
        return "socket";
    return "other";
}

static void set_integer(lua_State *L, const char *name, lua_Integer value)
{
    lua_pushinteger(L, value);
    lua_setfield(L, -2, name);
}

static int fs_stat(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct stat st;

    if (stat(path, &st) < 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return 0;
        return check_errno(L, -1, "look at", path);
    }
    lua_createtable(L, 0, 7);
    lua_pushstring(L, type_name(st.st_mode));
    lua_setfield(L, -2, "type");
    set_integer(L, "size", st.st_size);
    set_integer(L, "mode", st.st_mode & 07777);
    set_integer(L, "uid", st.st_uid);
    set_integer(L, "gid", st.st_gid);
    set_integer(L, "mtime", (lua_Integer)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000);
    set_integer(L, "device", (lua_Integer)st.st_dev);
    return 1;
}

static int fs_readlink(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    char target[PATH_MAX];
    ssize_t length = readlink(path, target, sizeof target);

    if (length < 0)
        return check_errno(L, -1, "read the link", path);
    lua_pushlstring(L, target, (size_t)length);
    return 1;
}

static int fs_chmod(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);

    return check_errno(L, chmod(path, (mode_t)luaL_checkinteger(L, 2)), "change the mode of", path);
}

static int fs_chown(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    uid_t uid = (uid_t)luaL_checkinteger(L, 2);
    gid_t gid = (gid_t)luaL_checkinteger(L, 3);

    return check_errno(L, lchown(path, uid, gid), "change the owner of", path);
}

static int fs_mount_tmpfs(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct nd_err err;
    lua_Integer size, mode;

    luaL_checktype(L, 2, LUA_TTABLE);
    lua_getfield(L, 2, "size"); // opts size
    lua_getfield(L, 2, "mode"); // opts size mode
    size = luaL_checkinteger(L, -2);
    mode = luaL_optinteger(L, -1, 0700);
    return check(L, nd_file_mount_tmpfs(path, (size_t)size, (mode_t)mode, &err), &err);
}

static int fs_unmount(lua_State *L)
{
    struct nd_err err;

    return check(L, nd_file_unmount(luaL_checkstring(L, 1), &err), &err);
}

static int fs_hostname(lua_State *L)
{
    char name[256] = "";

    gethostname(name, sizeof name - 1);
    lua_pushstring(L, name);
    return 1;
}

static int fs_machine_id(lua_State *L)
{
    const char *path = luaL_optstring(L, 1, "/etc/machine-id");
    char text[64] = "";
    FILE *file = fopen(path, "re");
    bool got = file && fgets(text, sizeof text, file);

    if (file)
        fclose(file);
    text[strspn(text, "0123456789abcdef")] = '\0';
    if (!got || !text[0])
        return 0;
    lua_pushstring(L, text);
    return 1;
}

/* ---- lock ---- */

static int fs_lock(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    int *fd = lua_newuserdatauv(L, sizeof *fd, 0);
    struct nd_err err;

    *fd = -1;
    luaL_setmetatable(L, LOCK_META);
    *fd = nd_file_lock(path, &err);
    return *fd < 0 ? nd_raise(L, &err) : 1;
}

static int lock_unlock(lua_State *L)
{
    int *fd = luaL_checkudata(L, 1, LOCK_META);

    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return 0;
}

static const luaL_Reg lock_methods[] = {
    {"unlock", lock_unlock}, {"__gc", lock_unlock}, {"__close", lock_unlock}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"read", fs_read},
                                     {"write", fs_write},
                                     {"list", fs_list},
                                     {"remove", fs_remove},
                                     {"mkdir", fs_mkdir},
                                     {"exists", fs_exists},
                                     {"stat", fs_stat},
                                     {"readlink", fs_readlink},
                                     {"chmod", fs_chmod},
                                     {"chown", fs_chown},
                                     {"lock", fs_lock},
                                     {"mount_tmpfs", fs_mount_tmpfs},
                                     {"unmount", fs_unmount},
                                     {"hostname", fs_hostname},
                                     {"machine_id", fs_machine_id},
                                     {NULL, NULL}};

int nd_open_fs(lua_State *L)
{
    nd_bind_class(L, LOCK_META, lock_methods);
    luaL_newlib(L, functions);
    return 1;
}
