#include "src/compat/setup_config.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "src/compat/compat_file.h"

enum { QUOTED_BYTES = 300, LINE_BYTES = PATH_MAX + 100 };

/* --- reading --- */

/* The value of "name = value # comment"; NULL: another line. Changes the line. */
static char *value_of(char *line, const char *name)
{
    char *at = line + strspn(line, " \t");
    if (strncmp(at, name, strlen(name)) != 0)
        return NULL;
    at += strlen(name);
    at += strspn(at, " \t");
    if (*at != '=')
        return NULL;
    at++;
    at += strspn(at, " \t");
    char *end = at + strcspn(at, "#\n");
    while (end > at && isspace((unsigned char)end[-1]))
        end--;
    *end = 0;
    return at;
}

static int take_line(struct setup_config *c, char *line, struct err *e)
{
    const struct {
        const char *name;
        char **to;
    } known[] = {{"create_certs_tool", &c->tool},
                 {"create_certs_tool_config", &c->tool_config},
                 {"create_certs_tool_options", &c->tool_options},
                 {"active_pcr_banks", &c->pcr_banks}};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        const char *value = value_of(line, known[i].name);
        if (!value)
            continue;
        free(*known[i].to);
        *known[i].to = *value ? strdup(value) : NULL;
        return *value && !*known[i].to ? err_nomem(e, "the configuration") : 0;
    }
    return 0;
}

static int read_file(FILE *f, struct setup_config *c, struct err *e)
{
    char line[LINE_BYTES];
    while (fgets(line, sizeof(line), f))
        if (take_line(c, line, e) < 0)
            return -1;
    return ferror(f) ? err_sys(e, ERR_STORAGE, EIO, "cannot read the configuration") : 0;
}

bool setup_config_home(char ret[CONFIG_HOME_BYTES])
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n = xdg && *xdg     ? snprintf(ret, CONFIG_HOME_BYTES, "%s", xdg)
            : home && *home ? snprintf(ret, CONFIG_HOME_BYTES, "%s/.config", home)
                            : -1;
    return n > 0 && n < CONFIG_HOME_BYTES;
}

/* The one that PATH leads to now. */
static bool find_signer(char ret[PATH_MAX])
{
    const char *path = getenv("PATH");
    for (const char *at = path ? path : ""; *at; at += strcspn(at, ":"), at += *at == ':') {
        int n = snprintf(ret, PATH_MAX, "%.*s/swtpm_localca", (int)strcspn(at, ":"), at);
        if (n > 0 && n < PATH_MAX && ret[0] == '/' && access(ret, X_OK) == 0)
            return true;
    }
    return false;
}

void setup_config_signer(char ret[PATH_MAX])
{
    static const char name[] = "/swtpm_localca";
    ssize_t n = readlink("/proc/self/exe", ret, PATH_MAX - sizeof(name));
    char *slash = n > 0 ? memrchr(ret, '/', (size_t)n) : NULL;
    if (slash) {
        memcpy(slash, name, sizeof(name));
        if (access(ret, X_OK) == 0)
            return;
    }
    if (!find_signer(ret))
        (void)snprintf(ret, PATH_MAX, "/usr/bin%s", name);
}

static int use_signer(struct setup_config *c, struct err *e)
{
    char path[PATH_MAX];
    setup_config_signer(path);
    c->tool = strdup(path);
    return c->tool ? 0 : err_nomem(e, "the configuration");
}

static int open_default(FILE **ret, struct err *e)
{
    struct err ignored;
    char home[CONFIG_HOME_BYTES], path[PATH_MAX];
    FILE *f = NULL;
    if (setup_config_home(home)) {
        (void)snprintf(path, sizeof(path), "%s/swtpm_setup.conf", home);
        /* --runas: another user's may be out of reach. */
        if (compat_file_open(path, &f, &ignored) < 0)
            f = NULL;
    }
    if (f) {
        *ret = f;
        return 0;
    }
    return compat_file_open("/etc/swtpm_setup.conf", ret, e);
}

int setup_config_read(const char *path, struct setup_config *ret, struct err *e)
{
    struct setup_config c = {0};
    char buf[QUOTED_BYTES];
    FILE *f;
    if ((path ? compat_file_open(path, &f, e) : open_default(&f, e)) < 0)
        return err_prefix(e, "the configuration");
    if (!f && path)
        return err_set(e, ERR_USAGE, "cannot read config file %s: %s.",
                       err_quote(buf, sizeof(buf), path, strlen(path)), strerrordesc_np(ENOENT));
    int r = f ? read_file(f, &c, e) : use_signer(&c, e);
    if (f)
        fclose(f);
    if (r < 0)
        setup_config_clear(&c);
    else
        *ret = c;
    return r;
}

void setup_config_clear(struct setup_config *c)
{
    free(c->tool);
    free(c->tool_config);
    free(c->tool_options);
    free(c->pcr_banks);
    *c = (struct setup_config){0};
}
