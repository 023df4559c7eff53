/* An emulator's author: knows the installed header and the manual, and nothing of the tree.
 * Usage: library_user DIRECTORY. Prints what went wrong and exits 1, or exits 0.
 */
#include <nvkeep.h>
#include <stdio.h>
#include <string.h>

/* Names that the inside of the library has, too: a static library must not mind. */
int err_set(void);
int secret_new(void);
int err_set(void)
{
    return 1;
}
int secret_new(void)
{
    return 2;
}

static int failed(const char *what, const struct nvkeep_error *err)
{
    fprintf(stderr, "%s: %d %s: %s\n", what, err->code, err->name, err->text);
    return 1;
}

/* Both ends in one process: what a source and a destination call, in this order. Takes h. */
static int migrate(const char *path, const struct nvkeep_key *key, struct nvkeep *h)
{
    struct nvkeep_error err;
    struct nvkeep_target *t = NULL;
    struct nvkeep_released *r = NULL;
    const void *blob = NULL;
    unsigned char wire[4096];
    size_t n = 0, n_none = 1;
    if (nvkeep_target_open(path, key, &t, &err) < 0 || nvkeep_prepare_load(t, &err) < 0 ||
        nvkeep_prepare_save(h, &err) < 0)
        return failed("prepare", &err);
    if (nvkeep_export(h, NVKEEP_PERMANENT, &blob, &n, &err) < 0 || n > sizeof(wire))
        return failed("export", &err);
    memcpy(wire, blob, n);
    if (nvkeep_export(h, NVKEEP_VOLATILE, &blob, &n_none, &err) < 0 || blob || n_none != 0)
        return failed("export of what is not there", &err);
    if (nvkeep_release(&h, &r, &err) < 0)
        return failed("release", &err);
    if (nvkeep_stage(t, NVKEEP_PERMANENT, wire, n, &err) < 0)
        return failed("stage", &err);
    if (nvkeep_commit_load(&t, &h, &err) < 0 || nvkeep_mark_used(h, &err) < 0)
        return failed("commit load", &err);
    const void *state = nvkeep_load(h, NVKEEP_PERMANENT, &n);
    if (!state || n != 9 || memcmp(state, "state two", 9) != 0) {
        fprintf(stderr, "migrate: not what was saved\n");
        return 1;
    }
    nvkeep_close(h);
    h = NULL;
    if (nvkeep_take_back(&r, &h, &err) == 0 || err.code != NVKEEP_FENCED)
        return failed("taken back although it was used", &err);
    nvkeep_released_close(r);
    return 0;
}

int main(int argc, char **argv)
{
    char path[500];
    struct nvkeep *h = NULL;
    struct nvkeep_error err;
    struct nvkeep_key key = {.bytes = "correct horse", .n_bytes = 13};
    struct nvkeep_key wrong = {.bytes = "correct house", .n_bytes = 13};
    struct nvkeep_new how = {.path = path, .device = NVKEEP_TPM_20, .iter_time_ms = 1};
    struct nvkeep_change first = {NVKEEP_PERMANENT, NVKEEP_SET, "state one", 9};
    struct nvkeep_change second = {NVKEEP_PERMANENT, NVKEEP_SET, "state two", 9};
    size_t n = 0;
    if (argc != 2 || snprintf(path, sizeof(path), "%s/image", argv[1]) >= (int)sizeof(path))
        return 2;

    if (nvkeep_create(&how, &key, &first, 1, &err) < 0)
        return failed("create", &err);
    if (nvkeep_open(path, &wrong, &h, &err) == 0 || err.code != NVKEEP_KEY_WRONG || h)
        return failed("a wrong key", &err);
    if (nvkeep_open(path, &key, &h, &err) < 0)
        return failed("open", &err);
    if (nvkeep_save(h, &second, 1, &err) < 0)
        return failed("save", &err);
    nvkeep_close(h);

    if (nvkeep_open(path, &key, &h, &err) < 0)
        return failed("open again", &err);
    const void *state = nvkeep_load(h, NVKEEP_PERMANENT, &n);
    if (!state || n != 9 || memcmp(state, "state two", 9) != 0 || nvkeep_generation(h) != 2) {
        fprintf(stderr, "load: not what was saved\n");
        return 1;
    }
    if (migrate(path, &key, h) != 0)
        return 1;
    return err_set() + secret_new() == 3 ? 0 : 1;
}
