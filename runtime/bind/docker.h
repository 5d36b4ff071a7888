/*
 * docker.h - what the files of the module `docker` share: docker.c (connection, plain calls),
 * docker_args.c (arguments), docker_list.c (lists), docker_image.c (pull, push, load, build),
 * docker_follow.c (exec, logs, events) and docker_hijack.c (conversations).
 */
#ifndef ND_BIND_DOCKER_H
#define ND_BIND_DOCKER_H

#include "base/buf.h"
#include "engine/docker.h"
#include "script/task.h"

/* Bytes of JSON that are decoded at once: the loop stands still for about 60 ms a megabyte. */
enum { DOCKER_VALUE_MAX = 1024 * 1024 };

struct docker_box {
    struct nd_docker *docker; /* owned by the userdata; never NULL while a method runs */
    int timeout_ms;           /* instead of each kind's own; 0: not set */
};

ND_RAISES struct docker_box *docker_check(lua_State *L); /* at 1 */
ND_RAISES struct docker_box *docker_check_at(lua_State *L, int index);

/* opts.timeout_ms at `index`, else the connection's, else `otherwise`; to the last two, `more`. */
ND_RAISES int docker_timeout(lua_State *L, int index, const struct docker_box *box, int otherwise,
                             int more);

/* Pushes the name at `index`, percent-encoded; raises docker_refused if no `noun` can have it. */
ND_RAISES const char *docker_push_name(lua_State *L, int index, const char *noun);
/* The reference of an image at `index`; raises docker_refused where it can't be one. */
ND_RAISES const char *docker_check_ref(lua_State *L, int index);
ND_RAISES const char *docker_push_encoded(lua_State *L, const char *text, size_t length);
/* Pushes the JSON of the value at `index`; raises docker_refused where it has none. */
ND_RAISES const char *docker_push_json(lua_State *L, int index, size_t *length);
/* Pushes the list of a JSON text, which it takes. Lets other tasks run meanwhile: call it last, and
 * return what it returns. */
ND_RAISES int docker_push_list(lua_State *L, struct nd_buf *text, const char *doing);
/* Pushes the value of a JSON text of at most DOCKER_VALUE_MAX bytes; raises docker_too_large above,
 * * docker_protocol where it is none. */
ND_RAISES void docker_push_value(lua_State *L, const struct nd_buf *text, const char *doing);
/* Pushes "&filters=..." from the fields `filters` and `labels` of the table at `index`, or "". */
ND_RAISES const char *docker_push_filters(lua_State *L, int index);
ND_RAISES bool docker_flag(lua_State *L, int index, const char *name, bool otherwise);

/* Add their methods to the table on top. */
ND_RAISES void docker_add_image(lua_State *L);
ND_RAISES void docker_add_follow(lua_State *L);
ND_RAISES void docker_add_hijack(lua_State *L);

#endif
