#include "src/compat/setup_make.h"

#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <time.h>

#include "crypto/prim.h"
#include "src/compat/setup_state.h"

/* --- what is to be made --- */

/* Names that nobody knows are passed over; at least one bank has to be left. */
static int parse_banks(const char *names, struct pcr_banks *ret, struct err *e)
{
    struct pcr_banks b = {.n = 0};
    if (strcmp(names, "-") == 0) {
        *ret = b;
        return 0;
    }
    for (const char *at = names; *at; at += strcspn(at, ","), at += *at == ',') {
        uint16_t alg = pcr_bank_of_name(at, strcspn(at, ","));
        if (alg && b.n < PCR_BANKS_MAX && !pcr_banks_have(&b, alg))
            b.alg[b.n++] = alg;
    }
    if (b.n == 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "No PCR banks could be allocated. None of the selected algorithms are "
                       "supported.");
    *ret = b;
    return 0;
}

static void hash_password(const char *password, const char *usual, bool well_known,
                          uint8_t ret[TPM12_AUTH_BYTES])
{
    const char *p = password ? password : usual;
    const struct span all = {p, strlen(p)};
    memset(ret, 0, TPM12_AUTH_BYTES);
    if (!well_known)
        hash_compute(HASH_SHA1, &all, 1, ret);
}

static void tell(void *ctx, const char *text)
{
    const struct setup_signer *signer = ctx;
    setup_tell(signer->log, "%s", text);
}

static int plan(const struct setup_args *a, const struct setup_config *config,
                struct setup_signer *signer, struct manufacture *ret, struct err *e)
{
    struct manufacture m = {
        .device = a->tpm2 ? DEVICE_TPM20 : DEVICE_TPM12,
        .ek = a->create_ek,
        .spk = a->create_spk,
        .ek_certificate = a->ek_certificate,
        .platform_certificate = a->platform_certificate,
        .lock_nvram = a->lock_nvram,
        .rsa3072 = a->rsa3072,
        .spk_is_ecc = a->ecc,
        .use = !a->allow_signing || !a->tpm2 ? EK_STANDARD
               : a->decryption               ? EK_SIGNS_AND_DECRYPTS
                                             : EK_SIGNS,
        .take_ownership = a->take_ownership,
    };
    const char *banks = a->pcr_banks        ? a->pcr_banks
                        : config->pcr_banks ? config->pcr_banks
                                            : "sha256";
    if (a->tpm2 && parse_banks(banks, &m.banks, e) < 0)
        return -1;
    hash_password(a->owner_password, "ooo", a->owner_well_known, m.owner_auth);
    hash_password(a->srk_password, "sss", a->srk_well_known, m.srk_auth);
    m.calls = (struct manufacture_calls){.certify = setup_sign, .tell = tell, .ctx = signer};
    *ret = m;
    return 0;
}

/* --- doing it --- */

static int read_permanent(const struct store *store, struct tpm_blobs *ret, struct err *e)
{
    OWNED(secret) copy = NULL;
    size_t n = 0;
    const uint8_t *p = store_get(store, BLOB_PERMANENT, &n);
    if (!p || n == 0)
        return err_set(e, ERR_STATE_EMPTY, "there is no TPM state that could be reconfigured");
    if (secret_new(n, &copy, e) < 0)
        return -1;
    memcpy(secret_bytes(copy), p, n);
    ret->blob[BLOB_PERMANENT - 1] = MOVE(copy);
    ret->n[BLOB_PERMANENT - 1] = n;
    return 0;
}

static int reconfigure(struct compat_image *image, const struct manufacture *m, struct err *e)
{
    OWNED(store) store = NULL;
    struct tpm_blobs old = {{NULL}, {0}}, new = {{NULL}, {0}};
    if (setup_state_open(image, &store, e) < 0 || read_permanent(store, &old, e) < 0)
        return -1;
    int r = manufacture_reconfigure(&old, &m->banks, &m->calls, &new, e);
    if (r == 0)
        r = setup_state_change(store, &new, e);
    tpm_blobs_clear(&old);
    tpm_blobs_clear(&new);
    return r;
}

/* What is there stays claimed from before the first command to the commit, and is left alone where
 * the files of certificates cannot be written. */
static int author(struct compat_image *image, enum compat_found found, const struct manufacture *m,
                  const char *certificate_dir, struct setup_signer *signer, struct err *e)
{
    OWNED(store) store = NULL;
    struct tpm_blobs blobs = {{NULL}, {0}};
    if (found == FOUND_IMAGE && setup_state_open(image, &store, e) < 0)
        return -1;
    int r = manufacture(m, &blobs, e);
    if (r == 0 && certificate_dir)
        r = setup_signer_write(signer, certificate_dir, e);
    if (r == 0 && !store)
        r = compat_image_first_key(image, e);
    if (r == 0)
        r = store ? setup_state_replace(image, store, &blobs, e)
                  : compat_image_create(image, found, &blobs, image->pass, image->pass_bytes, NULL,
                                        e);
    tpm_blobs_clear(&blobs);
    return r;
}

