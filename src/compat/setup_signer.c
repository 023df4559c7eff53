#include "src/compat/setup_signer.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "src/base/fd.h"
#include "src/make/manufacture_tpm12.h"
#include "src/serve/json_in.h"

enum {
    DIR_BYTES = 100,
    PATH_BYTES = DIR_BYTES + 20,
    EK_TEXT_BYTES = 2 * 2 * EK_PUBLIC_MAX_BYTES + 40,
    WORD_BYTES = 80,
    N_WORDS = 6,
    ARGS_MAX = 40,
    /* A local CA that is made on first use makes two keys of 3072 bits. */
    LIMIT_MS = 120000,
};

struct call {
    char ek[EK_TEXT_BYTES];
    char word[N_WORDS][WORD_BYTES];
    const char *arg[ARGS_MAX + 1]; /* borrowed */
    size_t n;
};

static void add(struct call *c, const char *name, const char *value)
{
    c->arg[c->n++] = name;
    if (value)
        c->arg[c->n++] = value;
}

/* --- what it is told --- */

static void put_hex(char *to, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)snprintf(to + 2 * i, 3, "%02x", p[i]);
}

static void put_ek(const struct ek_public *ek, const char *curve, char ret[EK_TEXT_BYTES])
{
    char x[2 * EK_PUBLIC_MAX_BYTES + 1] = "", y[2 * EK_PUBLIC_MAX_BYTES + 1] = "";
    put_hex(x, ek->n_or_x, ek->n_or_x_bytes);
    put_hex(y, ek->y, ek->y_bytes);
    if (ek->is_ecc)
        (void)snprintf(ret, EK_TEXT_BYTES, "x=%s,y=%s,id=%s", x, y, curve);
    else
        (void)snprintf(ret, EK_TEXT_BYTES, "%s", x);
}

/* What libtpms says about itself, in the order of the options below. */
static int put_words(const char *info, struct call *c, struct err *e)
{
    static const struct {
        const char *option, *group, *name;
    } rows[N_WORDS] = {{"--tpm-spec-family", "TPMSpecification", "family"},
                       {"--tpm-spec-level", "TPMSpecification", "level"},
                       {"--tpm-spec-revision", "TPMSpecification", "revision"},
                       {"--tpm-manufacturer", "TPMAttributes", "manufacturer"},
                       {"--tpm-model", "TPMAttributes", "model"},
                       {"--tpm-version", "TPMAttributes", "version"}};
    OWNED(json_in) v = NULL;
    if (json_in_parse(info, strlen(info), &v, e) < 0)
        return err_prefix(e, "what libtpms says about itself");
    for (size_t i = 0; i < N_WORDS; i++) {
        const struct json_in *group = json_in_member(v, rows[i].group);
        const struct json_in *member = group ? json_in_member(group, rows[i].name) : NULL;
        if (!member)
            return err_set(e, ERR_UNSUPPORTED, "libtpms does not say its %s", rows[i].name);
        const char *text = json_in_text(member);
        if (text)
            (void)snprintf(c->word[i], WORD_BYTES, "%s", text);
        else
            (void)snprintf(c->word[i], WORD_BYTES, "%llu",
                           (unsigned long long)json_in_number(member));
        add(c, rows[i].option, c->word[i]);
    }
    return 0;
}

static int put_call(const struct setup_signer *s, const struct certificate_request *request,
                    const char *dir, struct call *c, struct err *e)
{
    put_ek(request->ek, made_key_facts(request->key)->curve, c->ek);
    add(c, s->config->tool, NULL);
    add(c, "--type", request->what == CERTIFICATE_EK ? "ek" : "platform");
    add(c, "--ek", c->ek);
    add(c, "--dir", dir);
    if (s->vm_id)
        add(c, "--vmid", s->vm_id);
    if (put_words(request->info, c, e) < 0)
        return -1;
    if (request->device == DEVICE_TPM20)
        add(c, "--tpm2", NULL);
    if (s->config->tool_config)
        add(c, "--configfile", s->config->tool_config);
    if (s->config->tool_options)
        add(c, "--optsfile", s->config->tool_options);
    /* A certificate says what its key is for; the standard one needs no word. */
    if (request->use != EK_STANDARD)
        add(c, "--allow-signing", NULL);
    if (request->use == EK_SIGNS_AND_DECRYPTS)
        add(c, "--decryption", NULL);
    return 0;
}

