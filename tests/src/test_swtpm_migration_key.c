/* The migration key against Debian's swtpm: the same argument is given to swtpm and to us, what
 * swtpm saves is opened, and what we seal is loaded by swtpm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "migration/blob.h"
#include "src/key/swtpm_key.h"

static char dir[200];

struct file {
    uint8_t b[32768];
    size_t n;
};

static struct file contents(const char *name)
{
    struct file f = {0};
    FILE *in = fopen(name, "rb");
    if (!in)
        fail_msg("there is no %s", name);
    f.n = fread(f.b, 1, sizeof(f.b), in);
    fclose(in);
    return f;
}

static void put(const char *name, const void *p, size_t n)
{
    OWNED_FD fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), n);
}

static int run(const char *command)
{
    char line[1000];
    snprintf(line, sizeof(line), "timeout 20 %s >>out 2>&1", command);
    return system(line);
}

static int make_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof(dir), "%s/nvkeep-swtpm-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(dir) ? chdir(dir) : -1;
}

/* By its number, if one is still there. */
static int end_swtpm(void **state)
{
    long pid = 0;
    FILE *in = fopen("pid", "r");
    (void)state;
    if (in) {
        if (fscanf(in, "%ld", &pid) == 1 && pid > 1)
            kill((pid_t)pid, SIGKILL);
        fclose(in);
    }
    return 0;
}

static int remove_dir(void **state)
{
    char command[300];
    end_swtpm(state);
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return chdir("/") < 0 ? -1 : system(command);
}

/* key: what follows --migration-key, and redirections. */
static void start(const char *state_dir, const char *key, const char *redirect)
{
    char command[600];
    (void)mkdir(state_dir, 0700);
    snprintf(command, sizeof(command),
             "swtpm socket --tpm2 --tpmstate dir=%s --ctrl type=unixio,path=ctrl --pid file=pid "
             "--log file=log --migration-key %s %s >>out 2>&1 &",
             state_dir, key, redirect);
    assert_int_equal(system(command), 0);
    for (int i = 0; i < 500; i++) {
        if (run("swtpm_ioctl --unix ctrl -c") == 0)
            return;
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    fail_msg("swtpm does not start: %s", command);
}

/* It removes its pid file last. */
static void stop(void)
{
    assert_int_equal(run("swtpm_ioctl --unix ctrl -s"), 0);
    for (int i = 0; i < 500 && access("pid", F_OK) == 0; i++)
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    assert_int_equal(access("pid", F_OK), -1);
}

static struct migration_key *key_of(const char *arg)
{
    struct swtpm_key_source s;
    struct migration_key *k = NULL;
    struct err e = {0};
    if (swtpm_key_parse("migration-key", arg, &s, &e) < 0 ||
        swtpm_key_read_cipher("migration-key", &s, &k, &e) < 0)
        fail_msg("%s: %s", arg, e.text);
    return k;
}

/* Each form, as swtpm takes it and as we do; where it is read from a descriptor, that is 9. */
static const struct form {
    const char *arg, *redirect;
    unsigned bits;
} forms[] = {
    {"file=hex128", "", 128},
    {"file=hex128,format=hex,mode=aes-cbc", "", 128},
    {"file=hex256,mode=aes-256-cbc", "", 256},
    {"file=binary128,format=binary,mode=aes-128-cbc", "", 128},
    {"file=binary256,format=binary,mode=aes-256-cbc", "", 256},
    {"fd=9,mode=aes-256-cbc", "9<hex256", 256},
    {"pwdfile=pass", "", 128},
    {"pwdfile=pass,mode=aes-256-cbc,kdf=pbkdf2", "", 256},
    {"pwdfile=pass,mode=aes-256-cbc,kdf=sha512", "", 256},
    {"pwdfile=pass,kdf=sha512", "", 128},
    {"pwdfd=9,mode=aes-256-cbc", "9<pass", 256},
};

static struct migration_key *our_key(const struct form *f)
{
    if (strlen(f->redirect) > 0) {
        OWNED_FD fd = open(f->redirect + 2, O_RDONLY);
        assert_true(fd >= 0);
        assert_int_equal(dup2(fd, 9), 9);
    }
    return key_of(f->arg);
}

static void make_keys(void)
{
    uint8_t binary[32];
    char hex[70];
    for (size_t i = 0; i < sizeof(binary); i++) {
        binary[i] = (uint8_t)(0xd3 + 17 * i);
        snprintf(hex + 2 * i, 3, "%02x", binary[i]);
    }
    put("hex128", hex, 32);
    put("binary128", binary, 16);
    put("binary256", binary, 32);
    memmove(hex + 2, hex, 64);
    memcpy(hex, "0x", 2);
    hex[66] = '\n';
    put("hex256", hex, 67);
    put("pass", "correct horse\n", 14);
}

/* Opened with `key`, or plain. */
static struct file state_in(const char *name, const struct migration_key *key)
{
    struct file f = contents(name), ret = {0};
    OWNED(secret) s = NULL;
    struct err e = {0};
    if (blob_open(f.b, f.n, key, &s, &ret.n, &e) < 0)
        fail_msg("%s: %s", name, e.text);
    assert_true(ret.n <= sizeof(ret.b));
    memcpy(ret.b, secret_peek(s), ret.n);
    return ret;
}

static void assert_same(const struct file *a, const struct file *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->b, b->b, a->n);
}

