/*
 * bind.h - the Lua modules that the C layers offer, one file each.
 *
 * `nd_bind_open` makes every module below available to `require` under its bare name: in
 * bind/docker.c, `int nd_open_docker(lua_State *L)` returns the table for `require "docker"`.
 */
#ifndef ND_BIND_BIND_H
#define ND_BIND_BIND_H

#include "script/task.h"

/* X(module): a file bind/<module>.c with int nd_open_<module>(lua_State *). */
#define ND_BIND_MODULES(X)                                                                         \
    X(exposition)                                                                                  \
    X(age)       /* encrypting to recipients, in the age format */                                 \
    X(cert)      /* certificates: read, check, ask for, make */                                    \
    X(cgroup)    /* what containers use */                                                         \
    X(clock)     /* now, monotonic, format, lag */                                                 \
    X(cron)      /* when a schedule is due */                                                      \
    X(crypto)    /* random, sha256, hmac, equal, uuid */                                           \
    X(db)        /* SQLite: open, get, all, write */                                               \
    X(docker)    /* the Engine: calls, pull, logs, events */                                       \
    X(fault)     /* named points at which a test makes things fail */                              \
    X(fs)        /* read, write (atomic), mkdir, list, remove, lock */                             \
    X(http)      /* client */                                                                      \
    X(log)       /* the daemon's log */                                                            \
    X(logs)      /* logs of apps: kept, searched, followed */                                      \
    X(netfilter) /* iptables-restore, backend, watch for flushes */                                \
    X(proc)      /* host metrics, a process's connections */                                       \
    X(process)   /* child processes */                                                             \
    X(redact)    /* takes secret values out of texts */                                            \
    X(secret)    /* bytes that are never a Lua string */                                           \
    X(series)    /* rings of recent numbers */                                                     \
    X(server)    /* HTTP and WebSocket server */                                                   \
    X(tls)       /* certificates of our own */                                                     \
    X(worker)    /* nd-worker processes */                                                         \
    X(ws)        /* WebSocket client */

#define ND_BIND_DECLARE(module) int nd_open_##module(lua_State *L);
ND_BIND_MODULES(ND_BIND_DECLARE)
#undef ND_BIND_DECLARE

void nd_bind_open(struct nd_host *host);

/* Userdata with the metatable `name` have these methods, the rows __gc and __close among them. */
ND_RAISES void nd_bind_class(lua_State *L, const char *name, const luaL_Reg *methods);

#endif
