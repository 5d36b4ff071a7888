#include "io/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/handover.h"
#include "io/http_conn.h"

const struct nd_http_limits nd_http_limits_default = {
    .sizes = {.target = 8 * 1024,
              .head = 16 * 1024,
              .body = 4 * 1024 * 1024,
              .body_unknown = 64 * 1024,
              .bodies = 64 * 1024 * 1024},
    .head_ms = 10 * 1000,
    .body_ms = 10 * 1000,
    .body_rate = 4096,
    .idle_ms = 75 * 1000,
    .write_ms = 30 * 1000,
    .linger_ms = 2 * 1000,
    .connections = 4096,
    .per_address = 1024,
    .handshakes = 512,
    .stream_high = 256 * 1024,
    .ws = {.message = 1024 * 1024, .high = 256 * 1024, .ping_ms = 30 * 1000, .close_ms = 5 * 1000},
};

enum {
    BACKLOG = 1024,
    KEEPALIVE_S = 60,
    REFUSED_MOST = 64, /* connections being told 503; above it they are just closed */
    HEAD_MOST = 65000, /* spans are 16 bits wide */
};

/* ---- the sweep ---- */

static int sweep_every(const struct nd_http_limits *l)
{
    const int all[] = {l->head_ms,   l->body_ms,    l->idle_ms,    l->write_ms,
                       l->linger_ms, l->ws.ping_ms, l->ws.close_ms};
    int least = 4000;

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i] < least)
            least = all[i];
    return least < 40 ? 10 : least / 4;
}

static void on_sweep(uv_timer_t *timer)
{
    struct nd_http_server *server = timer->data;
    int64_t now = (int64_t)uv_now(timer->loop);
    bool late = server->closing && now >= server->grace_until;

    ND_LIST_EACH (link, &server->conns) {
        struct nd_http_conn *c = ND_CONTAINER(link, struct nd_http_conn, link);

        if (late)
            nd_http_conn_close(c);
        else
            nd_http_conn_sweep(c, now);
    }
}

static void sweep_start(struct nd_http_server *server)
{
    uint64_t every = (uint64_t)sweep_every(&server->limits);

    if (!uv_is_active((uv_handle_t *)&server->sweep))
        uv_timer_start(&server->sweep, on_sweep, every, every);
}

/* ---- the end ---- */

void nd_http_server_drop(struct nd_http_server *server)
{
    if (--server->holders > 0)
        return;
    nd_tls_context_free(server->tls);
    nd_buf_fini(&server->out);
    nd_buf_fini(&server->target);
    free(server->path);
    free(server);
}

static void maybe_closed(struct nd_http_server *server);

static void on_sweep_closed(uv_handle_t *handle)
{
    struct nd_http_server *server = handle->data;

    server->sweep_closed = true;
    if (server->on_closed)
        server->on_closed(server->closed_arg);
    nd_http_server_drop(server);
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct nd_http_server *server = handle->data;

    server->listener_closed = true;
    maybe_closed(server);
}

static void maybe_closed(struct nd_http_server *server)
{
    if (server->listener_closed && nd_list_empty(&server->conns) &&
        !uv_is_closing((uv_handle_t *)&server->sweep))
        uv_close((uv_handle_t *)&server->sweep, on_sweep_closed);
}

static void unlink_own(struct nd_http_server *server)
{
    struct stat st;

    if (server->unix_socket && !server->handed_over && lstat(server->path, &st) == 0 &&
        st.st_dev == server->path_dev && st.st_ino == server->path_ino)
        unlink(server->path);
}

void nd_http_server_close(struct nd_http_server *server, int grace_ms, void (*on_closed)(void *arg),
                          void *arg)
{
    uint64_t now = uv_now(&server->loop->uv);

    server->grace_until = (int64_t)now + grace_ms;
    if (on_closed) {
        server->on_closed = on_closed;
        server->closed_arg = arg;
    }
    if (!server->closing) {
        server->closing = true;
        unlink_own(server);
        uv_close(&server->listener.handle, on_listener_closed);
    }
    ND_LIST_EACH (link, &server->conns) {
        nd_http_conn_leave(ND_CONTAINER(link, struct nd_http_conn, link));
    }
    if (grace_ms <= 0)
        on_sweep(&server->sweep);
    else if (!uv_is_closing((uv_handle_t *)&server->sweep)) /* notice the end of the grace */
        uv_timer_start(&server->sweep, on_sweep, 10, 10);
}

