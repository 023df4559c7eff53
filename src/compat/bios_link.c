#include "src/compat/bios_link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

#include "src/base/bytes.h"
#include "src/compat/ioctl_link.h"
#include "src/serve/clock.h"

enum { HEADER_BYTES = 10, QUOTED_BYTES = 200 };
static const char DEFAULT_PORT[] = "6545";

static int open_device(const char *path, struct link *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return err_sys(e, ERR_USAGE, errno, "Unable to open device '%s'",
                       err_quote(buf, sizeof(buf), path, strlen(path)));
    *ret = (struct link){.fd = fd, .ms = BIOS_SECONDS * 1000};
    return 0;
}

static int connect_to(const struct bios_target *to, struct link *ret, struct err *e)
{
    if (!to->tcp && !to->unix_path)
        return open_device(to->device, ret, e);
    return to->tcp ? link_tcp(to->tcp, DEFAULT_PORT, ret, e) : link_unix(to->unix_path, ret, e);
}

static int wait_for(int fd, short events, int64_t limit, struct err *e)
{
    struct pollfd p = {.fd = fd, .events = events};
    int r;
    do
        r = poll(&p, 1, ms_left(limit, now_ms()));
    while ((r < 0 && errno == EINTR) || (r == 0 && now_ms() < limit));
    if (r > 0)
        return 0;
    return r == 0 ? err_set(e, ERR_STORAGE, "TPM did not respond after %d seconds.", BIOS_SECONDS)
                  : err_sys(e, ERR_STORAGE, errno, "cannot wait for the TPM");
}

/* A device wants it in one piece. SIGPIPE is ignored. */
static int send_command(int fd, const uint8_t *p, size_t n, int64_t limit, struct err *e)
{
    while (n > 0) {
        if (wait_for(fd, POLLOUT, limit, e) < 0)
            return -1;
        ssize_t sent = write(fd, p, n);
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            return err_sys(e, ERR_STORAGE, errno, "Write to file descriptor failed");
        p += sent > 0 ? sent : 0;
        n -= sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

static int receive(int fd, uint8_t ret[BIOS_RESPONSE_MAX], size_t *ret_n, int64_t limit,
                   struct err *e)
{
    size_t n = 0, wanted = HEADER_BYTES;
    while (n < wanted) {
        if (wait_for(fd, POLLIN, limit, e) < 0)
            return -1;
        ssize_t got = read(fd, ret + n, BIOS_RESPONSE_MAX - n);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (got < 0)
            return err_sys(e, ERR_STORAGE, errno, "Read from file descriptor failed");
        if (got == 0)
            return err_set(e, ERR_STORAGE, "Returned packet is too short.");
        n += (size_t)got;
        if (n >= HEADER_BYTES)
            wanted = get_be32(ret + 2);
        if (n >= HEADER_BYTES && (wanted < n || wanted > BIOS_RESPONSE_MAX))
            return err_set(e, ERR_STORAGE, "Malformed response.");
    }
    *ret_n = n;
    return 0;
}

int bios_exchange(const struct bios_target *to, const uint8_t *command, size_t n,
                  uint8_t ret[BIOS_RESPONSE_MAX], size_t *ret_n, struct err *e)
{
    struct link link;
    if (connect_to(to, &link, e) < 0)
        return -1;
    int64_t limit = now_ms() + BIOS_SECONDS * 1000;
    int r = send_command(link.fd, command, n, limit, e);
    if (r == 0)
        r = receive(link.fd, ret, ret_n, limit, e);
    link_close(&link);
    return r;
}
