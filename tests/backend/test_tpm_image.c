/* The TPM 2.0 in a real image: what survives, what is written, what never is. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "mem_image.h"
#include "tpm_image.h"

enum { INDEX = 0x01800001, COUNTER = 0x01800002 };
static const uint8_t data[32] = {0xa1, 0xb2, 0xc3};

static int setup(void **state)
{
    struct tpm_image *im = calloc(1, sizeof(*im));
    assert_non_null(im);
    tpm_image_new(im, DEVICE_TPM20);
    *state = im;
    return 0;
}

static int setup_started(void **state)
{
    setup(state);
    tpm_image_start(*state);
    return 0;
}

static int teardown(void **state)
{
    struct tpm_image *im = *state;
    tpm_image_end(im);
    free(im);
    return 0;
}

static void reopen(struct tpm_image *im)
{
    tpm_image_close(im);
    tpm_image_open(im);
    tpm_image_start(im);
}

static void define(struct tpm_image *im, uint32_t index, uint16_t n)
{
    cmd2_nv_define(&im->c, index, n, NV2_ORDINARY, 0);
    TPM_OK(&im->run, &im->c);
}

static void write_nv(struct tpm_image *im, uint32_t index, const void *p, uint16_t n, uint16_t at)
{
    cmd2_nv_write(&im->c, index, p, n, at);
    TPM_OK(&im->run, &im->c);
}

static void assert_nv(struct tpm_image *im, uint32_t index, const void *p, uint16_t n, uint16_t at)
{
    cmd2_nv_read(&im->c, index, n, at);
    const uint8_t *got = rsp2_nv(TPM_OK(&im->run, &im->c), n);
    assert_non_null(got);
    assert_memory_equal(got, p, n);
}

static void nv_survives_a_power_cut_after_every_command(void **state)
{
    struct tpm_image *im = *state;
    define(im, INDEX, 32);
    cmd2_nv_define(&im->c, COUNTER, 8, NV2_COUNTER, 0);
    TPM_OK(&im->run, &im->c);
    uint64_t counter = 0;
    for (uint8_t i = 1; i < 20; i++) {
        write_nv(im, INDEX, &i, 1, i);
        cmd2_nv_increment(&im->c, COUNTER);
        TPM_OK(&im->run, &im->c);
        reopen(im);
        assert_nv(im, INDEX, &i, 1, i);
        cmd2_nv_read(&im->c, COUNTER, 8, 0);
        uint64_t now = get_be64(rsp2_nv(TPM_OK(&im->run, &im->c), 8));
        assert_true(i == 1 || now == counter + 1);
        counter = now;
    }
}

static void persistent_key_survives(void **state)
{
    struct tpm_image *im = *state;
    uint8_t public[300];
    cmd2_create_primary(&im->c);
    uint32_t key = rsp2_handle(TPM_OK(&im->run, &im->c));
    cmd2_evict(&im->c, key, 0x81000001);
    TPM_OK(&im->run, &im->c);
    cmd2_read_public(&im->c, 0x81000001);
    struct tpm_rsp r = TPM_OK(&im->run, &im->c);
    size_t n = r.body.left;
    assert_in_range(n, 1, sizeof(public));
    memcpy(public, r.body.at, n);
    reopen(im);
    cmd2_read_public(&im->c, 0x81000001);
    r = TPM_OK(&im->run, &im->c);
    assert_int_equal(r.body.left, n);
    assert_memory_equal(r.body.at, public, n);
}

/* 68 indices of 2048 bytes: as much as libtpms takes. */
static void full_nv_fits_and_survives(void **state)
{
    enum { SIZE = 2048, CHUNK = 1024, RC_NV_SPACE = 0x14b };
    struct tpm_image *im = *state;
    uint8_t chunk[CHUNK];
    uint32_t n = 0;
    for (;; n++) {
        cmd2_nv_define(&im->c, INDEX + n, SIZE, NV2_ORDINARY, 0);
        struct tpm_rsp r = tpm_run(&im->run, &im->c);
        assert_int_equal(im->run.result, 0);
        if (r.rc == RC_NV_SPACE)
            break;
        assert_int_equal(r.rc, 0);
        memset(chunk, (int)(n + 1), sizeof(chunk));
        write_nv(im, INDEX + n, chunk, CHUNK, 0);
        write_nv(im, INDEX + n, chunk, CHUNK, CHUNK);
    }
    assert_in_range(n, 60, 70);
    cmd2_shutdown(&im->c, SU_STATE); /* 3 KB more */
    TPM_OK(&im->run, &im->c);
    assert_in_range(tpm_image_stats(im).state_bytes, 140000, 160000);
    reopen(im);
    for (uint32_t i = 0; i < n; i++) {
        memset(chunk, (int)(i + 1), sizeof(chunk));
        assert_nv(im, INDEX + i, chunk, CHUNK, CHUNK);
    }
    for (uint32_t i = 0; i < n; i += 2) {
        cmd2_nv_undefine(&im->c, INDEX + i);
        TPM_OK(&im->run, &im->c);
    }
    reopen(im);
    assert_nv(im, INDEX + 1, (memset(chunk, 2, CHUNK), chunk), CHUNK, 0);
}

