/* Opening, claiming, reading and writing a file. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "backend/blk.h"
#include "mem_disk.h"
#include "src/base/fd.h"

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/nvkeep-blk-XXXXXX");
    return mkdtemp(dir) && chdir(dir) == 0 ? 0 : -1;
}

static int remove_dir(void **state)
{
    char command[100];
    (void)state;
    if (chdir("/") < 0)
        return -1;
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}

static void put_file(const char *name, const char *text)
{
    OWNED_FD fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_full(fd, text, strlen(text)), 0);
}

static void refused(const char *path, enum blk_mode mode, enum err_kind kind, const char *says)
{
    struct blk *b = NULL;
    struct err e;
    assert_int_equal(blk_open(path, mode, &b, &e), -1);
    assert_null(b);
    assert_string_equal(err_class(e.kind)->name, err_class(kind)->name);
    if (!strstr(e.text, says))
        fail_msg("\"%s\" does not say \"%s\"", e.text, says);
}

static void a_missing_file_is_usage_and_says_how_to_make_one(void **state)
{
    (void)state;
    refused("no-such", BLK_READ_ONLY, ERR_USAGE, "no-such: no such file; `nvkeep create`");
    refused("no-such/x", BLK_READ_WRITE, ERR_USAGE, "no such file");
    put_file("plain", "x");
    refused("plain/x", BLK_READ_ONLY, ERR_USAGE, "no such file");
    refused("", BLK_READ_ONLY, ERR_USAGE, "no such file");
}

static void what_is_neither_file_nor_block_device_is_refused_by_name(void **state)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = "sock"};
    (void)state;
    assert_int_equal(mkdir("d", 0700), 0);
    assert_int_equal(mkfifo("fifo", 0600), 0);
    OWNED_FD s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
    for (enum blk_mode m = BLK_READ_ONLY; m <= BLK_READ_WRITE; m++) {
        refused("d", m, ERR_USAGE, "is a directory");
        refused("fifo", m, ERR_USAGE, "is a FIFO");
        refused("sock", m, ERR_USAGE, "is a socket");
        refused("/dev/null", m, ERR_USAGE, "is a character device");
    }
    assert_int_equal(symlink("fifo", "to-fifo"), 0);
    refused("to-fifo", BLK_READ_ONLY, ERR_USAGE, "is a FIFO");
    assert_int_equal(symlink("loop", "loop"), 0);
    refused("loop", BLK_READ_ONLY, ERR_USAGE, "levels of symbolic links");
}

static void a_file_without_permission_is_a_storage_error_that_names_the_user(void **state)
{
    (void)state;
    put_file("secret", "x");
    assert_int_equal(chmod("secret", 0), 0);
    assert_int_equal(chmod(dir, 0755), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct blk *b;
        struct err e;
        bool asked = geteuid() != 0 || seteuid(65534) == 0;
        bool ok = asked && blk_open("secret", BLK_READ_WRITE, &b, &e) < 0 &&
                  e.kind == ERR_STORAGE && e.os == EACCES &&
                  strstr(e.text, "reading and writing by user");
        _exit(ok ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void a_symlink_to_a_file_is_followed(void **state)
{
    OWNED(blk) b = NULL;
    struct err e;
    struct stat st;
    uint64_t dev, ino;
    (void)state;
    put_file("real", "0123456789");
    assert_int_equal(symlink("real", "link"), 0);
    assert_int_equal(blk_open("link", BLK_READ_ONLY, &b, &e), 0);
    assert_int_equal(stat("real", &st), 0);
    blk_identity(b, &dev, &ino); /* S4.9: what was opened, not what was named */
    assert_int_equal(dev, st.st_dev);
    assert_int_equal(ino, st.st_ino);
    assert_int_equal(blk_size(b), 10);
}

