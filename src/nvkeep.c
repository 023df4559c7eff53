#include <stdio.h>
#include <string.h>

#include "src/key/key_rules.h"
#include "src/nvkeep_priv.h"

enum { DEFAULT_MS = 2000, KEY_MOST_BYTES = 65536 };

int library_report(const struct err *e, struct nvkeep_error *ret)
{
    const struct err_class *c = err_class(e->kind);
    if (!ret)
        return -1;
    *ret = (struct nvkeep_error){.code = c->exit_code, .os = e->os};
    snprintf(ret->name, sizeof(ret->name), "%s", c->name);
    snprintf(ret->text, sizeof(ret->text), "%s", e->text);
    return -1;
}

const char *nvkeep_version(void)
{
    return NVKEEP_VERSION;
}

int library_take_key(const struct nvkeep_key *key, struct secret **ret, struct watch *ret_watch,
                     struct err *e)
{
    if (!key || !key->bytes || key->n_bytes == 0)
        return err_set(e, ERR_KEY_MISSING, "no key was given");
    if (key->n_bytes > KEY_MOST_BYTES)
        return err_set(e, ERR_USAGE, "a key of %zu bytes; at most %d are taken", key->n_bytes,
                       KEY_MOST_BYTES);
    OWNED(secret) s = NULL;
    if (secret_new(key->n_bytes, &s, e) < 0)
        return -1;
    memcpy(secret_bytes(s), key->bytes, key->n_bytes);
    *ret_watch = (struct watch){key->go_on, key->ctx};
    *ret = MOVE(s);
    return 0;
}

static int take_change(const struct nvkeep_change *c, struct state_change *into, struct err *e)
{
    if (c->blob < NVKEEP_PERMANENT || c->blob > NVKEEP_SAVESTATE)
        return err_set(e, ERR_USAGE, "there is no blob of kind %d", (int)c->blob);
    struct blob_change *b = &into->blob[c->blob - NVKEEP_PERMANENT];
    if (b->what != BLOB_KEEP)
        return err_set(e, ERR_USAGE, "blob %d is named twice", (int)c->blob);
    if (c->what == NVKEEP_DELETE) {
        *b = (struct blob_change){.what = BLOB_DELETE};
        return 0;
    }
    if (c->what != NVKEEP_SET)
        return err_set(e, ERR_USAGE, "blob %d: wanted NVKEEP_SET or NVKEEP_DELETE, found %d",
                       (int)c->blob, (int)c->what);
    if (!c->bytes && c->n_bytes > 0)
        return err_set(e, ERR_USAGE, "blob %d: no bytes were given, but %zu of them were announced",
                       (int)c->blob, c->n_bytes);
    if (c->n_bytes > NVKEEP_BLOB_MAX_BYTES)
        return err_set(e, ERR_USAGE, "blob %d: %zu bytes; at most %d are taken", (int)c->blob,
                       c->n_bytes, NVKEEP_BLOB_MAX_BYTES);
    *b = (struct blob_change){BLOB_SET, c->bytes, c->n_bytes};
    return 0;
}

static int take_changes(const struct nvkeep_change *changes, size_t n, bool only_set,
                        struct state_change *ret, struct err *e)
{
    struct state_change all = {0};
    if (n > 0 && !changes)
        return err_set(e, ERR_USAGE, "%zu changes, and no array of them", n);
    for (size_t i = 0; i < n; i++) {
        if (only_set && changes[i].what != NVKEEP_SET)
            return err_set(e, ERR_USAGE, "a new image has nothing to delete");
        if (take_change(&changes[i], &all, e) < 0)
            return -1;
    }
    *ret = all;
    return 0;
}

static int create(const struct nvkeep_new *how, const struct nvkeep_key *key,
                  const struct nvkeep_change *changes, size_t n_changes, struct err *e)
{
    OWNED(secret) pass = NULL;
    struct watch watch;
    struct state_change first;
    if (!how || !how->path)
        return err_set(e, ERR_USAGE, "no path for the new image was given");
    if (how->device != NVKEEP_TPM_12 && how->device != NVKEEP_TPM_20)
        return err_set(e, ERR_USAGE, "there is no device of kind %d", (int)how->device);
    if (how->disk_bytes % 4096)
        return err_set(e, ERR_USAGE, "the size of the disk is not a multiple of 4096");
    for (size_t i = 0; i < ARRAY_LEN(how->reserved); i++)
        if (how->reserved[i])
            return err_set(e, ERR_USAGE,
                           "a reserved field is set; this library is older than "
                           "its caller");
    struct image_create what = {
        .path = how->path,
        .device = how->device == NVKEEP_TPM_12 ? DEVICE_TPM12 : DEVICE_TPM20,
        .size = how->disk_bytes,
        .first = &first,
    };
    if (library_take_key(key, &pass, &watch, e) < 0 ||
        key_usable_by_qemu(pass, key->n_bytes, e) < 0 ||
        take_changes(changes, n_changes, true, &first, e) < 0 ||
        key_cost(how->iter_time_ms ? how->iter_time_ms : DEFAULT_MS, &what.iterations, e) < 0)
        return -1;
    return image_create(&what, pass, key->n_bytes, watch.go_on ? &watch : NULL, NULL, e);
}

