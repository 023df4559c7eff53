#include "admin_rig.h"

#define ADMIN_KEY "--key admin --server type=unixio,path=d"

static unsigned count_in_log(const char *text)
{
    static char log[1 << 20];
    unsigned n = 0;
    rig_read_file("l", log, sizeof(log));
    for (const char *at = log; (at = strstr(at, text)); at++)
        n++;
    return n;
}

static void nothing_is_bound(void)
{
    assert_false(file_exists("c"));
    assert_false(file_exists("d"));
}

/* S3.4 S3.12: the image is free for another daemon, and no emulator could connect. */
static void while_a_key_is_awaited_nothing_is_open_and_nothing_is_bound(void **state)
{
    (void)state;
    struct admin a;
    struct run r = {0};
    rig_image("");
    uint64_t before = file_digest("i");
    pid_t pid = admin_start(ADMIN_KEY);
    admin_open(&a);
    admin_call(&a, "{\"execute\": \"query-status\"}\n",
               "{\"return\": {\"phase\": \"waiting-for-key\"}}");
    usleep(600000); /* longer than clients are kept from a slow verification */
    nothing_is_bound();
    assert_true(file_digest("i") == before);
    pid_t other = program_start("serve i --key file=k --ctrl type=unixio,path=other");
    rig_remember(other);
    rig_wait_for("other");
    assert_int_equal(rig_end(other), 0);
    nothing_is_bound();

    admin_send_key(&a, "correct horse");
    admin_says(&a, "\"event\": \"KEY_ACCEPTED\"");
    admin_says(&a, "{\"return\": {}}");
    assert_true(rig_is_there("c") && rig_is_there("d"));
    int ctrl = rig_connect("c"), data = rig_connect("d");
    assert_int_equal(ctrl_init(ctrl, 0), 0);
    struct tpm_cmd c;
    cmd2_startup(&c, 0);
    assert_int_equal(data_rc(data, &c), 0);
    data_works(data);
    program_expect(&r, 31, "serve i --key file=k --ctrl type=unixio,path=other");
    close(ctrl);
    close(data);
    admin_close(&a);
    assert_int_equal(rig_end(pid), 0);
}

/* S3.13 S3.26 */
static void one_key_is_one_attempt_and_one_event(void **state)
{
    (void)state;
    struct admin a, watcher;
    rig_image("");
    uint64_t before = file_digest("i");
    pid_t pid = admin_start(ADMIN_KEY);
    admin_open(&a);
    admin_open(&watcher);
    static const char *const wrong[] = {"correct house", "correct horse\n", "x"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        admin_send_key(&a, wrong[i]);
        admin_says(&a, "\"event\": \"KEY_REFUSED\", \"data\": {\"class\": \"KEY_WRONG\"");
        admin_says(&a, "{\"error\": {\"class\": \"KEY_WRONG\"");
        admin_says(&watcher, "\"event\": \"KEY_REFUSED\"");
        admin_is_silent(&watcher, 100);
        nothing_is_bound();
        admin_call(&a, "{\"execute\": \"query-status\"}\n", "waiting-for-key");
        assert_int_equal(count_in_log("a key has come"), i + 1);
    }
    assert_true(file_digest("i") == before);
    admin_send_key(&a, "correct horse");
    admin_says(&a, "KEY_ACCEPTED");
    admin_says(&a, "{\"return\": {}}");
    admin_says(&watcher, "KEY_ACCEPTED");
    admin_is_silent(&watcher, 100);
    assert_int_equal(count_in_log("a key has come"), 4);
    /* No second one. */
    admin_send_key(&a, "correct horse");
    admin_says(&a, "{\"error\": {\"class\": \"USAGE\", \"desc\": \"no key is awaited");
    admin_is_silent(&watcher, 100);
    assert_int_equal(count_in_log("a key has come"), 4);
    admin_close(&a);
    admin_close(&watcher);
    assert_int_equal(rig_end(pid), 0);
}

static void what_is_no_key_is_refused_and_not_tried(void **state)
{
    (void)state;
    static char big[65537];
    struct admin a;
    int fds[2];
    rig_image("");
    memset(big, 'x', sizeof(big));
    file_put("big", big, sizeof(big));
    pid_t pid = admin_start(ADMIN_KEY);
    admin_open(&a);
    admin_send_key(&a, "");
    admin_says(&a, "\"class\": \"KEY_MISSING\", \"desc\": \"the key that came is empty\"");
    admin_call(&a, "{\"execute\": \"add-key\"}\n", "\"class\": \"KEY_MISSING\"");
    fds[0] = open("k", O_RDONLY);
    fds[1] = open("k", O_RDONLY);
    admin_send_fds(&a, "{\"execute\": \"add-key\"}\n", fds, 2);
    admin_says(&a, "one descriptor must come along");
    /* One that came with another command is not the key. */
    admin_send_fds(&a, "{\"execute\": \"query-version\"}\n", fds, 1);
    admin_says(&a, "return");
    admin_call(&a, "{\"execute\": \"add-key\"}\n", "\"class\": \"KEY_MISSING\"");
    close(fds[0]);
    close(fds[1]);
    admin_send_key_fd(&a, open("/dev/zero", O_RDONLY));
    admin_says(&a, "no pipe, socket or file");
    admin_send_key_fd(&a, open(".", O_RDONLY));
    admin_says(&a, "no pipe, socket or file");
    admin_send_key_fd(&a, open("k", O_WRONLY));
    admin_says(&a, "cannot be read");
    admin_send_key_fd(&a, open("big", O_RDONLY));
    admin_says(&a, "longer than 65536 bytes");
    assert_int_equal(count_in_log("a key has come"), 0);
    nothing_is_bound();
    admin_close(&a);
    assert_int_equal(rig_end(pid), 0);
}

