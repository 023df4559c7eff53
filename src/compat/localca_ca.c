#include "src/compat/localca_ca.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "src/base/fd.h"
#include "src/compat/cert_file.h"
#include "src/compat/cert_x509.h"

enum { QUOTED_BYTES = 300, DIR_MODE = 0750, KEY_MODE = 0600, CERT_MODE = 0644, SERIAL_MODE = 0644 };
enum { SERIAL_TEXT_BYTES = 32 };

/* --- directories and the lock --- */

static int make_dirs(const char *dir, const char *what, struct err *e)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s", dir) >= (int)sizeof(path))
        return err_set(e, ERR_USAGE, "the path of '%s' is too long", what);
    for (char *at = path + 1; *path && *at; at++)
        if (*at == '/') {
            *at = 0;
            (void)mkdir(path, DIR_MODE);
            *at = '/';
        }
    if (mkdir(path, DIR_MODE) < 0 && errno != EEXIST)
        return err_sys(e, ERR_USAGE, errno, "Could not create directory for '%s'", what);
    return 0;
}

static int make_dir_of(const char *file, const char *what, struct err *e)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s", file) >= (int)sizeof(path))
        return err_set(e, ERR_USAGE, "the path of '%s' is too long", what);
    return make_dirs(dirname(path), what, e);
}

static bool is_file(const char *key)
{
    return strncmp(key, "pkcs11:", 7) != 0 && strncmp(key, "tpmkey:", 7) != 0 &&
           strncmp(key, "program:", 8) != 0;
}

int localca_dirs(const struct localca_ca *ca, const struct setup_log *log, struct err *e)
{
    char buf[QUOTED_BYTES];
    if (access(ca->state_dir, F_OK) < 0)
        setup_tell(log, "Creating swtpm-localca dir '%s'.",
                   err_quote(buf, sizeof(buf), ca->state_dir, strlen(ca->state_dir)));
    return make_dirs(ca->state_dir, "statedir", e) < 0 ||
                   (is_file(ca->signing_key) && make_dir_of(ca->signing_key, "signkey", e) < 0) ||
                   make_dir_of(ca->issuer_cert, "issuercert", e) < 0 ||
                   make_dir_of(ca->cert_serial, "certserial", e) < 0
               ? -1
               : 0;
}

/* Held until it is closed. */
static int lock(const struct localca_ca *ca, struct err *e)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/.lock.swtpm-localca", ca->state_dir);
    OWNED_FD fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0660);
    if (fd < 0)
        return err_sys(e, ERR_USAGE, errno, "Could not open lockfile in %s", ca->state_dir);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return err_sys(e, ERR_STORAGE, errno, "Could not lock file in %s", ca->state_dir);
    return MOVE_FD(fd);
}

/* Files that were renamed into it are there after a power cut, too. */
static int sync_dir_of(const char *file, struct err *e)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s", file);
    OWNED_FD fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0
               ? err_sys(e, ERR_STORAGE, errno, "Could not make %s durable", file)
               : 0;
}

/* --- keys and certificates --- */

struct authority {
    const char *name;
    char key_path[PATH_MAX], cert_path[PATH_MAX];
    const struct secret *password;
};

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static int make_key(const struct authority *a, struct err *e)
{
    OWNED(secret) pem = NULL;
    size_t n = 0;
    if (x509_key_make(a->password, &pem, &n, e) < 0 ||
        cert_file_write(a->key_path, KEY_MODE, true, secret_peek(pem), n, e) < 0)
        return err_prefix(e, "Could not create %s's key", a->name);
    return sync_dir_of(a->key_path, e);
}

static int open_key(const struct authority *a, struct x509_key **ret, struct err *e)
{
    OWNED(secret) pem = NULL;
    size_t n = 0;
    return cert_file_read(a->key_path, "key", &pem, &n, e) < 0 ||
                   x509_key_pem((struct span){secret_peek(pem), n}, a->password, ret, e) < 0
               ? err_prefix(e, "%s", a->key_path)
               : 0;
}

static int open_cert(const struct authority *a, struct x509_issuer **ret, struct err *e)
{
    OWNED(secret) pem = NULL;
    size_t n = 0;
    return cert_file_read(a->cert_path, "certificate", &pem, &n, e) < 0
               ? -1
               : x509_issuer_pem((struct span){secret_peek(pem), n}, ret, e);
}

/* root: NULL: signs itself. */
static int make_cert(const struct authority *a, const struct authority *root, struct err *e)
{
    uint8_t pem[X509_CERTIFICATE_BYTES];
    size_t n = 0;
    OWNED(x509_key) own = NULL;
    OWNED(x509_key) root_key = NULL;
    OWNED(x509_issuer) root_cert = NULL;
    OWNED(x509_subject) subject = NULL;
    struct x509_request r = {.common_name = a->name,
                             .days = X509_FOR_EVER,
                             .usage = X509_SIGNS_CERTIFICATES,
                             .is_ca = true};
    if (random_bytes(r.serial, sizeof(r.serial), e) < 0 || open_key(a, &own, e) < 0 ||
        x509_subject_of_key(own, &subject, e) < 0)
        return -1;
    r.serial[0] = (uint8_t)((r.serial[0] & 0x3f) | 0x20); /* positive, of one length */
    if (root && (open_key(root, &root_key, e) < 0 || open_cert(root, &root_cert, e) < 0))
        return -1;
    r.subject = subject;
    if (x509_issue(&r, root_cert, root ? root_key : own, true, pem, &n, e) < 0 ||
        cert_file_write(a->cert_path, CERT_MODE, true, pem, n, e) < 0)
        return err_prefix(e, "Could not create the certificate of %s", a->name);
    return sync_dir_of(a->cert_path, e);
}

