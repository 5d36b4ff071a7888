/*
 * cert.h - X.509 certificates as PEM: read, checked against their key, asked for, and made.
 *
 * A *bundle* is PEM text: the certificate, those of its issuers in order, and its private key
 * anywhere among them. OpenSSL parses and signs; nothing here opens a file or waits.
 * Keys that are made are P-256; certificates are signed with SHA-256.
 */
#ifndef ND_ENGINE_CERT_H
#define ND_ENGINE_CERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct nd_pem {
    const char *data; /* borrowed */
    size_t length;
};

struct nd_cert {
    char *subject; /* owned, as is all text here; RFC 2253 */
    char *issuer;
    char *common_name;   /* of the issuer; its organization, or "", where it has none */
    char *serial;        /* hex, upper case */
    struct nd_buf names; /* DNS names and addresses, lower case, each followed by a NUL */
    int64_t not_before;  /* UTC ms */
    int64_t not_after;
    char key[32];        /* "EC 256", "RSA 2048" */
    const char *weak;    /* static: why nobody should trust it; NULL where somebody may */
    bool authority;      /* may sign others */
    bool self_signed;    /* its issuer is itself */
    bool issued_by_next; /* by the one that follows in the bundle */
};

enum { ND_CERT_MOST = 16 }; /* certificates of one bundle */

struct nd_cert_list {
    struct nd_cert at[ND_CERT_MOST];
    int count;
};

/* All certificates of a bundle. -1: bad_certificate, what it says that is none, or too many. Fini
 * it in any case. */
int nd_cert_read(struct nd_pem bundle, struct nd_cert_list *out, struct nd_err *err);
void nd_cert_fini(struct nd_cert_list *list);

/* Whether the key is that of the first certificate. -1: bad_key, bad_certificate. A key under a
 * passphrase is a bad one. */
int nd_cert_fits(struct nd_pem bundle, struct nd_pem key, struct nd_err *err);

/* A certificate to make. Borrowed. */
struct nd_cert_wish {
    const char *common_name;  /* at most 64 bytes */
    const char *const *names; /* DNS names, NULL-terminated */
    int64_t not_before;       /* UTC ms */
    int64_t not_after;
    bool authority;                   /* may sign others, itself first where it has no issuer */
    struct nd_pem issuer, issuer_key; /* without data: signed by itself */
};

/* A new key and a certificate for it, appended. -1: cert_failed, bad_key, bad_certificate. */
int nd_cert_make(const struct nd_cert_wish *wish, struct nd_buf *certificate, struct nd_buf *key,
                 struct nd_err *err);

/* A new key and a request (PKCS #10) for a certificate of these DNS names, and of nothing else.
 * -1: cert_failed. */
int nd_cert_request(const char *const *names, struct nd_buf *request, struct nd_buf *key,
                    struct nd_err *err);

#endif
