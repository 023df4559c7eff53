/* swtpm_localca, for those who call it by that name: swtpm_setup, ours and others'. A certificate
 * authority of this host, which is made on first use, certifies a TPM.
 *
 * All of it happens in this process: no key, password or certificate goes through another program.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "src/compat/cert_file.h"
#include "src/compat/cert_issue.h"
#include "src/compat/cert_password.h"
#include "src/compat/localca_args.h"
#include "src/compat/localca_ca.h"
#include "src/compat/localca_config.h"
#include "src/compat/setup_config.h"
#include "src/serve/harden.h"

enum { ARGV_MAX = LOCALCA_WORDS_MAX + 40, QUOTED_BYTES = 300 };

static void usage(void)
{
    fputs("Usage: swtpm_localca [options]\n"
          "\n"
          "Local certificate authority for TPMs, of nvkeep " NVKEEP_VERSION "\n"
          "\n"
          "--type <ek|platform>  what is certified\n"
          "--ek <key>            the modulus of an RSA key, or x=...,y=...[,id=<curve>]\n"
          "--dir <directory>     where ek.cert or platform.cert goes; default: here\n"
          "--vmid <id>           the name of the virtual machine\n"
          "--optsfile <file>     more options of swtpm_cert's; default:\n"
          "                      $XDG_CONFIG_HOME/swtpm-localca.options, or /etc's\n"
          "--configfile <file>   the authority's files; default:\n"
          "                      $XDG_CONFIG_HOME/swtpm-localca.conf, or /etc's\n"
          "--logfile <file>      default: standard output and standard error\n"
          "--tpm-spec-family, --tpm-spec-revision, --tpm-spec-level\n"
          "--tpm-manufacturer, --tpm-model, --tpm-version\n"
          "--tpm2                a TPM 2.0\n"
          "--allow-signing       its EK signs\n"
          "--decryption          with --allow-signing: its EK decrypts, too\n"
          "--help, -h\n"
          "\n"
          "SWTPM_ROOTCA_PASSWORD in the environment: of the root authority's private key\n",
          stdout);
}

struct work {
    struct localca_args args;
    struct localca_config config;
    struct localca_words words;
    struct localca_ca ca;
    struct setup_log log;
};

/* --- files --- */

/* Named, or where they are by default; *ret NULL: there is none. */
static int read_text(const char *named, const char *name, const char *what, struct secret **ret,
                     size_t *ret_bytes, struct err *e)
{
    char home[CONFIG_HOME_BYTES], path[PATH_MAX];
    if (named)
        return cert_file_read(named, what, ret, ret_bytes, e);
    if (setup_config_home(home)) {
        (void)snprintf(path, sizeof(path), "%s/%s", home, name);
        if (access(path, R_OK) == 0)
            return cert_file_read(path, what, ret, ret_bytes, e);
    }
    (void)snprintf(path, sizeof(path), "/etc/%s", name);
    return access(path, F_OK) < 0 ? 0 : cert_file_read(path, what, ret, ret_bytes, e);
}

static const char *environment(const char *name)
{
    return getenv(name);
}

/* No configuration anywhere: where --create-config-files would have it, root's for all. */
static int default_config(char ret[PATH_MAX], struct err *e)
{
    char home[CONFIG_HOME_BYTES] = "";
    if (geteuid() != 0 && !setup_config_home(home))
        return err_set(e, ERR_USAGE,
                       "there is no swtpm-localca.conf, and no $HOME for an authority");
    const char *const dir = "var/lib/swtpm-localca";
    int n = snprintf(ret, PATH_MAX,
                     "statedir = %s/%s\nsigningkey = %s/%s/signkey.pem\n"
                     "issuercert = %s/%s/issuercert.pem\n",
                     home, dir, home, dir, home, dir);
    return n > 0 && n < PATH_MAX ? 0 : err_set(e, ERR_USAGE, "$HOME is too long");
}

static int read_config(struct work *w, struct err *e)
{
    char text[PATH_MAX];
    OWNED(secret) file = NULL;
    size_t n = 0;
    if (read_text(w->args.config_file, "swtpm-localca.conf", "config file", &file, &n, e) < 0)
        return -1;
    if (file)
        return localca_config_parse((const char *)secret_peek(file), n, environment, &w->config, e);
    return default_config(text, e) < 0
               ? -1
               : localca_config_parse(text, strlen(text), environment, &w->config, e);
}