/* --overwrite and nothing else is what a destination is called with before a migration: what comes
 * takes the place of what is made. */
static bool makes_nothing(const struct setup_args *a)
{
    return a->overwrite && !a->reconfigure && !a->create_ek && !a->create_spk && !a->lock_nvram &&
           !a->pcr_banks && !a->certificate_dir;
}

/* On shared storage the image is the source's, whose machine is running. It is what the daemon
 * here will open when the source hands it over, and what the source goes on with if it does not.
 * 0: so it is; -1 with *e as it was: somebody has it, and it is to be changed. */
static int leave_alone(const struct setup_args *args, struct compat_image *image,
                       const struct setup_log *log, struct err *e)
{
    bool holds_tpm;
    if (e->kind != ERR_LOCKED || !makes_nothing(args))
        return -1;
    if (setup_state_verify(image, &holds_tpm, e) < 0)
        return -1;
    setup_tell(log, "Not overwriting existing state file: it is in use, and is left for a "
                    "migration.");
    return 0;
}

enum { TIME_BYTES = 100 };
static const char *time_now(char ret[TIME_BYTES])
{
    time_t now = time(NULL);
    struct tm tm;
    if (!localtime_r(&now, &tm) || !strftime(ret, TIME_BYTES, "%a %d %b %Y %I:%M:%S %p %Z", &tm))
        memcpy(ret, "?", 2);
    return ret;
}

static int tell_start(const struct setup_log *log, const char *what, struct err *e)
{
    char when[TIME_BYTES];
    const struct passwd *user = getpwuid(geteuid());
    const struct group *group = getgrgid(getegid());
    return setup_tell_first(log, e, "%s as %s:%s @ %s", what, user ? user->pw_name : "?",
                            group ? group->gr_name : "?", time_now(when));
}

static int work(const struct setup_args *args, struct compat_image *image, enum compat_found found,
                const struct setup_config *config, struct setup_signer *signer, struct err *e)
{
    struct manufacture m = {0};
    int r = plan(args, config, signer, &m, e);
    if (r == 0)
        r = args->reconfigure ? reconfigure(image, &m, e)
                              : author(image, found, &m, args->certificate_dir, signer, e);
    wipe(&m, sizeof(m)); /* hashes of passwords */
    if (r < 0)
        return leave_alone(args, image, signer->log, e);
    if (setup_signer_publish(signer, e) < 0)
        return err_prefix(e, "the TPM was made, and its certificates are in it");
    setup_tell(signer->log, "Successfully authored TPM state.");
    return 0;
}

/* 1: there is nothing to be done. */
static int decide(const struct setup_args *args, struct compat_image *image,
                  enum compat_found found, const struct setup_log *log, struct err *e)
{
    bool holds_tpm;
    if (args->reconfigure && found != FOUND_IMAGE)
        return err_set(e, ERR_STATE_EMPTY, "there is no TPM state that could be reconfigured");
    if (args->reconfigure || found != FOUND_IMAGE || args->overwrite)
        return 0;
    if (!args->not_overwrite)
        return err_set(e, ERR_USAGE, "Found existing TPM state 'permall'.");
    if (setup_state_verify(image, &holds_tpm, e) < 0)
        return -1;
    if (!holds_tpm)
        return err_set(e, ERR_STATE_EMPTY,
                       "the image is there and holds no TPM: it waits for a migration to bring "
                       "one; --overwrite makes a new one");
    if (setup_tell_first(log, e, "Not overwriting existing state file.") < 0)
        return -1;
    return 1;
}

static int make(const struct setup_args *args, struct compat_image *image,
                const struct setup_config *config, struct setup_signer *signer, char **ret_advice,
                struct err *e)
{
    enum compat_found found;
    char when[TIME_BYTES];
    if (compat_image_take_key(image, e) < 0 || compat_image_look(image, &found, ret_advice, e) < 0)
        return -1;
    int r = decide(args, image, found, signer->log, e);
    if (r != 0)
        return r < 0 ? -1 : 0;
    if (tell_start(signer->log,
                   args->reconfigure ? "Starting vTPM reconfiguration"
                                     : "Starting vTPM manufacturing",
                   e) < 0)
        return -1;
    r = work(args, image, found, config, signer, e);
    setup_tell(signer->log, "Ending vTPM manufacturing @ %s", time_now(when));
    return r;
}

int setup_make(const struct setup_args *args, const struct setup_config *config,
               const struct compat_policy *policy, const struct setup_log *log,
               mode_t callers_umask, char **ret_advice, struct err *e)
{
    struct setup_signer signer = {
        .config = config, .log = log, .vm_id = args->vm_id, .umask = callers_umask};
    struct compat_image image = {.policy = *policy, .tell = tell, .ctx = &signer};
    int r = setup_state_name(args, &image, e);
    if (r == 0)
        r = make(args, &image, config, &signer, ret_advice, e);
    compat_image_clear(&image);
    setup_signer_clear(&signer);
    return r;
}
