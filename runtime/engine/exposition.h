/*
 * exposition.h - metrics in the text format that Prometheus reads (version 0.0.4).
 *
 * A family is opened once, by name, type and help, and its samples follow it. Names are checked
 * (nd_exposition_name); texts of help and labels are escaped, and what isn't UTF-8 in them is
 * replaced. Numbers are written so that reading them gives the same double.
 */
#ifndef ND_ENGINE_EXPOSITION_H
#define ND_ENGINE_EXPOSITION_H

#include <stdbool.h>

#include "base/buf.h"

/* Whether it can name a metric, [a-zA-Z_:][a-zA-Z0-9_:]*; a label's name has no colon. */
bool nd_exposition_name(const char *name, bool label);

/* The lines # HELP and # TYPE. `type`: counter, gauge, histogram, summary, untyped. */
void nd_exposition_family(struct nd_buf *out, const char *name, const char *type, const char *help);

/* Appends name="value" to a list of labels, after a comma unless it is the first. */
void nd_exposition_label(struct nd_buf *labels, const char *name, const char *value);

/* A sample of the family `name`. `suffix`: "", "_bucket", "_sum", "_count"; `labels`: as made by
 * nd_exposition_label, "" for none. */
void nd_exposition_sample(struct nd_buf *out, const char *name, const char *suffix,
                          const char *labels, double value);

#endif
