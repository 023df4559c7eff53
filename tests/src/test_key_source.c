#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "src/key/key_source.h"

/* A directory that holds the key files of one test. */
static char dir[200];

static char *at(const char *name)
{
    static char path[4][300];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", dir, name);
    return path[turn];
}

static int make_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof(dir), "%s/nvkeep-key-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

static void put(const char *name, const void *p, size_t n)
{
    int fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), n);
    close(fd);
}

static struct key_source parsed(const char *form, const char *value)
{
    static char arg[400];
    struct key_source src;
    struct err e = {0};
    snprintf(arg, sizeof(arg), "%s%s%s", form, value ? "=" : "", value ? value : "");
    if (key_source_parse(arg, &src, &e) < 0)
        fail_msg("%s: %s", arg, e.text);
    return src;
}

static void assert_reads(struct key_source src, const void *want, size_t n_want)
{
    OWNED(secret) s = NULL;
    struct err e = {0};
    size_t n = 0;
    if (key_source_read(&src, "image", &s, &n, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(n, n_want);
    assert_memory_equal(secret_peek(s), want, n);
}

static void assert_refused(struct key_source src, enum err_kind kind, const char *text)
{
    struct secret *s = NULL;
    struct err e = {0};
    size_t n = 77;
    assert_int_equal(key_source_read(&src, "image", &s, &n, &e), -1);
    assert_int_equal(e.kind, kind);
    assert_non_null(strstr(e.text, text));
    assert_null(s);
    assert_int_equal(n, 77);
}

static void every_form_is_understood(void **state)
{
    (void)state;
    assert_int_equal(parsed("file", "/k").kind, KEY_SOURCE_FILE);
    assert_int_equal(parsed("pwdfile", "/k").kind, KEY_SOURCE_PWDFILE);
    assert_int_equal(parsed("pwdfd", "7").fd, 7);
    assert_int_equal(parsed("fd", "0").fd, 0);
    assert_string_equal(parsed("credential", "tpm.key").value, "tpm.key");
    assert_int_equal(parsed("prompt", NULL).kind, KEY_SOURCE_PROMPT);
    assert_string_equal(parsed("file", "/a,b=c/k").value, "/a,b=c/k");
    assert_string_equal(parsed("file", "a=b").value, "a=b");
}

/* S0.17 */
static void what_is_wrong_with_a_source_is_said_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *arg, *text;
    } wrong[] = {
        {"", "wanted file=PATH"},
        {"hunter2", "never taken from the command line"},
        {"files=/k", "wanted file=PATH"},
        {"file", "\"file\" needs a value: file=PATH"},
        {"file=", "\"file\" needs a value"},
        {"pwdfd=", "\"pwdfd\" needs a value: pwdfd=N"},
        {"pwdfd=x", "wanted the number of an open descriptor"},
        {"fd=-1", "wanted the number"},
        {"fd=+1", "wanted the number"},
        {"fd= 1", "wanted the number"},
        {"fd=1x", "wanted the number"},
        {"fd=99999999999999999999", "wanted the number"},
        {"fd=4294967296", "wanted the number"},
        {"credential=a/b", "not a path"},
        {"credential=..", "not a path"},
        {"prompt=now", "takes no value"},
        {"prompt,x", "takes no value"},
        {"pwdfd=3,mode=aes-256-cbc", "mode=aes-256-cbc"},
        {"pwdfile=/k,mode=aes-cbc", "swtpm"},
        {"file=/k,format=hex", "format=hex"},
        {"file=/k,remove", "never removed"},
        {"file=/k,remove=true", "never removed"},
        {"pwdfile=/k,kdf=sha512", "kdf=sha512"},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct key_source src = {.fd = 77};
        struct err e = {0};
        assert_int_equal(key_source_parse(wrong[i].arg, &src, &e), -1);
        assert_int_equal(e.kind, ERR_USAGE);
        if (!strstr(e.text, wrong[i].text))
            fail_msg("%s: %s", wrong[i].arg, e.text);
        assert_int_equal(src.fd, 77);
    }
}

static void file_is_taken_byte_by_byte(void **state)
{
    (void)state;
    put("k", "pass\n", 5);
    assert_reads(parsed("file", at("k")), "pass\n", 5);
    put("k", "\n", 1);
    assert_reads(parsed("file", at("k")), "\n", 1);
    put("k", "a\0b", 3);
    assert_reads(parsed("file", at("k")), "a\0b", 3);
}

static void password_file_loses_one_newline_and_no_more(void **state)
{
    (void)state;
    put("k", "pass", 4);
    assert_reads(parsed("pwdfile", at("k")), "pass", 4);
    put("k", "pass\n", 5);
    assert_reads(parsed("pwdfile", at("k")), "pass", 4);
    put("k", "pass\n\n", 6);
    assert_reads(parsed("pwdfile", at("k")), "pass\n", 5);
    put("k", "pass\r\n", 6);
    assert_reads(parsed("pwdfile", at("k")), "pass\r", 5);
}

