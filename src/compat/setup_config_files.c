/* --create-config-files. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "src/base/fd.h"
#include "src/compat/setup_config.h"

enum { N_FILES = 3, TEXT_BYTES = 4 * PATH_MAX + 400 };

struct files {
    char dir[CONFIG_HOME_BYTES];
    char path[N_FILES][PATH_MAX];
    char text[N_FILES][TEXT_BYTES];
};

static bool has_word(const char *words, const char *word)
{
    const size_t n = strlen(word);
    for (const char *at = words; at && *at; at += strcspn(at, ","), at += *at == ',')
        if (strcspn(at, ",") == n && memcmp(at, word, n) == 0)
            return true;
    return false;
}

static int name_files(struct files *f, struct err *e)
{
    static const char *const names[N_FILES] = {"swtpm_setup.conf", "swtpm-localca.conf",
                                               "swtpm-localca.options"};
    if (!setup_config_home(f->dir))
        return err_set(e, ERR_USAGE, "there is no $HOME where configuration files could go");
    for (size_t i = 0; i < N_FILES; i++)
        (void)snprintf(f->path[i], PATH_MAX, "%s/%s", f->dir, names[i]);
    return 0;
}

static void write_texts(struct files *f)
{
    char signer[PATH_MAX];
    struct utsname u = {0};
    setup_config_signer(signer);
    (void)uname(&u);
    for (char *at = u.version; *at; at++)
        if (*at == ' ')
            *at = '_';
    (void)snprintf(f->text[0], TEXT_BYTES,
                   "create_certs_tool = %s\ncreate_certs_tool_config = %s\n"
                   "create_certs_tool_options = %s\n"
                   "# Comma-separated list (no spaces) of PCR banks to activate by default\n"
                   "active_pcr_banks = sha256\n",
                   signer, f->path[1], f->path[2]);
    (void)snprintf(f->text[1], TEXT_BYTES,
                   "statedir = %s/var/lib/swtpm-localca\n"
                   "signingkey = %s/var/lib/swtpm-localca/signkey.pem\n"
                   "issuercert = %s/var/lib/swtpm-localca/issuercert.pem\n"
                   "certserial = %s/var/lib/swtpm-localca/certserial\n",
                   f->dir, f->dir, f->dir, f->dir);
    (void)snprintf(f->text[2], TEXT_BYTES,
                   "--platform-manufacturer %s\n--platform-version %s\n--platform-model %s\n",
                   u.sysname, u.version, u.sysname);
}

/* Parents too; what is there already is fine. */
static int make_dirs(const char *dir, struct err *e)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s", dir);
    for (char *at = path + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            (void)mkdir(path, 0755);
            *at = '/';
        }
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return err_sys(e, ERR_USAGE, errno, "Could not create %s", dir);
    return 0;
}

static int write_file(const char *path, const char *text, bool replaces, struct err *e)
{
    OWNED_FD fd =
        open(path,
             O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW | (replaces ? O_TRUNC : O_EXCL),
             0640);
    if (fd < 0 && errno == EEXIST)
        return err_set(e, ERR_USAGE, "File %s already exists. Refusing to overwrite.", path);
    if (fd < 0 || fd_write_full(fd, text, strlen(text)) < 0 || fsync(fd) < 0)
        return err_sys(e, ERR_STORAGE, errno, "Could not write %s", path);
    return 0;
}

static int create(struct files *f, const char *words, const struct setup_log *log, struct err *e)
{
    const bool replaces = has_word(words, "overwrite");
    if (name_files(f, e) < 0)
        return -1;
    for (size_t i = 0; i < N_FILES && !replaces; i++)
        if (access(f->path[i], F_OK) == 0)
            return has_word(words, "skip-if-exist")
                       ? 0
                       : err_set(e, ERR_USAGE, "File %s already exists. Refusing to overwrite.",
                                 f->path[i]);
    write_texts(f);
    if (make_dirs(f->dir, e) < 0)
        return -1;
    for (size_t i = 0; i < N_FILES; i++) {
        if (write_file(f->path[i], f->text[i], replaces, e) < 0)
            return -1;
        setup_tell(log, "Writing %s.", f->path[i]);
    }
    return 0;
}

int setup_config_create(const char *words, const struct setup_log *log, struct err *e)
{
    if (geteuid() == 0 && !has_word(words, "root"))
        return err_set(e, ERR_USAGE,
                       "Requiring the 'root' flag since the configuration files will shadow those "
                       "in /etc.");
    struct files *f = calloc(1, sizeof(*f));
    if (!f)
        return err_nomem(e, "the configuration files");
    int r = create(f, words, log, e);
    free(f);
    return r;
}
