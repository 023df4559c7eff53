#include "serve_rig.h"

enum { USAGE = 2, KEY_WRONG = 11, LOCKED = 31, KEY_WRONG_RESULT = 0x21 };

/* About two seconds of key stretching; less where the machine was busy when it was measured. */
static void slow_image(void)
{
    struct run r = {0};
    file_put("k", "correct horse", 13);
    file_put("wrong", "correct house", 13);
    program_expect(&r, 0, "create i --key file=k --iter-time 2000");
}

static void expect_refusal(int code, const char *options, const char *message)
{
    struct run r = {0};
    char words[600];
    snprintf(words, sizeof(words), "serve i --key file=k %s", options);
    program_expect(&r, code, words);
    if (!strstr(r.err, message))
        fail_msg("expected \"%s\", found: %s", message, r.err);
}

static int bound(const char *name, bool listening)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    if (listening)
        assert_int_equal(listen(fd, 1), 0);
    return fd;
}

static void stale_socket_is_replaced(void **state)
{
    (void)state;
    rig_image("");
    close(bound("c", true));
    close(bound("d", false));
    pid_t pid = rig_spawn(NULL, DATA_SOCKET);
    int ctrl = -1, data = -1;
    for (int i = 0; i < 1000 && (ctrl < 0 || data < 0); i++) {
        usleep(5000);
        ctrl = ctrl < 0 ? rig_connect("c") : ctrl;
        data = data < 0 ? rig_connect("d") : data;
    }
    assert_true(ctrl >= 0);
    data_works(data);
    close(ctrl);
    close(data);
    assert_int_equal(rig_end(pid), 0);
    assert_false(rig_is_there("c"));
    assert_false(rig_is_there("d"));
}

static void socket_of_a_living_daemon_is_left_alone(void **state)
{
    (void)state;
    struct stat before, after;
    rig_image("");
    int live = bound("live", true);
    assert_int_equal(stat("live", &before), 0);
    uint64_t image = file_digest("i");
    expect_refusal(LOCKED, "--ctrl type=unixio,path=live", "--ctrl: live is in use");
    expect_refusal(LOCKED, "--ctrl type=unixio,path=c2 --server type=unixio,path=live",
                   "--server: live is in use");
    assert_int_equal(stat("live", &after), 0);
    assert_true(before.st_ino == after.st_ino);
    assert_false(file_exists("c2"));
    assert_true(file_digest("i") == image);
    /* It was not even connected to: a daemon may end when a client leaves it. */
    struct pollfd p = {live, POLLIN, 0};
    assert_int_equal(poll(&p, 1, 0), 0);
    close(live);
}

/* However they meet: one is there for its clients, the other one is refused. */
static void two_that_want_the_same_path_do_not_take_it_from_each_other(void **state)
{
    (void)state;
    struct run r = {0};
    uint8_t reply[8];
    rig_image("");
    program_expect(&r, 0, "create j --key file=k --iter-time 1");
    for (int round = 0; round < 12; round++) {
        static const char *const words[] = {"serve i --key file=k --ctrl type=unixio,path=same",
                                            "serve j --key file=k --ctrl type=unixio,path=same"};
        pid_t pid[2], gone;
        int status;
        if (round % 3 == 0)
            close(bound("same", true)); /* a stale one to be replaced */
        for (int i = 0; i < 2; i++)
            rig_remember(pid[i] = program_start(words[i]));
        gone = waitpid(-1, &status, 0);
        rig_forget(gone);
        assert_true(gone == pid[0] || gone == pid[1]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), LOCKED);
        int ctrl = -1;
        for (int i = 0; i < 500 && ctrl < 0; i++) {
            ctrl = rig_connect("same");
            usleep(ctrl < 0 ? 5000 : 0);
        }
        assert_int_equal(ctrl_call(ctrl, CTRL_GET_CAPABILITY, NULL, 0, reply, 8), 0);
        close(ctrl);
        assert_int_equal(rig_end(gone == pid[0] ? pid[1] : pid[0]), 0);
        assert_false(file_exists("same"));
    }
    /* and nothing else is left in the directory */
    assert_int_equal(system("test \"$(ls -A)\" = \"$(printf 'i\\nj\\nk')\""), 0);
}

