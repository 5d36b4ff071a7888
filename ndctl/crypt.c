#include "crypt.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "bind/job_op.h"
#include "engine/age.h"

enum { CHUNK = 256 * 1024 }; /* bytes of stdin at once */

/* What a signal has to remove: "" where there is nothing. One stream runs at a time. */
static char unfinished[PATH_MAX];

static void on_signal(int number)
{
    if (unfinished[0])
        unlink(unfinished);
    signal(number, SIG_DFL);
    raise(number);
}

static void end_by_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal};

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction before;

        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
}

struct crypt_op {
    struct nd_job_op job;
    struct nd_age_encryptor *encryptor; /* owned; one of these two */
    struct nd_age_decryptor *decryptor;
    struct nd_age_recipient *recipients; /* owned */
    struct nd_age_identity *identities;  /* owned */
    size_t count;                        /* of either */
    bool armor;
    int out;                   /* a descriptor; STDOUT_FILENO is borrowed */
    bool whole;                /* a file is replaced as a whole */
    char path[PATH_MAX];       /* the output; "" is stdout */
    unsigned char data[CHUNK]; /* of stdin */
};

/* ---- the output ---- */

static int write_failed(struct crypt_op *op, struct nd_err *err)
{
    if (errno == EPIPE) { /* as other programs end whose reader went away */
        signal(SIGPIPE, SIG_DFL);
        raise(SIGPIPE);
    }
    return nd_err_errno(err, errno, "write_failed", "see whether the disk is full: df -h",
                        "can't write %s", op->path[0] ? op->path : "to stdout");
}

