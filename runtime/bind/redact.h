/*
 * redact.h - a list of values, as a binding takes it, added to what takes them out of texts.
 */
#ifndef ND_BIND_REDACT_H
#define ND_BIND_REDACT_H

#include "bind/bind.h"
#include "engine/log_redact.h"

/* Adds the list at `index`, of texts and secrets; raises, also where there is no memory for all of
 * them (secret_memory): what was added before stays. */
ND_RAISES void nd_redact_add_list(lua_State *L, int index, struct nd_redact *redact);

#endif