static void clear_is_durable(void **state)
{
    struct tpm_image *im = *state;
    define(im, INDEX, 8);
    write_nv(im, INDEX, data, 8, 0);
    cmd2_clear(&im->c);
    TPM_OK(&im->run, &im->c);
    reopen(im);
    cmd2_nv_read(&im->c, INDEX, 8, 0);
    assert_int_equal(tpm_run(&im->run, &im->c).rc, 0x28b); /* TPM_RC_HANDLE, handle 2 */
}

static void saved_state_gives_the_pcrs_back(void **state)
{
    struct tpm_image *im = *state;
    uint8_t before[32];
    cmd2_pcr_extend(&im->c, 7, data);
    TPM_OK(&im->run, &im->c);
    cmd2_pcr_read(&im->c, 7);
    memcpy(before, rsp2_pcr(TPM_OK(&im->run, &im->c)), 32);
    TPM_IMAGE_MUST(im, tpm_orderly_shutdown(im->run.t, &im->e));
    tpm_image_close(im);
    tpm_image_open(im);
    TPM_IMAGE_MUST(im, tpm_power_on(im->run.t, false, &im->e));
    TPM_IMAGE_MUST(im, tpm_startup(im->run.t, STARTUP_STATE, &im->e));
    cmd2_pcr_read(&im->c, 7);
    assert_memory_equal(rsp2_pcr(TPM_OK(&im->run, &im->c)), before, 32);
}

/* --- what is written --- */