int nd_http_server_hand_over(struct nd_http_server *server, int grace_ms,
                             void (*on_closed)(void *arg), void *arg, struct nd_err *err)
{
    uv_os_fd_t fd;

    if (server->closing || uv_fileno(&server->listener.handle, &fd) < 0)
        return nd_err_set(err, "handover_failed", NULL, "the server is closed already");
    if (nd_handover_keep(server->loop->handover, fd, err) < 0)
        return -1;
    server->handed_over = true;
    nd_http_server_close(server, grace_ms, on_closed, arg);
    return 0;
}

/* ---- connections ---- */

static struct nd_list *bucket_of(struct nd_http_server *server, const unsigned char ip[16])
{
    uint32_t hash = 2166136261u;

    for (int i = 0; i < 16; i++)
        hash = (hash ^ ip[i]) * 16777619u;
    return &server->addresses[hash % ND_HTTP_BUCKETS];
}

static struct nd_http_address *address_of(struct nd_http_server *server, const unsigned char ip[16])
{
    struct nd_list *bucket = bucket_of(server, ip);
    struct nd_http_address *a;

    ND_LIST_EACH (link, bucket) {
        a = ND_CONTAINER(link, struct nd_http_address, link);
        if (memcmp(a->ip, ip, 16) == 0)
            return a;
    }
    a = nd_alloc(sizeof *a);
    memcpy(a->ip, ip, 16);
    nd_list_append(bucket, &a->link);
    return a;
}

void nd_http_server_set_tls(struct nd_http_server *server, struct ssl_ctx_st *tls)
{
    nd_tls_context_free(server->tls);
    server->tls = tls;
}

/* Whether it may begin a TLS handshake. */
static bool may_shake(struct nd_http_server *server, struct nd_http_conn *c)
{
    int most = server->limits.handshakes;

    if (server->handshakes >= most || c->address->handshakes >= (most + 3) / 4)
        return false;
    server->handshakes++;
    c->address->handshakes++;
    c->shaking = true;
    c->tls = nd_tls_accept(server->tls);
    return true;
}

void nd_http_server_shaken(struct nd_http_server *server, struct nd_http_conn *c)
{
    server->handshakes--;
    c->address->handshakes--;
    c->shaking = false;
}

void nd_http_server_left(struct nd_http_server *server, struct nd_http_conn *c)
{
    struct nd_http_address *a = c->address;

    if (c->shaking)
        nd_http_server_shaken(server, c);
    nd_list_remove(&c->link);
    if (c->counted)
        server->count--;
    else if (c->refused)
        server->refused--;
    if (a && --a->connections == 0) {
        nd_list_remove(&a->link);
        free(a);
    }
    if (nd_list_empty(&server->conns)) {
        uv_timer_stop(&server->sweep);
        if (server->closing)
            maybe_closed(server);
    }
}

/* Who is at the other end; fills c->peer and, over TCP, counts the address. */
static int identify(struct nd_http_conn *c)
{
    struct nd_http_server *server = c->server;
    struct sockaddr_storage ss = {0};
    int length = sizeof ss;
    unsigned char ip[16] = {0};

    if (server->unix_socket) {
        struct ucred cred;
        socklen_t size = sizeof cred;
        uv_os_fd_t fd;

        c->peer.kind = ND_HTTP_UNIX;
        if (uv_fileno(&c->uv.handle, &fd) < 0 ||
            getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
            return -1;
        c->peer.uid = cred.uid;
        c->peer.gid = cred.gid;
        c->peer.pid = cred.pid;
        return 0;
    }
    c->peer.kind = ND_HTTP_TCP;
    c->peer.tls = server->tls != NULL;
    if (uv_tcp_getpeername(&c->uv.tcp, (struct sockaddr *)&ss, &length) < 0)
        return -1;
    if (ss.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)&ss;

        memcpy(ip, &in->sin6_addr, 16);
        uv_ip6_name(in, c->peer.address, sizeof c->peer.address);
        c->peer.port = ntohs(in->sin6_port);
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&ss;

        memcpy(ip, &in->sin_addr, 4);
        uv_ip4_name(in, c->peer.address, sizeof c->peer.address);
        c->peer.port = ntohs(in->sin_port);
    }
    c->address = address_of(server, ip);
    c->address->connections++;
    uv_tcp_nodelay(&c->uv.tcp, 1);
    uv_tcp_keepalive(&c->uv.tcp, 1, KEEPALIVE_S); /* for streams whose client has no power left */
    return 0;
}

