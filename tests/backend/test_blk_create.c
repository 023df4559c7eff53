/* A new file: whole and under its name, or not there at all. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "backend/blk.h"

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/nvkeep-new-XXXXXX");
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

static int n_entries(void)
{
    char text[32] = "";
    FILE *p = popen("ls -A | wc -l", "r");
    assert_non_null(p);
    assert_non_null(fgets(text, sizeof(text), p));
    assert_int_equal(pclose(p), 0);
    return (int)strtol(text, NULL, 10);
}

static void refused(const char *path, uint64_t size, enum err_kind kind, const char *says)
{
    struct blk_new *n = NULL;
    struct err e;
    assert_int_equal(blk_create(path, size, &n, &e), -1);
    assert_null(n);
    assert_string_equal(err_class(e.kind)->name, err_class(kind)->name);
    if (!strstr(e.text, says))
        fail_msg("\"%s\" does not say \"%s\"", e.text, says);
}

static void publish_one(const char *name)
{
    OWNED(blk_new) n = NULL;
    struct err e;
    struct stat st;
    int before = n_entries();
    umask(027);
    assert_int_equal(blk_create(name, 100000, &n, &e), 0);
    assert_int_equal(access(name, F_OK), -1);
    assert_int_equal(blk_write(blk_new_rw(n), (struct host){99997}, "end", 3, &e), 0);
    assert_int_equal(blk_publish(&n, &e), 0);
    assert_null(n);
    assert_int_equal(stat(name, &st), 0);
    assert_int_equal(st.st_size, 100000);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(n_entries(), before + 1);
}

static void drop_one(const char *name)
{
    OWNED(blk_new) n = NULL;
    struct err e;
    int before = n_entries();
    assert_int_equal(blk_create(name, 1000, &n, &e), 0);
    assert_int_equal(blk_write(blk_new_rw(n), (struct host){0}, "x", 1, &e), 0);
    blk_new_free(MOVE(n));
    assert_int_equal(n_entries(), before);
}

static void publish_too_late(const char *name)
{
    OWNED(blk_new) n = NULL;
    struct err e;
    struct stat st;
    assert_int_equal(blk_create(name, 1000, &n, &e), 0);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "theirs", 6), 6);
    close(fd);
    int before = n_entries();
    assert_int_equal(blk_publish(&n, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    assert_non_null(strstr(e.text, "exists already"));
    assert_non_null(n);
    assert_int_equal(stat(name, &st), 0);
    assert_int_equal(st.st_size, 6);
    blk_new_free(MOVE(n));
    assert_true(n_entries() <= before);
    assert_int_equal(access(name, F_OK), 0);
}

static void a_new_file_appears_whole_under_its_name(void **state)
{
    (void)state;
    publish_one("new");
    publish_one("./new2");
}

static void a_new_file_that_is_dropped_leaves_nothing(void **state)
{
    (void)state;
    drop_one("dropped");
}

static void an_existing_file_is_never_replaced(void **state)
{
    (void)state;
    assert_int_equal(symlink("nowhere", "dangling"), 0);
    refused("dangling", 10, ERR_USAGE, "exists already");
    refused(".", 10, ERR_USAGE, "exists already");
    publish_too_late("raced");
    refused("raced", 10, ERR_USAGE, "raced: exists already and is never replaced");
}

static void a_bad_place_is_said_before_the_work(void **state)
{
    char name[300];
    (void)state;
    refused("no/such/dir", 10, ERR_USAGE, "the directory cannot be opened");
    assert_int_equal(close(open("plain", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), 0);
    refused("plain/new", 10, ERR_USAGE, "the directory cannot be opened: Not a directory");
    assert_int_equal(unlink("plain"), 0);
    refused("x/", 10, ERR_USAGE, "names no file");
    refused("", 10, ERR_USAGE, "names no file");
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    refused(name, 10, ERR_USAGE, "File name too long");
    refused("/proc/new", 10, ERR_STORAGE, "/proc/new");
}

static void a_lack_of_space_is_said_before_the_work(void **state)
{
    struct rlimit was, r;
    int before = n_entries();
    (void)state;
    refused("huge", UINT64_C(1) << 60, ERR_STORAGE, "No space left on device");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    r = was;
    r.rlim_cur = 1 << 20;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
    refused("limited", 2 << 20, ERR_STORAGE, "the limit for a file is 1048576");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    assert_int_equal(n_entries(), before);
}

static void a_new_file_is_claimed_before_and_after_it_has_a_name(void **state)
{
    OWNED(blk_new) n = NULL;
    OWNED(blk) b = NULL;
    struct err e;
    (void)state;
    assert_int_equal(blk_create("claimed", 1000, &n, &e), 0);
    assert_true(blk_is_claimed(blk_of(blk_new_rw(n))));
    assert_int_equal(blk_publish(&n, &e), 0);
    assert_int_equal(blk_open("claimed", BLK_READ_WRITE, &b, &e), 0);
    OWNED(blk_rw) w = NULL;
    assert_int_equal(blk_claim(&b, &w, &e), 0); /* publishing let it go */
}