/* The main thread waits for no pipe: others are served meanwhile, and one of them brings the key.
 */
static void a_pipe_without_end_holds_nobody_up(void **state)
{
    (void)state;
    struct admin stuck, gone, other;
    int ends[2], more[2];
    rig_image("");
    pid_t pid = admin_start(ADMIN_KEY);
    admin_open(&stuck);
    admin_open(&gone);
    admin_open(&other);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(pipe(more), 0);
    assert_int_equal(write(ends[1], "correct horse", 13), 13);
    int64_t begun = rig_ms();
    admin_send_key_fd(&stuck, ends[0]);
    admin_send_key_fd(&gone, more[0]);
    admin_call(&other, "{\"execute\": \"query-status\"}\n", "waiting-for-key");
    admin_close(&gone);
    assert_true(rig_ms() - begun < 2000);
    admin_says(&stuck, "the key did not end within 5 seconds");
    assert_true(rig_ms() - begun >= 4500);
    nothing_is_bound();
    close(ends[1]);
    assert_int_equal(count_in_log("a key has come"), 0);

    assert_int_equal(pipe(ends), 0);
    admin_send_key_fd(&stuck, ends[0]);
    admin_send_key(&other, "correct horse");
    admin_says(&other, "KEY_ACCEPTED");
    admin_says(&other, "{\"return\": {}}");
    /* The slow one is told that it is too late. */
    assert_int_equal(write(ends[1], "correct horse", 13), 13);
    close(ends[1]);
    admin_says(&stuck, "KEY_ACCEPTED");
    admin_says(&stuck, "no key is awaited");
    close(more[1]);
    admin_close(&stuck);
    admin_close(&other);
    assert_int_equal(rig_end(pid), 0);
}

static void a_slow_key_is_tried_alone_and_binds_nothing_before_the_verdict(void **state)
{
    (void)state;
    struct admin a, other, waiting;
    struct run r = {0};
    file_put("k", "correct horse", 13);
    program_expect(&r, 0, "create i --key file=k --iter-time 1500");
    pid_t pid = admin_start(ADMIN_KEY);
    admin_open(&a);
    admin_open(&other);
    admin_open(&waiting);
    admin_send(&waiting, "{\"execute\": \"migrate-abort\"}\n");
    admin_send_key(&a, "correct house");
    usleep(100000);
    admin_call(&other, "{\"execute\": \"query-status\"}\n", "\"phase\": \"verifying\"");
    admin_send_key(&other, "correct horse");
    admin_says(&other,
               "{\"error\": {\"class\": \"LOCKED\", \"desc\": \"another key is being tried");
    usleep(500000);
    nothing_is_bound();
    admin_says(&a, "KEY_REFUSED");
    admin_says(&a, "KEY_WRONG");
    admin_says(&other, "KEY_REFUSED");
    nothing_is_bound();
    /* Whoever brought it may go: it is tried all the same. */
    admin_send_key(&a, "correct horse");
    usleep(100000);
    admin_close(&a);
    admin_says(&other, "KEY_ACCEPTED");
    rig_wait_for("c");
    admin_says(&waiting, "KEY_REFUSED");
    admin_says(&waiting, "KEY_ACCEPTED");
    admin_says(&waiting, "return");
    admin_close(&other);
    admin_close(&waiting);
    assert_int_equal(rig_end(pid), 0);
}

static void a_newline_is_dropped_where_that_is_asked_for(void **state)
{
    (void)state;
    struct admin a;
    rig_image("");
    file_put("line", "correct horse\n", 14);
    pid_t pid = admin_start(ADMIN_KEY);
    admin_open(&a);
    int fd = open("line", O_RDONLY);
    admin_send_fds(&a, "{\"execute\": \"add-key\", \"arguments\": {\"newline\": \"drop\"}}", &fd,
                   1);
    admin_says(&a, "must be \\\"keep\\\" or \\\"strip\\\"");
    admin_send_fds(&a, "{\"execute\": \"add-key\", \"arguments\": {\"newline\": \"strip\"}}", &fd,
                   1);
    close(fd);
    admin_says(&a, "KEY_ACCEPTED");
    admin_says(&a, "{\"return\": {}}");
    admin_close(&a);
    assert_int_equal(rig_end(pid), 0);
}

