#include "src/serve/pid_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/fd.h"

enum { QUOTED_BYTES = 200, MODE = 0644 };

struct pid_file {
    char quoted[QUOTED_BYTES];
    int dir;          /* -1: none */
    const char *name; /* in dir; points into the path */
    int fd;           /* inherited; -1: none */
    bool written;
    dev_t dev;
    ino_t ino;
};

static int refuse_kind(const struct pid_file *p, struct err *e)
{
    return err_set(e, ERR_USAGE, "--pid: %s exists and is not a regular file; choose another path",
                   p->quoted);
}

/* Empty, or a number: what a daemon that did not end in order left there. */
static bool is_a_pid(const char *text, ssize_t n)
{
    if (n > 0 && text[n - 1] == '\n')
        n--;
    for (ssize_t i = 0; i < n; i++)
        if (text[i] < '0' || text[i] > '9')
            return false;
    return true;
}

static int check_content(const struct pid_file *p, int fd, struct err *e)
{
    char text[24];
    ssize_t n = pread(fd, text, sizeof(text), 0);
    if (n < 0)
        return err_sys(e, ERR_STORAGE, errno, "--pid: cannot read %s", p->quoted);
    if (n < (ssize_t)sizeof(text) && is_a_pid(text, n))
        return 0;
    return err_set(e, ERR_USAGE, "--pid: %s exists and is no pid file; it was left alone",
                   p->quoted);
}

static int look_at_existing(const struct pid_file *p, struct err *e)
{
    struct stat st;
    if (fstatat(p->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (!S_ISREG(st.st_mode))
        return refuse_kind(p, e);
    OWNED_FD fd = openat(p->dir, p->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return fd >= 0 ? check_content(p, fd, e) : 0;
}

static int look(struct pid_file *p, const char *path, struct err *e)
{
    const char *slash = strrchr(path, '/');
    OWNED_HEAP char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    if (!dir)
        return err_nomem(e, "a path");
    err_quote(p->quoted, sizeof(p->quoted), path, strlen(path));
    p->name = slash ? slash + 1 : path;
    p->dir = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (p->dir < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "--pid: cannot open the directory of %s",
                       p->quoted);
    return look_at_existing(p, e);
}

int pid_file_new(const char *path, int fd, struct pid_file **ret, struct err *e)
{
    OWNED(pid_file) p = calloc(1, sizeof(*p));
    if (!p)
        return err_nomem(e, "the pid file");
    p->dir = -1;
    p->fd = -1;
    if (path && look(p, path, e) < 0)
        return -1;
    p->fd = fd;
    *ret = MOVE(p);
    return 0;
}

/* One write: a reader never sees half a number. */
static int put_pid(int fd, const char *where, struct err *e)
{
    char text[24];
    int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (fd_write_full(fd, text, (size_t)n) < 0)
        return err_sys(e, ERR_STORAGE, errno, "--pid: cannot write to %s", where);
    return 0;
}

static int write_file(struct pid_file *p, struct err *e)
{
    struct stat st;
    OWNED_FD fd = openat(p->dir, p->name,
                         O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, MODE);
    if (fd < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "--pid: cannot open %s", p->quoted);
    if (fstat(fd, &st) < 0)
        return err_sys(e, ERR_STORAGE, errno, "--pid: cannot look at %s", p->quoted);
    if (!S_ISREG(st.st_mode))
        return refuse_kind(p, e);
    if (st.st_size > 0 && check_content(p, fd, e) < 0)
        return -1;
    p->dev = st.st_dev;
    p->ino = st.st_ino;
    p->written = true;
    if (ftruncate(fd, 0) < 0)
        return err_sys(e, ERR_STORAGE, errno, "--pid: cannot empty %s", p->quoted);
    return put_pid(fd, p->quoted, e);
}

int pid_file_write(struct pid_file *p, struct err *e)
{
    if (p->dir >= 0 && write_file(p, e) < 0)
        return -1;
    if (p->fd < 0)
        return 0;
    int r = put_pid(p->fd, "the inherited descriptor", e);
    close(MOVE_FD(p->fd));
    return r;
}

void pid_file_free(struct pid_file *p)
{
    struct stat now;
    if (!p)
        return;
    if (p->written && fstatat(p->dir, p->name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
        now.st_dev == p->dev && now.st_ino == p->ino)
        (void)unlinkat(p->dir, p->name, 0);
    if (p->dir >= 0)
        close(p->dir);
    if (p->fd >= 0)
        close(p->fd);
    free(p);
}

int pid_file_dir_fd(const struct pid_file *p)
{
    return p->dir;
}