static void only_changes_reach_the_file(void **state)
{
    struct tpm_image *im = *state;
    struct stat before, after;
    define(im, INDEX, 32);
    write_nv(im, INDEX, data, 32, 0);
    uint64_t generation = tpm_image_stats(im).generation;
    assert_int_equal(stat(im->path, &before), 0);
    for (int i = 0; i < 100; i++) {
        cmd2_get_random(&im->c, 32);
        TPM_OK(&im->run, &im->c);
        cmd2_pcr_extend(&im->c, (uint32_t)i % 24 < 16 ? (uint32_t)i % 24 : 16, data);
        TPM_OK(&im->run, &im->c);
        cmd2_pcr_read(&im->c, 0);
        TPM_OK(&im->run, &im->c);
        write_nv(im, INDEX, data, 32, 0); /* the same again */
        assert_nv(im, INDEX, data, 32, 0);
    }
    assert_int_equal(stat(im->path, &after), 0);
    assert_int_equal(tpm_image_stats(im).generation, generation);
    assert_int_equal(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
    assert_int_equal(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
    write_nv(im, INDEX, "x", 1, 0);
    assert_int_equal(tpm_image_stats(im).generation, generation + 1);
}

static bool file_holds(const char *path, const void *needle, size_t n)
{
    struct stat st;
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    OWNED_HEAP uint8_t *all = malloc((size_t)st.st_size);
    assert_non_null(all);
    assert_int_equal(pread(fd, all, (size_t)st.st_size, 0), st.st_size);
    return memmem(all, (size_t)st.st_size, needle, n) != NULL;
}

/* S1.10 */
static void markers_written_through_the_tpm_are_not_in_the_file(void **state)
{
    static const char marker[] = "MARKER-0123456789";
    struct tpm_image *im = *state;
    define(im, INDEX, 512);
    for (uint16_t at = 0; at < 400; at += 16) {
        write_nv(im, INDEX, marker, 16, at);
        assert_false(file_holds(im->path, marker, 16));
    }
    TPM_IMAGE_MUST(im, tpm_store_volatile(im->run.t, &im->e));
    TPM_IMAGE_MUST(im, tpm_orderly_shutdown(im->run.t, &im->e));
    assert_false(file_holds(im->path, marker, 16));
    assert_true(file_holds(im->path, "QFI\xfb", 4));
    reopen(im);
    assert_nv(im, INDEX, marker, 16, 384);
}

/* --- a TPM that is off, or is not there --- */

static void off_tpm_answers_every_command_with_failure(void **state)
{
    struct tpm_image *im = *state;
    uint64_t generation = tpm_image_stats(im).generation;
    bool established;
    assert_false(tpm_is_on(im->run.t));
    assert_int_equal(tpm_kind(im->run.t), DEVICE_TPM20);
    cmd2_startup(&im->c, SU_CLEAR);
    struct tpm_rsp r = tpm_run(&im->run, &im->c);
    assert_int_equal(r.rc, RC2_FAILURE);
    assert_int_equal(r.tag, 0x8001);
    assert_int_equal(im->run.result, 0);
    assert_int_equal(tpm_run_bytes(&im->run, (const uint8_t *)"", 0).rc, RC2_FAILURE);
    assert_int_equal(tpm_established(im->run.t, &established), 0x0a);
    assert_int_equal(tpm_reset_established(im->run.t, 3), 0x0a);
    assert_int_equal(tpm_hash_start(im->run.t), 0x0a);
    assert_int_equal(tpm_hash_data(im->run.t, data, 1), 0x0a);
    assert_int_equal(tpm_hash_end(im->run.t), 0x0a);
    assert_int_equal(tpm_store_volatile(im->run.t, &im->e), -1);
    assert_int_equal(im->e.kind, ERR_USAGE);
    assert_int_equal(tpm_startup(im->run.t, STARTUP_CLEAR, &im->e), -1);
    assert_int_equal(im->e.kind, ERR_USAGE);
    assert_int_equal(tpm_orderly_shutdown(im->run.t, &im->e), 0);
    tpm_power_off(im->run.t);
    tpm_cancel();
    assert_int_equal(tpm_image_stats(im).generation, generation);
}

/* S3.18 */
static void store_without_a_tpm_is_state_empty_and_stays_so(void **state)
{
    struct tpm_image im;
    struct tpm_blobs none = {{NULL}, {0}};
    OWNED(store) s = NULL;
    struct tpm *t = NULL;
    struct store_stats before, after;
    size_t n;
    (void)state;
    tpm_image_begin(&im);
    tpm_image_create(&im, DEVICE_TPM20, &none);
    tpm_image_store(&im, &s);
    store_stats(s, &before);
    assert_int_equal(tpm_new(&s, &t, &im.e), -1);
    assert_int_equal(im.e.kind, ERR_STATE_EMPTY);
    assert_non_null(strstr(im.e.text, "holds no TPM yet"));
    assert_null(t);
    assert_non_null(s); /* still the caller's */
    store_stats(s, &after);
    assert_int_equal(after.generation, before.generation);
    assert_null(store_get(s, BLOB_PERMANENT, &n));
    store_free(s);
    s = NULL;
    tpm_image_end(&im);
}

static void second_tpm_in_a_process_is_refused(void **state)
{
    struct tpm_blobs blobs = {{NULL}, {0}};
    struct tpm_image *im = *state;
    struct tpm_image other;
    OWNED(store) s = NULL;
    struct tpm *t = NULL;
    assert_int_equal(tpm_manufacture(DEVICE_TPM20, &blobs, &im->e), -1);
    assert_int_equal(im->e.kind, ERR_USAGE);
    assert_null(blobs.blob[0]);
    struct tpm *first = im->run.t;
    struct secret *permanent = NULL;
    size_t n;
    TPM_IMAGE_MUST(im, tpm_export(first, BLOB_PERMANENT, &permanent, &n, &im->e));
    tpm_image_begin(&other);
    tpm_image_create(&other, DEVICE_TPM20, &(struct tpm_blobs){.blob = {permanent}, .n = {n}});
    tpm_image_store(&other, &s);
    assert_int_equal(tpm_new(&s, &t, &im->e), -1);
    assert_int_equal(im->e.kind, ERR_USAGE);
    assert_non_null(s);
    store_free(s);
    s = NULL;
    secret_free(permanent);
    tpm_image_end(&other);
    tpm_image_start(im); /* the first one does not mind */
}

static void locality_above_four_and_long_commands_are_refused(void **state)
{
    struct tpm_image *im = *state;
    static uint8_t longer[16 * TPM_BUFFER_BYTES] = {0x80, 0x01, 0, 1, 0, 0, 0, 0, 0x01, 0x7b};
    cmd2_get_random(&im->c, 8);
    for (unsigned locality = 0; locality < 256; locality++) {
        im->run.locality = (uint8_t)locality;
        assert_int_equal(tpm_run(&im->run, &im->c).rc, locality <= 4 ? 0 : RC2_LOCALITY);
    }
    im->run.locality = 0;
    assert_int_equal(tpm_run_bytes(&im->run, longer, sizeof(longer)).rc, RC2_COMMAND_SIZE);
    assert_int_equal(tpm_run_bytes(&im->run, longer, TPM_BUFFER_BYTES + 1).rc, RC2_COMMAND_SIZE);
    assert_int_equal(tpm_reset_established(im->run.t, 5), 0x3d);
}

static void locality_reaches_the_pcrs(void **state)
{
    struct tpm_image *im = *state;
    cmd2_pcr_extend(&im->c, 17, data); /* locality 2 and above */
    assert_int_equal(tpm_run(&im->run, &im->c).rc, RC2_LOCALITY);
    im->run.locality = 3;
    TPM_OK(&im->run, &im->c);
}

static void garbage_is_answered_and_changes_nothing(void **state)
{
    struct tpm_image *im = *state;
    struct tpm_cmd seeds[6];
    uint64_t x = 88172645463325252u;
    define(im, INDEX, 32);
    write_nv(im, INDEX, data, 32, 0);
    cmd2_nv_read(&seeds[0], INDEX, 32, 0);
    cmd2_get_random(&seeds[1], 16);
    cmd2_pcr_read(&seeds[2], 3);
    cmd2_start_session(&seeds[3]);
    cmd2_get_capability(&seeds[4], 1, 0, 100);
    cmd2_read_public(&seeds[5], 0x80000000);
    for (int i = 0; i < 5000; i++) {
        struct tpm_cmd c = seeds[i % 6];
        for (int k = 0; k < 1 + i % 4; k++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            c.b[x % c.n] ^= (uint8_t)(x >> 32);
        }
        if (i % 3 == 0)
            c.n -= x % (c.n + 1);
        /* Not a command that clears, locks or changes hierarchies by chance. */
        if (c.n >= 10 && get_be32(c.b + 6) != get_be32(seeds[i % 6].b + 6))
            put_be32(c.b + 6, 0xffffffff);
        (void)tpm_run_bytes(&im->run, c.b, c.n);
        assert_int_equal(im->run.result, 0);
    }
    assert_nv(im, INDEX, data, 32, 0);
}

static void buffer_size_is_clamped_and_only_changed_while_off(void **state)
{
    struct tpm_image *im = *state;
    uint32_t least = 0, most = 0;
    tpm_power_off(im->run.t);
    assert_int_equal(tpm_buffer_size(im->run.t, 0, &least, &most), 4096);
    assert_int_equal(most, TPM_BUFFER_BYTES);
    assert_in_range(least, 1024, 3072);
    assert_int_equal(tpm_buffer_size(im->run.t, 1, NULL, NULL), least);
    assert_int_equal(tpm_buffer_size(im->run.t, 100000, NULL, NULL), most);
    assert_int_equal(tpm_buffer_size(im->run.t, 3000, NULL, NULL), 3000);
    tpm_image_start(im);
    assert_int_equal(tpm_buffer_size(im->run.t, 4096, NULL, NULL), 3000);
    tpm_power_off(im->run.t);
    assert_int_equal(tpm_buffer_size(im->run.t, 4096, NULL, NULL), 4096);
}

static void measured_launch_extends_pcr_17_and_sets_established(void **state)
{
    struct tpm_image *im = *state;
    static const uint8_t zero[32];
    bool established = true;
    assert_int_equal(tpm_reset_established(im->run.t, 3), 0);
    assert_int_equal(tpm_established(im->run.t, &established), 0);
    assert_false(established);
    assert_int_equal(tpm_reset_established(im->run.t, 0), 0x3d);
    assert_int_equal(tpm_hash_start(im->run.t), 0);
    assert_int_equal(tpm_hash_data(im->run.t, data, sizeof(data)), 0);
    assert_int_equal(tpm_hash_end(im->run.t), 0);
    assert_int_equal(tpm_established(im->run.t, &established), 0);
    assert_true(established);
    cmd2_pcr_read(&im->c, 17);
    assert_memory_not_equal(rsp2_pcr(TPM_OK(&im->run, &im->c)), zero, 32);
}

static void startup_flags_do_what_they_say_or_fail(void **state)
{
    struct tpm_image *im = *state;
    TPM_IMAGE_MUST(im, tpm_power_on(im->run.t, false, &im->e));
    assert_int_equal(tpm_startup(im->run.t, STARTUP_DEACTIVATED, &im->e), -1);
    assert_int_equal(im->e.kind, ERR_USAGE);
    assert_int_equal(tpm_startup(im->run.t, STARTUP_STATE, &im->e), -1);
    assert_int_equal(im->e.kind, ERR_USAGE);
    assert_non_null(strstr(im->e.text, "start up clear"));
    TPM_IMAGE_MUST(im, tpm_startup(im->run.t, STARTUP_CLEAR, &im->e));
    assert_int_equal(tpm_startup(im->run.t, STARTUP_CLEAR, &im->e), -1);
    assert_non_null(strstr(im->e.text, "started already"));
}

static void *cancel_again_and_again(void *done)
{
    while (!atomic_load((atomic_bool *)done)) {
        usleep(500);
        tpm_cancel();
    }
    return NULL;
}

/* From another thread, and while another command runs as well: only that one may end early. */
static void long_command_can_be_cancelled_and_the_tpm_goes_on(void **state)
{
    struct tpm_image *im = *state;
    unsigned cancelled = 0;
    define(im, INDEX, 32);
    for (int i = 0; i < 5; i++) {
        atomic_bool done = false;
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, cancel_again_and_again, &done), 0);
        cmd2_create_primary_rsa(&im->c);
        struct tpm_rsp r = tpm_run(&im->run, &im->c);
        for (int k = 0; k < 50; k++)
            write_nv(im, INDEX, &k, sizeof(k), 0);
        atomic_store(&done, true);
        pthread_join(thread, NULL);
        assert_true(r.rc == 0 || r.rc == RC2_CANCELED);
        cancelled += r.rc == RC2_CANCELED;
        if (r.rc == 0) {
            cmd2_flush(&im->c, 0x80000000);
            TPM_OK(&im->run, &im->c);
        }
    }
    assert_in_range(cancelled, 1, 5);
    cmd2_create_primary_rsa(&im->c); /* nobody cancels */
    TPM_OK(&im->run, &im->c);
}