static void refuse_one_too_many(struct nd_http_conn *c, bool all)
{
    struct nd_http_server *server = c->server;
    struct nd_err err;

    if (server->refused >= REFUSED_MOST || server->tls) { /* it would take a handshake to say so */
        nd_http_conn_close(c);
        return;
    }
    c->refused = true;
    server->refused++;
    nd_err_set(&err, "too_many_connections", "Close some, or try again later.",
               all ? "the server has as many connections as it takes"
                   : "your address has as many connections as one may have");
    nd_http_conn_refuse(c, 503, &err, NULL, 0);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct nd_http_server *server = listener->data;
    struct nd_http_conn *c;

    if (status < 0) {
        nd_log(ND_LOG_WARN, "can't accept a connection on %s: %s", server->path,
               uv_strerror(status));
        return;
    }
    c = nd_http_conn_new(server);
    nd_list_append(&server->conns, &c->link);
    if (uv_accept(listener, &c->uv.stream) < 0 || identify(c) < 0) {
        nd_http_conn_close(c);
        return;
    }
    sweep_start(server);
    if (server->count >= server->limits.connections) {
        refuse_one_too_many(c, true);
    } else if (c->address && c->address->connections > server->limits.per_address) {
        refuse_one_too_many(c, false);
    } else if (server->tls && !may_shake(server, c)) {
        nd_http_conn_close(c);
    } else {
        c->counted = true;
        server->count++;
        nd_http_conn_start(c);
    }
}

/* ---- listening ---- */

static int set_owner(const char *path, const struct nd_http_listen *where, struct nd_err *err)
{
    mode_t mode = where->mode ? where->mode : 0660;

    if (where->group) {
        struct group *group = getgrnam(where->group);

        if (!group)
            return nd_err_set(err, "no_such_group", "Create it, or name another one.",
                              "there is no group '%s' to own the socket", where->group);
        if (chown(path, (uid_t)-1, group->gr_gid) < 0)
            return nd_err_errno(err, errno, "listen_failed", NULL,
                                "can't give the socket %s to the group '%s'", path, where->group);
    }
    if (chmod(path, mode) < 0)
        return nd_err_errno(err, errno, "listen_failed", NULL, "can't set the mode of %s", path);
    return 0;
}

/* Is somebody listening on the socket at `path`? What nobody listens on is a left-over. */
static bool is_alive(const struct sockaddr_un *where)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool alive;

    if (fd < 0)
        return false;
    alive = connect(fd, (const struct sockaddr *)where, sizeof *where) == 0 ||
            (errno != ECONNREFUSED && errno != ENOENT);
    close(fd);
    return alive;
}

/* The socket that was handed over. Ours still has the name it was bound by; one that somebody else
 * has bound, systemd, is not ours to unlink. */
static int take_unix(struct nd_http_server *server, const struct sockaddr_un *real,
                     const struct sockaddr_un *temporary)
{
    struct nd_handover *handover = server->loop->handover;
    struct stat st;
    int fd;

    if (lstat(real->sun_path, &st) < 0)
        return -1;
    fd = nd_handover_take(handover, (const struct sockaddr *)temporary, sizeof *temporary);
    if (fd < 0)
        return nd_handover_take(handover, (const struct sockaddr *)real, sizeof *real);
    server->path_dev = st.st_dev;
    server->path_ino = st.st_ino;
    return fd;
}

/* Binds under another name, and takes the real one when mode and group are right: at no time can
 * somebody connect who may not. Returns the descriptor. */
static int bind_unix(struct nd_http_server *server, const struct nd_http_listen *where,
                     struct nd_err *err)
{
    struct sockaddr_un real = {.sun_family = AF_UNIX}, temporary = real;
    struct stat st;
    int fd = -1;

    if (strlen(where->unix_path) + sizeof ".new" > sizeof real.sun_path)
        return nd_err_set(err, "path_too_long", "Choose a shorter one, below /run say.",
                          "the path of a unix socket may have %zu bytes: %s",
                          sizeof real.sun_path - sizeof ".new", where->unix_path);
    snprintf(real.sun_path, sizeof real.sun_path, "%s", where->unix_path);
    snprintf(temporary.sun_path, sizeof temporary.sun_path, "%s.new", where->unix_path);
    fd = take_unix(server, &real, &temporary);
    if (fd >= 0 && server->path_ino && set_owner(real.sun_path, where, err) < 0)
        goto fail;
    if (fd >= 0)
        return fd;
    if (lstat(real.sun_path, &st) == 0 && (!S_ISSOCK(st.st_mode) || is_alive(&real)))
        return nd_err_set(err, "address_in_use", "Stop what uses it, or choose another path.",
                          "%s is %s", real.sun_path,
                          S_ISSOCK(st.st_mode) ? "in use by another process" : "not a socket");
    unlink(temporary.sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&temporary, sizeof temporary) < 0) {
        nd_err_errno(err, errno, "listen_failed", "Check that the folder exists.",
                     "can't make the socket %s", real.sun_path);
        goto fail;
    }
    if (set_owner(temporary.sun_path, where, err) < 0)
        goto fail;
    if (listen(fd, BACKLOG) < 0 || lstat(temporary.sun_path, &st) < 0 ||
        rename(temporary.sun_path, real.sun_path) < 0) {
        nd_err_errno(err, errno, "listen_failed", NULL, "can't listen on %s", real.sun_path);
        goto fail;
    }
    server->path_dev = st.st_dev;
    server->path_ino = st.st_ino;
    return fd;