static int name_root(const struct localca_ca *ca, struct authority *root, struct err *e)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s", ca->signing_key);
    const char *dir = dirname(path);
    *root = (struct authority){.name = "swtpm-localca-rootca", .password = ca->root_password};
    return snprintf(root->key_path, PATH_MAX, "%s/swtpm-localca-rootca-privkey.pem", dir) >=
                       PATH_MAX ||
                   snprintf(root->cert_path, PATH_MAX, "%s/swtpm-localca-rootca-cert.pem", dir) >=
                       PATH_MAX
               ? err_set(e, ERR_USAGE, "the path of the signing key is too long")
               : 0;
}

/* The lock is held. */
static int make(const struct localca_ca *ca, struct err *e)
{
    struct authority root, local = {.name = "swtpm-localca", .password = ca->password};
    if (name_root(ca, &root, e) < 0)
        return -1;
    (void)snprintf(local.key_path, PATH_MAX, "%s", ca->signing_key);
    (void)snprintf(local.cert_path, PATH_MAX, "%s", ca->issuer_cert);
    const bool has_key = is_there(local.key_path);
    if (has_key && is_there(local.cert_path))
        return 0; /* somebody else was faster */
    if (!has_key && is_there(local.cert_path))
        return err_set(e, ERR_USAGE,
                       "%s is there, and its signing key %s is not; put that back, or move the "
                       "certificate away",
                       local.cert_path, local.key_path);
    /* A key of somebody's own is not made part of an authority of ours. */
    if (has_key && !is_there(root.cert_path))
        return err_set(e, ERR_USAGE, "%s is there, and its certificate %s is not", local.key_path,
                       local.cert_path);
    if (!is_there(root.key_path) && is_there(root.cert_path))
        return err_set(e, ERR_USAGE, "%s is there, and its key %s is not", root.cert_path,
                       root.key_path);
    if ((!is_there(root.key_path) && make_key(&root, e) < 0) ||
        (!is_there(root.cert_path) && make_cert(&root, NULL, e) < 0) ||
        (!has_key && make_key(&local, e) < 0))
        return -1;
    return make_cert(&local, &root, e);
}

int localca_make(const struct localca_ca *ca, const struct setup_log *log, struct err *e)
{
    if (!is_file(ca->signing_key) || (is_there(ca->signing_key) && is_there(ca->issuer_cert)))
        return 0;
    OWNED_FD held = lock(ca, e);
    if (held < 0)
        return -1;
    if (!is_there(ca->signing_key))
        setup_tell(log, "Creating root CA and a local CA's signing key and issuer cert.");
    return make(ca, e) < 0 ? err_prefix(e, "Error creating local CA's signing key and cert") : 0;
}

/* --- numbers --- */

/* The last one that was given away. None yet: as if it had been 1. */
static int read_serial(const char *path, int fd, uint64_t *ret, size_t *ret_digits, struct err *e)
{
    char text[SERIAL_TEXT_BYTES] = "", *end;
    ssize_t n = fd_pread_full(fd, text, sizeof(text) - 1, 0);
    if (n < 0)
        return err_sys(e, ERR_USAGE, errno, "Could not read the serial number in %s", path);
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    *ret_digits = (size_t)(end - text);
    end += strspn(end, " \t\r\n");
    if (n == 0 || text[0] < '0' || text[0] > '9' || *end || errno != 0 || v >= INT64_MAX)
        return err_set(e, ERR_USAGE,
                       "%s holds no serial number; write one there that is larger than those of "
                       "all certificates so far",
                       path);
    *ret = v;
    return 0;
}

/* As many digits as before, within a sector: they are changed where they stand, with one flush. */
static int write_serial(const char *path, int fd, uint64_t serial, size_t digits, struct err *e)
{
    char text[SERIAL_TEXT_BYTES];
    const int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)serial);
    if ((size_t)n != digits)
        return cert_file_write(path, SERIAL_MODE, true, text, (size_t)n, e) < 0
                   ? -1
                   : sync_dir_of(path, e);
    return fd_pwrite_full(fd, text, digits, 0) < 0 || fdatasync(fd) < 0
               ? err_sys(e, ERR_STORAGE, errno, "Could not write %s", path)
               : 0;
}

int localca_serial(const struct localca_ca *ca, uint64_t *ret, struct err *e)
{
    uint64_t last = 1;
    size_t digits = 0;
    OWNED_FD held = lock(ca, e);
    if (held < 0)
        return -1;
    OWNED_FD fd = open(ca->cert_serial, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
    if (fd < 0 && errno != ENOENT)
        return err_sys(e, ERR_USAGE, errno, "Could not open %s", ca->cert_serial);
    if (fd >= 0 && read_serial(ca->cert_serial, fd, &last, &digits, e) < 0)
        return -1;
    if (write_serial(ca->cert_serial, fd, last + 1, digits, e) < 0)
        return -1;
    *ret = last + 1;
    return 0;
}