static void the_caller_returns_when_the_key_can_be_brought(void **state)
{
    (void)state;
    struct run r = {0};
    rig_image("");
    program_expect(&r, 0,
                   "serve i --key admin --ctrl type=unixio,path=c --admin type=unixio,path=a "
                   "--daemon --log file=l");
    assert_true(rig_is_there("a"));
    nothing_is_bound();
    file_put("wrong", "correct house", 13);
    program_expect(&r, 11, "ctl a add-key --key file=wrong");
    program_expect(&r, 0, "ctl a add-key --key file=k");
    assert_true(rig_is_there("c"));
    program_expect(&r, 0, "ctl a quit");
    for (int i = 0; i < 1000 && file_exists("a"); i++)
        usleep(5000);
    nothing_is_bound();
    assert_false(file_exists("a"));
}

static void a_waiting_daemon_ends_when_told(void **state)
{
    (void)state;
    struct admin a;
    rig_image("");
    pid_t pid = admin_start(ADMIN_KEY);
    admin_open(&a);
    kill(pid, SIGTERM);
    admin_says(&a, "\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"SIGTERM\"}");
    assert_int_equal(rig_wait(pid), 0);
    assert_false(file_exists("a"));
    admin_close(&a);
    pid = admin_start(ADMIN_KEY);
    admin_open(&a);
    admin_send(&a, "{\"execute\": \"migrate-prepare\"}{\"execute\": \"query-status\"}");
    struct admin b;
    admin_open(&b);
    admin_call(&b, "{\"execute\": \"quit\"}", "{\"return\": {}}");
    admin_says(&a, "{\"error\": {\"class\": \"USAGE\", \"desc\": \"the daemon is ending: quit\"}}");
    admin_close(&a);
    admin_close(&b);
    assert_int_equal(rig_wait(pid), 0);
}

#define QUIETLY                                                                                    \
    "--ctrl type=unixio,path=c --admin type=unixio,path=a --pid file=p --log file=l --daemon"

static void end_daemon(void)
{
    struct run r = {0};
    program_expect(&r, 0, "ctl a quit");
    for (int i = 0; i < 2000 && (file_exists("p") || file_exists("a")); i++)
        usleep(5000);
    assert_false(file_exists("p"));
}

/* By the command line, as a unit does it, and through the admin socket. */
static int outcome(const char *image, const char *key, int way)
{
    struct run r = {0};
    char words[400];
    static const char *const sources[] = {"file=", "credential=", "admin"};
    snprintf(words, sizeof(words), "serve %s --key %s%s " QUIETLY, image, sources[way],
             way < 2 ? key : "");
    program_run(&r, words);
    if (way == 2) {
        assert_int_equal(r.code, 0);
        snprintf(words, sizeof(words), "ctl a add-key --key file=%s", key);
        program_run(&r, words);
    }
    int code = r.code;
    if (way == 2 && code != 0) {
        program_expect(&r, 0, "ctl a quit");
        for (int i = 0; i < 2000 && file_exists("a"); i++)
            usleep(5000);
    }
    if (code == 0)
        end_daemon();
    return code;
}

/* S1.21 */
static void the_same_start_ends_the_same_whichever_way_the_key_comes(void **state)
{
    (void)state;
    static const struct {
        const char *image, *key;
        int code;
    } cases[] = {
        {"i", "k", 0},      {"i", "wrong", 11},   {"i", "line", 11},
        {"i", "empty", 10}, {"i", "big", 2},      {"absent", "k", 2},
        {"empty", "k", 22}, {"damaged", "k", 21}, {"plain", "k", 12},
    };
    static char big[65537];
    rig_image("");
    memset(big, 'x', sizeof(big));
    file_put("big", big, sizeof(big));
    file_put("wrong", "correct house", 13);
    file_put("line", "correct horse\n", 14);
    file_put("empty", "", 0);
    if (system("cp i damaged && qemu-img create -q -f qcow2 plain 1M") != 0) {
        print_message("missing: qemu-img\n");
        skip();
    }
    /* The refcount table's place in the header. */
    int fd = open("damaged", O_WRONLY);
    assert_int_equal(pwrite(fd, "\1\2\3", 3, 49), 3);
    close(fd);
    assert_int_equal(setenv("CREDENTIALS_DIRECTORY", program_dir, 1), 0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (int way = 0; way < 3; way++) {
            int code = outcome(cases[i].image, cases[i].key, way);
            if (code != cases[i].code)
                fail_msg("image %s, key %s, way %d: %d", cases[i].image, cases[i].key, way, code);
        }
    unsetenv("CREDENTIALS_DIRECTORY");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(while_a_key_is_awaited_nothing_is_open_and_nothing_is_bound),
        IN_DIR(one_key_is_one_attempt_and_one_event),
        IN_DIR(what_is_no_key_is_refused_and_not_tried),
        IN_DIR(a_pipe_without_end_holds_nobody_up),
        IN_DIR(a_slow_key_is_tried_alone_and_binds_nothing_before_the_verdict),
        IN_DIR(a_newline_is_dropped_where_that_is_asked_for),
        IN_DIR(the_caller_returns_when_the_key_can_be_brought),
        IN_DIR(a_waiting_daemon_ends_when_told),
        IN_DIR(the_same_start_ends_the_same_whichever_way_the_key_comes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
