#include "handover_rig.h"

static struct parcel parcel, older;

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
    int64_t fastest = INT64_MAX;
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
        fastest = rig_ms() - began < fastest ? rig_ms() - began : fastest;
        host_pcr(&a, after);
        assert_memory_equal(before, after, 32);
        assert_int_equal(host_write(&a, "goes on."), 0);
        host_extend(&a);
        assert_int_equal(rig_end(b.pid), 0);
        host_reads(&a, "goes on.");
    }
    assert_in_range(fastest, 0, 250); /* nothing is waited for */
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

/* --- what is refused, and when --- */

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
        IN_DIR(source_takes_back_as_soon_as_it_can),
        IN_DIR(source_is_fenced_once_the_target_has_run),
        IN_DIR(set_that_was_taken_back_opens_nothing),
        IN_DIR(state_can_be_asked_for_again),
        IN_DIR(target_waits_for_a_slow_release),
        IN_DIR(only_the_emulator_may_take_the_state_away),
        IN_DIR(old_owner_does_not_start_by_a_detour),
        IN_DIR(set_of_another_tpm_is_refused),
        IN_DIR(set_that_is_not_whole_starts_nothing),
        IN_DIR(half_a_set_is_gone_with_its_emulator),
        IN_DIR(what_travels_is_sealed_unless_told_otherwise),
        IN_DIR(unsealed_set_can_be_taken_back_too),
        IN_DIR(older_state_is_restored_only_when_asked_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
