#include "handover_rig.h"

/* What is found out before the guest is stopped: at the start, while storage is copied, and by
 * those who prepare a hand-over. */

static struct parcel parcel;

/* --- at the start --- */

/* S3.1, S3.3, S3.5, S3.8: no socket was ever there. */
static void what_can_be_known_is_refused_before_an_emulator_can_connect(void **state)
{
    (void)state;
    static const struct {
        const char *what, *class;
        int code;
    } cases[] = {
        {"wrong key", "KEY_WRONG", 11},   {"empty", "STATE_EMPTY", 20},
        {"missing", "USAGE", 2},          {"truncated", "STATE_CORRUPT", 21},
        {"flipped", "STATE_CORRUPT", 21},
    };
    struct host a = running("");
    assert_int_equal(host_write(&a, "is well."), 0);
    char err[4096];
    size_t n;
    uint8_t *image = file_bytes("i", &n);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char name[] = {'b', (char)('0' + i), 0};
        unlink("j");
        if (strcmp(cases[i].what, "missing") != 0)
            file_put("j", image, n);
        if (strcmp(cases[i].what, "empty") == 0)
            assert_int_equal(truncate("j", 0), 0);
        if (strcmp(cases[i].what, "truncated") == 0)
            assert_int_equal(truncate("j", (off_t)n / 2), 0);
        if (strcmp(cases[i].what, "flipped") == 0) {
            for (size_t at = n / 2; at < n; at += 256)
                image[at] ^= 1;
            file_put("j", image, n);
        }
        if (i == 0)
            file_put("k", "not the key", 11);
        pid_t pid = host_spawn(name, "j", INCOMING);
        int code = rig_wait(pid);
        if (i == 0)
            file_put("k", "correct horse", 13);
        snprintf(err, sizeof(err), "b%zu.err", i);
        rig_read_file(err, err, sizeof(err));
        if (code != cases[i].code || !strstr(err, cases[i].class))
            fail_msg("%s: exit code %d: %s", cases[i].what, code, err);
        assert_false(rig_is_there(name));
    }
    free(image);
    assert_int_equal(host_write(&a, "is well."), 0);
    assert_int_equal(host_end(&a), 0);
}

/* S3.8: whatever is there already of a copy, it needs a key. */
static void copied_image_needs_its_key_from_the_start(void **state)
{
    (void)state;
    struct run r = {0};
    file_put("j", "", 0);
    program_expect(&r, 10, "serve j --ctrl type=unixio,path=s --migration incoming,storage=copied");
    assert_non_null(strstr(r.err, "KEY_MISSING"));
}

/* S3.8: nothing could ever be loaded, and that is known before the guest is stopped. */
static void image_without_a_tpm_needs_a_way_for_one_to_come(void **state)
{
    (void)state;
    struct run r = {0};
    rig_image("--incoming");
    program_expect(&r, 10, "serve i --key file=k --ctrl type=unixio,path=s --migration incoming");
    assert_non_null(strstr(r.err, "--migration-key"));
    program_expect(&r, 10,
                   "serve i --key file=k --ctrl type=unixio,path=s --migration incoming "
                   "--migration-seal required");
    struct host b = host_start("b", "i", "--migration incoming --migration-seal off");
    assert_int_equal(host_end(&b), 0);
}

/* A start that fails for another reason has not taken the key away. */
static void migration_key_is_removed_once_the_daemon_is_ready(void **state)
{
    (void)state;
    struct run r = {0};
    file_put("m", "00112233445566778899aabbccddeeff", 32);
    rig_image("");
    file_put("other", "not the key", 11);
    program_expect(&r, 11,
                   "serve i --key file=other --ctrl type=unixio,path=s "
                   "--migration-key file=m,remove");
    assert_true(file_exists("m"));
    program_expect(&r, 0,
                   "serve i --key file=k --ctrl type=unixio,path=s --pid file=p "
                   "--migration-key file=m,remove --daemon");
    assert_false(file_exists("m"));
    int ctrl = rig_connect("s");
    assert_int_equal(ctrl_simple(ctrl, CTRL_SHUTDOWN), 0);
    close(ctrl);
}

/* --- storage that is copied --- */

static void copy_image(const char *from, const char *to, size_t most)
{
    size_t n;
    uint8_t *p = file_bytes(from, &n);
    int fd = open(to, O_WRONLY);
    assert_true(fd >= 0);
    if (n > most)
        n = most;
    assert_int_equal(pwrite(fd, p, n, 0), n);
    close(fd);
    free(p);
}

/* S3.18, S3.19: a slow passphrase is stretched while the copy is under way, not at the load. */
static void copied_image_is_opened_as_soon_as_it_can_be(void **state)
{
    (void)state;
    struct run r = {0};
    file_put("k", "correct horse", 13);
    program_expect(&r, 0, "create i --key file=k --iter-time 1500");
    struct host a = host_start("a", "i", "");
    host_boot(&a);
    host_define(&a);
    assert_int_equal(host_write(&a, "first..."), 0);
    file_put("j", "", 0);
    struct host b = host_start("b", "j", "--migration incoming,storage=copied");
    host_log_says(&b, "to be copied");
    copy_image("i", "j", 700 << 10);
    usleep(400000);
    copy_image("i", "j", SIZE_MAX);
    int64_t began = rig_ms();
    while (!log_of(&b, "verified: the image was copied") && rig_ms() - began < 20000)
        usleep(50000);
    host_log_says(&b, "verified: the image was copied");

    assert_int_equal(host_write(&a, "second.."), 0);
    host_give(&a, &parcel);
    int64_t used = rig_cpu_ms(b.pid);
    assert_int_not_equal(host_take(&b, &parcel), 0); /* the copy is not finished */
    host_log_says(&b, "STATE_ROLLED_BACK");
    copy_image("i", "j", SIZE_MAX);
    assert_int_equal(host_take(&b, &parcel), 0);
    assert_in_range(rig_cpu_ms(b.pid) - used, 0, 700); /* not stretched again */
    host_reads(&b, "second..");
    assert_int_equal(host_end(&a), 0);
    assert_int_equal(host_end(&b), 0);
}