static void what_is_no_socket_is_never_removed(void **state)
{
    (void)state;
    rig_image("");
    file_put("file", "mine", 4);
    assert_int_equal(mkdir("dir", 0700), 0);
    assert_int_equal(symlink("file", "link"), 0);
    assert_int_equal(mkfifo("fifo", 0600), 0);
    expect_refusal(USAGE, "--ctrl type=unixio,path=file", "is not a socket");
    expect_refusal(USAGE, "--ctrl type=unixio,path=dir", "is not a socket");
    expect_refusal(USAGE, "--ctrl type=unixio,path=link", "is not a socket");
    expect_refusal(USAGE, "--ctrl type=unixio,path=fifo", "is not a socket");
    expect_refusal(USAGE, "--ctrl type=unixio,path=dir/", "needs a name");
    expect_refusal(USAGE, "--ctrl type=unixio,path=no/such", "cannot open the directory");
    expect_refusal(USAGE, "--ctrl type=unixio,path=c --pid file=dir", "--pid: dir");
    expect_refusal(USAGE, "--ctrl type=unixio,path=c --pid file=fifo", "--pid: fifo");
    assert_false(file_exists("c"));
    char text[10];
    rig_read_file("file", text, sizeof(text));
    assert_string_equal(text, "mine");
}

static void longest_path_works_and_a_longer_one_is_refused_at_once(void **state)
{
    (void)state;
    char options[300], name[120];
    rig_image("");
    memset(name, 'x', sizeof(name));
    name[107] = 0;
    snprintf(options, sizeof(options), "--server type=unixio,path=%s --flags not-need-init", name);
    pid_t pid = rig_start(options);
    rig_wait_for(name);
    int data = rig_connect(name);
    assert_true(data >= 0);
    close(data);
    assert_int_equal(rig_end(pid), 0);
    assert_false(file_exists(name));
    name[107] = 'x';
    name[108] = 0;
    snprintf(options, sizeof(options), "--ctrl type=unixio,path=%s", name);
    expect_refusal(USAGE, options, "107 bytes");
}

static void port_in_use_is_refused(void **state)
{
    (void)state;
    struct sockaddr_in a = {.sin_family = AF_INET};
    char options[200];
    socklen_t n = sizeof(a);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    rig_image("");
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    snprintf(options, sizeof(options), "--ctrl type=tcp,port=%u", ntohs(a.sin_port));
    expect_refusal(LOCKED, options, "--ctrl: cannot use port");
    close(fd);
}

static void mode_is_as_asked_and_there_from_the_first_moment(void **state)
{
    (void)state;
    struct stat st;
    rig_image("");
    pid_t pid = rig_spawn(NULL, "--server type=unixio,path=d,mode=0604 --flags not-need-init");
    while (stat("d", &st) < 0)
        ;
    assert_int_equal(st.st_mode & 07777, 0604);
    int fd = rig_connect("d"); /* and it is listened on */
    assert_true(fd >= 0);
    close(fd);
    rig_wait_for("c");
    assert_int_equal(stat("c", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0770);
    assert_int_equal(rig_end(pid), 0);
}

/* S0.8 S1.6 S3.1 S4.5 */
static void no_socket_is_ever_there_when_the_key_is_wrong(void **state)
{
    (void)state;
    rig_image("");
    file_put("k", "correct house", 13);
    pid_t pid = rig_spawn(NULL, DATA_SOCKET " --pid file=p");
    int status;
    while (waitpid(pid, &status, WNOHANG) == 0)
        assert_false(file_exists("c") || file_exists("d") || file_exists("p"));
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), KEY_WRONG);
}

