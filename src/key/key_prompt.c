#include "src/key/key_prompt.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>

#include "src/base/fd.h"
#include "src/key/recovery_key.h"

/* A terminal delivers a line of at most 4095 bytes; the rest would be dropped silently. */
enum { LINE_BYTES = 4096 };

static int open_terminal(int *ret, struct err *e)
{
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return err_set(e, ERR_USAGE,
                       "there is no terminal to ask for the passphrase on; name its source with "
                       "--key file=PATH or another form");
    *ret = fd;
    return 0;
}

bool key_can_prompt(void)
{
    OWNED_FD fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    return fd >= 0 && isatty(STDIN_FILENO);
}

/* Signals that would leave the terminal without echo. They are blocked while it is, and delivered
 * when it is as it was. */
static void blocked_signals(sigset_t *ret)
{
    static const int list[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};
    sigemptyset(ret);
    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        sigaddset(ret, list[i]);
}

/* 1: a line was read, *ret_bytes long without its newline. 0: a signal is waiting. */
static int read_line(int tty, int signals, struct secret *line, size_t *ret_bytes, struct err *e)
{
    struct pollfd p[] = {{.fd = tty, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    uint8_t *to = secret_bytes(line);
    size_t n = 0;
    for (;;) {
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return err_sys(e, ERR_STORAGE, errno, "cannot wait for the terminal");
        if (p[1].revents)
            return 0;
        if (!p[0].revents)
            continue;
        ssize_t r = read(tty, to + n, LINE_BYTES - n);
        if (r < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (r <= 0)
            return err_set(e, ERR_KEY_MISSING, "no passphrase was entered");
        n += (size_t)r;
        if (to[n - 1] == '\n')
            break;
        if (n >= LINE_BYTES - 1)
            return err_set(e, ERR_USAGE, "a passphrase of more than %d bytes cannot be typed here",
                           LINE_BYTES - 2);
    }
    *ret_bytes = n - 1;
    return 1;
}

static int ask_without_echo(int tty, int signals, const char *text, struct secret *line,
                            size_t *ret_bytes, struct err *e)
{
    struct termios was, quiet;
    if (tcgetattr(tty, &was) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot read the terminal's settings");
    quiet = was;
    quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHOE | ECHOK | ECHONL);
    quiet.c_lflag |= ICANON | ISIG;
    if (tcsetattr(tty, TCSAFLUSH, &quiet) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot switch the terminal's echo off");
    int r = fd_write_full(tty, text, strlen(text)) < 0
                ? err_sys(e, ERR_STORAGE, errno, "cannot write to the terminal")
                : read_line(tty, signals, line, ret_bytes, e);
    (void)tcsetattr(tty, TCSAFLUSH, &was);
    (void)!write(tty, "\n", 1);
    return r;
}

/* Asks once more when the program was stopped and continued meanwhile. */
static int ask(int tty, const char *text, struct secret *line, size_t *ret_bytes, struct err *e)
{
    sigset_t blocked, was;
    blocked_signals(&blocked);
    for (int r = 0;;) {
        if (sigprocmask(SIG_BLOCK, &blocked, &was) < 0)
            return err_sys(e, ERR_STORAGE, errno, "cannot block signals");
        OWNED_FD signals = signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK);
        r = signals < 0 ? err_sys(e, ERR_STORAGE, errno, "cannot wait for signals")
                        : ask_without_echo(tty, signals, text, line, ret_bytes, e);
        /* Whatever is pending is delivered here, and usually ends the program. */
        (void)sigprocmask(SIG_SETMASK, &was, NULL);
        if (r != 0)
            return r < 0 ? -1 : 0;
    }
}

static int prompt(int tty, const char *question, const char *image, struct secret **ret,
                  size_t *ret_bytes, struct err *e)
{
    char name[200], text[300];
    OWNED(secret) line = NULL;
    size_t n = 0;
    err_quote(name, sizeof(name), image, strlen(image));
    snprintf(text, sizeof(text), "%s %s: ", question, name);
    if (secret_new(LINE_BYTES, &line, e) < 0 || ask(tty, text, line, &n, e) < 0)
        return -1;
    if (n == 0)
        return err_set(e, ERR_KEY_MISSING, "no passphrase was entered");
    *ret = MOVE(line);
    *ret_bytes = n;
    return 0;
}

int key_prompt(const char *image, struct secret **ret, size_t *ret_bytes, struct err *e)
{
    OWNED_FD tty = -1;
    OWNED(secret) line = NULL;
    size_t n = 0;
    if (open_terminal(&tty, e) < 0 || prompt(tty, "Passphrase for", image, &line, &n, e) < 0)
        return -1;
    if (recovery_key_is_meant(secret_peek(line), n)) {
        *ret_bytes = RECOVERY_TEXT_BYTES;
        return recovery_key_read(secret_peek(line), n, ret, e);
    }
    *ret = MOVE(line);
    *ret_bytes = n;
    return 0;
}

int key_prompt_new(const char *image, struct secret **ret, size_t *ret_bytes, struct err *e)
{
    OWNED_FD tty = -1;
    OWNED(secret) first = NULL;
    OWNED(secret) again = NULL;
    size_t n = 0, n_again = 0;
    if (open_terminal(&tty, e) < 0 || prompt(tty, "New passphrase for", image, &first, &n, e) < 0 ||
        prompt(tty, "The same again for", image, &again, &n_again, e) < 0)
        return -1;
    if (n != n_again || !equal_constant_time(secret_peek(first), secret_peek(again), n))
        return err_set(e, ERR_USAGE, "the two passphrases differ; nothing was created");
    *ret = MOVE(first);
    *ret_bytes = n;
    return 0;
}
