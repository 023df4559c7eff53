#include "handover_rig.h"

static struct parcel parcel, older;

/* A machine that runs on host a with something to lose. */
static struct host running(const char *options)
{
    rig_image("");
    struct host a = host_start("a", "i", options);
    host_boot(&a);
    host_define(&a);
    assert_int_equal(host_write(&a, "before.."), 0);
    host_extend(&a);
    return a;
}

#define INCOMING "--migration incoming"

/* --- it moves --- */

/* S3.15, S3.16, S3.24, S3.25 */
static void shared_image_moves_and_the_old_owner_writes_nothing_any_more(void **state)
{
    (void)state;
    uint8_t before[32], after[32];
    size_t n;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    host_pcr(&a, before);
    assert_int_equal(host_write(&a, "newest.."), 0);
    host_give(&a, &parcel);
    assert_int_equal(host_write(&a, "too late"), RC2_UNAVAILABLE);
    assert_int_equal(host_take(&b, &parcel), 0);
    host_reads(&b, "newest..");
    host_pcr(&b, after);
    assert_memory_equal(before, after, 32);
    assert_int_equal(host_write(&b, "moved..."), 0);

    uint8_t *image = file_bytes("i", &n);
    assert_int_equal(host_write(&a, "split..."), RC2_UNAVAILABLE);
    assert_int_not_equal(host_lock_storage(&a), 0);
    assert_int_equal(host_write(&a, "split..."), RC2_UNAVAILABLE);
    assert_int_equal(ctrl_simple(a.ctrl, CTRL_STOP), 0);
    assert_int_not_equal(ctrl_init(a.ctrl, 0), 0);
    assert_int_equal(ctrl_simple(a.ctrl, CTRL_SHUTDOWN), 0);
    assert_int_equal(rig_wait(a.pid), 0);
    file_is("i", image, n);
    free(image);

    assert_int_equal(host_write(&b, "goes on."), 0);
    assert_int_equal(host_end(&b), 0);
    struct host c = host_start("c", "i", "");
    host_boot(&c);
    host_reads(&c, "goes on.");
    assert_int_equal(host_end(&c), 0);
}

static void it_moves_on_and_back_between_daemons_that_stay(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    char text[9];
    for (int i = 0; i < 10; i++) {
        struct host *from = i % 2 ? &b : &a, *to = i % 2 ? &a : &b;
        snprintf(text, sizeof(text), "round %02d", i);
        assert_int_equal(host_write(from, text), 0);
        host_extend(from);
        host_give(from, &parcel);
        assert_int_equal(host_take(to, &parcel), 0);
        host_reads(to, text);
        /* The old emulator quits, a new one comes to the daemon that stayed. */
        host_hang_up(from);
        usleep(50000);
        *from = host_connect(from->name, from->pid);
    }
    host_reads(&a, "round 09");
    assert_int_equal(host_end(&a), 0);
    assert_int_equal(host_end(&b), 0);
}

static void two_images_share_a_migration_key(void **state)
{
    (void)state;
    struct run r = {0};
    const char *key = "--migration-key file=m";
    file_put("m", "00112233445566778899aabbccddeeff", 32);
    rig_image("");
    program_expect(&r, 0, "create j --key file=k --iter-time 1 --incoming");
    struct host a = host_start("a", "i", key);
    struct host b = host_start("b", "j", "--migration incoming --migration-key file=m");
    host_boot(&a);
    host_define(&a);
    assert_int_equal(host_write(&a, "travels."), 0);
    host_give(&a, &parcel);
    assert_int_equal(host_take(&b, &parcel), 0);
    host_reads(&b, "travels.");
    assert_int_equal(host_write(&b, "kept...."), 0);
    assert_int_equal(host_end(&b), 0);
    assert_int_equal(host_end(&a), 0);
    struct host c = host_start("c", "j", "");
    host_boot(&c);
    host_reads(&c, "kept....");
    assert_int_equal(host_end(&c), 0);
}

/* --- it fails, and the source goes on --- */