/* S4.9 */
static void reading_goes_on_in_the_same_file_when_the_name_is_given_to_another(void **state)
{
    OWNED(blk) b = NULL;
    struct err e;
    char c[4] = "";
    (void)state;
    put_file("pinned", "old");
    assert_int_equal(blk_open("pinned", BLK_READ_ONLY, &b, &e), 0);
    put_file("other", "new");
    assert_int_equal(rename("other", "pinned"), 0);
    assert_int_equal(blk_read(b, (struct host){0}, c, 3, &e), 0);
    assert_string_equal(c, "old");
}

static void a_name_is_escaped_and_bounded_in_messages(void **state)
{
    char path[2000];
    struct blk *b;
    struct err e;
    (void)state;
    refused("a\033[31m\nb", BLK_READ_ONLY, ERR_USAGE, "a\\x1b[31m\\x0ab: no such file");
    memset(path, 'x', sizeof(path) - 1);
    for (size_t i = 100; i < sizeof(path) - 1; i += 100)
        path[i] = '/';
    memcpy(path + sizeof(path) - 6, "/tail", 6);
    assert_int_equal(blk_open(path, BLK_READ_ONLY, &b, &e), -1);
    assert_non_null(strstr(e.text, "/tail: no such file"));
    assert_true(strlen(e.text) < 300);
}

