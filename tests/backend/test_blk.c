/* Opening, claiming, reading and writing a file. */
#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "mem_disk.h"
#include "tests/backend/blk_helpers.h"

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
    char name[300];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    refused(name, BLK_READ_ONLY, ERR_USAGE, "File name too long");
    /* What the system refuses for a reason of its own; a program that runs is not written. */
    refused("/proc/self/exe", BLK_READ_WRITE, ERR_STORAGE, "opening: Text file busy");
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

static void a_file_that_becomes_shorter_is_an_error_and_no_zeroes(void **state)
{
    OWNED(blk) b = NULL;
    struct err e;
    char c[8] = "-------";
    (void)state;
    put_file("shrinks", "abcdef");
    assert_int_equal(blk_open("shrinks", BLK_READ_ONLY, &b, &e), 0);
    assert_int_equal(truncate("shrinks", 4), 0);
    assert_int_equal(blk_read(b, (struct host){2}, c, 4, &e), -1);
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_non_null(strstr(e.text, "became shorter while it was read: 4 bytes at offset 2 gave 2"));
    assert_int_equal(blk_read(b, (struct host){2}, c, 2, &e), 0);
    assert_memory_equal(c, "cd", 2);
}

/* Without direct access (tmpfs has none, and says so) everything goes on through the page cache. */
static void where_there_is_no_direct_access_it_is_done_without(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    struct err e;
    uint8_t sector[512], got[512];
    char name[] = "/dev/shm/nvkeep-blk-XXXXXX";
    (void)state;
    OWNED_FD fd = mkostemp(name, O_CLOEXEC);
    if (fd < 0)
        skip(); /* no /dev/shm here */
    assert_int_equal(ftruncate(fd, 4096), 0);
    open_rw(name, &b);
    assert_int_equal(blk_claim(&b, &w, &e), 0);
    blk_write_direct(w);
    memset(sector, 0x5a, sizeof(sector));
    assert_int_equal(blk_write(w, (struct host){512}, sector, sizeof(sector), &e), 0);
    assert_int_equal(blk_flush(w, &e), 0);
    assert_int_equal(blk_read_again(w, (struct host){512}, got, sizeof(got), &e), 0);
    assert_memory_equal(got, sector, sizeof(got));
    unlink(name);
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
        cmocka_unit_test(a_file_that_becomes_shorter_is_an_error_and_no_zeroes),
        cmocka_unit_test(where_there_is_no_direct_access_it_is_done_without),
        cmocka_unit_test(what_is_written_is_read_and_stays_inside_the_file),
        cmocka_unit_test(errors_of_storage_carry_the_name_and_the_errno),
        cmocka_unit_test(the_log_of_a_memory_disk_replays_what_was_done),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
