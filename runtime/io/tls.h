/*
 * tls.h - TLS over bytes that somebody else carries: no sockets, no callbacks, no copies kept.
 *
 * A session is given what came (nd_tls_feed) and gives what it says (nd_tls_read), takes what is to
 * be said (nd_tls_write) and gives what is to be sent (nd_tls_output); whoever owns the connection
 * asks for the output after each of these. TLS 1.2 and 1.3 with forward secrecy and AEAD only, ALPN
 * http/1.1, no renegotiation, no compression, no resumption (RFC 9325). A context is what sessions
 * share; a session keeps the one that it began with, so a server may change to another at any time.
 *
 * A pin is "sha256//" and the base64 of SHA-256 over a certificate's SubjectPublicKeyInfo (RFC
 * 7469, as curl writes it). Codes: tls_bad_certificate, tls_bad_key, tls_bad_ca, tls_bad_pin,
 * tls_failed.
 */
#ifndef ND_IO_TLS_H
#define ND_IO_TLS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct ssl_ctx_st; /* OpenSSL's, as a context */
struct nd_tls;     /* a session */

enum { ND_TLS_PIN = 53 }; /* bytes of a pin's text, with the NUL */

/* Paths of PEM files. */
struct nd_tls_files {
    const char *cert; /* a chain, ours first */
    const char *key;
    const char *ca; /* who has to have signed the other's certificate; NULL: see below */
};

/* Return owned, or NULL. A server with a `ca` demands a certificate of each client; a client
 * without one goes by the system's, and one with a `pin` (may be NULL) by that alone. `files` of a
 * client may have no cert. */
struct ssl_ctx_st *nd_tls_server(const struct nd_tls_files *files, struct nd_err *err);
struct ssl_ctx_st *nd_tls_client(const struct nd_tls_files *files, const char *pin,
                                 struct nd_err *err);
void nd_tls_context_free(struct ssl_ctx_st *context); /* sessions go on; NULL is fine */

/* Return owned. `host` is the name or numeric address that the server's certificate must be for. */
struct nd_tls *nd_tls_accept(struct ssl_ctx_st *context);
struct nd_tls *nd_tls_connect(struct ssl_ctx_st *context, const char *host);
void nd_tls_free(struct nd_tls *t); /* NULL is fine */

bool nd_tls_ready(const struct nd_tls *t); /* the handshake is done */

/* What came. Borrowed until nd_tls_read has answered 0 or less. */
void nd_tls_feed(struct nd_tls *t, const void *data, size_t length);
enum { ND_TLS_MORE = 0, ND_TLS_END = -1, ND_TLS_FAILED = -2 };
/* Bytes that were said; or ND_TLS_MORE: more has to come; ND_TLS_END: the other said that it ends;
 * ND_TLS_FAILED, once and for all, with tls_failed. A client's first call begins the handshake. */
int nd_tls_read(struct nd_tls *t, void *out, size_t size, struct nd_err *err);

/* Once it is ready. -1: it has failed or ended. */
int nd_tls_write(struct nd_tls *t, const void *data, size_t length);
void nd_tls_end(struct nd_tls *t); /* nothing more will be said (close_notify) */

/* What is to be sent, valid until nd_tls_sent, which forgets it. */
const char *nd_tls_output(const struct nd_tls *t, size_t *length);
void nd_tls_sent(struct nd_tls *t);

/* Makes a key (P-256) and a certificate that it signs itself, for `count` names or numeric
 * addresses, good for ten years; both files are written, the key for its owner alone. */
int nd_tls_self_signed(const struct nd_tls_files *files, const char *const *names, size_t count,
                       struct nd_err *err);
/* The pin of the first certificate in a PEM file. */
int nd_tls_pin(const char *cert, char out[ND_TLS_PIN], struct nd_err *err);

#endif
