#include "src/cli/cli_swtpm.h"

#include <string.h>

int cli_one_more(const struct cli_args *a, const char **ret, struct err *e)
{
    char buf[200];
    if (a->n_more > 1)
        return err_set(e, ERR_USAGE, "\"%s\" is one argument too many",
                       err_quote(buf, sizeof(buf), a->more[1], strlen(a->more[1])));
    *ret = a->more[0];
    return 0;
}

int cli_swtpm_key_parse(const struct cli_args *a, enum cli_option_id id,
                        struct swtpm_key_source *ret, struct err *e)
{
    const char *name = cli_options[id].name, *text = a->text[id];
    if (!text)
        return 0;
    if (swtpm_key_parse(name, text, ret, e) < 0)
        return -1;
    if (ret->remove)
        return err_set(e, ERR_USAGE, "--%s: remove: a key's file is not removed here; leave it out",
                       name);
    if (ret->kind == KEY_SOURCE_FD && ret->fd == a->key.fd)
        return err_set(e, ERR_USAGE, "--key and --%s both read descriptor %d; give each its own",
                       name, ret->fd);
    return 0;
}
