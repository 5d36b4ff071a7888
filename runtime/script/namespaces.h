/*
 * namespaces.h - views of the host of its own for a process that is to see none of it.
 *
 * A worker gets namespaces for processes, network, mounts and System V objects: no process but
 * itself, no interface, an empty read-only root. Root makes them as it is; another user gets a user
 * namespace around them, and no process namespace. Where the kernel or a container around us
 * refuses, the worker does without: seccomp keeps it from all of this anyway. `ndctl doctor` tells
 * which it has (lua/nd/service/sandbox.lua).
 *
 * Builds with sanitizers make none, since theirs look into /proc.
 */
#ifndef ND_SCRIPT_NAMESPACES_H
#define ND_SCRIPT_NAMESPACES_H

/* Whatever this thread starts between the two begins a process namespace. Takes what the first
 * returned, which is -1 where it may not be. */
int nd_namespaces_begin_pids(void);
void nd_namespaces_end_pids(int own);

/* For this process, which has one thread: all the others. Afterwards no file can be opened. */
void nd_namespaces_enter(void);

#endif
