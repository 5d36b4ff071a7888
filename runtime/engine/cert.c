#include "engine/cert.h"

#include <ctype.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

/* Nobody is asked for a passphrase. */
static int no_passphrase(char *out, int size, int writing, void *arg)
{
    (void)out;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

/* With OpenSSL's own words, of which the first are the cause. */
static int fail(struct nd_err *err, const char *code, const char *what)
{
    char why[160] = "";
    unsigned long number = ERR_get_error();

    if (number)
        ERR_error_string_n(number, why, sizeof why);
    ERR_clear_error();
    return nd_err_set(err, code, NULL, "%s%s%s", what, why[0] ? ": " : "", why);
}

static BIO *reader(struct nd_pem pem)
{
    return nd_checked(BIO_new_mem_buf(pem.data ? pem.data : "", (int)pem.length));
}

static void add_bio(BIO *bio, struct nd_buf *out)
{
    char *data;
    long length = BIO_get_mem_data(bio, &data);

    nd_buf_add(out, data, (size_t)length);
}

static void no_certificate(struct nd_err *err)
{
    nd_err_set(err, "bad_certificate", "PEM is text, and begins with -----BEGIN CERTIFICATE-----",
               "what was given as the certificate has none in PEM form");
}

/* Reads on to the next certificate; NULL at the end, and at one that is broken (`err` is set). */
static X509 *next_certificate(BIO *bio, struct nd_err *err)
{
    X509 *x = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);

    if (!x && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        fail(err, "bad_certificate", "this is no certificate in PEM form");
    ERR_clear_error();
    return x;
}

static X509 *first_certificate(struct nd_pem bundle, struct nd_err *err)
{
    BIO *bio = reader(bundle);
    X509 *x;

    err->code[0] = '\0';
    x = next_certificate(bio, err);
    if (!x && !err->code[0])
        no_certificate(err);
    BIO_free(bio);
    return x;
}

static EVP_PKEY *read_key(struct nd_pem pem, struct nd_err *err)
{
    BIO *bio = reader(pem);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);

    ERR_clear_error(); /* what it says might quote the key */
    if (!key)
        nd_err_set(err, "bad_key", "PEM is text, and begins with -----BEGIN PRIVATE KEY-----",
                   "what was given as the key has none in PEM form that needs no passphrase");
    BIO_free(bio);
    return key;
}

/* ---- reading ---- */

static char *name_text(const X509_NAME *name)
{
    BIO *bio = nd_checked(BIO_new(BIO_s_mem()));
    char *data, *text;
    long length;

    X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
    length = BIO_get_mem_data(bio, &data);
    text = nd_strndup(length > 0 ? data : "", (size_t)length);
    BIO_free(bio);
    return text;
}

static char *name_part(X509_NAME *name, int nid)
{
    int at = X509_NAME_get_index_by_NID(name, nid, -1);
    unsigned char *utf8 = NULL;
    char *text = NULL;
    int length;

    if (at < 0)
        return NULL;
    length = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
    if (length >= 0)
        text = nd_strndup((char *)utf8, (size_t)length);
    OPENSSL_free(utf8);
    return text;
}

static char *issuer_name(X509 *x)
{
    X509_NAME *name = X509_get_issuer_name(x);
    char *text = name_part(name, NID_commonName);

    if (!text)
        text = name_part(name, NID_organizationName);
    return text ? text : nd_strdup("");
}

static int64_t time_ms(const ASN1_TIME *time)
{
    struct tm tm = {0};

    return ASN1_TIME_to_tm(time, &tm) == 1 ? (int64_t)timegm(&tm) * 1000 : 0;
}

static void add_name(struct nd_buf *names, const unsigned char *data, int length)
{
    for (int i = 0; i < length; i++) {
        char c = (char)tolower(data[i]);

        if (c > ' ' && c < 127)
            nd_buf_add(names, &c, 1);
    }
    nd_buf_add(names, "", 1);
}

static void read_names(X509 *x, struct nd_buf *names)
{
    GENERAL_NAMES *list = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);

    for (int i = 0; i < sk_GENERAL_NAME_num(list); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(list, i);

        if (name->type == GEN_DNS) {
            add_name(names, ASN1_STRING_get0_data(name->d.dNSName),
                     ASN1_STRING_length(name->d.dNSName));
        } else if (name->type == GEN_IPADD) {
            char *text = i2s_ASN1_OCTET_STRING(NULL, name->d.iPAddress);

            if (text)
                add_name(names, (unsigned char *)text, (int)strlen(text));
            OPENSSL_free(text);
        }
    }
    GENERAL_NAMES_free(list);
}

/* A curve that is written out instead of named is none of these: Go, and so Caddy, can't read it.
 */
