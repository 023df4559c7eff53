#include "program.h"

#include <poll.h>
#include <pty.h>
#include <termios.h>
#include <time.h>

/* The program on a terminal of its own, with somebody who types. */
struct session {
    pid_t child;
    int tty; /* master */
    char seen[OUTPUT_BYTES];
    size_t n;
    int status;
};

static void begin(struct session *s, const char *words)
{
    const char *path = program();
    memset(s, 0, sizeof(*s));
    s->child = forkpty(&s->tty, NULL, NULL, NULL);
    assert_true(s->child >= 0);
    if (s->child == 0)
        program_exec(path, words);
}

/* Takes what the terminal shows; false when nothing came for so long, or it is over. */
static bool look(struct session *s, int ms)
{
    struct pollfd p = {.fd = s->tty, .events = POLLIN};
    if (poll(&p, 1, ms) <= 0)
        return false;
    ssize_t r = read(s->tty, s->seen + s->n, sizeof(s->seen) - 1 - s->n);
    if (r <= 0)
        return false;
    s->n += (size_t)r;
    s->seen[s->n] = 0;
    return true;
}

static bool echoes(const struct session *s)
{
    struct termios t;
    assert_int_equal(tcgetattr(s->tty, &t), 0);
    return t.c_lflag & ECHO;
}

/* Waits for a text, after `*from`, and moves behind it. */
static void expect(struct session *s, size_t *from, const char *text)
{
    char *at;
    for (int i = 0; !(at = strstr(s->seen + *from, text)); i++)
        if (!look(s, 5000))
            fail_msg("expected \"%s\" on the terminal, found: %s", text, s->seen + *from);
    *from = (size_t)(at - s->seen) + strlen(text);
}

static void type(struct session *s, const char *text)
{
    for (int i = 0; i < 500 && echoes(s); i++)
        usleep(2000);
    assert_false(echoes(s));
    assert_int_equal(write(s->tty, text, strlen(text)), strlen(text));
}

/* Exit code, or minus the signal. */
static int finish(struct session *s)
{
    while (look(s, 20000))
        ;
    assert_int_equal(waitpid(s->child, &s->status, 0), s->child);
    close(s->tty);
    return WIFEXITED(s->status) ? WEXITSTATUS(s->status) : -WTERMSIG(s->status);
}

static void assert_code(struct session *s, int want)
{
    int code = finish(s);
    if (code != want)
        fail_msg("%d and not %d; the terminal shows: %s", code, want, s->seen);
}

/* S1.7 */
static void passphrase_is_asked_twice_for_a_new_image_and_never_shown(void **state)
{
    (void)state;
    struct session s;
    struct run r = {0};
    size_t at = 0;
    begin(&s, "create i --iter-time 1");
    expect(&s, &at, "New passphrase for i: ");
    assert_false(file_exists("i"));
    type(&s, "typed secret\n");
    expect(&s, &at, "The same again for i: ");
    type(&s, "typed secret\n");
    assert_code(&s, 0);
    assert_null(strstr(s.seen, "typed"));
    file_put("k", "typed secret", 12);
    program_expect(&r, 0, "verify-key i --key file=k");

    at = 0;
    begin(&s, "verify-key i");
    expect(&s, &at, "Passphrase for i: ");
    type(&s, "typed secret\n");
    assert_code(&s, 0);
    assert_null(strstr(s.seen, "typed"));
    assert_non_null(strstr(s.seen, "the key opens the image"));

    at = 0;
    begin(&s, "check i --key prompt");
    expect(&s, &at, "Passphrase for i: ");
    type(&s, "something else\n");
    assert_code(&s, 11);
    assert_non_null(strstr(s.seen, "KEY_WRONG"));
}

static void two_different_answers_create_nothing(void **state)
{
    (void)state;
    struct session s;
    size_t at = 0;
    begin(&s, "create i --iter-time 1");
    expect(&s, &at, "New passphrase for i: ");
    type(&s, "one\n");
    expect(&s, &at, "The same again for i: ");
    type(&s, "two\n");
    assert_code(&s, 2);
    assert_non_null(strstr(s.seen, "the two passphrases differ"));
    assert_false(file_exists("i"));
}