/* Nobody had time to look before: the load waits for the passphrase, whatever it takes. */
static void copied_image_that_comes_with_the_load_is_opened_then(void **state)
{
    (void)state;
    struct run r = {0};
    file_put("k", "correct horse", 13);
    program_expect(&r, 0, "create i --key file=k --iter-time 5500");
    struct host a = host_start("a", "i", "");
    host_boot(&a);
    host_define(&a);
    assert_int_equal(host_write(&a, "first..."), 0);
    file_put("j", "", 0);
    struct host b = host_start("b", "j", "--migration incoming,storage=copied");
    host_give(&a, &parcel);
    copy_image("i", "j", SIZE_MAX);
    assert_int_equal(host_take(&b, &parcel), 0);
    host_reads(&b, "first...");
    assert_int_equal(host_end(&a), 0);
    assert_int_equal(host_end(&b), 0);
}

/* A placeholder that the same passphrase opens is no reason to believe in it. */
static void copy_may_replace_an_image_of_another_key(void **state)
{
    (void)state;
    struct run r = {0};
    struct host a = running("");
    program_expect(&r, 0, "create j --key file=k --iter-time 1 --incoming");
    struct host b = host_start("b", "j", "--migration incoming,storage=copied");
    host_log_says(&b, "verified j");
    copy_image("i", "j", SIZE_MAX);
    host_give(&a, &parcel);
    assert_int_equal(host_take(&b, &parcel), 0);
    host_reads(&b, "before..");
    assert_int_equal(host_end(&a), 0);
    assert_int_equal(host_end(&b), 0);
}

/* --- prepared --- */

/* Runs `ctl WHERE WHAT token=TOKEN`; the token that it prints, if any, is kept in `token`. */
static char token[4096];
static int ctl_token(const char *where, const char *what)
{
    struct run r = {0};
    char words[5000];
    snprintf(words, sizeof(words), "ctl %s %s%s%s", where, what, *token ? " token=" : "", token);
    program_run(&r, words);
    snprintf(token, sizeof(token), "%.*s", (int)strcspn(r.out, "\n"), r.out);
    return r.code;
}

/* What would be refused is not said to be ready. */
static void prepare_says_what_the_emulator_would_be_told(void **state)
{
    (void)state;
    struct run r = {0};
    struct host a = running("--migration require-prepare --admin type=unixio,path=a.admin");
    program_expect(&r, 2, "ctl a.admin migrate-prepare");
    assert_non_null(strstr(r.err, "prepare-outgoing"));
    assert_int_not_equal(host_get(&a, 1, &parcel), 0);
    data_works(a.data);
    assert_int_equal(host_end(&a), 0);

    a = host_start("c", "i", "--admin type=unixio,path=c.admin");
    host_boot(&a);
    program_expect(&r, 0, "ctl c.admin migrate-prepare");
    host_give(&a, &parcel);
    program_expect(&r, 2, "ctl c.admin migrate-prepare");
    host_hang_up(&a);
    usleep(50000);
    program_expect(&r, 0, "ctl c.admin migrate-prepare"); /* as a target, now */
    assert_int_equal(rig_end(a.pid), 0);
}

/* S3.22: armed by both ends, lately. */
static void prepared_hand_over_is_good_for_a_while(void **state)
{
    (void)state;
    char ready[4096];
    struct host a = running("--migration require-prepare=1 --admin type=unixio,path=a.admin");
    struct host b = host_start("b", "i", INCOMING " --admin type=unixio,path=b.admin");
    *token = 0;
    assert_int_equal(ctl_token("a.admin", "prepare-outgoing"), 0);
    assert_int_equal(ctl_token("b.admin", "prepare-incoming"), 0);
    snprintf(ready, sizeof(ready), "%s", token);
    usleep(1300000);
    assert_int_equal(ctl_token("a.admin", "commit-outgoing"), 2); /* too old */
    assert_int_not_equal(host_get(&a, 1, &parcel), 0);

    *token = 0;
    assert_int_equal(ctl_token("a.admin", "prepare-outgoing"), 0);
    assert_int_equal(ctl_token("b.admin", "prepare-incoming"), 0);
    assert_string_not_equal(token, ready);
    snprintf(ready, sizeof(ready), "%s", token);
    assert_int_equal(ctl_token("a.admin", "commit-outgoing"), 0);
    host_give(&a, &parcel);
    assert_int_equal(host_lock_storage(&a), 0);
    snprintf(token, sizeof(token), "%s", ready); /* used up */
    assert_int_equal(ctl_token("a.admin", "commit-outgoing"), 2);
    assert_int_not_equal(host_get(&a, 1, &parcel), 0);
    assert_int_equal(host_end(&a), 0);
    assert_int_equal(host_end(&b), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(what_can_be_known_is_refused_before_an_emulator_can_connect),
        IN_DIR(copied_image_needs_its_key_from_the_start),
        IN_DIR(image_without_a_tpm_needs_a_way_for_one_to_come),
        IN_DIR(migration_key_is_removed_once_the_daemon_is_ready),
        IN_DIR(copied_image_is_opened_as_soon_as_it_can_be),
        IN_DIR(copied_image_that_comes_with_the_load_is_opened_then),
        IN_DIR(copy_may_replace_an_image_of_another_key),
        IN_DIR(prepare_says_what_the_emulator_would_be_told),
        IN_DIR(prepared_hand_over_is_good_for_a_while),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
