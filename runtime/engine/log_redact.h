/*
 * log_redact.h - takes secret values out of a container's output, before anything keeps it.
 *
 * It works on whole lines, or on the pieces of a line that is too long: a value that straddles two
 * pieces is found too, since the end of a piece that may be the beginning of a value is held back
 * until the next. A value of several lines counts as its lines. Values shorter than
 * ND_REDACT_LEAST bytes are no secrets to it: taking them out would shred the log and hide nothing.
 *
 * Search: all values at once, by the shift table of Wu and Manber (1994): most bytes are never
 * looked at.
 */
#ifndef ND_ENGINE_LOG_REDACT_H
#define ND_ENGINE_LOG_REDACT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

enum { ND_REDACT_LEAST = 4 };

#define ND_REDACT_TEXT "[redacted]"

struct nd_redact;

struct nd_redact *nd_redact_new(void); /* returns owned; knows no values */
void nd_redact_free(struct nd_redact *r);
/* Copies it into memory for secrets; code secret_memory where there is none. */
int nd_redact_add(struct nd_redact *r, const char *value, size_t length, struct nd_err *err);
bool nd_redact_is_empty(const struct nd_redact *r);

/* Redacts `in`, of which more is to come where `more`, into `out`, which it clears first. Returns
 * how many bytes of the end of `in` to give again, before what follows them; 0 without `more`. */
size_t nd_redact_text(const struct nd_redact *r, struct nd_buf *out, const char *in, size_t length,
                      bool more);

#endif
