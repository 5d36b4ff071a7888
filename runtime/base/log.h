/*
 * log.h - the daemon's own log: one line an event, to stderr, as text or JSON.
 *
 * The top of a call chain logs, once. Nothing secret comes here: callers pass names, never values.
 * Control characters are escaped, so a line is always one line.
 */
#ifndef ND_BASE_LOG_H
#define ND_BASE_LOG_H

#include <stdbool.h>

#include "base/err.h"

enum nd_log_level { ND_LOG_DEBUG, ND_LOG_INFO, ND_LOG_WARN, ND_LOG_ERROR };

void nd_log_setup(bool json, enum nd_log_level least);
void nd_log(enum nd_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void nd_log_err(const char *doing, const struct nd_err *err); /* at level error */

#endif
