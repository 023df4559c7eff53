#include "crypto/secret.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "crypto/luks_key_priv.h"
#include "tests/crypto/helpers.h"

/* Every unmapping of this program comes through here: what is given back must have been wiped. */
static struct {
    bool watching, dirty;
    size_t n;
} unmapped;

int munmap(void *p, size_t n)
{
    if (unmapped.watching) {
        const uint8_t *b = p;
        unmapped.n = n;
        for (size_t i = 0; i < n; i++)
            unmapped.dirty |= b[i] != 0;
    }
    return (int)syscall(SYS_munmap, p, n);
}

static void a_secret_begins_zeroed_on_a_page_of_its_own(void **state)
{
    static const size_t sizes[] = {1, 64, 4095, 4096, 4097, 1 << 20};
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        OWNED(secret) s = NULL;
        assert_done(secret_new(sizes[i], &s, &e), e);
        assert_int_equal(secret_size(s), sizes[i]);
        assert_ptr_equal(secret_bytes(s), secret_peek(s));
        assert_int_equal((uintptr_t)secret_peek(s) % 4096, 0);
        for (size_t j = 0; j < sizes[i]; j++)
            assert_int_equal(secret_peek(s)[j], 0);
        memset(secret_bytes(s), 0xff, sizes[i]);
    }
}

/* The line of /proc/self/smaps that says how the kernel treats the mapping at p. */
static void vm_flags(const void *p, char *ret, size_t room, long *ret_locked_kb)
{
    FILE *f = fopen("/proc/self/smaps", "re");
    char line[512];
    bool here = false;
    ret[0] = 0;
    *ret_locked_kb = -1;
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            here = (uintptr_t)p >= from && (uintptr_t)p < to;
        if (here)
            sscanf(line, "Locked: %ld", ret_locked_kb);
        if (here && !strncmp(line, "VmFlags:", 8)) {
            snprintf(ret, room, "%s", line);
            break;
        }
    }
    fclose(f);
}

static void a_secret_is_locked_and_kept_out_of_dumps_and_children(void **state)
{
    OWNED(secret) s = NULL;
    struct err e;
    char flags[512];
    long locked;
    (void)state;
    assert_done(secret_new(5000, &s, &e), e);
    vm_flags(secret_peek(s), flags, sizeof(flags), &locked);
    assert_non_null(strstr(flags, " dd"));
    assert_non_null(strstr(flags, " wf"));
    if (SANITIZED)
        return;
    assert_non_null(strstr(flags, " lo"));
    assert_true(locked >= 8);
}

static void a_forked_child_finds_zeroes(void **state)
{
    struct secret *s = secret_of("the key");
    (void)state;
    pid_t pid = fork();
    if (pid == 0)
        _exit(secret_peek(s)[0] == 0 ? 0 : 1);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_memory_equal(secret_peek(s), "the key", 7);
    secret_free(s);
}

static void freeing_wipes_before_it_unmaps(void **state)
{
    static const size_t sizes[][2] = {{1, 4096}, {4096, 4096}, {4097, 8192}, {10000, 12288}};
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct secret *s = NULL;
        assert_done(secret_new(sizes[i][0], &s, &e), e);
        memset(secret_bytes(s), 0xa5, sizes[i][0]);
        unmapped.watching = true;
        secret_free(s);
        unmapped.watching = false;
        assert_int_equal(unmapped.n, sizes[i][1]);
        assert_false(unmapped.dirty);
    }
    secret_free(NULL);
}

static void keys_are_wiped_when_their_objects_are_freed(void **state)
{
    static const uint8_t key[64] =
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde";
    static const struct luks_cipher how = {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, 0, 64};
    struct mac_key *m = NULL;
    struct block_cipher *b = NULL;
    struct sector_cipher *c = NULL;
    struct err e;
    (void)state;
    assert_done(mac_key_new(key, sizeof(key), &m, &e), e);
    assert_done(block_cipher_new(CIPHER_TWOFISH256, key, &b, &e), e);
    assert_done(sector_cipher_with(&how, key, &c, &e), e);
    unmapped.watching = true;
    unmapped.n = 0;
    mac_key_free(m);
    assert_true(unmapped.n > 0);
    block_cipher_free(b);
    sector_cipher_free(c);
    unmapped.watching = false;
    assert_false(unmapped.dirty);
}