fail:
    unlink(temporary.sun_path);
    if (fd >= 0)
        close(fd);
    return -1;
}

static int listen_unix(struct nd_http_server *server, const struct nd_http_listen *where,
                       struct nd_err *err)
{
    int fd = bind_unix(server, where, err);
    int rc;

    if (fd < 0)
        return -1;
    rc = uv_pipe_open(&server->listener.pipe, fd);
    if (rc < 0)
        close(fd);
    else
        rc = uv_listen(&server->listener.stream, BACKLOG, on_connection);
    if (rc < 0) {
        unlink_own(server);
        return nd_loop_err(err, rc, "listen_failed", NULL, "can't listen on the unix socket");
    }
    return 0;
}

static int listen_tcp(struct nd_http_server *server, const struct nd_http_listen *where,
                      struct nd_err *err)
{
    struct sockaddr_storage ss = {0};
    struct sockaddr *sa = (struct sockaddr *)&ss;
    int length = sizeof ss, fd, rc;

    if (where->port < 0 || where->port > 65535 ||
        (uv_ip4_addr(where->address, where->port, (struct sockaddr_in *)sa) < 0 &&
         uv_ip6_addr(where->address, where->port, (struct sockaddr_in6 *)sa) < 0))
        return nd_err_set(err, "bad_address", "Give a numeric address, as in 127.0.0.1:8371.",
                          "can't listen on '%s' port %d", where->address, where->port);
    fd = nd_handover_take(server->loop->handover, sa, sizeof ss);
    rc = fd >= 0 ? uv_tcp_open(&server->listener.tcp, fd)
                 : uv_tcp_bind(&server->listener.tcp, sa, 0);
    if (rc == 0)
        rc = uv_listen(&server->listener.stream, BACKLOG, on_connection);
    if (rc == UV_EADDRINUSE)
        return nd_err_set(err, "address_in_use", "Stop what uses it, or choose another port.",
                          "%s port %d is in use by another process", where->address, where->port);
    if (rc == 0)
        rc = uv_tcp_getsockname(&server->listener.tcp, sa, &length);
    if (rc < 0)
        return nd_err_set(err, "listen_failed", NULL, "can't listen on %s port %d: %s",
                          where->address, where->port, uv_strerror(rc));
    server->port = ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)sa)->sin6_port
                                                  : ((struct sockaddr_in *)sa)->sin_port);
    return 0;
}

struct nd_http_server *nd_http_server_open(struct nd_loop *loop, const struct nd_http_listen *where,
                                           const struct nd_http_limits *limits,
                                           nd_http_on_request *on_request, void *arg,
                                           struct nd_err *err)
{
    struct nd_http_server *server = nd_alloc(sizeof *server);
    int rc;

    server->loop = loop;
    server->limits = limits ? *limits : nd_http_limits_default;
    if (server->limits.sizes.head > HEAD_MOST)
        server->limits.sizes.head = HEAD_MOST;
    server->on_request = on_request;
    server->arg = arg;
    server->tls = where->tls;
    server->holders = 1;
    server->port = -1;
    server->unix_socket = where->unix_path != NULL;
    server->path = nd_strdup(where->unix_path ? where->unix_path : where->address);
    if (server->unix_socket) /* who may connect is known already */
        server->limits.sizes.body_unknown = server->limits.sizes.bodies = SIZE_MAX;
    nd_list_init(&server->conns);
    for (int i = 0; i < ND_HTTP_BUCKETS; i++)
        nd_list_init(&server->addresses[i]);
    uv_timer_init(&loop->uv, &server->sweep);
    server->sweep.data = server;
    if (server->unix_socket)
        uv_pipe_init(&loop->uv, &server->listener.pipe, 0);
    else
        uv_tcp_init(&loop->uv, &server->listener.tcp);
    server->listener.handle.data = server;
    rc = server->unix_socket ? listen_unix(server, where, err) : listen_tcp(server, where, err);
    if (rc == 0)
        return server;
    server->unix_socket = false; /* nothing of ours to unlink */
    nd_http_server_close(server, 0, NULL, NULL);
    return NULL;
}

int nd_http_server_port(const struct nd_http_server *server)
{
    return server->port;
}

const char *nd_http_server_address(const struct nd_http_server *server)
{
    return server->path;
}

int nd_http_server_connections(const struct nd_http_server *server)
{
    return server->count;
}