static int read_options(struct work *w, struct err *e)
{
    OWNED(secret) file = NULL;
    struct utsname u = {0};
    char text[3 * sizeof(u.version)];
    size_t n = 0;
    if (read_text(w->args.options_file, "swtpm-localca.options", "options file", &file, &n, e) < 0)
        return -1;
    if (file)
        return localca_words_parse((const char *)secret_peek(file), n, &w->words, e);
    (void)uname(&u);
    for (char *at = u.version; *at; at++)
        if (*at == ' ')
            *at = '_';
    (void)snprintf(text, sizeof(text),
                   "--platform-manufacturer %s --platform-version %s --platform-model %s",
                   u.sysname, u.version, u.sysname);
    return localca_words_parse(text, strlen(text), &w->words, e);
}

/* --- the authority --- */

static bool is_token(const char *key)
{
    return strncmp(key, "pkcs11:", 7) == 0;
}

/* "\;" has been written for ";" in URIs. */
static void unescape(char *uri)
{
    char *to = uri;
    for (const char *at = uri; *at; at++)
        if (at[0] != '\\' || at[1] != ';')
            *to++ = *at;
    *to = 0;
}

static int prepare_token(struct work *w, struct err *e)
{
    unescape(w->config.signing_key);
    for (size_t i = 0; i < w->config.n_env; i++)
        if (setenv(w->config.env[i].name, w->config.env[i].value, 1) < 0)
            return err_nomem(e, "the environment");
    setup_tell(&w->log, "CA uses a PKCS#11 key; using SWTPM_PKCS11_PIN");
    return 0;
}

static int get_password(const struct work *w, struct secret **ret, struct err *e)
{
    const struct localca_config *c = &w->config;
    const char *pin = c->pin ? c->pin : getenv("SWTPM_PKCS11_PIN");
    if (c->signing_key_password)
        return cert_password(c->signing_key_password, ret, e);
    return is_token(c->signing_key) ? cert_password(pin ? pin : "swtpm-tpmca", ret, e) : 0;
}

static int need(const char *value, const char *name, struct err *e)
{
    return value ? 0 : err_set(e, ERR_USAGE, "Missing '%s' config value in config file.", name);
}

static int prepare_authority(struct work *w, const struct secret *password,
                             const struct secret *root_password, char serial_path[PATH_MAX],
                             struct err *e)
{
    const struct localca_config *c = &w->config;
    if (is_token(c->signing_key) && prepare_token(w, e) < 0)
        return -1;
    (void)snprintf(serial_path, PATH_MAX, "%s/certserial", c->state_dir);
    w->ca = (struct localca_ca){c->state_dir,   c->signing_key,
                                c->issuer_cert, c->cert_serial ? c->cert_serial : serial_path,
                                password,       root_password};
    return localca_dirs(&w->ca, &w->log, e) < 0 ? -1 : localca_make(&w->ca, &w->log, e);
}

/* --- the certificate --- */

struct words {
    const char *at[ARGV_MAX + 1];
    int n;
};

static void add(struct words *v, const char *name, const char *value)
{
    v->at[v->n++] = name;
    if (value)
        v->at[v->n++] = value;
}

static void add_pairs(struct words *v, const char *const pairs[LOCALCA_PASSED_MAX])
{
    for (size_t i = 0; i < LOCALCA_PASSED_MAX; i += 2)
        if (pairs[i])
            add(v, pairs[i], pairs[i + 1]);
}

/* As swtpm_cert's command line: what the options file says comes first, so that it cannot be
 * stronger than what is asked for here. */
static void put_words(const struct work *w, const char *out, char *ek, const char *serial,
                      struct words *v)
{
    const bool is_ek = strcmp(w->args.type, "ek") == 0;
    struct localca_point point;
    add(v, "swtpm_localca", NULL);
    for (size_t i = 0; i < w->words.n; i++)
        add(v, w->words.word[i], NULL);
    add(v, w->args.tpm2 ? "--tpm2" : "--add-header", NULL);
    if (is_ek && w->args.allow_signing)
        add(v, "--allow-signing", NULL);
    if (is_ek && w->args.decryption)
        add(v, "--decryption", NULL);
    if (is_ek)
        add_pairs(v, w->args.spec);
    add_pairs(v, w->args.tpm);
    add(v, "--type", w->args.type);
    add(v, "--out-cert", out);
    if (localca_point(ek, &point)) {
        add(v, "--ecc-x", point.x);
        add(v, "--ecc-y", point.y);
        if (point.curve)
            add(v, "--ecc-curveid", point.curve);
    } else {
        add(v, "--modulus", ek);
    }
    add(v, "--signkey", w->config.signing_key);
    add(v, "--issuercert", w->config.issuer_cert);
    add(v, "--days", "-1");
    add(v, "--serial", serial);
}

