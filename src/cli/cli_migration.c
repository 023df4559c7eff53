#include "src/cli/cli_migration.h"

#include <string.h>

enum { ARMED_SECONDS_DEFAULT = 60, ARMED_SECONDS_MOST = 3600, QUOTED_BYTES = 100 };

static char *value_of(char *const got[MAX_SUBOPTS], const char *name)
{
    const struct cli_option *o = &cli_options[OPT_MIGRATION];
    for (size_t i = 0; o->sub[i].name; i++)
        if (strcmp(o->sub[i].name, name) == 0)
            return got[i];
    return NULL;
}

static int parse_storage(const char *text, bool *ret_copied, struct err *e)
{
    char buf[QUOTED_BYTES];
    if (strcmp(text, "copied") != 0 && strcmp(text, "shared") != 0)
        return err_set(e, ERR_USAGE, "--migration: storage: wanted shared or copied, found \"%s\"",
                       err_quote(buf, sizeof(buf), text, strlen(text)));
    *ret_copied = strcmp(text, "copied") == 0;
    return 0;
}

static int parse_migration(char *text, struct serve_options *o, struct err *e)
{
    char *got[MAX_SUBOPTS];
    uint64_t seconds = ARMED_SECONDS_DEFAULT;
    if (cli_subopts(&cli_options[OPT_MIGRATION], text, got, e) < 0)
        return -1;
    const char *prepare = value_of(got, "require-prepare"), *storage = value_of(got, "storage");
    o->incoming = value_of(got, "incoming") != NULL;
    o->rules.rewind = value_of(got, "rewind") != NULL;
    if (storage && !o->incoming)
        return err_set(e, ERR_USAGE, "--migration: storage= says what to wait for: add incoming");
    if (o->rules.rewind && !o->incoming)
        return err_set(e, ERR_USAGE, "--migration: rewind says what to accept: add incoming");
    if ((storage && parse_storage(storage, &o->copied, e) < 0) ||
        (prepare && *prepare &&
         cli_number("--migration: require-prepare", prepare, 1, ARMED_SECONDS_MOST, &seconds, e) <
             0))
        return -1;
    if (prepare)
        o->rules.armed_ms = (unsigned)seconds * 1000;
    return 0;
}

static int parse_seal(const char *text, enum seal_policy *ret, struct err *e)
{
    /* In the order of the table. */
    static const enum seal_policy policies[] = {SEAL_AUTO, SEAL_OFF, SEAL_REQUIRED};
    size_t which;
    if (cli_word(&cli_options[OPT_MIGRATION_SEAL], text, &which, e) < 0)
        return -1;
    *ret = policies[which];
    return 0;
}

static int check(const struct cli_args *a, const struct serve_options *o, struct err *e)
{
    const unsigned starts =
        SERVE_NOT_NEED_INIT | SERVE_STARTUP_CLEAR | SERVE_STARTUP_STATE | SERVE_STARTUP_DEACTIVATED;
    enum cli_option_id kind = a->text[OPT_TPM12] ? OPT_TPM12 : OPT_TPM2;
    if (o->incoming && o->flags & starts)
        return err_set(e, ERR_USAGE,
                       "--flags and --migration: a TPM that waits for its state is not powered on "
                       "at start; leave not-need-init and startup-* out");
    if (a->text[kind] && !o->copied)
        return err_set(e, ERR_USAGE,
                       "--%s: the image says what it is; only with --migration "
                       "incoming,storage=copied has it to be told",
                       cli_options[kind].name);
    if (o->rules.armed_ms && o->admin.kind == ENDPOINT_NONE)
        return err_set(e, ERR_USAGE,
                       "--migration: require-prepare: nobody could prepare a hand-over without "
                       "--admin");
    if (!o->key_from_admin)
        return 0;
    if (o->admin.kind == ENDPOINT_NONE)
        return err_set(e, ERR_USAGE, "--key admin: the key could come nowhere: add --admin");
    if (o->ctrl.fd >= 0 || o->server.fd >= 0)
        return err_set(e, ERR_USAGE,
                       "--key admin: no client may come near before the key; --ctrl and --server "
                       "cannot be inherited descriptors then");
    return 0;
}

int cli_migration(const struct cli_args *a, struct serve_options *o, struct err *e)
{
    const char *seal = a->text[OPT_MIGRATION_SEAL];
    o->key_from_admin = a->key.kind == KEY_SOURCE_ADMIN;
    o->device = a->text[OPT_TPM12] ? DEVICE_TPM12 : DEVICE_TPM20;
    if ((a->text[OPT_MIGRATION] && parse_migration(a->text[OPT_MIGRATION], o, e) < 0) ||
        (seal && parse_seal(seal, &o->rules.seal, e) < 0))
        return -1;
    return check(a, o, e);
}
