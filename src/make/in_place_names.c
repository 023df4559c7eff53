/* Which names lead where, and the steps from swtpm's state to the image. See in_place.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "src/base/fd.h"
#include "src/make/in_place_priv.h"

enum { MOST_KEPT = 99, MAGIC_BYTES = 4 };

static int look_for(const struct work *w, const char *name, struct stat *ret, bool *ret_there,
                    struct err *e)
{
    *ret_there = fstatat(w->dir, name, ret, AT_SYMLINK_NOFOLLOW) == 0;
    if (!*ret_there && errno != ENOENT)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot look at %s", name);
    if (*ret_there && !S_ISREG(ret->st_mode))
        return err_set(e, ERR_STATE_FOREIGN, "%s is not a file; it was left alone", name);
    return 0;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static int sync_names(const struct work *w, struct err *e)
{
    return fsync(w->dir) == 0 ? 0 : err_sys(e, ERR_STORAGE, errno, "cannot make the names durable");
}

/* ---- looking ---- */

int in_place_stat(struct work *w, struct err *e)
{
    bool there = false;
    if (look_for(w, w->names.state[0], &w->now, &there, e) < 0 ||
        (!there && look_for(w, w->names.image, &w->now, &there, e) < 0))
        return -1;
    return there ? 0 : err_set(e, ERR_STATE_EMPTY, "it is gone");
}

