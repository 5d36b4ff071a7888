#include "io/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/mem.h"

enum { OUT_KEPT = 4 * 1024 }; /* bytes of output whose memory an idle session may keep */

struct nd_tls {
    SSL *ssl;           /* owned */
    const char *in;     /* what came and wasn't read yet; borrowed */
    size_t waiting;     /* of it */
    struct nd_buf out;  /* to be sent */
    bool client, ended; /* nothing more comes, or nothing good */
};

/* ---- contexts ---- */

/* The reason that OpenSSL gives first, which is the cause. */
static const char *reason(void)
{
    unsigned long code = ERR_get_error();
    const char *text = code ? ERR_reason_error_string(code) : NULL;

    ERR_clear_error();
    return text ? text : "no reason given";
}

static SSL_CTX *context_new(const SSL_METHOD *method)
{
    SSL_CTX *ctx = nd_checked(SSL_CTX_new(method));

    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20");
    SSL_CTX_set1_groups_list(ctx, "X25519:P-256:P-384");
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return ctx;
}

static int use_certificate(SSL_CTX *ctx, const struct nd_tls_files *files, struct nd_err *err)
{
    if (SSL_CTX_use_certificate_chain_file(ctx, files->cert) != 1)
        return nd_err_set(err, "tls_bad_certificate", "it has to be a chain in PEM, its own first",
                          "can't use the certificate %s: %s", files->cert, reason());
    if (SSL_CTX_use_PrivateKey_file(ctx, files->key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1)
        return nd_err_set(err, "tls_bad_key",
                          "it has to be the certificate's, in PEM, without a passphrase",
                          "can't use the key %s: %s", files->key, reason());
    return 0;
}

static int use_ca(SSL_CTX *ctx, const char *ca, struct nd_err *err)
{
    if (SSL_CTX_load_verify_locations(ctx, ca, NULL) == 1)
        return 0;
    return nd_err_set(err, "tls_bad_ca", "it has to be certificates in PEM",
                      "can't use the certificate authority %s: %s", ca, reason());
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *length,
                           const unsigned char *in, unsigned in_length, void *arg)
{
    static const unsigned char ours[] = "\x08http/1.1";

    (void)ssl;
    (void)arg;
    if (SSL_select_next_proto((unsigned char **)(uintptr_t)out, length, ours, sizeof ours - 1, in,
                              in_length) == OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_OK;
    return SSL_TLSEXT_ERR_ALERT_FATAL; /* RFC 7301, 3.2 */
}

SSL_CTX *nd_tls_server(const struct nd_tls_files *files, struct nd_err *err)
{
    SSL_CTX *ctx = context_new(TLS_server_method());
    STACK_OF(X509_NAME) * names;

    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    if (use_certificate(ctx, files, err) < 0)
        goto fail;
    if (!files->ca)
        return ctx;
    names = SSL_load_client_CA_file(files->ca);
    if (!names || use_ca(ctx, files->ca, err) < 0) {
        if (!names)
            nd_err_set(err, "tls_bad_ca", "it has to be certificates in PEM",
                       "can't use the certificate authority %s: %s", files->ca, reason());
        goto fail;
    }
    SSL_CTX_set_client_CA_list(ctx, names);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return ctx;
fail:
    SSL_CTX_free(ctx);
    return NULL;
}

/* ---- pins ---- */

static void pin_of(X509 *cert, char out[ND_TLS_PIN])
{
    unsigned char digest[32], *der = NULL;
    int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der);

    nd_checked(length > 0 ? der : NULL);
    EVP_Digest(der, (size_t)length, digest, NULL, EVP_sha256(), NULL);
    OPENSSL_free(der);
    memcpy(out, "sha256//", 8);
    EVP_EncodeBlock((unsigned char *)out + 8, digest, sizeof digest);
}

int nd_tls_pin(const char *cert, char out[ND_TLS_PIN], struct nd_err *err)
{
    BIO *file = BIO_new_file(cert, "r");
    X509 *x = file ? PEM_read_bio_X509(file, NULL, NULL, NULL) : NULL;

    BIO_free(file);
    if (!x)
        return nd_err_set(err, "tls_bad_certificate", "it has to be in PEM",
                          "can't read the certificate %s: %s", cert, reason());
    pin_of(x, out);
    X509_free(x);
    return 0;
}

/* The key is the one that was asked for, whoever signed it. */
static int verify_pin(X509_STORE_CTX *store, void *pin)
{
    X509 *cert = X509_STORE_CTX_get0_cert(store);
    char found[ND_TLS_PIN];

    if (!cert)
        return 0;
    pin_of(cert, found);
    if (strcmp(found, pin) == 0)
        return 1;
    X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
    return 0;
}

static void free_pin(void *parent, void *pin, CRYPTO_EX_DATA *data, int index, long argl,
                     void *argp)
{
    (void)parent, (void)data, (void)index, (void)argl, (void)argp;
    free(pin);
}

static int use_pin(SSL_CTX *ctx, const char *pin, struct nd_err *err)
{
    static int slot = -1; /* has the context own its pin */
    char *copy;

    if (strlen(pin) != ND_TLS_PIN - 1 || strncmp(pin, "sha256//", 8) != 0)
        return nd_err_set(err, "tls_bad_pin",
                          "it is sha256// and 44 characters, as the daemon's log says it",
                          "'%.80s' isn't a pin", pin);
    if (slot < 0)
        slot = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_pin);
    copy = nd_strdup(pin);
    SSL_CTX_set_ex_data(ctx, slot, copy);
    SSL_CTX_set_cert_verify_callback(ctx, verify_pin, copy);
    return 0;
}

