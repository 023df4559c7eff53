#include "src/compat/compat_policy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/compat/compat_file.h"
#include "src/key/key_rules.h"

enum { QUOTED_BYTES = 200, LINE_BYTES = 256, ITER_MS_MAX = 600000 };

static const char *path(void)
{
    const char *named = getenv("NVKEEP_SWTPM_CONF");
    return named && *named ? named : NVKEEP_SYSCONFDIR "/nvkeep/swtpm.conf";
}

/* Which of the words it is; -1: none. */
static int which(const char *value, const char *const words[])
{
    for (int i = 0; words[i]; i++)
        if (strcmp(value, words[i]) == 0)
            return i;
    return -1;
}

/* At most as long as nvkeep create takes it. */
static bool take_ms(const char *value, unsigned *ret)
{
    if (strspn(value, "0123456789") != strlen(value) || strlen(value) > 6)
        return false;
    *ret = (unsigned)strtoul(value, NULL, 10);
    return *ret >= 1 && *ret <= ITER_MS_MAX;
}

static bool take(struct compat_policy *p, const char *name, const char *value)
{
    static const char *const yes_no[] = {"no", "yes", NULL};
    static const char *const seals[] = {"auto", "off", "required", NULL};
    static const enum seal_policy policies[] = {SEAL_AUTO, SEAL_OFF, SEAL_REQUIRED};
    int i = -1;
    if (strcmp(name, "iter-time") == 0)
        return take_ms(value, &p->iter_ms);
    if (strcmp(name, "require-key") == 0 && (i = which(value, yes_no)) >= 0)
        p->require_key = i == 1;
    else if (strcmp(name, "migration-seal") == 0 && (i = which(value, seals)) >= 0)
        p->seal = policies[i];
    return i >= 0;
}

static int take_line(struct compat_policy *p, const char *line, unsigned number, struct err *e)
{
    char name[LINE_BYTES], value[LINE_BYTES], rest[2], file[QUOTED_BYTES], quoted[QUOTED_BYTES];
    int n = sscanf(line, " %255[a-z-] = %255s %1s", name, value, rest);
    const char *at = line + strspn(line, " \t\n");
    if (!*at || *at == '#' || (n == 2 && take(p, name, value)))
        return 0;
    return err_set(e, ERR_USAGE,
                   "%s: line %u: wanted require-key = yes|no, migration-seal = off|auto|required "
                   "or iter-time = MS, found \"%s\"",
                   err_quote(file, sizeof(file), path(), strlen(path())), number,
                   err_quote(quoted, sizeof(quoted), at, strcspn(at, "\n")));
}

const char *compat_policy_path(void)
{
    return path();
}

int compat_policy_read(struct compat_policy *ret, struct err *e)
{
    struct compat_policy p = {.seal = SEAL_OFF, .iter_ms = SECRET_MS};
    char line[LINE_BYTES], quoted[QUOTED_BYTES];
    unsigned number = 0;
    int r = 0;
    FILE *f;
    if (compat_file_open(path(), &f, e) < 0)
        return -1;
    while (r == 0 && f && fgets(line, sizeof(line), f))
        r = take_line(&p, line, ++number, e);
    if (r == 0 && f && ferror(f))
        r = err_sys(e, ERR_STORAGE, EIO, "cannot read %s",
                    err_quote(quoted, sizeof(quoted), path(), strlen(path())));
    if (f)
        fclose(f);
    if (r == 0)
        *ret = p;
    return r;
}