/* S3.8 */
static void nothing_is_a_missing_key(void **state)
{
    (void)state;
    struct key_source none = {.fd = -1};
    put("k", "", 0);
    assert_refused(parsed("file", at("k")), ERR_KEY_MISSING, "is empty");
    assert_refused(parsed("pwdfile", at("k")), ERR_KEY_MISSING, "is empty");
    put("k", "\n", 1);
    assert_refused(parsed("pwdfile", at("k")), ERR_KEY_MISSING, "is empty");
    assert_refused(parsed("file", "/dev/null"), ERR_KEY_MISSING, "is empty");
    assert_refused(none, ERR_KEY_MISSING, "no key was given");
}

static void longest_key_is_read_and_a_longer_one_refused(void **state)
{
    (void)state;
    static char big[1 << 20];
    memset(big, 'x', sizeof(big));
    big[4095] = 'y';
    big[KEY_MAX_BYTES - 1] = 'z';
    put("k", big, KEY_MAX_BYTES);
    assert_reads(parsed("file", at("k")), big, KEY_MAX_BYTES);
    put("k", big, KEY_MAX_BYTES + 1);
    assert_refused(parsed("file", at("k")), ERR_USAGE, "longer than 65536 bytes");
    put("k", big, sizeof(big));
    assert_refused(parsed("pwdfile", at("k")), ERR_USAGE, "longer than 65536 bytes");
    assert_refused(parsed("file", "/dev/zero"), ERR_USAGE, "longer than 65536 bytes");
}

static void what_is_no_key_file_is_refused(void **state)
{
    (void)state;
    assert_refused(parsed("file", at("absent")), ERR_USAGE, "No such file");
    assert_refused(parsed("file", dir), ERR_USAGE, "is a directory");
    assert_refused(parsed("pwdfile", "/"), ERR_USAGE, "is a directory");
}

static void unreadable_file_is_refused(void **state)
{
    (void)state;
    put("k", "pass", 4);
    assert_int_equal(chmod(at("k"), 0), 0);
    assert_int_equal(chmod(dir, 0711), 0);
    bool root = geteuid() == 0;
    if (root)
        assert_int_equal(seteuid(65534), 0);
    assert_refused(parsed("file", at("k")), ERR_USAGE, "Permission denied");
    if (root)
        assert_int_equal(seteuid(0), 0);
}

static int filled_pipe(const char *text, size_t n)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], text, n), n);
    close(ends[1]);
    return ends[0];
}

static struct key_source from_fd(enum key_source_kind kind, int fd)
{
    static char number[20];
    snprintf(number, sizeof(number), "%d", fd);
    return (struct key_source){kind, number, fd};
}

static void descriptor_is_read_to_its_end_and_closed(void **state)
{
    (void)state;
    int fd = filled_pipe("pass\n", 5);
    assert_reads(from_fd(KEY_SOURCE_FD, fd), "pass\n", 5);
    assert_int_equal(fcntl(fd, F_GETFD), -1);

    fd = filled_pipe("pass\n", 5);
    assert_reads(from_fd(KEY_SOURCE_PWDFD, fd), "pass", 4);
    assert_int_equal(fcntl(fd, F_GETFD), -1);

    fd = filled_pipe("", 0);
    assert_refused(from_fd(KEY_SOURCE_PWDFD, fd), ERR_KEY_MISSING, "is empty");
    assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void descriptor_that_is_not_open_is_refused(void **state)
{
    (void)state;
    int fd = filled_pipe("x", 1);
    close(fd);
    assert_refused(from_fd(KEY_SOURCE_FD, fd), ERR_USAGE, "not open for reading");
    fd = open("/dev/null", O_WRONLY);
    assert_refused(from_fd(KEY_SOURCE_PWDFD, fd), ERR_USAGE, "not open for reading");
    close(fd);
}

/* Nothing may be opened as standard input by accident afterwards. */
static void standard_input_stays_open_after_it_was_read(void **state)
{
    (void)state;
    int saved = dup(STDIN_FILENO), fd = filled_pipe("pass", 4);
    dup2(fd, STDIN_FILENO);
    close(fd);
    assert_reads(from_fd(KEY_SOURCE_FD, STDIN_FILENO), "pass", 4);
    char c;
    assert_int_equal(read(STDIN_FILENO, &c, 1), 0);
    dup2(saved, STDIN_FILENO);
    close(saved);
}

static void key_that_arrives_in_pieces_is_whole(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 5; i++) {
            usleep(5000);
            if (write(ends[1], "piece ", 6) != 6)
                _exit(1);
        }
        _exit(0);
    }
    close(ends[1]);
    assert_reads(from_fd(KEY_SOURCE_FD, ends[0]), "piece piece piece piece piece ", 30);
    waitpid(child, NULL, 0);
}