static void reading_beyond_the_end_is_corruption_and_reads_nothing(void **state)
{
    OWNED(blk) b = NULL;
    struct err e;
    char c[8] = "-------";
    (void)state;
    put_file("short", "abc");
    assert_int_equal(blk_open("short", BLK_READ_ONLY, &b, &e), 0);
    assert_int_equal(blk_read(b, (struct host){1}, c, 3, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_CORRUPT);
    assert_non_null(strstr(e.text, "short: is cut off"));
    assert_int_equal(blk_read(b, (struct host){UINT64_MAX}, c, 2, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_CORRUPT);
    assert_string_equal(c, "-------");
    assert_int_equal(blk_read(b, (struct host){3}, c, 0, &e), 0);
}

/* ---- the claim ---- */

static void open_rw(const char *name, struct blk **ret)
{
    struct err e;
    assert_int_equal(blk_open(name, BLK_READ_WRITE, ret, &e), 0);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* S3.25 */
static void a_second_claim_is_refused_within_a_second_and_the_blk_stays(void **state)
{
    OWNED(blk) a = NULL;
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    struct blk_rw *second = NULL;
    struct err e;
    (void)state;
    put_file("f", "abc");
    open_rw("f", &a);
    open_rw("f", &b);
    assert_false(blk_is_claimed(a));
    assert_int_equal(blk_claim(&a, &w, &e), 0);
    assert_null(a);
    assert_true(blk_is_claimed(blk_of(w)));

    int64_t from = now_ms();
    assert_int_equal(blk_claim(&b, &second, &e), -1);
    assert_true(now_ms() - from < 1000);
    assert_int_equal(e.kind, ERR_LOCKED);
    assert_non_null(strstr(e.text, "f: another process is using the image"));
    assert_null(second);
    assert_non_null(b);

    blk_rw_free(MOVE(w));
    assert_int_equal(blk_claim(&b, &w, &e), 0);
}

static void a_refused_claim_leaves_no_lock_behind(void **state)
{
    OWNED(blk) a = NULL;
    OWNED(blk) b = NULL;
    OWNED(blk) c = NULL;
    OWNED(blk_rw) w = NULL;
    OWNED(blk_rw) again = NULL;
    struct err e;
    (void)state;
    put_file("f", "abc");
    open_rw("f", &a);
    open_rw("f", &b);
    open_rw("f", &c);
    assert_int_equal(blk_claim(&a, &w, &e), 0);
    assert_int_equal(blk_claim(&b, &again, &e), -1);
    blk_rw_free(MOVE(w));
    assert_int_equal(blk_claim(&c, &again, &e), 0); /* b is still open */
}

/* S3.25: the kernel lets go for a process that was killed. */
static void a_killed_owner_holds_nothing(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    struct err e;
    int p[2], status;
    char c;
    (void)state;
    put_file("f", "abc");
    assert_int_equal(pipe(p), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct blk *mine;
        struct blk_rw *held;
        if (blk_open("f", BLK_READ_WRITE, &mine, &e) < 0 || blk_claim(&mine, &held, &e) < 0 ||
            write(p[1], "x", 1) != 1)
            _exit(1);
        pause();
    }
    assert_int_equal(read(p[0], &c, 1), 1);
    open_rw("f", &b);
    assert_int_equal(blk_claim(&b, &w, &e), -1);
    assert_int_equal(e.kind, ERR_LOCKED);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(blk_claim(&b, &w, &e), 0);
    close(p[0]);
    close(p[1]);
}

static bool write_lock_fits(int fd, off_t at)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    assert_int_equal(fcntl(fd, F_OFD_GETLK, &l), 0);
    return l.l_type == F_UNLCK;
}

static void the_claim_is_the_bytes_that_qemu_looks_at(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    struct err e;
    (void)state;
    put_file("f", "abc");
    OWNED_FD other = open("f", O_RDWR | O_CLOEXEC);
    open_rw("f", &b);
    assert_int_equal(blk_claim(&b, &w, &e), 0);
    for (off_t at = 0; at < 300; at++) {
        bool held = at == 100 || at == 101 || at == 103 || (at >= 200 && at <= 203);
        if (write_lock_fits(other, at) == held)
            fail_msg("byte %d", (int)at);
    }
    blk_rw_free(MOVE(w));
    for (off_t at = 0; at < 300; at++)
        assert_true(write_lock_fits(other, at));
}

/* Each of the bytes that others may hold against us. */
static void whoever_uses_or_denies_what_we_need_keeps_us_out(void **state)
{
    static const off_t against[] = {100, 101, 102, 103, 200, 201, 203};
    (void)state;
    put_file("f", "abc");
    for (size_t i = 0; i < ARRAY_LEN(against); i++)
        for (short type = F_RDLCK; type <= F_WRLCK; type++) {
            OWNED(blk) b = NULL;
            OWNED(blk_rw) w = NULL;
            OWNED_FD other = open("f", O_RDWR | O_CLOEXEC);
            struct flock l = {
                .l_type = type, .l_whence = SEEK_SET, .l_start = against[i], .l_len = 1};
            struct err e;
            if (type == F_WRLCK && i > 0) /* one of them is enough, each takes most of a second */
                continue;
            assert_int_equal(fcntl(other, F_OFD_SETLK, &l), 0);
            open_rw("f", &b);
            assert_int_equal(blk_claim(&b, &w, &e), -1);
            assert_int_equal(e.kind, ERR_LOCKED);
        }
    {
        OWNED(blk) b = NULL;
        OWNED(blk_rw) w = NULL;
        OWNED_FD other = open("f", O_RDWR | O_CLOEXEC);
        struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 202, .l_len = 1};
        struct err e;
        assert_int_equal(fcntl(other, F_OFD_SETLK, &l), 0);
        open_rw("f", &b); /* "nobody may write unchanged": we do not */
        assert_int_equal(blk_claim(&b, &w, &e), 0);
    }
}

static void a_claim_that_is_let_go_meanwhile_is_waited_for(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    struct err e;
    int p[2], status;
    char c;
    (void)state;
    put_file("f", "abc");
    assert_int_equal(pipe(p), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct blk *mine;
        struct blk_rw *held;
        struct timespec t = {0, 200000000};
        if (blk_open("f", BLK_READ_WRITE, &mine, &e) < 0 || blk_claim(&mine, &held, &e) < 0 ||
            write(p[1], "x", 1) != 1)
            _exit(1);
        nanosleep(&t, NULL);
        _exit(0);
    }
    assert_int_equal(read(p[0], &c, 1), 1);
    open_rw("f", &b);
    assert_int_equal(blk_claim(&b, &w, &e), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(p[0]);
    close(p[1]);
}

/* Both back off, with different pauses; one of them must win within its patience. */
static void of_two_who_claim_at_once_one_wins(void **state)
{
    (void)state;
    put_file("f", "abc");
    for (int round = 0; round < 5; round++) {
        int p[2], q[2], won = 0;
        assert_int_equal(pipe(p), 0);
        assert_int_equal(pipe(q), 0);
        pid_t pid[2];
        for (int i = 0; i < 2; i++) {
            pid[i] = fork();
            if (pid[i] == 0) {
                struct blk *b;
                struct blk_rw *w;
                struct err e;
                char c;
                close(p[1]);
                close(q[1]);
                if (blk_open("f", BLK_READ_WRITE, &b, &e) < 0 || read(p[0], &c, 1) != 0)
                    _exit(2);
                int r = blk_claim(&b, &w, &e);
                if (r == 0 && read(q[0], &c, 1) != 0) /* holds it until both have tried */
                    _exit(2);
                _exit(r == 0 ? 0 : e.kind == ERR_LOCKED ? 1 : 2);
            }
        }
        close(p[0]);
        close(q[0]);
        close(p[1]); /* go */
        /* The loser ends by itself; only then may the winner let go. */
        int status;
        pid_t first = wait(&status);
        assert_true(first > 0 && WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 1);
        close(q[1]);
        assert_true(wait(&status) > 0 && WIFEXITED(status));
        won = WEXITSTATUS(status) == 0;
        assert_true(won);
    }
}

static void what_was_opened_for_reading_is_never_claimed(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    struct err e;
    (void)state;
    put_file("f", "abc");
    assert_int_equal(blk_open("f", BLK_READ_ONLY, &b, &e), 0);
    assert_int_equal(blk_claim(&b, &w, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    assert_non_null(b);
}

static void the_size_is_asked_again_under_the_claim(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    struct err e;
    (void)state;
    put_file("f", "abc");
    open_rw("f", &b);
    put_file("f", "abcdef");
    assert_int_equal(blk_size(b), 3);
    assert_int_equal(blk_claim(&b, &w, &e), 0);
    assert_int_equal(blk_size(blk_of(w)), 6);
}

static void a_file_that_was_replaced_is_not_claimed(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    struct err e;
    (void)state;
    put_file("f", "abc");
    open_rw("f", &b);
    put_file("g", "def");
    assert_int_equal(rename("g", "f"), 0);
    assert_int_equal(blk_claim(&b, &w, &e), -1);
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_non_null(strstr(e.text, "deleted or replaced"));
    assert_non_null(b);
}

static void what_is_written_is_read_and_stays_inside_the_file(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    struct err e;
    struct stat st;
    char c[4] = "";
    (void)state;
    put_file("f", "abcdef");
    open_rw("f", &b);
    assert_int_equal(blk_claim(&b, &w, &e), 0);
    assert_int_equal(blk_write(w, (struct host){3}, "XYZ", 3, &e), 0);
    assert_int_equal(blk_flush(w, &e), 0);
    assert_int_equal(blk_read(blk_of(w), (struct host){2}, c, 3, &e), 0);
    assert_string_equal(c, "cXY");
    assert_int_equal(blk_write(w, (struct host){4}, "abc", 3, &e), -1);
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_int_equal(blk_write(w, (struct host){UINT64_MAX - 1}, "abc", 3, &e), -1);
    assert_int_equal(stat("f", &st), 0);
    assert_int_equal(st.st_size, 6);
}

static void errors_of_storage_carry_the_name_and_the_errno(void **state)
{
    OWNED(mem_disk) d = mem_disk_new(4096);
    OWNED(blk_rw) w = NULL;
    struct err e;
    char c[8];
    (void)state;
    assert_int_equal(mem_disk_claimed(d, &w, &e), 0);
    mem_disk_fail(d, 0, MEM_FAIL_AFTER, EIO, 2);
    assert_int_equal(blk_read(blk_of(w), (struct host){0}, c, 8, &e), -1);
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_int_equal(e.os, EIO);
    assert_non_null(strstr(e.text, "memory: reading"));
    assert_int_equal(blk_write(w, (struct host){0}, "abcd", 4, &e), -1);
    assert_int_equal(e.os, EIO);
    assert_memory_equal(mem_disk_bytes(d), "ab\0\0", 4);
    mem_disk_fail(d, 0, MEM_FAIL_ONCE, ENOSPC, 0);
    assert_int_equal(blk_flush(w, &e), -1);
    assert_int_equal(e.os, ENOSPC);
    assert_int_equal(blk_flush(w, &e), 0);
    blk_rw_free(MOVE(w));
    mem_disk_fail(d, 0, MEM_FAIL_ONCE, EIO, 0);
    assert_int_equal(mem_disk_claimed(d, &w, &e), -1);
    assert_false(mem_disk_is_claimed(d));
}

static void the_log_of_a_memory_disk_replays_what_was_done(void **state)
{
    OWNED(mem_disk) d = mem_disk_new(2048);
    OWNED(blk_rw) w = NULL;
    uint8_t bytes[2048] = {0};
    struct err e;
    size_t n;
    (void)state;
    assert_int_equal(mem_disk_claimed(d, &w, &e), 0);
    assert_int_equal(blk_write(w, (struct host){10}, "one", 3, &e), 0);
    assert_int_equal(blk_flush(w, &e), 0);
    assert_int_equal(blk_write(w, (struct host){1000}, "two", 3, &e), 0);
    const struct mem_op *log = mem_disk_log(d, &n);
    assert_int_equal(n, 3);
    assert_int_equal(log[1].what, MEM_FLUSH);
    mem_replay(log, 0, 2, bytes, sizeof(bytes));
    assert_memory_equal(bytes + 10, "one", 3);
    assert_int_equal(bytes[1000], 0);
    mem_replay(log, 2, 3, bytes, sizeof(bytes));
    assert_memory_equal(bytes, mem_disk_bytes(d), sizeof(bytes));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_file_is_usage_and_says_how_to_make_one),
        cmocka_unit_test(what_is_neither_file_nor_block_device_is_refused_by_name),
        cmocka_unit_test(a_file_without_permission_is_a_storage_error_that_names_the_user),
        cmocka_unit_test(a_symlink_to_a_file_is_followed),
        cmocka_unit_test(reading_goes_on_in_the_same_file_when_the_name_is_given_to_another),
        cmocka_unit_test(a_name_is_escaped_and_bounded_in_messages),
        cmocka_unit_test(reading_beyond_the_end_is_corruption_and_reads_nothing),
        cmocka_unit_test(a_second_claim_is_refused_within_a_second_and_the_blk_stays),
        cmocka_unit_test(a_refused_claim_leaves_no_lock_behind),
        cmocka_unit_test(a_killed_owner_holds_nothing),
        cmocka_unit_test(the_claim_is_the_bytes_that_qemu_looks_at),
        cmocka_unit_test(whoever_uses_or_denies_what_we_need_keeps_us_out),
        cmocka_unit_test(a_claim_that_is_let_go_meanwhile_is_waited_for),
        cmocka_unit_test(of_two_who_claim_at_once_one_wins),
        cmocka_unit_test(what_was_opened_for_reading_is_never_claimed),
        cmocka_unit_test(the_size_is_asked_again_under_the_claim),
        cmocka_unit_test(a_file_that_was_replaced_is_not_claimed),
        cmocka_unit_test(what_is_written_is_read_and_stays_inside_the_file),
        cmocka_unit_test(errors_of_storage_carry_the_name_and_the_errno),
        cmocka_unit_test(the_log_of_a_memory_disk_replays_what_was_done),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