/* S3.6, S3.17, S3.23 */
static void target_that_gave_up_has_changed_nothing(void **state)
{
    (void)state;
    uint8_t before[32], after[32];
    struct host a = running("");
    for (int i = 0; i < 3; i++) {
        char name[] = {'b', (char)('0' + i), 0};
        struct host b = host_start(name, "i", INCOMING);
        host_pcr(&a, before);
        host_give(&a, &parcel);
        if (i == 1)
            assert_int_equal(host_set(&b, 1, &parcel), 0);
        if (i == 2) /* S3.25: stored, and not used: some other device has failed */
            assert_int_equal(host_take(&b, &parcel), 0);
        host_hang_up(&b);
        int64_t began = rig_ms();
        assert_int_equal(host_lock_storage(&a), 0);
        assert_in_range(rig_ms() - began, 0, 250);
        host_pcr(&a, after);
        assert_memory_equal(before, after, 32);
        assert_int_equal(host_write(&a, "goes on."), 0);
        host_extend(&a);
        assert_int_equal(rig_end(b.pid), 0);
        host_reads(&a, "goes on.");
    }
    assert_int_equal(host_end(&a), 0);
}

static void target_that_was_killed_has_changed_nothing(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    host_give(&a, &parcel);
    assert_int_equal(host_take(&b, &parcel), 0);
    host_kill(&b);
    assert_int_equal(host_lock_storage(&a), 0);
    host_reads(&a, "before..");
    assert_int_equal(host_write(&a, "goes on."), 0);
    assert_int_equal(host_end(&a), 0);
}

/* The target holds the image a little longer: the guest's next command takes it back. */
static void source_takes_back_as_soon_as_it_can(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    host_give(&a, &parcel);
    assert_int_equal(host_take(&b, &parcel), 0);
    assert_int_not_equal(host_lock_storage(&a), 0);
    assert_int_equal(host_write(&a, "not yet."), RC2_UNAVAILABLE);
    host_hang_up(&b);
    usleep(50000);
    assert_int_equal(host_write(&a, "goes on."), 0);
    host_reads(&a, "goes on.");
    assert_int_equal(rig_end(b.pid), 0);
    assert_int_equal(host_end(&a), 0);
}

/* S3.24 */
static void source_is_fenced_once_the_target_has_run(void **state)
{
    (void)state;
    size_t n;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    host_give(&a, &parcel);
    assert_int_equal(host_take(&b, &parcel), 0);
    data_works(b.data); /* changes nothing that is stored, and yet it ran */
    host_kill(&b);
    uint8_t *image = file_bytes("i", &n);
    assert_int_not_equal(host_lock_storage(&a), 0);
    host_log_says(&a, "FENCED");
    assert_int_not_equal(host_write(&a, "split..."), 0);
    assert_int_equal(host_end(&a), 0);
    file_is("i", image, n);
    free(image);
}

/* A slow target comes when the source has gone on: it is the one that is refused. */
static void set_that_was_taken_back_opens_nothing(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    host_give(&a, &parcel);
    assert_int_equal(host_lock_storage(&a), 0);
    assert_int_not_equal(host_take(&b, &parcel), 0); /* claimed */
    host_log_says(&b, "LOCKED");
    assert_int_equal(host_write(&a, "goes on."), 0);
    assert_int_equal(ctrl_simple(a.ctrl, CTRL_SHUTDOWN), 0);
    assert_int_equal(rig_wait(a.pid), 0);
    assert_int_not_equal(host_take(&b, &parcel), 0); /* free, and newer */
    host_log_says(&b, "STATE_ROLLED_BACK");
    assert_int_equal(host_end(&b), 0);
}

/* As QEMU does with a guest that is paused: no LOCK_STORAGE in between. */
static void state_can_be_asked_for_again(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    host_give(&a, &older);
    host_give(&a, &parcel);
    assert_int_not_equal(host_take(&b, &older), 0);
    assert_int_equal(host_take(&b, &parcel), 0);
    host_reads(&b, "before..");
    assert_int_equal(host_end(&b), 0);
    assert_int_equal(host_end(&a), 0);
}