static void named_pipe_waits_for_its_writer(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(at("fifo"), 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        usleep(50000);
        int fd = open(at("fifo"), O_WRONLY);
        _exit(write(fd, "pass\n", 5) == 5 ? 0 : 1);
    }
    assert_reads(parsed("pwdfile", at("fifo")), "pass", 4);
    waitpid(child, NULL, 0);
}

static void process_substitution_works(void **state)
{
    (void)state;
    char path[40];
    int fd = filled_pipe("pass\n", 5);
    snprintf(path, sizeof(path), "/dev/fd/%d", fd);
    assert_reads(parsed("file", path), "pass\n", 5);
    close(fd);
}

static void credential_comes_from_the_directory_of_systemd(void **state)
{
    (void)state;
    put("tpm.key", "pass\n", 5);
    unsetenv("CREDENTIALS_DIRECTORY");
    assert_refused(parsed("credential", "tpm.key"), ERR_USAGE, "CREDENTIALS_DIRECTORY is not set");
    setenv("CREDENTIALS_DIRECTORY", dir, 1);
    assert_reads(parsed("credential", "tpm.key"), "pass\n", 5);
    assert_refused(parsed("credential", "other"), ERR_USAGE, "No such file");
    unsetenv("CREDENTIALS_DIRECTORY");
}

static int usable(const char *text, size_t n, struct err *e)
{
    OWNED(secret) s = NULL;
    assert_int_equal(secret_new(n ? n : 1, &s, e), 0);
    memcpy(secret_bytes(s), text, n);
    return key_usable_by_qemu(s, n, e);
}

static void text_in_any_script_is_a_passphrase(void **state)
{
    (void)state;
    static const char *const good[] = {"a",
                                       "with space\n",
                                       "\xc3\xbc",
                                       "\xe2\x82\xac",
                                       "\x7f",
                                       "\xf0\x9f\x94\x91",
                                       "\xf4\x8f\xbf\xbf",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xc2\x80"};
    struct err e = {0};
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        if (usable(good[i], strlen(good[i]), &e) < 0)
            fail_msg("%zu: %s", i, e.text);
}

static void passphrase_that_qemu_cannot_use_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        const char *why;
    } bad[] = {
        {"", 0, "empty"},
        {"a\0b", 3, "NUL"},
        {"\0", 1, "NUL"},
        {"\x80", 1, "not valid UTF-8 (byte 1)"},
        {"ab\xff", 3, "(byte 3)"},
        {"\xc3", 1, "UTF-8"},
        {"\xe2\x82", 2, "UTF-8"},
        {"\xc0\x80", 2, "UTF-8"},             /* overlong */
        {"\xe0\x80\x80", 3, "UTF-8"},         /* overlong */
        {"\xf0\x80\x80\x80", 4, "UTF-8"},     /* overlong */
        {"\xed\xa0\x80", 3, "UTF-8"},         /* surrogate */
        {"\xf4\x90\x80\x80", 4, "UTF-8"},     /* above 10FFFF */
        {"\xf8\x88\x80\x80\x80", 5, "UTF-8"}, /* five bytes */
        {"\xc3\xc3", 2, "(byte 1)"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err e = {0};
        assert_int_equal(usable(bad[i].text, bad[i].n, &e), -1);
        assert_int_equal(e.kind, ERR_USAGE);
        if (!strstr(e.text, bad[i].why))
            fail_msg("%zu: %s", i, e.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_is_understood),
        cmocka_unit_test(what_is_wrong_with_a_source_is_said_by_name),
        cmocka_unit_test_setup_teardown(file_is_taken_byte_by_byte, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(password_file_loses_one_newline_and_no_more, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(nothing_is_a_missing_key, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(longest_key_is_read_and_a_longer_one_refused, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(what_is_no_key_file_is_refused, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(unreadable_file_is_refused, make_dir, remove_dir),
        cmocka_unit_test(descriptor_is_read_to_its_end_and_closed),
        cmocka_unit_test(descriptor_that_is_not_open_is_refused),
        cmocka_unit_test(standard_input_stays_open_after_it_was_read),
        cmocka_unit_test(key_that_arrives_in_pieces_is_whole),
        cmocka_unit_test_setup_teardown(named_pipe_waits_for_its_writer, make_dir, remove_dir),
        cmocka_unit_test(process_substitution_works),
        cmocka_unit_test_setup_teardown(credential_comes_from_the_directory_of_systemd, make_dir,
                                        remove_dir),
        cmocka_unit_test(text_in_any_script_is_a_passphrase),
        cmocka_unit_test(passphrase_that_qemu_cannot_use_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