int nvkeep_create(const struct nvkeep_new *how, const struct nvkeep_key *key,
                  const struct nvkeep_change *changes, size_t n_changes, struct nvkeep_error *err)
{
    struct err e = {0};
    return create(how, key, changes, n_changes, &e) < 0 ? library_report(&e, err) : 0;
}

int library_handle(struct custody **c, struct store **store, struct nvkeep **ret, struct err *e)
{
    struct nvkeep *h = calloc(1, sizeof(*h));
    if (!h)
        return err_nomem(e, "the handle of an image");
    h->custody = MOVE(*c);
    h->store = MOVE(*store);
    *ret = h;
    return 0;
}

static int open_image(const char *path, const struct nvkeep_key *key, struct nvkeep **ret,
                      struct err *e)
{
    static const struct custody_rules rules = {.seal = SEAL_REQUIRED};
    OWNED(secret) pass = NULL;
    OWNED(image) image = NULL;
    OWNED(custody) custody = NULL;
    OWNED(store) store = NULL;
    struct watch watch;
    if (!path)
        return err_set(e, ERR_USAGE, "no path was given");
    if (library_take_key(key, &pass, &watch, e) < 0 ||
        image_open_claimed(path, pass, key->n_bytes, watch.go_on ? &watch : NULL, &image, &store,
                           e) < 0 ||
        custody_new(&image, &rules, HO_RUNNING, &custody, e) < 0)
        return -1;
    return library_handle(&custody, &store, ret, e);
}

int nvkeep_open(const char *path, const struct nvkeep_key *key, struct nvkeep **ret,
                struct nvkeep_error *err)
{
    struct err e = {0};
    return open_image(path, key, ret, &e) < 0 ? library_report(&e, err) : 0;
}

void nvkeep_close(struct nvkeep *h)
{
    if (!h)
        return;
    for (size_t i = 0; i < ARRAY_LEN(h->out); i++)
        secret_free(h->out[i]);
    store_free(h->store);
    custody_free(h->custody);
    free(h);
}

const void *nvkeep_load(const struct nvkeep *h, enum nvkeep_blob blob, size_t *ret_bytes)
{
    *ret_bytes = 0;
    if (blob < NVKEEP_PERMANENT || blob > NVKEEP_SAVESTATE)
        return NULL;
    return store_get(h->store, (enum blob_kind)blob, ret_bytes);
}

int nvkeep_save(struct nvkeep *h, const struct nvkeep_change *changes, size_t n_changes,
                struct nvkeep_error *err)
{
    struct err e = {0};
    struct state_change change;
    if (take_changes(changes, n_changes, false, &change, &e) < 0 ||
        library_commit(h, &change, &e) < 0)
        return library_report(&e, err);
    return 0;
}

static int verify(const char *path, const struct nvkeep_key *key, struct err *e)
{
    OWNED(secret) pass = NULL;
    struct image_report ignored;
    struct watch watch;
    if (!path)
        return err_set(e, ERR_USAGE, "no path was given");
    if (library_take_key(key, &pass, &watch, e) < 0)
        return -1;
    return image_verify(path, pass, key->n_bytes, false, watch.go_on ? &watch : NULL, &ignored, e);
}

int nvkeep_verify_key(const char *path, const struct nvkeep_key *key, struct nvkeep_error *err)
{
    struct err e = {0};
    return verify(path, key, &e) < 0 ? library_report(&e, err) : 0;
}

void nvkeep_instance(const struct nvkeep *h, uint8_t ret_uuid[16])
{
    memcpy(ret_uuid, store_facts(h->store)->instance, 16);
}

enum nvkeep_device nvkeep_device_of(const struct nvkeep *h)
{
    return store_facts(h->store)->device == DEVICE_TPM12 ? NVKEEP_TPM_12 : NVKEEP_TPM_20;
}

uint64_t nvkeep_generation(const struct nvkeep *h)
{
    struct store_stats s;
    store_stats(h->store, &s);
    return s.generation;
}

uint64_t nvkeep_capacity(const struct nvkeep *h)
{
    struct store_stats s;
    store_stats(h->store, &s);
    return s.checkpoint_bytes;
}
