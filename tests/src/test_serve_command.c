#include "program.h"

#include <sys/socket.h>
#include <sys/un.h>

static void make_image(unsigned ms)
{
    struct run r = {0};
    char words[200];
    file_put("right", "correct horse", 13);
    file_put("wrong", "correct house", 13);
    snprintf(words, sizeof(words), "create i --key file=right --iter-time %u", ms);
    program_expect(&r, 0, words);
}

static pid_t pid_of(const char *file)
{
    int pid = 0;
    FILE *f = fopen(file, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &pid), 1);
    fclose(f);
    assert_true(pid > 1);
    return pid;
}

static bool lives(pid_t pid)
{
    return kill(pid, 0) == 0;
}

static void wait_until_gone(pid_t pid)
{
    for (int i = 0; i < 500 && lives(pid); i++)
        usleep(10000);
    if (lives(pid)) {
        kill(pid, SIGKILL);
        fail_msg("the daemon does not end");
    }
}

static void end(pid_t pid)
{
    kill(pid, SIGTERM);
    wait_until_gone(pid);
}

static bool connects(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    OWNED_FD fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    return connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

static void daemon_is_there_when_its_caller_returns(void **state)
{
    (void)state;
    struct run r = {0};
    make_image(1);
    program_expect(&r, 0,
                   "serve i --key file=right --ctrl type=unixio,path=s,mode=0600 --daemon "
                   "--pid file=p --log file=l --json");
    pid_t pid = pid_of("p");
    char want[40];
    snprintf(want, sizeof(want), "\"pid\": %d", (int)pid);
    assert_non_null(strstr(r.out, want));
    assert_true(lives(pid));
    assert_true(connects("s"));
    struct stat st;
    assert_int_equal(stat("l", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(stat("s", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    end(pid);
    assert_false(file_exists("s"));
    assert_false(file_exists("p"));
}

static void daemon_has_a_session_of_its_own_and_holds_no_directory(void **state)
{
    (void)state;
    struct run r = {0};
    char link[60], target[300];
    make_image(1);
    program_expect(&r, 0,
                   "serve i --key file=right --ctrl type=unixio,path=s --daemon --pid file=p");
    pid_t pid = pid_of("p");
    assert_int_equal(getsid(pid), pid);
    snprintf(link, sizeof(link), "/proc/%d/cwd", (int)pid);
    ssize_t n = readlink(link, target, sizeof(target) - 1);
    end(pid);
    if (n < 0) {
        print_message("missing: the right to look at /proc/PID/cwd\n");
        skip();
    }
    target[n] = 0;
    assert_string_equal(target, "/");
}

/* S0.2 S0.8 S3.1 S3.3 */
static void failed_start_is_told_by_the_caller_and_leaves_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        int code;
        const char *text;
    } cases[] = {
        {"serve i --key file=wrong --ctrl type=unixio,path=s --pid file=p --daemon", 11,
         "nvkeep: KEY_WRONG: "},
        {"serve i --ctrl type=unixio,path=s --pid file=p --daemon", 10, "nvkeep: KEY_MISSING: "},
        {"serve absent --key file=right --ctrl type=unixio,path=s --pid file=p --daemon", 2,
         "nvkeep: USAGE: "},
        {"serve i --key file=absent --ctrl type=unixio,path=s --pid file=p --daemon", 2,
         "nvkeep: USAGE: cannot open the key file"},
        {"serve i --key file=right --ctrl type=unixio,path=no/such/s --pid file=p --daemon", 2,
         "nvkeep: USAGE: "},
        {"serve i --key prompt --ctrl type=unixio,path=s --pid file=p --daemon", 2,
         "nvkeep: USAGE: there is no terminal"},
        {"serve i --key file=right --ctrl type=unixio,path=s --log file=no/such/l --daemon", 2,
         "nvkeep: USAGE: --log: cannot open"},
        {"serve i --key file=right --ctrl type=unixio,path=s --log fd=2 --daemon", 2,
         "nvkeep: USAGE: --log and --pid cannot use descriptors 0 to 2"},
    };
    struct run r = {0};
    make_image(1);
    uint64_t before = file_digest("i");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        program_expect(&r, cases[i].code, cases[i].words);
        if (strncmp(r.err, cases[i].text, strlen(cases[i].text)) != 0)
            fail_msg("%s: %s", cases[i].words, r.err);
        assert_ptr_equal(strchr(r.err, '\n'), r.err + strlen(r.err) - 1);
        assert_false(file_exists("s"));
        assert_false(file_exists("p"));
    }
    assert_true(file_digest("i") == before);
}

/* S3.8: a slow passphrase does not make the caller believe in a daemon that will not be. */
static void caller_waits_for_the_verdict_of_a_slow_passphrase(void **state)
{
    (void)state;
    struct run r = {0};
    make_image(1200);
    program_expect(&r, 11,
                   "serve i --key file=wrong --ctrl type=unixio,path=s --pid file=p --daemon");
    assert_non_null(strstr(r.err, "nvkeep: KEY_WRONG: "));
    assert_false(file_exists("s"));
    program_expect(&r, 0,
                   "serve i --key file=right --ctrl type=unixio,path=s --pid file=p --daemon");
    end(pid_of("p"));
}

static void interrupted_caller_takes_the_daemon_with_it(void **state)
{
    (void)state;
    int status = 0;
    make_image(3000);
    pid_t pid =
        program_start("serve i --key file=right --ctrl type=unixio,path=s --pid file=p --daemon");
    for (int i = 0; i < 300 && !file_exists("s"); i++)
        usleep(10000);
    assert_true(file_exists("s"));
    pid_t daemon = file_exists("p") ? pid_of("p") : 0;
    kill(pid, SIGINT);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    if (daemon)
        wait_until_gone(daemon);
    assert_false(file_exists("s"));
    struct run r = {0};
    program_expect(&r, 0, "verify-key i --key file=right");
}

static void socket_path_is_measured_after_it_became_absolute(void **state)
{
    (void)state;
    struct run r = {0};
    char words[400], name[100];
    make_image(1);
    memset(name, 'x', 95);
    name[95] = 0;
    snprintf(words, sizeof(words), "serve i --key file=right --ctrl type=unixio,path=%s --daemon",
             name);
    program_expect(&r, 2, words);
    assert_non_null(strstr(r.err, "nvkeep: USAGE: --ctrl: with --daemon"));
}

/* S0.18 S1.23 S3.9 S3.25 */
static void second_daemon_is_refused_as_locked(void **state)
{
    (void)state;
    struct run r = {0};
    make_image(1);
    program_expect(&r, 0,
                   "serve i --key file=right --ctrl type=unixio,path=s --pid file=p --daemon");
    pid_t pid = pid_of("p");
    program_run(&r, "serve i --key file=right --ctrl type=unixio,path=s2");
    int foreground = r.code;
    program_run(&r, "serve i --key file=right --ctrl type=unixio,path=s2 --daemon");
    int background = r.code;
    program_run(&r, "verify-key i --key file=right");
    int verified = r.code;
    program_run(&r, "check i --key file=right");
    int checked = r.code;
    bool alive = lives(pid);
    end(pid);
    assert_int_equal(foreground, 31);
    assert_int_equal(background, 31);
    assert_int_equal(verified, 0);
    assert_int_equal(checked, 0);
    assert_true(alive);
    assert_false(file_exists("s2"));
}

static void log_is_appended_to_or_emptied_first(void **state)
{
    (void)state;
    struct run r = {0};
    struct stat st;
    make_image(1);
    file_put("l", "an older line\n", 14);
    program_expect(&r, 11,
                   "serve i --key file=wrong --ctrl type=unixio,path=s --log file=l,prefix=[vm]");
    char text[2000] = "";
    int fd = open("l", O_RDONLY);
    assert_true(read(fd, text, sizeof(text) - 1) >= 14);
    close(fd);
    assert_memory_equal(text, "an older line\n", 14);
    program_expect(&r, 0,
                   "serve i --key file=right --ctrl type=unixio,path=s --pid file=p --daemon "
                   "--log file=l,truncate,level=0");
    end(pid_of("p"));
    assert_int_equal(stat("l", &st), 0);
    assert_int_equal(st.st_size, 0);
}

/* A pipe without a reader, a full disk: a log never holds anything up. */
static void log_that_nobody_reads_does_not_stall_the_start(void **state)
{
    (void)state;
    struct run r = {0};
    make_image(1);
    assert_int_equal(mkfifo("f", 0600), 0);
    program_expect(&r, 2, "serve i --key file=right --ctrl type=unixio,path=s --log file=f");
    assert_non_null(strstr(r.err, "nvkeep: USAGE: --log: cannot open f: No such device"));
    program_expect(&r, 0,
                   "serve i --key file=right --ctrl type=unixio,path=s --pid file=p --daemon "
                   "--log file=/dev/full,level=5");
    end(pid_of("p"));
}

#define IN_DIR(f) cmocka_unit_test_setup_teardown(f, program_enter, program_leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(daemon_is_there_when_its_caller_returns),
        IN_DIR(daemon_has_a_session_of_its_own_and_holds_no_directory),
        IN_DIR(failed_start_is_told_by_the_caller_and_leaves_nothing),
        IN_DIR(caller_waits_for_the_verdict_of_a_slow_passphrase),
        IN_DIR(interrupted_caller_takes_the_daemon_with_it),
        IN_DIR(socket_path_is_measured_after_it_became_absolute),
        IN_DIR(second_daemon_is_refused_as_locked),
        IN_DIR(log_is_appended_to_or_emptied_first),
        IN_DIR(log_that_nobody_reads_does_not_stall_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
