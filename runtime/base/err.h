/*
 * err.h - what went wrong, in a form a person and a program can use.
 *
 * A function that can fail returns 0 or -1 (or a pointer or NULL) and takes a `struct nd_err *` as
 * its last argument. `code` is stable and lower_snake_case ("docker_unreachable"); `message` says
 * what happened, to what and why; `hint` says what to do next, and may be empty.
 * Whoever handles an error logs it, once; whoever passes it on doesn't.
 */
#ifndef ND_BASE_ERR_H
#define ND_BASE_ERR_H

struct nd_err {
    char code[40];     /* stable, lower_snake_case; "" means no error */
    char message[640]; /* what happened, to what, why */
    char hint[320];    /* the next step for a person, or "" */
};

/* Fills `err` (which may be NULL) and returns -1, so that callers can `return nd_err_set(...)`. */
int nd_err_set(struct nd_err *err, const char *code, const char *hint, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* As nd_err_set, with ": " and the text of the errno value `number` appended. */
int nd_err_errno(struct nd_err *err, int number, const char *code, const char *hint,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
