#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <regex.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "src/serve/log.h"

enum { ROOM = 4096 };

/* What came out of the other end of the pipe. */
static size_t taken(int fd, char *ret)
{
    ssize_t n = read(fd, ret, ROOM - 1);
    ret[n > 0 ? n : 0] = 0;
    return n > 0 ? (size_t)n : 0;
}

static void make_pipe(int ends[2])
{
    assert_int_equal(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
}

static void line_has_its_time_prefix_and_text(void **state)
{
    (void)state;
    int ends[2];
    char text[ROOM];
    regex_t want;
    make_pipe(ends);
    const struct log log = {ends[1], 1, "[vm7] "};
    log_line(&log, 1, "opened %s at %d", "disk", 7);
    taken(ends[0], text);
    assert_int_equal(regcomp(&want,
                             "^20[0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]"
                             "\\.[0-9][0-9][0-9]Z \\[vm7\\] opened disk at 7\n$",
                             REG_EXTENDED | REG_NOSUB),
                     0);
    if (regexec(&want, text, 0, NULL, 0) != 0)
        fail_msg("found: %s", text);
    regfree(&want);
    close(ends[0]);
    close(ends[1]);
}

static void errors_are_logged_at_every_level_with_their_class(void **state)
{
    (void)state;
    int ends[2];
    char text[ROOM];
    struct err e;
    make_pipe(ends);
    const struct log log = {ends[1], 0, NULL};
    err_set(&e, ERR_KEY_WRONG, "no slot opens");
    log_err(&log, &e);
    taken(ends[0], text);
    assert_non_null(strstr(text, "Z KEY_WRONG: no slot opens\n"));
    close(ends[0]);
    close(ends[1]);
}

static void lines_above_the_level_are_left_out(void **state)
{
    (void)state;
    int ends[2];
    char text[ROOM];
    make_pipe(ends);
    const struct log log = {ends[1], 1, NULL};
    log_line(&log, 2, "too much");
    assert_int_equal(taken(ends[0], text), 0);
    const struct log silent = {-1, 20, NULL};
    log_line(&silent, 0, "to nobody");
    close(ends[0]);
    close(ends[1]);
}

static void long_line_is_cut_and_still_ends(void **state)
{
    (void)state;
    int ends[2];
    char text[ROOM], big[3000];
    make_pipe(ends);
    memset(big, 'x', sizeof(big));
    big[sizeof(big) - 1] = 0;
    const struct log log = {ends[1], 1, NULL};
    log_line(&log, 0, "%s", big);
    size_t n = taken(ends[0], text);
    assert_true(n > 100 && n < 1000);
    assert_ptr_equal(strchr(text, '\n'), text + n - 1);
    close(ends[0]);
    close(ends[1]);
}

/* A pipe that nobody reads, one that is closed, a disk that is full. */
static void log_that_cannot_be_written_holds_nothing_up(void **state)
{
    (void)state;
    int ends[2];
    signal(SIGPIPE, SIG_IGN);
    make_pipe(ends);
    const struct log log = {ends[1], 1, NULL};
    for (int i = 0; i < 5000; i++)
        log_line(&log, 0, "line %d", i);
    close(ends[0]);
    log_line(&log, 0, "to nobody");
    close(ends[1]);
    const struct log full = {open("/dev/full", O_WRONLY | O_CLOEXEC), 1, NULL};
    log_line(&full, 0, "no room");
    close(full.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(line_has_its_time_prefix_and_text),
        cmocka_unit_test(errors_are_logged_at_every_level_with_their_class),
        cmocka_unit_test(lines_above_the_level_are_left_out),
        cmocka_unit_test(long_line_is_cut_and_still_ends),
        cmocka_unit_test(log_that_cannot_be_written_holds_nothing_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