static int is_image(const struct work *w, const char *name, bool *ret, struct err *e)
{
    static const uint8_t ours[MAGIC_BYTES] = {'Q', 'F', 'I', 0xfb};
    uint8_t head[MAGIC_BYTES];
    OWNED_FD fd = openat(w->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot open %s", name);
    ssize_t n = fd_pread_full(fd, head, sizeof(head), 0);
    if (n < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot read %s", name);
    *ret = n == MAGIC_BYTES && memcmp(head, ours, MAGIC_BYTES) == 0;
    return 0;
}

int in_place_look(struct work *w, enum in_place_look *ret, struct err *e)
{
    const char *state = w->names.state[0], *image = w->names.image;
    struct stat of_state, of_image;
    bool has_state = false, has_image = false, is_ours = false;
    if (look_for(w, state, &of_state, &has_state, e) < 0 ||
        look_for(w, image, &of_image, &has_image, e) < 0)
        return -1;
    if (!has_state && !has_image)
        return err_set(e, ERR_STATE_EMPTY, "it is gone");
    if (is_image(w, has_state ? state : image, &is_ours, e) < 0)
        return -1;
    if (has_state)
        w->now = of_state;
    bool one = has_state && has_image && same_file(&of_state, &of_image);
    if (has_state && has_image && !one)
        return err_set(e, ERR_STATE_FOREIGN,
                       "there are %s and %s; the image is what is used, so move away the one that "
                       "is not to count",
                       state, image);
    if (!has_state && !is_ours)
        return err_set(e, ERR_STATE_FOREIGN, "%s is not an image of nvkeep; it was left alone",
                       image);
    *ret = !is_ours                        ? IN_PLACE_HAS_STATE
           : has_state && !w->at->is_store ? IN_PLACE_HAS_BOTH
                                           : IN_PLACE_HAS_IMAGE;
    return 0;
}

/* ---- second names ---- */

static void nth_aside(const char *name, unsigned n, char ret[IN_PLACE_NAME_BYTES])
{
    if (n == 1)
        snprintf(ret, IN_PLACE_NAME_BYTES, "%.255s.before-nvkeep", name);
    else
        snprintf(ret, IN_PLACE_NAME_BYTES, "%.255s.before-nvkeep.%u", name, n);
}

/* The second name that this file has already, or the first that is free. What was kept once is
 * never replaced. */
static int find_aside(const struct work *w, const char *name, const struct stat *file,
                      char ret[IN_PLACE_NAME_BYTES], bool *ret_has, struct err *e)
{
    struct stat st;
    for (unsigned n = 1; n <= MOST_KEPT; n++) {
        nth_aside(name, n, ret);
        *ret_has = fstatat(w->dir, ret, &st, AT_SYMLINK_NOFOLLOW) == 0;
        if (*ret_has ? same_file(&st, file) : errno == ENOENT)
            return 0;
        if (!*ret_has)
            return err_sys(e, err_kind_of_path(errno), errno, "cannot look at %s", ret);
    }
    return err_set(e, ERR_STATE_FOREIGN, "%s was kept %u times already; move some of them away",
                   name, MOST_KEPT);
}

struct found_file {
    unsigned i;
    struct stat st;
    bool has_aside; /* the name is taken already, by this file */
    char aside[IN_PLACE_NAME_BYTES];
};

/* Calls what for each of swtpm's files that is there. */
static int each_file(struct work *w,
                     int (*what)(struct work *w, const struct found_file *f, struct err *e),
                     struct err *e)
{
    struct found_file f;
    for (f.i = 0; f.i < N_TPM_BLOBS && w->names.state[f.i][0]; f.i++) {
        const char *name = w->names.state[f.i];
        bool there = false;
        if (look_for(w, name, &f.st, &there, e) < 0)
            return -1;
        if (there &&
            (find_aside(w, name, &f.st, f.aside, &f.has_aside, e) < 0 || what(w, &f, e) < 0))
            return -1;
    }
    return 0;
}

/* A name somewhere else could be another machine's, and an image of it one more copy. */
static int check_one(struct work *w, const struct found_file *f, struct err *e)
{
    if (f->st.st_nlink == (f->has_aside ? 2 : 1))
        return 0;
    return err_set(e, ERR_STATE_FOREIGN, "%s has another name somewhere; it was left alone",
                   w->names.state[f->i]);
}

int in_place_check_links(struct work *w, struct err *e)
{
    return each_file(w, check_one, e);
}

static int keep_one(struct work *w, const struct found_file *f, struct err *e)
{
    if (!f->has_aside && linkat(w->dir, w->names.state[f->i], w->dir, f->aside, 0) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot name it %s", f->aside);
    w->linked[f->i] = !f->has_aside;
    memcpy(w->aside[f->i], f->aside, sizeof(f->aside));
    return 0;
}

/* The permanent state has its name to the end: it is the image's by then. */
static int drop_one(struct work *w, const struct found_file *f, struct err *e)
{
    const char *name = w->names.state[f->i];
    if (f->i == 0 || !f->has_aside || unlinkat(w->dir, name, 0) == 0)
        return 0;
    return err_sys(e, ERR_STORAGE, errno, "cannot remove the name %s", name);
}

int in_place_tidy(struct work *w, struct err *e)
{
    return w->at->is_store ? 0 : each_file(w, drop_one, e);
}

/* ---- from one to the other ---- */

int in_place_finish(struct work *w, struct err *e)
{
    const char *state = w->names.state[0], *image = w->names.image;
    struct stat st;
    if (w->at->is_store)
        return 0;
    if (fstatat(w->dir, image, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        if (linkat(w->dir, state, w->dir, image, 0) < 0)
            return err_sys(e, ERR_STORAGE, errno, "cannot name it %s", image);
        w->named = true;
    }
    if (sync_names(w, e) < 0 || in_place_tidy(w, e) < 0)
        return -1;
    if (unlinkat(w->dir, state, 0) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot remove the name %s", state);
    return sync_names(w, e);
}

/* The image keeps no name but the state's, so that it is found there if the next step fails. */
static bool unname_image(const struct work *w)
{
    struct stat st;
    const char *state = w->names.state[0], *image = w->names.image;
    if (!w->named)
        return true;
    bool has_other = fstatat(w->dir, state, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
                     linkat(w->dir, image, w->dir, state, 0) == 0;
    return has_other && unlinkat(w->dir, image, 0) == 0;
}

/* Each file has its own name again, and the second one goes. Where that fails the image stays, and
 * so does its key: the next call goes on from there. */
static void undo(struct work *w)
{
    bool is_back = unname_image(w);
    for (unsigned i = 0; i < N_TPM_BLOBS && is_back; i++) {
        if (!w->aside[i][0] || (!w->linked[i] && !w->committed))
            continue;
        bool moved = renameat(w->dir, w->aside[i], w->dir, w->names.state[i]) == 0;
        if (moved) /* two names of one file are left as they are */
            (void)unlinkat(w->dir, w->aside[i], 0);
        is_back = moved || i > 0 || !w->committed;
    }
    if (!is_back)
        w->made_key = false;
    (void)fsync(w->dir);
}

static int check_unchanged(const struct work *w, struct err *e)
{
    struct stat st = {0};
    if (fstatat(w->dir, w->names.state[0], &st, AT_SYMLINK_NOFOLLOW) < 0 && errno != ENOENT)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot look at %s", w->names.state[0]);
    if (same_file(&st, &w->now) && st.st_size == w->now.st_size &&
        st.st_mtim.tv_sec == w->now.st_mtim.tv_sec && st.st_mtim.tv_nsec == w->now.st_mtim.tv_nsec)
        return 0;
    return err_set(e, ERR_LOCKED, "somebody has changed it meanwhile");
}

static int take_name(struct work *w, struct err *e)
{
    if (each_file(w, keep_one, e) < 0 || sync_names(w, e) < 0 || check_unchanged(w, e) < 0)
        return -1;
    if (renameat(w->dir, w->names.made, w->dir, w->names.state[0]) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot put the image in its place");
    w->committed = true;
    if (sync_names(w, e) < 0)
        return -1;
    return swtpm_source_is_idle(w->source, e);
}

int in_place_switch(struct work *w, struct err *e)
{
    if (take_name(w, e) == 0 && in_place_finish(w, e) == 0)
        return 0;
    undo(w);
    return -1;
}