/* S1.9 S3.10: clients get a socket within a second, and nothing else before the verdict. */
static void slow_key_lets_clients_wait_and_then_serves_them(void **state)
{
    (void)state;
    uint8_t r[8];
    slow_image();
    int64_t begin = rig_ms();
    pid_t pid = rig_start("--pid file=p");
    assert_true(rig_ms() - begin < 1000); /* libvirt waits no longer */
    int ctrl = rig_connect("c"), other = rig_connect("c"), pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ctrl_send_fds(ctrl, CTRL_SET_DATAFD, &pair[1], 1);
    ctrl_send(other, CTRL_GET_CAPABILITY, NULL, 0);
    struct tpm_cmd c;
    struct answer a;
    cmd2_read_clock(&c);
    rig_send(pair[0], c.b, c.n);
    rig_is_silent(ctrl, 200);
    rig_is_silent(other, 1);
    rig_is_silent(pair[0], 1);
    assert_int_equal(ctrl_reply(ctrl, r, 4), 0);
    assert_int_equal(ctrl_reply(other, r, 8), 0);
    assert_int_equal(data_receive(pair[0], &a).rc, RC2_FAILURE);
    assert_int_equal(ctrl_init(ctrl, 0), 0);
    close(other);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
    assert_false(file_exists("p"));
}

static void slow_key_that_is_wrong_answers_with_its_class_in_full_length(void **state)
{
    (void)state;
    uint8_t r[16], size[4] = {0, 0, 0x10, 0};
    slow_image();
    file_put("k", "correct house", 13);
    pid_t pid = rig_start(DATA_SOCKET " --pid file=p");
    int ctrl = rig_connect("c"), other = rig_connect("c"), third = rig_connect("c");
    int data = rig_connect("d");
    ctrl_send(ctrl, CTRL_INIT, "\0\0\0\0", 4);
    ctrl_send(other, CTRL_SET_BUFFERSIZE, size, 4);
    ctrl_send(third, CTRL_GET_CAPABILITY, NULL, 0);
    struct tpm_cmd c;
    cmd2_read_clock(&c);
    rig_send(data, c.b, c.n);
    assert_int_equal(ctrl_reply(ctrl, r, 4), KEY_WRONG_RESULT);
    assert_int_equal(ctrl_reply(other, r, 16), KEY_WRONG_RESULT);
    assert_int_equal(ctrl_reply(third, r, 8), KEY_WRONG_RESULT);
    assert_int_equal(get_be32(r + 4), 0);
    assert_true(rig_is_closed(data, REPLY_MS));
    assert_true(rig_is_closed(ctrl, REPLY_MS));
    assert_int_equal(rig_wait(pid), KEY_WRONG);
    assert_false(file_exists("c") || file_exists("d") || file_exists("p"));
    rig_log_says("KEY_WRONG: ");
}

static void slow_key_is_given_up_at_once_when_told_to_end(void **state)
{
    (void)state;
    slow_image();
    for (int how = 0; how < 3; how++) {
        pid_t pid = how == 0 ? rig_spawn(NULL, "") : rig_start("");
        if (how == 0)
            usleep(150000); /* not bound yet */
        int64_t begin = rig_ms();
        if (how < 2) {
            kill(pid, how ? SIGINT : SIGTERM);
        } else {
            int ctrl = rig_connect("c");
            assert_int_equal(ctrl_simple(ctrl, CTRL_SHUTDOWN), 0);
            close(ctrl);
        }
        assert_int_equal(rig_wait(pid), 0);
        assert_true(rig_ms() - begin < 1200);
        assert_false(rig_is_there("c"));
    }
}

static void pid_file_is_there_when_the_socket_is_and_goes_with_it(void **state)
{
    (void)state;
    char text[40], want[40];
    struct stat st;
    rig_image("");
    file_put("p", "12345678901234567890\n", 21); /* of one that did not end in order */
    pid_t pid = rig_start("--pid file=p");
    for (int i = 0; i < 200; i++) {
        rig_read_file("p", text, sizeof(text));
        snprintf(want, sizeof(want), "%d\n", (int)pid);
        if (strcmp(text, want) == 0)
            break;
        usleep(2000);
    }
    assert_string_equal(text, want);
    /* Somebody else's file is not ours to remove. */
    assert_int_equal(rename("p", "q"), 0);
    file_put("p", "other", 5);
    assert_int_equal(rig_end(pid), 0);
    assert_int_equal(stat("p", &st), 0);
    assert_int_equal(stat("q", &st), 0);
}

