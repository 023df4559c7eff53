#include "src/make/in_place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/fd.h"
#include "src/key/new_key.h"
#include "src/make/in_place_priv.h"
#include "src/make/owner_rights.h"
#include "src/make/swtpm_state_priv.h"

/* As src/compat makes them: libvirt waits a second for what opens the image. */
enum { QUOTED_BYTES = 200 };

static const char *quoted(char buf[QUOTED_BYTES], const char *path)
{
    return err_quote(buf, QUOTED_BYTES, path, strlen(path));
}

/* ---- the directory ---- */

/* What was named by the user as it was named, and from there down no link. */
static int open_below(const char *path, size_t trusted, struct err *e)
{
    char buf[QUOTED_BYTES];
    OWNED_HEAP char *top = strndup(path, trusted);
    OWNED_HEAP char *rest = strdup(path + trusted);
    if (!top || !rest)
        return err_nomem(e, "a path");
    int dir = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (char *at = rest, *word; dir >= 0 && (word = strsep(&at, "/"));) {
        if (!*word)
            continue;
        int next = openat(dir, word, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int os = errno;
        close(dir);
        errno = os;
        dir = next;
    }
    if (dir < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot open %s", quoted(buf, path));
    return dir;
}

static int go_in(const struct work *w, struct err *e)
{
    if (owner_rights_take(w->owner, w->now.st_gid, e) < 0)
        return -1;
    if (fchdir(w->dir) == 0)
        return 0;
    err_sys(e, ERR_STORAGE, errno, "cannot enter it");
    owner_rights_leave();
    return -1;
}

/* Who may do what is done here. In a directory of root's, which nobody else can change, somebody
 * else's state is given back to him; anywhere else the two have to be the same user's. */
static int choose_owner(struct work *w, struct err *e)
{
    struct stat dir;
    if (fstat(w->dir, &dir) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot look at it");
    w->owner = dir.st_uid;
    bool is_roots = dir.st_uid == 0 && geteuid() == 0 && !(dir.st_mode & (S_IWGRP | S_IWOTH));
    if (w->now.st_uid == dir.st_uid || is_roots)
        return 0;
    return err_set(e, ERR_USAGE,
                   "%s belongs to user %u and its directory to user %u; give both to the user "
                   "that the TPM runs as",
                   w->names.state[0], (unsigned)w->now.st_uid, (unsigned)dir.st_uid);
}

static void name_files(struct work *w)
{
    struct names *n = &w->names;
    const char *stem = w->at->device == DEVICE_TPM20 ? "tpm2-00" : "tpm-00";
    for (unsigned i = 0; i < N_TPM_BLOBS && !w->at->is_store; i++)
        swtpm_file_name(w->at->device, (enum blob_kind)(i + 1), n->state[i]);
    if (w->at->is_store) {
        stem = strrchr(w->at->path, '/') + 1;
        snprintf(n->state[0], sizeof(n->state[0]), "%.255s", stem);
    }
    snprintf(n->image, sizeof(n->image), "%.255s%s", stem, w->at->is_store ? "" : ".qcow2");
    snprintf(n->made, sizeof(n->made), "%.280s.nvkeep-new", n->image);
    snprintf(n->key, sizeof(n->key), "%.255s.key", stem);
}

/* ---- the key ---- */

/* `%` is the machine's name. */
static int key_of_machine(const struct work *w, struct swtpm_key_source *ret, struct err *e)
{
    const char *from = w->how->key->value;
    size_t n = 0;
    *ret = *w->how->key;
    for (; *from && n < sizeof(ret->value); from++) {
        bool name = from[0] == '%' && from[1] != '%';
        from += *from == '%' && !name;
        int m = snprintf(ret->value + n, sizeof(ret->value) - n, "%.*s",
                         name ? (int)strlen(w->at->machine) : 1, name ? w->at->machine : from);
        n += (size_t)m;
    }
    if (n >= sizeof(ret->value))
        return err_set(e, ERR_USAGE, "the path of its key is too long");
    ret->value[n] = 0;
    return 0;
}

static bool has_own_key(const struct work *w)
{
    bool each = false;
    for (const char *p = w->how->key->value; *p; p++) {
        each |= p[0] == '%' && p[1] != '%';
        p += p[0] == '%' && p[1] == '%';
    }
    return each;
}

/* With the rights of who called: it is the operator's file. */
static int read_given_key(struct work *w, struct err *e)
{
    OWNED_HEAP struct swtpm_key_source *source = calloc(1, sizeof(*source));
    if (!source)
        return err_nomem(e, "the key's source");
    static const char option[] = "source-key";
    owner_rights_leave();
    int r = key_of_machine(w, source, e);
    if (r == 0)
        r = swtpm_key_read(option, source, &w->key, &w->key_bytes, e);
    if (r == 0)
        r = swtpm_key_cipher(option, source, w->key, w->key_bytes, &w->source_key, e);
    if (r == 0)
        r = swtpm_key_passphrase(option, source, &w->key, &w->key_bytes, e);
    struct err second;
    return go_in(w, r < 0 ? &second : e) < 0 ? -1 : r;
}

/* Somebody took the trouble to give it one: then a state in clear is not the one that is expected.
 */
static int refuse_own_key(const struct work *w, struct err *e)
{
    OWNED_HEAP struct swtpm_key_source *source = calloc(1, sizeof(*source));
    if (!source)
        return err_nomem(e, "the key's source");
    if (key_of_machine(w, source, e) < 0)
        return -1;
    owner_rights_leave();
    bool there = source->kind != KEY_SOURCE_CREDENTIAL && access(source->value, F_OK) == 0;
    if (go_in(w, e) < 0)
        return -1;
    return there ? err_set(e, ERR_KEY_UNEXPECTED,
                           "there is a key for %s, and its state is not encrypted", w->at->machine)
                 : 0;
}

/* Left behind by one that was killed, or made by src/compat: it is used as that would use it. */
static int make_key(struct work *w, struct err *e)
{
    const struct key_source file = {.kind = KEY_SOURCE_FILE, .value = w->names.key, .fd = -1};
    struct stat st;
    if (fstatat(w->dir, w->names.key, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (!S_ISREG(st.st_mode))
            return err_set(e, ERR_STATE_FOREIGN, "%s is in the way", w->names.key);
        return key_source_read(&file, w->names.image, &w->key, &w->key_bytes, e);
    }
    if (new_key_file(w->names.key, &w->key, &w->key_bytes, e) < 0)
        return -1;
    w->made_key = true;
    return 0;
}

/* ---- reading ---- */

/* In clear or encrypted: it says so itself. */
static int read_state(struct work *w, struct err *e)
{
    const enum device_kind *want = w->at->is_store ? w->how->kind : &w->at->device;
    int r = swtpm_source_read(w->source, want, NULL, &w->tpm, e);
    w->encrypted = r < 0 && e->kind == ERR_KEY_MISSING;
    if (w->encrypted && w->how->key->kind != KEY_SOURCE_NONE)
        r = read_given_key(w, e) < 0
                ? -1
                : swtpm_source_read(w->source, want, w->source_key, &w->tpm, e);
    else if (r == 0 && w->how->key->kind != KEY_SOURCE_NONE && has_own_key(w))
        r = refuse_own_key(w, e);
    return r < 0 ? -1 : tpm_check_blobs(w->tpm.kind, &w->tpm.blobs, e);
}

/* ---- the image ---- */

static int make_image(struct work *w, struct err *e)
{
    struct new_image plan = {.image = w->how->image};
    unsigned ms = w->encrypted && w->how->key->passphrase ? SECRET_MS : RANDOM_KEY_MS;
    if ((!w->encrypted && make_key(w, e) < 0) || key_usable_by_qemu(w->key, w->key_bytes, e) < 0 ||
        key_cost(w->how->ms ?: ms, &plan.image.iterations, e) < 0)
        return -1;
    plan.image.path = w->names.made;
    plan.image.device = w->tpm.kind;
    struct ref_facts facts;
    return new_image_make(&plan, &w->tpm.blobs, w->key, w->key_bytes, w->how->progress, &facts, e);
}

/* The file that was just made, and no other one that took its name. */
static int give(const struct work *w, const char *name, mode_t mode, struct err *e)
{
    struct stat st;
    OWNED_FD fd = openat(w->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot open %s", name);
    if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
        return err_set(e, ERR_STATE_FOREIGN, "%s was replaced by somebody else", name);
    bool is_others = st.st_uid != w->now.st_uid || st.st_gid != w->now.st_gid;
    if ((is_others && fchown(fd, w->now.st_uid, w->now.st_gid) < 0) || fchmod(fd, mode) < 0 ||
        fsync(fd) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot give %s its owner and mode", name);
    return 0;
}

static int convert(struct work *w, struct err *e)
{
    int r = make_image(w, e);
    if (r == 0)
        r = give(w, w->names.made, w->now.st_mode & 0777, e);
    if (r == 0 && w->made_key)
        r = give(w, w->names.key, 0600, e);
    if (r == 0 && progress_interrupted(w->how->progress))
        r = err_set(e, ERR_USAGE, "interrupted");
    if (r == 0)
        r = in_place_switch(w, e);
    if (r == 0)
        return 0;
    (void)unlinkat(w->dir, w->names.made, 0);
    if (w->made_key)
        (void)unlinkat(w->dir, w->names.key, 0);
    return -1;
}

/* ---- what there is to do ---- */

static int import_state(struct work *w, struct err *e)
{
    if (in_place_check_links(w, e) < 0 || read_state(w, e) < 0)
        return -1;
    w->converted = true;
    w->outcome = w->how->dry_run ? IN_PLACE_WOULD_BE : IN_PLACE_DONE;
    if (w->how->dry_run)
        return 0;
    (void)unlinkat(w->dir, w->names.made, 0); /* of one that was killed: the lock is held */
    return convert(w, e);
}

static int act(struct work *w, struct err *e)
{
    struct swtpm_place place = {.is_store = w->at->is_store};
    enum in_place_look look;
    snprintf(place.path, sizeof(place.path), "%s", w->names.state[0]);
    if (in_place_look(w, &look, e) < 0)
        return -1;
    if (look == IN_PLACE_HAS_IMAGE) {
        w->outcome = IN_PLACE_ALREADY;
        return w->how->dry_run ? 0 : in_place_tidy(w, e);
    }
    if (swtpm_source_open_at(w->dir, w->names.state[0], &place, !w->how->dry_run, &w->source, e) <
            0 ||
        in_place_look(w, &look, e) < 0) /* again, now that nobody changes it */
        return -1;
    if (look == IN_PLACE_HAS_STATE)
        return import_state(w, e);
    w->outcome = w->how->dry_run ? IN_PLACE_WOULD_BE : IN_PLACE_DONE;
    return w->how->dry_run ? 0 : in_place_finish(w, e);
}

static void clear(struct work *w)
{
    swtpm_source_free(w->source);
    tpm_blobs_clear(&w->tpm.blobs);
    migration_key_free(w->source_key);
    secret_free(w->key);
}

static void tell(const struct work *w, struct in_place_result *ret)
{
    *ret = (struct in_place_result){.outcome = w->outcome, .encrypted = w->encrypted};
    memcpy(ret->image, w->names.image, sizeof(ret->image));
    memcpy(ret->kept, w->aside[0], sizeof(ret->kept));
    if (w->converted && !w->encrypted)
        memcpy(ret->key, w->names.key, sizeof(ret->key));
}

static int import_at(struct work *w, struct err *e)
{
    if (in_place_stat(w, e) < 0 || choose_owner(w, e) < 0 || go_in(w, e) < 0)
        return -1;
    int r = act(w, e);
    clear(w);
    owner_rights_leave();
    return r;
}

int in_place_import(const struct in_place_state *s, const struct in_place_how *how,
                    struct in_place_result *ret, struct err *e)
{
    OWNED_HEAP struct work *w = calloc(1, sizeof(*w));
    if (!w)
        return err_nomem(e, "a state");
    w->at = s;
    w->how = how;
    OWNED_HEAP char *folder = strndup(s->path, s->is_store ? s->trusted : strlen(s->path));
    if (!folder)
        return err_nomem(e, "a path");
    OWNED_FD dir = open_below(folder, s->trusted, e);
    if (dir < 0)
        return -1;
    w->dir = dir;
    name_files(w);
    if (import_at(w, e) < 0)
        return -1;
    tell(w, ret);
    return 0;
}