static void empty_answer_is_a_missing_key(void **state)
{
    (void)state;
    struct session s;
    size_t at = 0;
    begin(&s, "create i --iter-time 1");
    expect(&s, &at, "New passphrase for i: ");
    type(&s, "\n");
    assert_code(&s, 10);
    at = 0;
    begin(&s, "create i --iter-time 1");
    expect(&s, &at, "New passphrase for i: ");
    type(&s, "\x04");
    assert_code(&s, 10);
    assert_false(file_exists("i"));
}

static void interrupted_prompt_gives_the_terminal_back(void **state)
{
    (void)state;
    struct session s;
    size_t at = 0;
    begin(&s, "create i --iter-time 1");
    expect(&s, &at, "New passphrase for i: ");
    type(&s, "half of\x03");
    int status = 0;
    assert_int_equal(waitpid(s.child, &status, 0), s.child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    /* The terminal outlives the program here as it does under a shell. */
    assert_true(echoes(&s));
    close(s.tty);
    assert_false(file_exists("i"));
}

static void image_that_cannot_be_opened_is_refused_before_anybody_is_asked(void **state)
{
    (void)state;
    struct session s;
    file_put("text", "no image", 8);
    begin(&s, "verify-key text");
    assert_code(&s, 22);
    assert_null(strstr(s.seen, "Passphrase"));
    begin(&s, "verify-key absent");
    assert_code(&s, 2);
    begin(&s, "create text");
    assert_code(&s, 2);
    assert_null(strstr(s.seen, "assphrase"));
}

/* S1.7 */
static void serve_asks_only_when_told_to(void **state)
{
    (void)state;
    struct session s;
    struct run r = {0};
    size_t at = 0;
    file_put("k", "typed secret", 12);
    program_expect(&r, 0, "create i --key file=k --iter-time 1");
    begin(&s, "serve i --ctrl type=unixio,path=s");
    assert_code(&s, 10);
    assert_null(strstr(s.seen, "Passphrase"));

    begin(&s, "serve i --ctrl type=unixio,path=s --key prompt --daemon --pid file=p");
    expect(&s, &at, "Passphrase for i: ");
    assert_false(file_exists("s"));
    type(&s, "typed secret\n");
    assert_code(&s, 0);
    assert_true(file_exists("s"));
    int pid = 0;
    FILE *f = fopen("p", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &pid), 1);
    fclose(f);
    kill(pid, SIGTERM);
    for (int i = 0; i < 500 && kill(pid, 0) == 0; i++)
        usleep(10000);
    assert_false(file_exists("s"));
}

static void progress_is_shown_on_a_terminal_when_it_takes_long(void **state)
{
    (void)state;
    struct session s;
    file_put("k", "typed secret", 12);
    begin(&s, "create slow --key file=k --iter-time 2000");
    assert_code(&s, 0);
    assert_non_null(strstr(s.seen, "\rstretching the passphrase: "));
    assert_non_null(strstr(s.seen, " %"));
    begin(&s, "create quick --key file=k --iter-time 1");
    assert_code(&s, 0);
    assert_null(strstr(s.seen, "stretching the passphrase"));
    struct run r = {0};
    program_expect(&r, 0, "verify-key slow --key file=k");
    assert_string_equal(r.err, "");
}

#define IN_DIR(f) cmocka_unit_test_setup_teardown(f, program_enter, program_leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(passphrase_is_asked_twice_for_a_new_image_and_never_shown),
        IN_DIR(two_different_answers_create_nothing),
        IN_DIR(empty_answer_is_a_missing_key),
        IN_DIR(interrupted_prompt_gives_the_terminal_back),
        IN_DIR(image_that_cannot_be_opened_is_refused_before_anybody_is_asked),
        IN_DIR(serve_asks_only_when_told_to),
        IN_DIR(progress_is_shown_on_a_terminal_when_it_takes_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