/* Every read, write and flush below the real store fails once while a command is under way. */
static void every_failing_operation_of_a_real_disk_undoes_the_command(void **state)
{
    struct tpm_image *im = *state;
    struct stat st;
    OWNED(qcow_disk_rw) rw = NULL;
    OWNED(store) s = NULL;
    define(im, INDEX, 32);
    write_nv(im, INDEX, "0", 1, 0);
    tpm_image_close(im);
    OWNED_FD fd = open(im->path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(fstat(fd, &st), 0);
    OWNED_HEAP uint8_t *bytes = malloc((size_t)st.st_size);
    assert_non_null(bytes);
    assert_int_equal(pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
    struct mem_disk *disk = mem_disk_of(bytes, (uint64_t)st.st_size);
    TPM_IMAGE_MUST(im, mem_image_arm(disk, TPM_IMAGE_PASS, &rw, &im->e));
    TPM_IMAGE_MUST(im, store_open(&rw, &s, &im->e));
    TPM_IMAGE_MUST(im, tpm_new(&s, &im->run.t, &im->e));
    tpm_image_start(im);
    char now = '0';
    for (int round = 0; round < 40; round++) {
        for (size_t k = 0;; k++) {
            char next = (char)('A' + (round * 7 + (int)k) % 26);
            mem_disk_fail(disk, k, round % 2 ? MEM_FAIL_AFTER : MEM_FAIL_ONCE, 28, round % 3 * 256);
            cmd2_nv_write(&im->c, INDEX, &next, 1, 0);
            struct tpm_rsp r = tpm_run(&im->run, &im->c);
            bool reached = mem_disk_n_ops(disk) > k;
            mem_disk_heal(disk);
            assert_int_equal(r.rc, reached ? RC2_NV_UNAVAILABLE : 0);
            if (!reached)
                now = next;
            else
                assert_int_equal(im->run.e.kind, ERR_STORAGE);
            assert_nv(im, INDEX, &now, 1, 0);
            if (!reached)
                break;
        }
    }
    tpm_image_close(im);
    TPM_IMAGE_MUST(im, mem_image_arm(disk, TPM_IMAGE_PASS, &rw, &im->e));
    TPM_IMAGE_MUST(im, store_open(&rw, &s, &im->e));
    TPM_IMAGE_MUST(im, tpm_new(&s, &im->run.t, &im->e));
    tpm_image_start(im);
    assert_nv(im, INDEX, &now, 1, 0);
    tpm_image_close(im);
    mem_disk_free(disk);
}

/* libtpms keeps its state in ./NVChip when it is not given callbacks, and tells stderr which
 * command made it fail. */
static void nothing_appears_in_the_directory_or_on_stderr(void **state)
{
    struct tpm_image *im = *state;
    char out[128];
    struct stat st;
    int status;
    tpm_image_close(im);
    snprintf(out, sizeof(out), "%s.stderr", im->dir);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(out, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 || dup2(fd, 2) < 0 || dup2(fd, 1) < 0 || chdir(im->dir) != 0)
            _exit(2);
        tpm_image_pass(im);
        tpm_image_open(im);
        tpm_image_start(im);
        cmd2_get_random(&im->c, 8);
        (void)tpm_run_bytes(&im->run, im->c.b, 7);
        tpm_power_off(im->run.t);
        /* A state that libtpms has something to say about. */
        uint8_t junk[64] = {0, 3, 0xab, 0x36, 0x47, 0x23, 0, 3, 0, 3};
        if (tpm_stage(im->run.t, BLOB_PERMANENT, junk, sizeof(junk), &im->e) == 0 ||
            tpm_stage(im->run.t, BLOB_PERMANENT, junk + 2, 8, &im->e) == 0)
            _exit(3);
        tpm_image_close(im);
        struct tpm_blobs blobs = {{NULL}, {0}};
        if (tpm_manufacture(DEVICE_TPM20, &blobs, &im->e) < 0)
            _exit(4);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(stat(out, &st), 0);
    unlink(out);
    assert_int_equal(st.st_size, 0);
    /* tpm_image_end() finds out whether the directory holds anything but the image. */
}

#define WITH(setup_fn, test) cmocka_unit_test_setup_teardown(test, setup_fn, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(setup_started, nv_survives_a_power_cut_after_every_command),
        WITH(setup_started, persistent_key_survives),
        WITH(setup_started, full_nv_fits_and_survives),
        WITH(setup_started, clear_is_durable),
        WITH(setup_started, saved_state_gives_the_pcrs_back),
        WITH(setup_started, only_changes_reach_the_file),
        WITH(setup_started, markers_written_through_the_tpm_are_not_in_the_file),
        WITH(setup, off_tpm_answers_every_command_with_failure),
        cmocka_unit_test(store_without_a_tpm_is_state_empty_and_stays_so),
        WITH(setup, second_tpm_in_a_process_is_refused),
        WITH(setup_started, locality_above_four_and_long_commands_are_refused),
        WITH(setup_started, locality_reaches_the_pcrs),
        WITH(setup_started, garbage_is_answered_and_changes_nothing),
        WITH(setup, buffer_size_is_clamped_and_only_changed_while_off),
        WITH(setup_started, measured_launch_extends_pcr_17_and_sets_established),
        WITH(setup, startup_flags_do_what_they_say_or_fail),
        WITH(setup_started, long_command_can_be_cancelled_and_the_tpm_goes_on),
        WITH(setup_started, every_failing_operation_of_a_real_disk_undoes_the_command),
        WITH(setup, nothing_appears_in_the_directory_or_on_stderr),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
