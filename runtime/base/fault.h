/*
 * fault.h - named points at which a test can make the process die or a call fail.
 *
 * `ND_FAULT=name:n:kill` in the environment makes the n-th pass of the point `name` send SIGKILL to
 * the process; `name:n:stop` sends SIGSTOP, so that a test can do something to others at that very
 * point; `name:n:fail` makes nd_fault return true once, and the caller then takes its error path.
 * `ND_FAULT=trace` writes the name of each point that is passed to stderr, as "fault: NAME".
 * Without the variable a point costs two loads. `grep -r 'fault[.(]'` lists the names.
 */
#ifndef ND_BASE_FAULT_H
#define ND_BASE_FAULT_H

#include <stdbool.h>

bool nd_fault(const char *name);

#endif
