#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "migration/blob.h"
#include "migration/linear.h"
#include "src/base/fd.h"
#include "src/make/swtpm_state.h"
#include "src/make/swtpm_state_priv.h"

enum { QUOTED_BYTES = 200 };

static const char *quoted(char buf[QUOTED_BYTES], const char *path)
{
    return err_quote(buf, QUOTED_BYTES, path, strlen(path));
}

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static bool is_empty_directory(const char *path)
{
    DIR *d = opendir(path);
    if (!d)
        return false;
    struct dirent *entry = readdir(d);
    while (entry && is_dot(entry->d_name))
        entry = readdir(d);
    closedir(d);
    return !entry;
}

static int taken(const struct swtpm_place *place, struct err *e)
{
    char buf[QUOTED_BYTES];
    return err_set(e, ERR_USAGE, "%s exists%s; export makes a new state and never replaces one",
                   quoted(buf, place->path), place->is_store ? "" : " and is not empty");
}

int swtpm_target_is_free(const struct swtpm_place *place, struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat st;
    if (lstat(place->path, &st) < 0)
        return errno == ENOENT ? 0
                               : err_sys(e, err_kind_of_path(errno), errno, "cannot look for %s",
                                         quoted(buf, place->path));
    bool usable = !place->is_store && S_ISDIR(st.st_mode) && is_empty_directory(place->path);
    return usable ? 0 : taken(place, e);
}

/* ---- a linear store ---- */

static int fill_store(struct blk_rw *w, const struct tpm_blobs *files, const struct linear *l,
                      struct err *e)
{
    uint8_t head[LINEAR_HEADER_BYTES];
    linear_encode(l, head);
    if (blk_write(w, (struct host){0}, head, sizeof(head), e) < 0)
        return -1;
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        if (files->blob[i] && blk_write(w, (struct host){l->part[i].off},
                                        secret_peek(files->blob[i]), files->n[i], e) < 0)
            return -1;
    return 0;
}

static int write_store(const struct swtpm_place *place, const struct tpm_blobs *files,
                       struct err *e)
{
    struct linear l;
    OWNED(blk_new) file = NULL;
    size_t bytes = linear_plan(files->n, &l);
    if (blk_create(place->path, bytes, &file, e) < 0 ||
        fill_store(blk_new_rw(file), files, &l, e) < 0)
        return -1;
    return blk_publish(&file, e);
}

/* ---- a directory: made beside its place, and moved there whole ---- */

/* like: an empty directory whose place is taken, made in advance so that it has an owner; NULL:
 * there is none. */
static int give_owner(int fd, const struct stat *like)
{
    struct stat st;
    if (!like)
        return 0;
    if (fstat(fd, &st) < 0)
        return -1;
    return st.st_uid == like->st_uid && st.st_gid == like->st_gid
               ? 0
               : fchown(fd, like->st_uid, like->st_gid);
}

static int write_file(int dir, const char *name, const struct secret *p, size_t n,
                      const struct stat *like, struct err *e)
{
    OWNED_FD fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || give_owner(fd, like) < 0 || fd_write_full(fd, secret_peek(p), n) < 0 ||
        fsync(fd) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot write %s", name);
    return 0;
}

static int fill_directory(int dir, enum device_kind device, const struct tpm_blobs *files,
                          const struct stat *like, struct err *e)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        char name[SWTPM_NAME_BYTES];
        swtpm_file_name(device, (enum blob_kind)(i + 1), name);
        if (files->blob[i] && write_file(dir, name, files->blob[i], files->n[i], like, e) < 0)
            return -1;
    }
    if (give_owner(dir, like) < 0 || (like && fchmod(dir, like->st_mode & 07777) < 0))
        return err_sys(e, ERR_STORAGE, errno, "cannot give the directory the owner that it had");
    return fsync(dir) == 0 ? 0 : err_sys(e, ERR_STORAGE, errno, "cannot make it durable");
}

static void remove_files(int dir, enum device_kind device)
{
    for (size_t i = 0; dir >= 0 && i < N_TPM_BLOBS; i++) {
        char name[SWTPM_NAME_BYTES];
        swtpm_file_name(device, (enum blob_kind)(i + 1), name);
        (void)unlinkat(dir, name, 0);
    }
}

/* Onto nothing, or onto an empty directory: rename() replaces no other. */
static int publish(const char *made, const struct swtpm_place *place, int parent, struct err *e)
{
    char buf[QUOTED_BYTES];
    if (rename(made, place->path) < 0)
        return errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR
                   ? taken(place, e)
                   : err_sys(e, ERR_STORAGE, errno, "cannot make %s", quoted(buf, place->path));
    if (fsync(parent) == 0)
        return 0;
    int os = errno;
    (void)rename(place->path, made); /* where the caller clears it away */
    return err_sys(e, ERR_STORAGE, os, "cannot make %s durable", quoted(buf, place->path));
}

static int write_directory(const struct swtpm_place *place, enum device_kind device,
                           const struct tpm_blobs *files, struct err *e)
{
    char buf[QUOTED_BYTES], copy[sizeof(place->path)], made[sizeof(place->path) + 32];
    memcpy(copy, place->path, sizeof(copy));
    const char *parent_name = dirname(copy);
    snprintf(made, sizeof(made), "%s/.nvkeep-export-XXXXXX", parent_name);
    OWNED_FD parent = open(parent_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0 || !mkdtemp(made))
        return err_sys(e, err_kind_of_path(errno), errno, "cannot make a directory in %s",
                       quoted(buf, parent_name));
    struct stat was;
    bool is_there = lstat(place->path, &was) == 0;
    OWNED_FD dir = open(made, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = dir < 0 ? err_sys(e, ERR_STORAGE, errno, "cannot open the new directory")
                    : fill_directory(dir, device, files, is_there ? &was : NULL, e);
    if (r == 0)
        r = publish(made, place, parent, e);
    if (r == 0)
        return 0;
    remove_files(dir, device);
    (void)rmdir(made);
    return -1;
}

int swtpm_target_write(const struct swtpm_place *place, const struct swtpm_state *state,
                       const struct migration_key *key, struct err *e)
{
    struct tpm_blobs files = {0};
    int r = swtpm_target_is_free(place, e);
    for (size_t i = 0; i < N_TPM_BLOBS && r == 0; i++)
        if (state->blobs.blob[i])
            r = blob_file_seal(key, secret_peek(state->blobs.blob[i]), state->blobs.n[i],
                               &files.blob[i], &files.n[i], e);
    if (r == 0)
        r = place->is_store ? write_store(place, &files, e)
                            : write_directory(place, state->kind, &files, e);
    tpm_blobs_clear(&files);
    return r;
}

void swtpm_target_remove(const char *name, bool keep_directory)
{
    struct swtpm_place place;
    struct err ignored;
    if (swtpm_place_parse(name, &place, &ignored) < 0)
        return;
    if (place.is_store) {
        (void)unlink(place.path);
        return;
    }
    OWNED_FD dir = open(place.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    remove_files(dir, DEVICE_TPM20);
    remove_files(dir, DEVICE_TPM12);
    if (!keep_directory)
        (void)rmdir(place.path);
}