static void tell_call(const struct setup_signer *s, const struct call *c)
{
    char line[3000] = "  Invoking";
    for (size_t i = 0, n = strlen(line); i < c->n && n < sizeof(line); i++)
        n += (size_t)snprintf(line + n, sizeof(line) - n, " %s", c->arg[i]);
    setup_tell(s->log, "%s", line);
}

/* --- running it --- */

/* In the child. Our signal rules and permissions are not its own. */
static void become(const struct setup_signer *s, const struct call *c, pid_t parent)
{
    int null = open("/dev/null", O_RDONLY);
    /* Nobody else would end it when we are ended. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || getppid() != parent)
        _exit(126);
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)signal(SIGXFSZ, SIG_DFL);
    (void)umask(s->umask);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || setpgid(0, 0) < 0)
        _exit(126);
    if (s->log->fd >= 0 &&
        (dup2(s->log->fd, STDOUT_FILENO) < 0 || dup2(s->log->fd, STDERR_FILENO) < 0))
        _exit(126);
    (void)close_range(STDERR_FILENO + 1, ~0U, 0);
    char *args[ARGS_MAX + 1];
    memcpy(args, c->arg, sizeof(args)); /* execv() wants them so, and leaves them alone */
    execv(args[0], args);
    _exit(127);
}

static int await(pid_t child, int *ret_status, struct err *e)
{
    OWNED_FD pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int r = pidfd < 0 ? -1 : poll(&p, 1, LIMIT_MS);
    if (r != 1) {
        (void)kill(-child, SIGKILL);
        (void)kill(child, SIGKILL);
    }
    while (waitpid(child, ret_status, 0) < 0 && errno == EINTR)
        ;
    return r == 1 ? 0
                  : err_set(e, ERR_STORAGE,
                            "the signer gave no certificate within %d seconds and was ended",
                            LIMIT_MS / 1000);
}

