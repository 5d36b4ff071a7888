/*
 * seccomp.h - a process that may make the system calls on a list and no other.
 */
#ifndef ND_SCRIPT_SECCOMP_H
#define ND_SCRIPT_SECCOMP_H

#include <stdbool.h>
#include <stddef.h>

/* From now on, for this thread and what it starts: a system call that is not in `allowed` (`count`
 * numbers, at most 64) ends the process with SIGSYS, and so does memory that is mapped or made
 * executable; with `compiles`, memory may be made executable that can't be written meanwhile. Can't
 * be taken back. Needs PR_SET_NO_NEW_PRIVS. -> 0; -1 with errno. */
int nd_seccomp_allow(const int *allowed, size_t count, bool compiles);

#endif