/* What swtpm saves under this key is, opened by us, what lies in its directory. */
static void opened_by_us(const struct form *f)
{
    OWNED(migration_key) key = our_key(f);
    assert_int_equal(migration_key_bits(key), f->bits);
    start("source", f->arg, f->redirect);
    assert_int_equal(run("swtpm_ioctl --unix ctrl -i"), 0);
    assert_int_equal(run("swtpm_ioctl --unix ctrl --save permanent saved"), 0);
    stop();
    struct file saved = contents("saved");
    struct blob_part plain;
    struct err e = {0};
    assert_int_equal(blob_plain(saved.b, saved.n, &plain, &e), -1);
    assert_int_equal(e.kind, ERR_KEY_MISSING);
    struct file a = state_in("saved", key), b = state_in("source/tpm2-00.permall", NULL);
    assert_same(&a, &b);
}

static int load(const char *what, const struct migration_key *key, const struct file *state)
{
    OWNED(secret) blob = NULL;
    struct err e;
    char command[100];
    size_t n = 0;
    assert_int_equal(blob_seal(key, state->b, state->n, &blob, &n, &e), 0);
    put("sealed", secret_peek(blob), n);
    snprintf(command, sizeof(command), "swtpm_ioctl --unix ctrl --load %s sealed", what);
    return run(command);
}

/* What we seal is loaded by swtpm under this key, and lies in its directory afterwards; under
 * another key it is not. */
static void loaded_by_swtpm(const struct form *f)
{
    OWNED(migration_key) key = our_key(f);
    OWNED(migration_key)
    other = key_of(f->bits == 128 ? "pwdfile=hex256" : "pwdfile=hex256,mode=aes-256-cbc");
    struct file state = state_in("source/tpm2-00.permall", NULL);
    assert_int_equal(run("rm -rf target"), 0);
    start("target", f->arg, f->redirect);
    assert_int_not_equal(load("permanent", other, &state), 0);
    assert_int_equal(load("permanent", key, &state), 0);
    assert_int_equal(run("swtpm_ioctl --unix ctrl -i"), 0);
    assert_int_equal(run("swtpm_ioctl --unix ctrl --save permanent saved"), 0);
    stop();
    struct file back = state_in("saved", key), stored = state_in("target/tpm2-00.permall", NULL);
    assert_same(&back, &state);
    assert_same(&stored, &state);
}

static void every_form_of_the_key_is_the_one_that_swtpm_makes_of_it(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        opened_by_us(&forms[i]);
        loaded_by_swtpm(&forms[i]);
    }
    print_message("%zu forms, both ways\n", ARRAY_LEN(forms));
}

/* Both blobs of one instant; the volatile one is checked against the permanent one by libtpms. */
static void volatile_state_travels_under_the_key_both_ways(void **state)
{
    const struct form *f = &forms[2];
    OWNED(migration_key) key = our_key(f);
    (void)state;
    start("source", f->arg, f->redirect);
    assert_int_equal(run("swtpm_ioctl --unix ctrl -i"), 0);
    assert_int_equal(run("swtpm_ioctl --unix ctrl --save permanent saved"), 0);
    assert_int_equal(run("swtpm_ioctl --unix ctrl --save volatile saved.volatile"), 0);
    stop();
    struct file permanent = state_in("saved", key), volatil = state_in("saved.volatile", key);
    assert_int_equal(run("rm -rf target"), 0);
    start("target", f->arg, f->redirect);
    assert_int_equal(load("permanent", key, &permanent), 0);
    assert_int_equal(load("volatile", key, &volatil), 0);
    assert_int_equal(run("swtpm_ioctl --unix ctrl -i"), 0);
    assert_int_equal(run("swtpm_ioctl --unix ctrl --save volatile saved.volatile"), 0);
    stop();
    struct file back = state_in("saved.volatile", key);
    assert_int_equal(back.n, volatil.n);
}

static void the_wrong_key_and_no_key_do_not_open_what_swtpm_saved(void **state)
{
    static const struct {
        const char *arg;
        const char *says;
    } others[] = {
        {"file=binary256,format=binary,mode=aes-256-cbc", NULL},
        {"pwdfile=pass,mode=aes-256-cbc", "another one, or is damaged"},
        {"file=hex128", "of 256 bits, and the one given has 128"},
    };
    const struct form *f = &forms[2];
    (void)state;
    start("source", f->arg, f->redirect);
    assert_int_equal(run("swtpm_ioctl --unix ctrl -i"), 0);
    assert_int_equal(run("swtpm_ioctl --unix ctrl --save permanent saved"), 0);
    stop();
    struct file saved = contents("saved");
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        OWNED(migration_key) key = key_of(others[i].arg);
        OWNED(secret) s = NULL;
        struct err e = {0};
        size_t n = 4711;
        if (!others[i].says) { /* the same key in another form */
            assert_int_equal(blob_open(saved.b, saved.n, key, &s, &n, &e), 0);
            continue;
        }
        assert_int_equal(blob_open(saved.b, saved.n, key, &s, &n, &e), -1);
        assert_int_equal(e.kind, ERR_KEY_WRONG);
        assert_non_null(strstr(e.text, others[i].says));
        assert_null(s);
        assert_int_equal(n, 4711);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_form_of_the_key_is_the_one_that_swtpm_makes_of_it,
                                  end_swtpm),
        cmocka_unit_test_teardown(volatile_state_travels_under_the_key_both_ways, end_swtpm),
        cmocka_unit_test_teardown(the_wrong_key_and_no_key_do_not_open_what_swtpm_saved, end_swtpm),
    };
    for (size_t i = 0; i < 2; i++) {
        static const char *const tools[] = {"swtpm", "swtpm_ioctl"};
        char command[60];
        snprintf(command, sizeof(command), "command -v %s >/dev/null", tools[i]);
        if (system(command) != 0) {
            printf("%s is missing\n", tools[i]);
            return 77;
        }
    }
    void *none = NULL;
    if (make_dir(&none) != 0)
        return 1;
    make_keys();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_dir(&none);
    return failed;
}