static int issue(const struct work *w, const struct words *v, const struct secret *password,
                 struct err *e)
{
    uint8_t cert[CERT_BYTES];
    char *argv[ARGV_MAX + 1];
    size_t n = 0;
    bool unused;
    const struct cert_by by = {password,
                               w->args.vm_id && *w->args.vm_id ? w->args.vm_id : "unknown"};
    OWNED_HEAP struct cert_args *a = calloc(1, sizeof(*a));
    if (!a)
        return err_nomem(e, "a certificate");
    memcpy(argv, v->at, sizeof(argv)); /* getopt() wants them so, and leaves the texts alone */
    if (cert_args_parse(v->n, argv, a, &unused, e) < 0 || cert_args_check(a, &unused, e) < 0)
        return -1;
    if (a->action != CERT_ISSUE)
        return err_set(e, ERR_USAGE, "the options file asks for no certificate");
    return cert_issue(a, &by, cert, &n, e) < 0 ? -1 : cert_write(a->out_file, cert, n, e);
}

static int certify(struct work *w, const struct secret *password, struct err *e)
{
    char out[PATH_MAX], serial[32];
    uint64_t number;
    const bool is_ek = strcmp(w->args.type, "ek") == 0;
    struct words v = {.n = 0};
    OWNED_HEAP char *ek = strdup(w->args.ek);
    if (!ek)
        return err_nomem(e, "the EK");
    if (snprintf(out, sizeof(out), "%s/%s.cert", w->args.dir, w->args.type) >= (int)sizeof(out))
        return err_set(e, ERR_USAGE, "the path of --dir is too long");
    if (localca_serial(&w->ca, &number, e) < 0)
        return -1;
    (void)snprintf(serial, sizeof(serial), "%llu", (unsigned long long)number);
    put_words(w, out, ek, serial, &v);
    if (issue(w, &v, password, e) < 0)
        return err_prefix(e, "Could not create %s certificate locally", is_ek ? "EK" : "platform");
    setup_tell(&w->log, "Successfully created %s certificate locally.", is_ek ? "EK" : "platform");
    return 0;
}

static int act(struct work *w, struct err *e)
{
    char serial_path[PATH_MAX];
    const char *root = getenv("SWTPM_ROOTCA_PASSWORD");
    OWNED(secret) password = NULL;
    OWNED(secret) root_password = NULL;
    if (w->args.log_file && setup_log_open(w->args.log_file, &w->log, e) < 0)
        return -1;
    if (read_options(w, e) < 0 || read_config(w, e) < 0 ||
        need(w->config.state_dir, "statedir", e) < 0 ||
        need(w->config.signing_key, "signingkey", e) < 0 ||
        need(w->config.issuer_cert, "issuercert", e) < 0 || get_password(w, &password, e) < 0 ||
        (root && cert_password(root, &root_password, e) < 0) ||
        prepare_authority(w, password, root_password, serial_path, e) < 0)
        return -1;
    return certify(w, password, e);
}

int main(int argc, char **argv)
{
    struct work w = {.log = {-1}};
    struct err e;
    const mode_t callers_umask = umask(077);
    if (harden_process() < 0) {
        fprintf(stderr, "swtpm_localca: cannot set up the process: %s\n", strerrordesc_np(errno));
        return EXIT_FAILURE;
    }
    (void)umask(callers_umask); /* directories are as they were; what is secret says its own mode */
    int r = localca_args_parse(argc, argv, &w.args, &e);
    if (r == 0 && w.args.help)
        usage();
    else if (r == 0)
        r = act(&w, &e);
    localca_words_clear(&w.words);
    localca_config_clear(&w.config);
    if (r < 0)
        setup_complain(&w.log, "%s", e.text);
    return r == 0 && fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