static bool usual_curve(X509 *x)
{
    X509_ALGOR *algorithm = NULL;
    const void *curve = NULL;
    int type = V_ASN1_UNDEF, nid;

    X509_PUBKEY_get0_param(NULL, NULL, NULL, &algorithm, X509_get_X509_PUBKEY(x));
    X509_ALGOR_get0(NULL, &type, &curve, algorithm);
    nid = type == V_ASN1_OBJECT ? OBJ_obj2nid(curve) : NID_undef;
    return nid == NID_X9_62_prime256v1 || nid == NID_secp384r1 || nid == NID_secp521r1;
}

/* What browsers refuse: the Baseline Requirements, 6.1.5 and 7.1.3.2. */
static const char *weakness(X509 *x, EVP_PKEY *key, bool self_signed)
{
    int kind = key ? EVP_PKEY_get_base_id(key) : EVP_PKEY_NONE, digest = NID_undef;

    if (kind != EVP_PKEY_RSA && kind != EVP_PKEY_EC)
        return "its key is neither RSA nor EC";
    if (kind == EVP_PKEY_RSA && EVP_PKEY_get_bits(key) < 2048)
        return "its RSA key is shorter than 2048 bits";
    if (kind == EVP_PKEY_EC && !usual_curve(x))
        return "its EC key isn't on P-256, P-384 or P-521";
    if (self_signed) /* nobody is convinced by that, however it was signed */
        return NULL;
    OBJ_find_sigid_algs(X509_get_signature_nid(x), &digest, NULL);
    if (digest == NID_md5 || digest == NID_sha1 || digest == NID_md4)
        return "it is signed with MD5 or SHA-1";
    return NULL;
}

static const char *key_kind(const EVP_PKEY *key)
{
    switch (EVP_PKEY_get_base_id(key)) {
    case EVP_PKEY_RSA:
        return "RSA";
    case EVP_PKEY_EC:
        return "EC";
    case EVP_PKEY_ED25519:
        return "Ed25519";
    default:
        return "other";
    }
}

static void describe(X509 *x, struct nd_cert *out)
{
    EVP_PKEY *key = X509_get0_pubkey(x);
    BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
    char *hex = serial ? BN_bn2hex(serial) : NULL;

    out->subject = name_text(X509_get_subject_name(x));
    out->issuer = name_text(X509_get_issuer_name(x));
    out->common_name = issuer_name(x);
    out->serial = nd_strdup(hex ? hex : "");
    read_names(x, &out->names);
    out->not_before = time_ms(X509_get0_notBefore(x));
    out->not_after = time_ms(X509_get0_notAfter(x));
    if (key)
        snprintf(out->key, sizeof out->key, "%s %d", key_kind(key), EVP_PKEY_get_bits(key));
    out->authority = X509_check_ca(x) == 1;
    out->self_signed = X509_self_signed(x, 0) == 1;
    out->weak = weakness(x, key, out->self_signed);
    OPENSSL_free(hex);
    BN_free(serial);
    ERR_clear_error();
}

int nd_cert_read(struct nd_pem bundle, struct nd_cert_list *out, struct nd_err *err)
{
    BIO *bio = reader(bundle);
    X509 *before = NULL, *x;

    memset(out, 0, sizeof *out);
    err->code[0] = '\0';
    while ((x = next_certificate(bio, err))) {
        if (out->count == ND_CERT_MOST) {
            nd_err_set(err, "bad_certificate", NULL, "it has more than %d certificates",
                       ND_CERT_MOST);
            X509_free(x);
            break;
        }
        if (before)
            out->at[out->count - 1].issued_by_next = X509_check_issued(x, before) == X509_V_OK &&
                                                     X509_verify(before, X509_get0_pubkey(x)) == 1;
        describe(x, &out->at[out->count++]);
        X509_free(before);
        before = x;
    }
    if (!out->count && !err->code[0])
        no_certificate(err);
    X509_free(before);
    BIO_free(bio);
    ERR_clear_error();
    return err->code[0] ? -1 : 0;
}

void nd_cert_fini(struct nd_cert_list *list)
{
    for (int i = 0; i < list->count; i++) {
        free(list->at[i].subject);
        free(list->at[i].issuer);
        free(list->at[i].common_name);
        free(list->at[i].serial);
        nd_buf_fini(&list->at[i].names);
    }
    list->count = 0;
}

int nd_cert_fits(struct nd_pem bundle, struct nd_pem pem, struct nd_err *err)
{
    X509 *x = first_certificate(bundle, err);
    EVP_PKEY *key = x ? read_key(pem, err) : NULL;
    int rc = -1;

    if (key && X509_check_private_key(x, key) == 1)
        rc = 0;
    else if (key)
        nd_err_set(err, "bad_key", "give the key that the certificate was made for",
                   "the private key isn't that of the certificate");
    ERR_clear_error();
    EVP_PKEY_free(key);
    X509_free(x);
    return rc;
}

/* ---- making ---- */

static char *names_extension(const char *const *names)
{
    struct nd_buf text = {0};

    for (; *names; names++)
        nd_buf_addf(&text, "%sDNS:%s", text.length ? "," : "", *names);
    return nd_buf_take(&text);
}