/* Given up before it was used: it waits again, and starts nothing by itself. */
static void target_that_gave_up_waits_again(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    host_give(&a, &parcel);
    assert_int_equal(host_take(&b, &parcel), 0);
    host_hang_up(&b);
    usleep(50000);
    b = host_connect("b", b.pid);
    assert_int_not_equal(ctrl_init(b.ctrl, 0), 0);
    assert_int_equal(host_lock_storage(&a), 0);
    assert_int_equal(host_write(&a, "goes on."), 0);
    host_give(&a, &parcel);
    assert_int_equal(host_take(&b, &parcel), 0);
    host_reads(&b, "goes on.");
    assert_int_equal(host_end(&a), 0);
    assert_int_equal(host_end(&b), 0);
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
    began = rig_ms();
    assert_int_not_equal(host_take(&b, &parcel), 0); /* the copy is not finished */
    host_log_says(&b, "STATE_ROLLED_BACK");
    copy_image("i", "j", SIZE_MAX);
    assert_int_equal(host_take(&b, &parcel), 0);
    assert_in_range(rig_ms() - began, 0, 1000);
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

/* --- what is refused, and when --- */

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

/* A release that takes its time, as on storage far away: somebody else's locks stand for it. */
static void target_waits_for_a_slow_release(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    int held[2];
    char byte;
    host_give(&a, &parcel);
    assert_int_equal(pipe(held), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int fd = open("i", O_RDWR);
        struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 104};
        if (fd < 0 || fcntl(fd, F_OFD_SETLK, &l) < 0 || write(held[1], "x", 1) != 1)
            _exit(1);
        usleep(1200000);
        _exit(0);
    }
    assert_int_equal(read(held[0], &byte, 1), 1);
    int64_t began = rig_ms();
    assert_int_equal(host_take(&b, &parcel), 0);
    assert_in_range(rig_ms() - began, 900, 3000);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(held[0]);
    close(held[1]);
    host_reads(&b, "before..");
    assert_int_equal(host_end(&a), 0);
    assert_int_equal(host_end(&b), 0);
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

/* S3.8: whatever is there already of a copy, it needs a key. */
static void copied_image_needs_its_key_from_the_start(void **state)
{
    (void)state;
    struct run r = {0};
    file_put("j", "", 0);
    program_expect(&r, 10, "serve j --ctrl type=unixio,path=s --migration incoming,storage=copied");
    assert_non_null(strstr(r.err, "KEY_MISSING"));
}

/* To ask for the state is to take it away. */
static void only_the_emulator_may_take_the_state_away(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    struct host stranger = a;
    stranger.ctrl = rig_connect("a");
    assert_int_not_equal(host_get(&stranger, 1, &older), 0);
    data_works(a.data);
    host_give(&a, &parcel);
    assert_int_not_equal(host_get(&stranger, 1, &older), 0);
    assert_int_equal(host_take(&b, &parcel), 0);
    host_reads(&b, "before..");
    close(stranger.ctrl);
    assert_int_equal(host_end(&a), 0);
    assert_int_equal(host_end(&b), 0);
}

/* Whom the claim was refused cannot forget that by handing in something and taking it back. */
static void old_owner_does_not_start_by_a_detour(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    host_give(&a, &parcel);
    assert_int_equal(host_take(&b, &parcel), 0);
    assert_int_equal(host_write(&b, "moved..."), 0);
    assert_int_equal(host_end(&b), 0);
    assert_int_equal(ctrl_simple(a.ctrl, CTRL_STOP), 0);
    assert_int_equal(host_set(&a, 1, &parcel), 0);
    assert_int_equal(ctrl_simple(a.ctrl, CTRL_STOP), 0);
    assert_int_not_equal(ctrl_init(a.ctrl, 0), 0);
    assert_int_not_equal(host_take(&a, &parcel), 0);
    assert_int_equal(host_end(&a), 0);
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

static void set_of_another_tpm_is_refused(void **state)
{
    (void)state;
    struct run r = {0};
    file_put("m", "00112233445566778899aabbccddeeff", 32);
    rig_image("");
    program_expect(&r, 0, "create j --key file=k --iter-time 1");
    struct host a = host_start("a", "i", "--migration-key file=m");
    struct host b = host_start("b", "j", "--migration incoming --migration-key file=m");
    host_boot(&a);
    host_give(&a, &parcel);
    assert_int_not_equal(host_take(&b, &parcel), 0);
    host_log_says(&b, "STATE_FOREIGN");
    assert_int_equal(host_lock_storage(&a), 0);
    data_works(a.data);
    assert_int_equal(host_end(&a), 0);
    assert_int_equal(host_end(&b), 0);
}

static void set_that_is_not_whole_starts_nothing(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    assert_int_not_equal(ctrl_init(b.ctrl, 0), 0);
    host_give(&a, &older);
    assert_int_equal(host_lock_storage(&a), 0);
    host_give(&a, &parcel);
    assert_int_equal(ctrl_simple(b.ctrl, CTRL_STOP), 0);
    assert_int_equal(host_set(&b, 1, &parcel), 0);
    assert_int_not_equal(ctrl_init(b.ctrl, 1), 0);
    assert_int_not_equal(host_set(&b, 2, &older), 0); /* of another hand-over */
    assert_int_not_equal(ctrl_init(b.ctrl, 1), 0);
    /* nothing in place of a blob takes nothing out of a set */
    assert_int_equal(host_set(&b, 1, &parcel), 0);
    assert_int_equal(host_set(&b, 2, &parcel), 0);
    assert_int_not_equal(ctrl_set_state(b.ctrl, 2, 0, "", 0), 0);
    assert_int_not_equal(ctrl_init(b.ctrl, 1), 0);
    parcel.blob[1][parcel.n[1] / 2] ^= 1;
    assert_int_not_equal(host_take(&b, &parcel), 0);
    host_log_says(&b, "STATE_CORRUPT");
    parcel.blob[1][parcel.n[1] / 2] ^= 1;
    assert_int_equal(host_take(&b, &parcel), 0);
    host_reads(&b, "before..");
    assert_int_equal(host_end(&b), 0);
    assert_int_equal(host_end(&a), 0);
}

/* A connection that breaks in the middle leaves nothing behind for the next one. */
static void half_a_set_is_gone_with_its_emulator(void **state)
{
    (void)state;
    struct host a = running("");
    struct host b = host_start("b", "i", INCOMING);
    host_give(&a, &parcel);
    assert_int_equal(ctrl_simple(b.ctrl, CTRL_STOP), 0);
    assert_int_equal(host_set(&b, 1, &parcel), 0);
    host_hang_up(&b);
    usleep(50000);
    b = host_connect("b", b.pid);
    (void)host_set(&b, 2, &parcel);
    assert_int_not_equal(ctrl_init(b.ctrl, 1), 0);
    assert_int_equal(host_take(&b, &parcel), 0);
    assert_int_equal(host_end(&b), 0);
    assert_int_equal(host_end(&a), 0);
}

/* --- what travels --- */

static bool has(const struct parcel *p, const char *text)
{
    for (size_t i = 0; i < 3; i++)
        if (memmem(p->blob[i], p->n[i], text, 8))
            return true;
    return false;
}

/* S1.10 */
static void what_travels_is_sealed_unless_told_otherwise(void **state)
{
    (void)state;
    struct host a = running("");
    assert_int_equal(host_write(&a, "XmarkerX"), 0);
    host_give(&a, &parcel);
    assert_false(has(&parcel, "XmarkerX"));
    assert_int_equal(host_end(&a), 0);
    a = host_start("b", "i", "--migration-seal off");
    host_boot(&a);
    host_give(&a, &parcel);
    assert_true(has(&parcel, "XmarkerX"));
    assert_int_equal(host_end(&a), 0);

    struct host b = host_start("c", "i", "--migration incoming --migration-seal required");
    assert_int_not_equal(host_take(&b, &parcel), 0);
    host_log_says(&b, "is not sealed");
    assert_int_equal(host_end(&b), 0);
    /* whose it is cannot be known, and there is a TPM already */
    b = host_start("d", "i", INCOMING);
    assert_int_not_equal(host_take(&b, &parcel), 0);
    host_log_says(&b, "is not sealed is handed over");
    assert_int_equal(host_end(&b), 0);
    b = host_start("e", "i", "--migration incoming --migration-seal off");
    assert_int_equal(host_take(&b, &parcel), 0);
    host_reads(&b, "XmarkerX");
    assert_int_equal(host_end(&b), 0);
}

/* Unsealed, the set has no number: what names it is its content. */
static void unsealed_set_can_be_taken_back_too(void **state)
{
    (void)state;
    struct host a = running("--migration-seal off");
    struct host b = host_start("b", "i", "--migration incoming --migration-seal off");
    host_give(&a, &parcel);
    assert_int_equal(host_take(&b, &parcel), 0);
    host_hang_up(&b);
    assert_int_equal(host_lock_storage(&a), 0);
    assert_int_equal(host_write(&a, "goes on."), 0);
    assert_int_equal(rig_end(b.pid), 0);
    assert_int_equal(host_end(&a), 0);
}

static void older_state_is_restored_only_when_asked_to(void **state)
{
    (void)state;
    struct host a = running("");
    host_give(&a, &older);
    assert_int_equal(host_lock_storage(&a), 0);
    assert_int_equal(host_write(&a, "later..."), 0);
    assert_int_equal(host_end(&a), 0);
    struct host b = host_start("b", "i", INCOMING);
    assert_int_not_equal(host_take(&b, &older), 0);
    host_log_says(&b, "STATE_ROLLED_BACK");
    assert_int_equal(host_end(&b), 0);
    b = host_start("c", "i", "--migration incoming,rewind");
    assert_int_equal(host_take(&b, &older), 0);
    host_reads(&b, "before..");
    assert_int_equal(host_write(&b, "anew...."), 0);
    assert_int_equal(host_end(&b), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(shared_image_moves_and_the_old_owner_writes_nothing_any_more),
        IN_DIR(it_moves_on_and_back_between_daemons_that_stay),
        IN_DIR(two_images_share_a_migration_key),
        IN_DIR(target_that_gave_up_has_changed_nothing),
        IN_DIR(target_that_was_killed_has_changed_nothing),
        IN_DIR(target_that_gave_up_waits_again),
        IN_DIR(copied_image_is_opened_as_soon_as_it_can_be),
        IN_DIR(copied_image_that_comes_with_the_load_is_opened_then),
        IN_DIR(source_takes_back_as_soon_as_it_can),
        IN_DIR(source_is_fenced_once_the_target_has_run),
        IN_DIR(set_that_was_taken_back_opens_nothing),
        IN_DIR(state_can_be_asked_for_again),
        IN_DIR(what_can_be_known_is_refused_before_an_emulator_can_connect),
        IN_DIR(copy_may_replace_an_image_of_another_key),
        IN_DIR(target_waits_for_a_slow_release),
        IN_DIR(prepare_says_what_the_emulator_would_be_told),
        IN_DIR(prepared_hand_over_is_good_for_a_while),
        IN_DIR(copied_image_needs_its_key_from_the_start),
        IN_DIR(only_the_emulator_may_take_the_state_away),
        IN_DIR(old_owner_does_not_start_by_a_detour),
        IN_DIR(image_without_a_tpm_needs_a_way_for_one_to_come),
        IN_DIR(set_of_another_tpm_is_refused),
        IN_DIR(set_that_is_not_whole_starts_nothing),
        IN_DIR(half_a_set_is_gone_with_its_emulator),
        IN_DIR(what_travels_is_sealed_unless_told_otherwise),
        IN_DIR(unsealed_set_can_be_taken_back_too),
        IN_DIR(older_state_is_restored_only_when_asked_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