static int run(const struct setup_signer *s, const struct call *c, struct err *e)
{
    char buf[200];
    int status = 0;
    pid_t self = getpid(), child = fork();
    if (child < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot run the signer");
    if (child == 0)
        become(s, c, self);
    if (await(child, &status, e) < 0)
        return -1;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return err_set(e, ERR_STORAGE, "%s gave no certificate (%s %d)",
                   err_quote(buf, sizeof(buf), s->config->tool, strlen(s->config->tool)),
                   WIFEXITED(status) ? "exit code" : "signal",
                   WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

/* --- what it leaves --- */

static int take(const char *path, uint8_t *ret, size_t *ret_bytes, struct err *e)
{
    uint8_t der[CERTIFICATE_MAX_BYTES + 1];
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : fd_read_full(fd, der, sizeof(der));
    if (n < 0)
        return err_sys(e, ERR_STORAGE, errno, "the signer left no certificate (%s)", path);
    if (n == 0 || n > CERTIFICATE_MAX_BYTES)
        return err_set(e, ERR_UNSUPPORTED,
                       "the signer left a certificate of %s; at most %d are stored",
                       n == 0 ? "no bytes" : "too many bytes", CERTIFICATE_MAX_BYTES);
    memcpy(ret, der, (size_t)n);
    *ret_bytes = (size_t)n;
    return 0;
}

/* swtpm_localca gives a TPM 1.2's certificate as it stands in NV, others give DER: from here on it
 * is DER. */
static void take_header_off(uint8_t *p, size_t *n)
{
    uint8_t header[TPM12_NV_HEADER_BYTES];
    if (*n <= sizeof(header))
        return;
    nv12_certificate_header(*n - sizeof(header), header);
    if (memcmp(p, header, sizeof(header)) != 0)
        return;
    *n -= sizeof(header);
    memmove(p, p + sizeof(header), *n);
}

static void keep(struct setup_signer *s, const struct certificate_request *request,
                 const uint8_t *der, size_t n)
{
    if (request->what != CERTIFICATE_EK || s->n_kept >= SIGNED_MAX)
        return;
    s->kept[s->n_kept].key = request->key;
    s->kept[s->n_kept].bytes = n;
    memcpy(s->kept[s->n_kept++].der, der, n);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    (void)st, (void)flag, (void)at;
    (void)remove(path);
    return 0;
}

/* Whatever it left there. */
static void remove_dir(const char *dir)
{
    (void)nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int setup_sign(void *ctx, const struct certificate_request *request, uint8_t *ret,
               size_t *ret_bytes, struct err *e)
{
    struct setup_signer *s = ctx;
    const char *tmp = getenv("TMPDIR");
    char dir[DIR_BYTES], path[PATH_BYTES];
    struct call c = {.n = 0};
    if (!s->config->tool)
        return err_set(e, ERR_USAGE,
                       "swtpm_setup.conf names no create_certs_tool that would sign certificates");
    int n = snprintf(dir, sizeof(dir), "%s/swtpm_setup.certs.XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (n < 0 || (size_t)n >= sizeof(dir) || !mkdtemp(dir))
        return err_sys(e, ERR_STORAGE, errno, "cannot make a directory for the signer");
    (void)snprintf(path, sizeof(path), "%s/%s.cert", dir,
                   request->what == CERTIFICATE_EK ? "ek" : "platform");
    int r = put_call(s, request, dir, &c, e);
    if (r == 0) {
        tell_call(s, &c);
        r = run(s, &c, e);
    }
    if (r == 0)
        r = take(path, ret, ret_bytes, e);
    remove_dir(dir);
    if (r < 0)
        return -1;
    keep(s, request, ret, *ret_bytes);
    if (request->device == DEVICE_TPM12)
        take_header_off(ret, ret_bytes);
    return 0;
}

/* Whole, without a name; what has the name keeps it until then, with whatever links to it. */
static int write_new(const char *path, const uint8_t *der, size_t n, struct blk_new **ret,
                     struct err *e)
{
    OWNED(blk_new) file = NULL;
    char buf[200];
    struct stat was;
    bool is_there = lstat(path, &was) == 0;
    if (is_there && !S_ISREG(was.st_mode))
        return err_set(e, ERR_USAGE, "cannot write %s: it is there, and is no regular file",
                       err_quote(buf, sizeof(buf), path, strlen(path)));
    if ((is_there ? blk_create_over(path, n, &was, &file, e) : blk_create(path, n, &file, e)) < 0 ||
        blk_write(blk_new_rw(file), (struct host){0}, der, n, e) < 0)
        return -1;
    *ret = MOVE(file);
    return 0;
}

int setup_signer_write(struct setup_signer *s, const char *dir, struct err *e)
{
    char path[PATH_MAX];
    for (size_t i = 0; i < s->n_kept; i++) {
        int n = snprintf(path, sizeof(path), "%s/ek-%s.crt", dir,
                         made_key_facts(s->kept[i].key)->file_name);
        if (n < 0 || (size_t)n >= sizeof(path))
            return err_set(e, ERR_USAGE, "--write-ek-cert-files: the path is too long");
        if (write_new(path, s->kept[i].der, s->kept[i].bytes, &s->kept[i].file, e) < 0)
            return -1;
    }
    return 0;
}

int setup_signer_publish(struct setup_signer *s, struct err *e)
{
    for (size_t i = 0; i < s->n_kept; i++)
        if (s->kept[i].file && blk_publish(&s->kept[i].file, e) < 0)
            return -1;
    return 0;
}

void setup_signer_clear(struct setup_signer *s)
{
    for (size_t i = 0; i < s->n_kept; i++)
        blk_new_free(MOVE(s->kept[i].file));
    s->n_kept = 0;
}