/* S0.13 */
static void log_and_pid_file_never_take_the_place_of_image_key_or_text(void **state)
{
    static const struct {
        const char *words, *says;
    } cases[] = {
        {"--pid file=i", "the image and --pid are the same file"},
        {"--pid file=link", "the image and --pid are the same file"},
        {"--pid file=k", "--key and --pid are the same file"},
        {"--pid file=text", "is no pid file; it was left alone"},
        {"--log file=i", "the image and --log are the same file"},
        {"--log file=link,truncate", "the image and --log are the same file"},
        {"--log file=k,truncate", "--key and --log are the same file"},
        {"--log file=new --pid file=new", "--log and --pid are the same file"},
    };
    char before[80], after[80], options[200];
    (void)state;
    rig_image("");
    file_put("text", "not a pid", 9);
    unlink("link");
    assert_int_equal(link("i", "link"), 0);
    rig_read_file("k", before, sizeof(before));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct stat a, b;
        assert_int_equal(stat("i", &a), 0);
        snprintf(options, sizeof(options), "--ctrl type=unixio,path=c %s", cases[i].words);
        expect_refusal(USAGE, options, cases[i].says);
        assert_int_equal(stat("i", &b), 0);
        assert_int_equal(a.st_size, b.st_size);
        assert_memory_equal(&a.st_mtim, &b.st_mtim, sizeof(a.st_mtim));
        rig_read_file("k", after, sizeof(after));
        assert_string_equal(before, after);
        rig_read_file("text", after, sizeof(after));
        assert_string_equal(after, "not a pid");
    }
    unlink("link");
}

static void sockets_that_others_put_in_our_place_stay(void **state)
{
    (void)state;
    rig_image("");
    pid_t pid = rig_start("");
    assert_int_equal(rename("c", "moved"), 0);
    int live = bound("c", true);
    assert_int_equal(rig_end(pid), 0);
    assert_true(rig_is_there("c"));
    close(live);
}

static void hang_up_and_broken_pipes_do_not_end_it(void **state)
{
    (void)state;
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    kill(pid, SIGHUP);
    kill(pid, SIGPIPE);
    usleep(50000);
    int data = rig_connect("d");
    data_works(data);
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

static void nothing_is_said_on_stderr_while_it_serves(void **state)
{
    (void)state;
    char text[4000];
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    int data = rig_connect("d"), ctrl = rig_connect("c");
    uint8_t garbage[64];
    memset(garbage, 0xff, sizeof(garbage));
    rig_send(ctrl, garbage, sizeof(garbage));
    rig_send(data, garbage, sizeof(garbage));
    close(data);
    close(ctrl);
    data = rig_connect("d");
    data_works(data);
    close(data);
    assert_int_equal(rig_end(pid), 0);
    rig_read_file("err", text, sizeof(text));
    assert_string_equal(text, "");
}

/* As swtpm_setup does it: both channels are inherited. */
static void inherited_sockets_are_served_and_their_end_is_the_daemons(void **state)
{
    (void)state;
    int ctrl[2], data[2];
    struct run r = {0};
    rig_image("");
    const char *path = program();
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ctrl), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, data), 0);
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        dup2(ctrl[1], 20);
        dup2(data[1], 21);
        for (int fd = 3; fd < 20; fd++)
            close(fd);
        program_exec(path, "serve i --key file=k --ctrl type=unixio,clientfd=20 --server "
                           "type=tcp,fd=21 --flags not-need-init,startup-clear");
    }
    rig_remember(pid);
    (void)r;
    close(ctrl[1]);
    close(data[1]);
    data_works(data[0]);
    assert_int_equal(ctrl_simple(ctrl[0], CTRL_STORE_VOLATILE), 0);
    close(ctrl[0]);
    data_works(data[0]);
    close(data[0]);
    assert_int_equal(rig_wait(pid), 0);
}

