#include "src/compat/emulator_print.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/image.h"
#include "backend/tpm.h"

enum { INFO_FEATURES = 4, QUOTED_BYTES = 200 }; /* TPMLIB_INFO_TPMFEATURES */

/* Only what is true, each with a test that uses it. In the order of swtpm's own list. */
static const char *const features[] = {
    "tpm-1.2",
    "tpm-2.0",
    "tpm-send-command-header",
    "flags-opt-startup",
    "flags-opt-disable-auto-shutdown",
    "ctrl-opt-terminate",
    "cmdarg-seccomp",
    "cmdarg-key-fd",
    "cmdarg-pwd-fd",
    "cmdarg-print-states",
    "cmdarg-chroot",
    "cmdarg-migration",
    "nvram-backend-dir",
    "nvram-backend-file",
    "tpmstate-opt-lock",
};

static int ask_library(enum device_kind kind, uint64_t what, char **ret, struct err *e)
{
    OWNED(tpm) t = NULL;
    return tpm_new_waiting(kind, &t, e) < 0 ? -1 : tpm_info(t, what, ret, e);
}

/* "RSAKeySizes":[1024,2048] of what libtpms says; older ones say nothing. */
static void print_key_sizes(const char *info, FILE *to)
{
    static const char name[] = "\"RSAKeySizes\":[";
    const char *at = strstr(info, name);
    if (!at)
        return;
    for (at += strlen(name); *at >= '0' && *at <= '9'; at += *at == ',') {
        char *end = NULL;
        fprintf(to, ", \"rsa-keysize-%lu\"", strtoul(at, &end, 10));
        at = end;
    }
}

int emulator_print_capabilities(enum device_kind kind, FILE *to, struct err *e)
{
    OWNED_HEAP char *info = NULL;
    if (kind == DEVICE_TPM20 && ask_library(kind, INFO_FEATURES, &info, e) < 0)
        return -1;
    fputs("{ \"type\": \"swtpm\", \"features\": [ ", to);
    for (size_t i = 0; i < ARRAY_LEN(features); i++)
        fprintf(to, "%s\"%s\"", i ? ", " : "", features[i]);
    if (info)
        print_key_sizes(info, to);
    fprintf(to, " ], \"version\": \"%s\" }\n", NVKEEP_VERSION);
    return 0;
}

int emulator_print_info(const struct emulator_args *a, FILE *to, struct err *e)
{
    OWNED_HEAP char *info = NULL;
    if (ask_library(a->plan.o.device, a->info, &info, e) < 0)
        return -1;
    fprintf(to, "%s\n", info);
    return 0;
}

/* --- states --- */

struct sizes {
    size_t n[N_TPM_BLOBS]; /* 0: there is none */
};

static int size_of_file(const char *path, struct sizes *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat st;
    if (stat(path, &st) < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot look at %s",
                       err_quote(buf, sizeof(buf), path, strlen(path)));
    ret->n[BLOB_PERMANENT - 1] = (size_t)st.st_size;
    return 0;
}

/* Without a claim: somebody may be running on it. Without a key nothing can be said about it: it
 * may be an image that waits for its TPM, or not ours. */
static int sizes_in_image(struct compat_image *i, struct sizes *ret, struct err *e)
{
    OWNED(image_file) file = NULL;
    OWNED(image) image = NULL;
    OWNED(store_look) look = NULL;
    size_t n;
    if (compat_image_find_key(i, e) < 0 || image_file_open(i->place.image, &file, e) < 0 ||
        image_unlock(&file, i->pass, i->pass_bytes, NULL, &image, e) < 0 ||
        image_look(image, &look, e) < 0)
        return -1;
    for (unsigned kind = BLOB_PERMANENT; kind <= N_TPM_BLOBS; kind++)
        if (store_look_get(look, (enum blob_kind)kind, &n))
            ret->n[kind - 1] = n;
    return 0;
}

int emulator_print_states(struct emulator_args *a, FILE *to, struct err *e)
{
    static const char *const names[N_TPM_BLOBS] = {"permall", "volatilestate", "savestate"};
    struct sizes sizes = {{0}};
    const struct compat_place *place = &a->image.place;
    enum compat_found found;
    bool first = true;
    if (!a->has_state)
        return err_set(e, ERR_USAGE, "Error: --tpmstate option is required for --print-states");
    if (compat_place_look(place, &found, e) < 0)
        return -1;
    if (found == FOUND_OTHER)
        return err_set(e, ERR_STATE_FOREIGN, "%s is neither empty nor an image of nvkeep",
                       place->image);
    if ((found == FOUND_IMAGE && sizes_in_image(&a->image, &sizes, e) < 0) ||
        (found == FOUND_OLD && size_of_file(place->old ?: place->image, &sizes, e) < 0))
        return -1;
    fputs("{ \"type\": \"swtpm\", \"states\": [", to);
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        if (sizes.n[i] == 0)
            continue;
        fprintf(to, "%s {\"name\": \"%s\", \"size\": %zu}", first ? "" : ",", names[i], sizes.n[i]);
        first = false;
    }
    fputs(first ? "] }" : " ] }", to);
    return 0;
}
