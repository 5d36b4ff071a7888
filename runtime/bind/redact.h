/*
 * redact.h - a list of values, as a binding takes it, into what takes them out of texts.
 */
#ifndef ND_BIND_REDACT_H
#define ND_BIND_REDACT_H

#include "bind/bind.h"
#include "engine/log_redact.h"

/* Of the list at `index`, of texts and secrets; raises for anything else. Returns owned, or NULL.
 */
ND_RAISES struct nd_redact *nd_redact_of_list(lua_State *L, int index, struct nd_err *err);

#endif