static void listening_descriptor_is_used_as_it_is(void **state)
{
    (void)state;
    rig_image("");
    const char *path = program();
    int listener = bound("mine", true);
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        dup2(listener, 20);
        for (int fd = 3; fd < 20; fd++)
            close(fd);
        program_exec(path, "serve i --key file=k --ctrl type=unixio,fd=20");
    }
    rig_remember(pid);
    close(listener);
    for (int i = 0; i < 3; i++) {
        int ctrl = rig_connect("mine");
        assert_int_equal(ctrl_init(ctrl, 0), 0);
        close(ctrl);
    }
    assert_int_equal(rig_end(pid), 0);
    assert_true(rig_is_there("mine"));
}

static void ctrl_terminate_ends_with_its_client(void **state)
{
    (void)state;
    rig_image("");
    pid_t pid = rig_spawn(NULL, "--flags not-need-init");
    rig_wait_for("c");
    int ctrl = rig_connect("c");
    close(ctrl);
    usleep(100000);
    assert_int_equal(kill(pid, 0), 0);
    assert_int_equal(rig_end(pid), 0);
    struct run r = {0};
    const char *path = program();
    pid = fork();
    if (pid == 0)
        program_child(&r, path, "serve i --key file=k --ctrl type=unixio,path=c,terminate", 1, 2);
    rig_remember(pid);
    rig_wait_for("c");
    ctrl = rig_connect("c");
    assert_int_equal(ctrl_init(ctrl, 0), 0);
    close(ctrl);
    assert_int_equal(rig_wait(pid), 0);
}

static void orderly_shutdown_is_made_up_for_unless_forbidden(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    rig_image("");
    /* resetCount counts both, restartCount none; what tells them apart is whether the clock is safe
     */
    for (int forbidden = 0; forbidden < 2; forbidden++) {
        pid_t pid = rig_start(forbidden ? "--server type=unixio,path=d --flags "
                                          "not-need-init,startup-clear,disable-auto-shutdown"
                                        : DATA_SOCKET);
        int data = rig_connect("d");
        data_works(data);
        close(data);
        assert_int_equal(rig_end(pid), 0);
        pid = rig_start(DATA_SOCKET);
        data = rig_connect("d");
        cmd2_read_clock(&c);
        struct tpm_rsp r = data_call(data, &c, &a);
        assert_int_equal(r.rc, 0);
        bytes_skip(&r.body, 8 + 8 + 4 + 4);
        assert_int_equal(bytes_u8(&r.body), forbidden ? 0 : 1);
        close(data);
        assert_int_equal(rig_end(pid), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(stale_socket_is_replaced),
        IN_DIR(socket_of_a_living_daemon_is_left_alone),
        IN_DIR(two_that_want_the_same_path_do_not_take_it_from_each_other),
        IN_DIR(what_is_no_socket_is_never_removed),
        IN_DIR(longest_path_works_and_a_longer_one_is_refused_at_once),
        IN_DIR(port_in_use_is_refused),
        IN_DIR(mode_is_as_asked_and_there_from_the_first_moment),
        IN_DIR(no_socket_is_ever_there_when_the_key_is_wrong),
        IN_DIR(slow_key_lets_clients_wait_and_then_serves_them),
        IN_DIR(slow_key_that_is_wrong_answers_with_its_class_in_full_length),
        IN_DIR(slow_key_is_given_up_at_once_when_told_to_end),
        IN_DIR(pid_file_is_there_when_the_socket_is_and_goes_with_it),
        IN_DIR(log_and_pid_file_never_take_the_place_of_image_key_or_text),
        IN_DIR(sockets_that_others_put_in_our_place_stay),
        IN_DIR(hang_up_and_broken_pipes_do_not_end_it),
        IN_DIR(nothing_is_said_on_stderr_while_it_serves),
        IN_DIR(inherited_sockets_are_served_and_their_end_is_the_daemons),
        IN_DIR(listening_descriptor_is_used_as_it_is),
        IN_DIR(ctrl_terminate_ends_with_its_client),
        IN_DIR(orderly_shutdown_is_made_up_for_unless_forbidden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
