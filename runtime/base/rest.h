/*
 * rest.h - a process that has little to do holds little memory.
 */
#ifndef ND_BASE_REST_H
#define ND_BASE_REST_H

/* Gives back to the system what was freed, and lets go of the code and constants of programs and
 * libraries, of which the start touches far more than the work does: the kernel keeps them as files
 * that it has read, and what is used again is there again at once. Takes about a millisecond. */
void nd_rest(void);

#endif