static int add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *extension;
    int ok;

    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    ok = extension && X509_add_ext(x, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return ok;
}

static int add_extensions(X509 *x, X509 *issuer, const struct nd_cert_wish *wish)
{
    char *names;
    int ok;

    if (wish->authority)
        return add_extension(x, issuer, NID_basic_constraints, "critical,CA:TRUE,pathlen:1") &&
               add_extension(x, issuer, NID_key_usage, "critical,keyCertSign,cRLSign") &&
               add_extension(x, issuer, NID_subject_key_identifier, "hash");
    names = names_extension(wish->names);
    ok = add_extension(x, issuer, NID_basic_constraints, "critical,CA:FALSE") &&
         add_extension(x, issuer, NID_key_usage, "critical,digitalSignature") &&
         add_extension(x, issuer, NID_ext_key_usage, "serverAuth") &&
         add_extension(x, issuer, NID_subject_alt_name, names);
    free(names);
    return ok;
}

static int set_name(X509_NAME *name, const char *common_name)
{
    return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name,
                                      -1, -1, 0);
}

static int set_serial(X509 *x)
{
    BIGNUM *number = BN_new();
    int ok = number && BN_rand(number, 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
             BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x));

    BN_free(number);
    return ok;
}

static int sign(X509 *x, X509 *issuer, EVP_PKEY *key, EVP_PKEY *signer,
                const struct nd_cert_wish *wish)
{
    return X509_set_version(x, X509_VERSION_3) && set_serial(x) &&
           ASN1_TIME_set(X509_getm_notBefore(x), (time_t)(wish->not_before / 1000)) &&
           ASN1_TIME_set(X509_getm_notAfter(x), (time_t)(wish->not_after / 1000)) &&
           set_name(X509_get_subject_name(x), wish->common_name) &&
           X509_set_issuer_name(x, X509_get_subject_name(issuer)) && X509_set_pubkey(x, key) &&
           add_extensions(x, issuer, wish) && X509_sign(x, signer, EVP_sha256()) > 0;
}

/* In the older form of a P-256 key, which every server reads. */
static int write_key(EVP_PKEY *key, struct nd_buf *out)
{
    BIO *bio = nd_checked(BIO_new(BIO_s_secmem()));
    int ok = PEM_write_bio_PrivateKey_traditional(bio, key, NULL, NULL, 0, NULL, NULL);

    if (ok)
        add_bio(bio, out);
    BIO_free(bio);
    return ok;
}

int nd_cert_make(const struct nd_cert_wish *wish, struct nd_buf *certificate,
                 struct nd_buf *key_out, struct nd_err *err)
{
    EVP_PKEY *key = NULL, *signer = NULL;
    X509 *x = NULL, *issuer = NULL;
    BIO *bio = NULL;
    int rc = -1;

    if (wish->issuer.data && (!(issuer = first_certificate(wish->issuer, err)) ||
                              !(signer = read_key(wish->issuer_key, err))))
        goto out;
    key = EVP_EC_gen("P-256");
    x = X509_new();
    bio = BIO_new(BIO_s_mem());
    if (!key || !x || !bio || !sign(x, issuer ? issuer : x, key, signer ? signer : key, wish) ||
        !PEM_write_bio_X509(bio, x) || !write_key(key, key_out)) {
        fail(err, "cert_failed", "no certificate could be made");
        goto out;
    }
    add_bio(bio, certificate);
    rc = 0;
out:
    BIO_free(bio);
    X509_free(x);
    X509_free(issuer);
    EVP_PKEY_free(key);
    EVP_PKEY_free(signer);
    return rc;
}

static int add_names(X509_REQ *request, const char *const *names)
{
    char *text = names_extension(names);
    STACK_OF(X509_EXTENSION) *list = sk_X509_EXTENSION_new_null();
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, text);
    int ok = list && extension && sk_X509_EXTENSION_push(list, extension) > 0 &&
             X509_REQ_add_extensions(request, list);

    sk_X509_EXTENSION_free(list);
    X509_EXTENSION_free(extension);
    free(text);
    return ok;
}

int nd_cert_request(const char *const *names, struct nd_buf *out, struct nd_buf *key_out,
                    struct nd_err *err)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509_REQ *request = X509_REQ_new();
    BIO *bio = BIO_new(BIO_s_mem());
    int rc = -1;

    if (key && request && bio && X509_REQ_set_version(request, X509_REQ_VERSION_1) &&
        X509_REQ_set_pubkey(request, key) && add_names(request, names) &&
        X509_REQ_sign(request, key, EVP_sha256()) > 0 && PEM_write_bio_X509_REQ(bio, request) &&
        write_key(key, key_out)) {
        add_bio(bio, out);
        rc = 0;
    } else {
        fail(err, "cert_failed", "no request for a certificate could be made");
    }
    BIO_free(bio);
    X509_REQ_free(request);
    EVP_PKEY_free(key);
    return rc;
}