static int give(void *arg, const void *data, size_t length, struct nd_err *err)
{
    struct crypt_op *op = arg;
    const char *bytes = data;

    while (length) {
        ssize_t n = write(op->out, bytes, length);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return write_failed(op, err);
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

/* A new file beside the one that it will be; what is no file (/dev/null, a pipe) is written to. */
static int open_output(struct crypt_op *op, mode_t usual, struct nd_err *err)
{
    char target[PATH_MAX];
    struct stat st;
    const char *name;
    mode_t mask = umask(0);

    umask(mask);
    op->out = STDOUT_FILENO;
    if (!op->path[0])
        return 0;
    if (stat(op->path, &st) < 0)
        st.st_mode = S_IFREG | (usual & ~mask);
    else if (!realpath(op->path, target) || strlen(target) >= sizeof op->path)
        return write_failed(op, err);
    else
        strcpy(op->path, target);
    op->whole = S_ISREG(st.st_mode);
    if (!op->whole) {
        op->out = open(op->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
        return op->out < 0 ? write_failed(op, err) : 0;
    }
    name = strrchr(op->path, '/') ? strrchr(op->path, '/') + 1 : op->path;
    if (snprintf(target, sizeof target, "%.*s.%s.XXXXXX", (int)(name - op->path), op->path, name) >=
        (int)sizeof target) {
        errno = ENAMETOOLONG;
        return write_failed(op, err);
    }
    op->out = mkostemp(target, O_CLOEXEC);
    if (op->out < 0)
        return write_failed(op, err);
    strcpy(unfinished, target);
    return fchmod(op->out, st.st_mode & 07777) < 0 ? write_failed(op, err) : 0;
}

/* The file takes its place, or goes. */
static void close_output(struct crypt_op *op, struct nd_err *err)
{
    if (op->whole && op->out >= 0 && !err->code[0] &&
        (fsync(op->out) < 0 || rename(unfinished, op->path) < 0))
        write_failed(op, err);
    if (op->out != STDOUT_FILENO && op->out >= 0 && close(op->out) < 0 && !err->code[0])
        write_failed(op, err);
    if (unfinished[0] && err->code[0])
        unlink(unfinished);
    unfinished[0] = '\0';
}

/* ---- the stream ---- */

static int feed(struct crypt_op *op, size_t length, struct nd_err *err)
{
    return op->encryptor ? nd_age_encrypt_feed(op->encryptor, op->data, length, err)
                         : nd_age_decrypt_feed(op->decryptor, op->data, length, err);
}

static int stream(struct crypt_op *op, struct nd_err *err)
{
    for (;;) {
        ssize_t n = read(STDIN_FILENO, op->data, sizeof op->data);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return nd_err_errno(err, errno, "read_failed", NULL, "can't read stdin");
        if (n == 0)
            return op->encryptor ? nd_age_encrypt_end(op->encryptor, err)
                                 : nd_age_decrypt_end(op->decryptor, err);
        if (feed(op, (size_t)n, err) < 0)
            return -1;
    }
}

static void encrypt_work(void *arg)
{
    struct crypt_op *op = arg;
    struct nd_err *err = &op->job.op.err;

    if (open_output(op, 0666, err) == 0)
        op->encryptor = nd_age_encrypt_new(op->recipients, op->count, op->armor, give, op, err);
    if (op->encryptor)
        stream(op, err);
    close_output(op, err);
}

static void decrypt_work(void *arg)
{
    struct crypt_op *op = arg;
    struct nd_err *err = &op->job.op.err;

    if (open_output(op, 0600, err) == 0) {
        op->decryptor = nd_age_decrypt_new(op->identities, op->count, give, op);
        stream(op, err);
    }
    close_output(op, err);
}

static void crypt_fini(void *arg)
{
    struct crypt_op *op = arg;

    nd_age_encrypt_free(op->encryptor);
    nd_age_decrypt_free(op->decryptor);
    free(op->recipients);
    if (op->identities)
        nd_zero(op->identities, op->count * sizeof *op->identities);
    free(op->identities);
    nd_zero(op->data, sizeof op->data);
}

static int crypt_push(lua_State *L, void *op)
{
    (void)L;
    (void)op;
    return 0;
}

static const struct nd_op_type crypt_type = {
    .name = "crypt",
    .size = sizeof(struct crypt_op),
    .push = crypt_push,
    .cancel = nd_job_op_cancel,
    .fini = crypt_fini,
};

/* A new operation with the path at `output`. */
ND_RAISES static struct crypt_op *new_op(lua_State *L, int output)
{
    const char *path = luaL_optstring(L, output, "");
    struct crypt_op *op;

    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argcheck(L, strlen(path) < sizeof op->path, output, "a path that is too long");
    op = nd_op_new(L, &crypt_type);
    strcpy(op->path, path);
    op->count = lua_rawlen(L, 1);
    end_by_signals();
    return op;
}

/* Starts `work`, unless the keys were refused already. */
static int run(lua_State *L, struct crypt_op *op, nd_job_work *work)
{
    if (!op->job.op.err.code[0])
        return nd_job_op_run(L, op, work);
    nd_op_done(&op->job.op);
    return nd_op_park(L, op);
}

/* The k-th text of the list, or "": the parsers say what is wrong with that. */
static const char *text_at(lua_State *L, size_t k, size_t *length)
{
    const char *text;

    lua_rawgeti(L, 1, (lua_Integer)k + 1); // text
    *length = 0;
    text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, length) : "";
    lua_pop(L, 1);
    return text;
}

static int crypt_encrypt(lua_State *L)
{
    struct crypt_op *op = new_op(L, 3);
    int rc = 0;

    op->armor = lua_toboolean(L, 2);
    op->recipients = nd_alloc(op->count * sizeof *op->recipients);
    for (size_t i = 0; rc == 0 && i < op->count; i++) {
        size_t length;
        const char *text = text_at(L, i, &length);

        rc = nd_age_recipient_parse(text, length, &op->recipients[i], &op->job.op.err);
    }
    return run(L, op, encrypt_work);
}

static int crypt_decrypt(lua_State *L)
{
    struct crypt_op *op = new_op(L, 2);
    int rc = 0;

    op->identities = nd_alloc(op->count * sizeof *op->identities);
    for (size_t i = 0; rc == 0 && i < op->count; i++) {
        size_t length;
        const char *text = text_at(L, i, &length);

        rc = nd_age_identity_parse(text, length, &op->identities[i], &op->job.op.err);
    }
    return run(L, op, decrypt_work);
}

int ndctl_open_crypt(lua_State *L)
{
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, crypt_encrypt);
    lua_setfield(L, -2, "encrypt");
    lua_pushcfunction(L, crypt_decrypt);
    lua_setfield(L, -2, "decrypt");
    return 1;
}