SSL_CTX *nd_tls_client(const struct nd_tls_files *files, const char *pin, struct nd_err *err)
{
    SSL_CTX *ctx = context_new(TLS_client_method());
    int rc = files->cert ? use_certificate(ctx, files, err) : 0;

    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x08http/1.1", 9);
    if (rc == 0 && pin)
        rc = use_pin(ctx, pin, err);
    else if (rc == 0 && files->ca)
        rc = use_ca(ctx, files->ca, err);
    else if (rc == 0)
        SSL_CTX_set_default_verify_paths(ctx);
    if (rc == 0)
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

void nd_tls_context_free(SSL_CTX *context)
{
    SSL_CTX_free(context);
}

/* ---- a session, and OpenSSL's view of the bytes around it ---- */

static int take_in(BIO *bio, char *out, int size)
{
    struct nd_tls *t = BIO_get_data(bio);
    size_t take = t->waiting < (size_t)size ? t->waiting : (size_t)size;

    BIO_clear_retry_flags(bio);
    if (!take) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(out, t->in, take);
    t->in += take;
    t->waiting -= take;
    return (int)take;
}

static int put_out(BIO *bio, const char *data, int length)
{
    struct nd_tls *t = BIO_get_data(bio);

    nd_buf_add(&t->out, data, (size_t)length);
    return length;
}

static long control(BIO *bio, int command, long number, void *arg)
{
    (void)bio, (void)number, (void)arg;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *method(void)
{
    static BIO_METHOD *made; /* for the life of the process */

    if (!made) {
        made = nd_checked(BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "nd_tls"));
        BIO_meth_set_read(made, take_in);
        BIO_meth_set_write(made, put_out);
        BIO_meth_set_ctrl(made, control);
    }
    return made;
}

static struct nd_tls *session(SSL_CTX *context)
{
    struct nd_tls *t = nd_alloc(sizeof *t);
    BIO *bio = nd_checked(BIO_new(method()));

    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    t->ssl = nd_checked(SSL_new(context));
    SSL_set_bio(t->ssl, bio, bio);
    return t;
}

struct nd_tls *nd_tls_accept(SSL_CTX *context)
{
    struct nd_tls *t = session(context);

    SSL_set_accept_state(t->ssl);
    return t;
}

struct nd_tls *nd_tls_connect(SSL_CTX *context, const char *host)
{
    struct nd_tls *t = session(context);
    unsigned char ip[16];

    t->client = true;
    SSL_set_connect_state(t->ssl);
    if (inet_pton(AF_INET, host, ip) == 1 || inet_pton(AF_INET6, host, ip) == 1) {
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(t->ssl), host);
    } else {
        SSL_set_tlsext_host_name(t->ssl, host);
        SSL_set1_host(t->ssl, host);
    }
    return t;
}

void nd_tls_free(struct nd_tls *t)
{
    if (!t)
        return;
    SSL_free(t->ssl);
    nd_buf_fini(&t->out);
    free(t);
}

bool nd_tls_ready(const struct nd_tls *t)
{
    return SSL_is_init_finished(t->ssl);
}

void nd_tls_feed(struct nd_tls *t, const void *data, size_t length)
{
    t->in = data;
    t->waiting = length;
}

static int failed(struct nd_tls *t, struct nd_err *err)
{
    long verified = SSL_get_verify_result(t->ssl);

    t->ended = true;
    if (t->client && verified != X509_V_OK)
        nd_err_set(err, "tls_failed", "give its certificate authority (--ca) or its pin (--pin)",
                   "its certificate isn't trusted: %s", X509_verify_cert_error_string(verified));
    else
        nd_err_set(err, "tls_failed", NULL, "no secure connection: %s", reason());
    ERR_clear_error();
    return ND_TLS_FAILED;
}

int nd_tls_read(struct nd_tls *t, void *out, size_t size, struct nd_err *err)
{
    int n;

    if (t->ended)
        return ND_TLS_END;
    ERR_clear_error();
    n = SSL_read(t->ssl, out, (int)size);
    if (n > 0)
        return n;
    switch (SSL_get_error(t->ssl, n)) {
    case SSL_ERROR_WANT_READ:
        return ND_TLS_MORE;
    case SSL_ERROR_ZERO_RETURN:
        t->ended = true;
        return ND_TLS_END;
    default:
        return failed(t, err);
    }
}

int nd_tls_write(struct nd_tls *t, const void *data, size_t length)
{
    const char *bytes = data;

    while (length) {
        int n;

        ERR_clear_error();
        n = SSL_write(t->ssl, bytes, length > INT32_MAX ? INT32_MAX : (int)length);
        if (n <= 0) {
            ERR_clear_error();
            return -1;
        }
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

void nd_tls_end(struct nd_tls *t)
{
    if (SSL_is_init_finished(t->ssl))
        SSL_shutdown(t->ssl);
    ERR_clear_error();
}

const char *nd_tls_output(const struct nd_tls *t, size_t *length)
{
    *length = t->out.length;
    return t->out.data;
}

void nd_tls_sent(struct nd_tls *t)
{
    if (t->out.capacity > OUT_KEPT)
        nd_buf_fini(&t->out);
    else
        nd_buf_clear(&t->out);
}
