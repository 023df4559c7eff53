#include "src/key/recovery_show.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "src/base/fd.h"
#include "src/key/recovery_key.h"

static int write_to_terminal(const struct secret *key, const char *image, struct err *e)
{
    char name[200], text[300];
    OWNED_FD tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (tty < 0)
        return err_set(e, ERR_USAGE,
                       "there is no terminal to show the recovery key on; --recovery-key fd=N "
                       "writes it to a descriptor");
    (void)snprintf(text, sizeof(text), "Recovery key of %s, shown only now:\n\n    ",
                   err_quote(name, sizeof(name), image, strlen(image)));
    if (fd_write_full(tty, text, strlen(text)) < 0 ||
        fd_write_full(tty, secret_peek(key), RECOVERY_TEXT_BYTES) < 0 ||
        fd_write_full(tty, "\n\n", 2) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot write to the terminal");
    return 0;
}

int recovery_key_show(const struct secret *key, const char *image, int fd, struct err *e)
{
    if (fd < 0)
        return write_to_terminal(key, image, e);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
        return err_set(e, ERR_USAGE,
                       "--recovery-key: descriptor %d is not open for writing; was it passed on to "
                       "nvkeep?",
                       fd);
    if (fd_write_full(fd, secret_peek(key), RECOVERY_TEXT_BYTES) < 0 ||
        fd_write_full(fd, "\n", 1) < 0 || (fsync(fd) < 0 && errno != EINVAL && errno != EROFS))
        return err_sys(e, ERR_STORAGE, errno, "cannot write the recovery key to descriptor %d", fd);
    return 0;
}
