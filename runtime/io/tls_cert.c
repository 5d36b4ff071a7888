/*
 * tls_cert.c - a certificate that signs itself, for a daemon that was given none.
 */
#include <arpa/inet.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "base/buf.h"
#include "base/mem.h"
#include "io/file.h"
#include "io/tls.h"

enum { DAYS = 3650 };

static bool extend(X509 *cert, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *extension;
    bool added;

    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    added = extension && X509_add_ext(cert, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return added;
}

/* "DNS:host,IP:10.0.0.1" */
static void add_names(struct nd_buf *out, const char *const *names, size_t count)
{
    unsigned char ip[16];

    for (size_t i = 0; i < count; i++) {
        bool numeric =
            inet_pton(AF_INET, names[i], ip) == 1 || inet_pton(AF_INET6, names[i], ip) == 1;

        nd_buf_addf(out, "%s%s:%s", i ? "," : "", numeric ? "IP" : "DNS", names[i]);
    }
}

static X509 *make(EVP_PKEY *key, const char *const *names, size_t count)
{
    X509 *cert = nd_checked(X509_new());
    X509_NAME *subject = X509_get_subject_name(cert);
    struct nd_buf list = {0};
    uint64_t serial = 0;
    bool made;

    add_names(&list, names, count);
    RAND_bytes((unsigned char *)&serial, sizeof serial);
    made =
        X509_set_version(cert, 2) == 1 &&
        ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial >> 1 | 1) == 1 &&
        X509_gmtime_adj(X509_getm_notBefore(cert), -24 * 60 * 60) && /* of a clock that is late */
        X509_time_adj_ex(X509_getm_notAfter(cert), DAYS, 0, NULL) &&
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                                   (const unsigned char *)"nextdeployd", -1, -1, 0) == 1 &&
        X509_set_issuer_name(cert, subject) == 1 && X509_set_pubkey(cert, key) == 1 &&
        extend(cert, NID_basic_constraints, "critical,CA:FALSE") &&
        extend(cert, NID_key_usage, "critical,digitalSignature") &&
        extend(cert, NID_ext_key_usage, "serverAuth") &&
        extend(cert, NID_subject_alt_name, list.data) && X509_sign(cert, key, EVP_sha256()) > 0;
    nd_buf_fini(&list);
    if (made)
        return cert;
    X509_free(cert);
    return NULL;
}

/* Writes what `bio` holds. */
static int save(BIO *bio, const char *path, mode_t mode, struct nd_err *err)
{
    char *data;
    long length = BIO_get_mem_data(bio, &data);
    int rc = nd_file_write(path, data, (size_t)length, mode, err);

    nd_zero(data, (size_t)length);
    return rc;
}

int nd_tls_self_signed(const struct nd_tls_files *files, const char *const *names, size_t count,
                       struct nd_err *err)
{
    EVP_PKEY *key = nd_checked(EVP_EC_gen("P-256"));
    X509 *cert = make(key, names, count);
    BIO *key_text = nd_checked(BIO_new(BIO_s_mem())), *cert_text = nd_checked(BIO_new(BIO_s_mem()));
    int rc = -1;

    if (!cert || PEM_write_bio_X509(cert_text, cert) != 1 ||
        PEM_write_bio_PKCS8PrivateKey(key_text, key, NULL, NULL, 0, NULL, NULL) != 1)
        nd_err_set(err, "tls_bad_certificate", "give one: --tls-cert and --tls-key",
                   "can't make a certificate for the daemon");
    else if (save(key_text, files->key, 0600, err) == 0)
        rc = save(cert_text, files->cert, 0644, err);
    BIO_free(cert_text);
    BIO_free(key_text);
    X509_free(cert);
    EVP_PKEY_free(key);
    return rc;
}