static struct stat make_old(const char *name, const char *text)
{
    struct stat st;
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(fchmod(fd, 0640), 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(close(fd), 0);
    assert_int_equal(lstat(name, &st), 0);
    return st;
}

static void replace_one(const char *name)
{
    OWNED(blk_new) n = NULL;
    struct err e;
    struct stat was = make_old(name, "old"), st;
    int before = n_entries();
    assert_int_equal(blk_create_over(name, 1000, &was, &n, &e), 0);
    assert_int_equal(blk_new_permit(n, was.st_uid, was.st_gid, was.st_mode, &e), 0);
    assert_int_equal(lstat(name, &st), 0);
    assert_int_equal(st.st_ino, was.st_ino);
    assert_int_equal(blk_publish(&n, &e), 0);
    assert_int_equal(lstat(name, &st), 0);
    assert_int_equal(st.st_size, 1000);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(n_entries(), before);
}

/* Another file has the name meanwhile: it is somebody's. */
static void replace_too_late(const char *name)
{
    OWNED(blk_new) n = NULL;
    struct err e;
    struct stat was = make_old(name, "old"), st;
    int before = n_entries();
    assert_int_equal(blk_create_over(name, 1000, &was, &n, &e), 0);
    assert_int_equal(rename(name, "aside"), 0); /* so that its number is not given again */
    struct stat theirs = make_old(name, "theirs");
    assert_int_equal(blk_publish(&n, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_FOREIGN);
    blk_new_free(MOVE(n));
    assert_int_equal(lstat(name, &st), 0);
    assert_int_equal(st.st_ino, theirs.st_ino);
    assert_int_equal(st.st_size, 6);
    assert_int_equal(unlink("aside"), 0);
    assert_int_equal(n_entries(), before);
}

static void replace_filled(const char *name)
{
    OWNED(blk_new) n = NULL;
    struct err e;
    struct stat was = make_old(name, ""), st;
    int before = n_entries();
    assert_int_equal(blk_create_over(name, 1000, &was, &n, &e), 0);
    assert_int_equal(truncate(name, 5), 0);
    assert_int_equal(blk_publish(&n, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_FOREIGN);
    blk_new_free(MOVE(n));
    assert_int_equal(lstat(name, &st), 0);
    assert_int_equal(st.st_ino, was.st_ino);
    assert_int_equal(st.st_size, 5);
    assert_int_equal(n_entries(), before);
}

static void a_new_file_takes_the_place_of_the_one_that_was_named(void **state)
{
    (void)state;
    replace_one("over");
    replace_too_late("over2");
    replace_filled("over3");
}

/* [S1.17] */
static void an_owner_that_cannot_be_given_is_said_before_there_is_a_file(void **state)
{
    int status;
    (void)state;
    if (geteuid() != 0) {
        print_message("as root only\n");
        skip();
    }
    pid_t pid = fork();
    if (pid == 0) {
        OWNED(blk_new) n = NULL;
        struct err e;
        assert_int_equal(mkdir("others", 0777), 0);
        assert_int_equal(chmod("others", 0777), 0);
        assert_int_equal(chdir("others"), 0);
        struct stat was = make_old("roots", "");
        assert_int_equal(setuid(65534), 0);
        assert_int_equal(blk_create_over("roots", 1000, &was, &n, &e), 0);
        assert_int_equal(blk_new_permit(n, was.st_uid, was.st_gid, was.st_mode, &e), -1);
        assert_int_equal(e.kind, ERR_STORAGE);
        blk_new_free(MOVE(n));
        assert_int_equal(n_entries(), 1);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(unlink("others/roots"), 0);
    assert_int_equal(rmdir("others"), 0);
}

/* Where the file system has no nameless files, as told by the kernel: here a filter says so. */
static bool pretend_no_nameless_files(void)
{
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_TMPFILE & ~O_DIRECTORY, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {ARRAY_LEN(f), f};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

/* And where, besides, nothing can be renamed without replacing. */
static bool pretend_no_renameat2(void)
{
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {ARRAY_LEN(f), f};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

static void without_nameless_files_a_hidden_name_does(void **state)
{
    int status;
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        OWNED(blk_new) n = NULL;
        struct err e;
        if (!pretend_no_nameless_files())
            _exit(77);
        assert_int_equal(blk_create("hidden", 10, &n, &e), 0);
        assert_int_equal(system("ls -A | grep -q '^\\.nvkeep-............$'"), 0);
        blk_new_free(MOVE(n));
        drop_one("hidden");
        publish_one("hidden");
        publish_too_late("hidden2");
        replace_one("hidden5");
        replace_too_late("hidden6");
        if (!pretend_no_renameat2())
            _exit(77);
        publish_one("hidden3");
        publish_too_late("hidden4");
        replace_one("hidden7");
        replace_too_late("hidden8");
        replace_filled("hidden9");
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("no seccomp filters here\n");
        skip();
    }
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_file_appears_whole_under_its_name),
        cmocka_unit_test(a_new_file_that_is_dropped_leaves_nothing),
        cmocka_unit_test(an_existing_file_is_never_replaced),
        cmocka_unit_test(a_bad_place_is_said_before_the_work),
        cmocka_unit_test(a_lack_of_space_is_said_before_the_work),
        cmocka_unit_test(a_new_file_is_claimed_before_and_after_it_has_a_name),
        cmocka_unit_test(a_new_file_takes_the_place_of_the_one_that_was_named),
        cmocka_unit_test(an_owner_that_cannot_be_given_is_said_before_there_is_a_file),
        cmocka_unit_test(without_nameless_files_a_hidden_name_does),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