/* A child that may lock nothing: what fails there says which limit to raise. */
static int in_a_child_without_lockable_memory(int (*what)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit none = {0, 0};
        if (setrlimit(RLIMIT_MEMLOCK, &none) < 0 || (getuid() == 0 && setuid(65534) < 0))
            _exit(99);
        _exit(what());
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int names_the_limit(const struct err *e)
{
    return e->kind == ERR_STORAGE && (e->os == ENOMEM || e->os == EPERM) &&
           strstr(e->text, "RLIMIT_MEMLOCK") && strstr(e->text, "ulimit -l") &&
           strstr(e->text, "LimitMEMLOCK=");
}

static int secret_is_refused(void)
{
    struct secret *const before = (void *)&unmapped, *s = before;
    struct err e = {0};
    if (secret_new(5000, &s, &e) != -1 || s != before)
        return 1;
    return names_the_limit(&e) && strstr(e.text, "8192 bytes") ? 0 : 2;
}

static int everything_above_is_refused(void)
{
    static const uint8_t key[64];
    static const struct luks_cipher how = {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, 0, 64};
    struct mac_key *m = NULL;
    struct block_cipher *b = NULL;
    struct sector_cipher *c = NULL;
    struct volume_key *v = NULL;
    struct luks_header h = {0}, old = h;
    struct err e = {0};
    if (mac_key_new(key, sizeof(key), &m, &e) != -1 || m || !names_the_limit(&e))
        return 1;
    if (block_cipher_new(CIPHER_AES128, key, &b, &e) != -1 || b || !names_the_limit(&e))
        return 2;
    if (sector_cipher_with(&how, key, &c, &e) != -1 || c || !names_the_limit(&e))
        return 3;
    if (luks_volume_new(1000, &h, &v, &e) != -1 || v || !names_the_limit(&e))
        return 4;
    return memcmp(&h, &old, sizeof(h)) ? 5 : 0;
}

static void memory_that_cannot_be_locked_is_refused_by_the_name_of_the_limit(void **state)
{
    (void)state;
    if (SANITIZED) {
        print_message("mlock() is switched off by the sanitizer\n");
        skip();
    }
    assert_int_equal(in_a_child_without_lockable_memory(secret_is_refused), 0);
    assert_int_equal(in_a_child_without_lockable_memory(everything_above_is_refused), 0);
}

static void sizes_outside_the_contract_are_our_own_mistake(void **state)
{
    static const size_t sizes[] = {0, ((size_t)64 << 20) + 1, SIZE_MAX};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            struct secret *s = NULL;
            struct err e;
            signal(SIGABRT, SIG_DFL);
            if (!freopen("/dev/null", "w", stderr))
                _exit(1);
            _exit(secret_new(sizes[i], &s, &e) < 0 ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

static void wiping_overwrites_exactly_what_it_is_told(void **state)
{
    uint8_t b[32];
    (void)state;
    memset(b, 7, sizeof(b));
    wipe(b + 3, 20);
    for (size_t i = 0; i < sizeof(b); i++)
        assert_int_equal(b[i], i < 3 || i >= 23 ? 7 : 0);
    wipe(b, 0);
    assert_int_equal(b[0], 7);
}

static void comparing_sees_every_bit_and_no_more(void **state)
{
    uint8_t a[33], b[33];
    (void)state;
    memset(a, 0x5a, sizeof(a));
    memcpy(b, a, sizeof(b));
    assert_true(equal_constant_time(a, b, sizeof(a)));
    for (size_t i = 0; i < 8 * sizeof(a); i++) {
        b[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_false(equal_constant_time(a, b, sizeof(a)));
        assert_true(equal_constant_time(a, b, i / 8));
        b[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    assert_true(equal_constant_time(a, b, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_secret_begins_zeroed_on_a_page_of_its_own),
        cmocka_unit_test(a_secret_is_locked_and_kept_out_of_dumps_and_children),
        cmocka_unit_test(a_forked_child_finds_zeroes),
        cmocka_unit_test(freeing_wipes_before_it_unmaps),
        cmocka_unit_test(keys_are_wiped_when_their_objects_are_freed),
        cmocka_unit_test(memory_that_cannot_be_locked_is_refused_by_the_name_of_the_limit),
        cmocka_unit_test(sizes_outside_the_contract_are_our_own_mistake),
        cmocka_unit_test(wiping_overwrites_exactly_what_it_is_told),
        cmocka_unit_test(comparing_sees_every_bit_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
