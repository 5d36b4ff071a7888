/*
 * term.h - the Lua module `term`: what ndctl needs of the terminal.
 *
 *   term.version                     of this program
 *   term.isatty(fd)                  true if it is a terminal
 *   term.size([fd]) -> columns, rows; nil where it isn't a terminal
 *   term.ask(prompt[, secret]) -> line
 *       waits; writes the prompt to the terminal and reads a line from it, which is not shown where
 *       it is `secret`; nil at the end of input; raises no_terminal where there is none
 *   term.read() -> bytes             waits; what has come on stdin; nil at its end
 *   term.broken_pipe(errno)          a write failed: dies by SIGPIPE on EPIPE, else raises
 *                                    write_failed
 *   term.output_closed() -> bool     waits until whoever reads stdout went away (true); false at
 *                                    once where stdout isn't a pipe
 *   term.access(path) -> true | false, "denied"|"missing"     may this user connect to / read it
 */
#ifndef NDCTL_TERM_H
#define NDCTL_TERM_H

#include <lua.h>

int ndctl_open_term(lua_State *L);

#endif
