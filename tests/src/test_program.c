#include "program.h"

#include <jansson.h>

#include "src/cli/cli_table.h"

/* Arguments that make each command complete but for the key. */
static const char *rest_of(const char *command)
{
    return strcmp(command, "serve") == 0    ? " --ctrl type=unixio,path=s"
           : strcmp(command, "export") == 0 ? " t --plaintext"
                                            : "";
}

static void make_image(const char *name)
{
    struct run r = {0};
    char words[200];
    file_put("right", "correct horse", 13);
    file_put("wrong", "correct house", 13);
    snprintf(words, sizeof(words), "create %s --key file=right --iter-time 1", name);
    program_expect(&r, 0, words);
}

static void assert_says(const struct run *r, const char *class, const char *text)
{
    char begin[60];
    snprintf(begin, sizeof(begin), "nvkeep: %s: ", class);
    if (strncmp(r->err, begin, strlen(begin)) != 0 || !strstr(r->err, text))
        fail_msg("expected \"%s...%s\", found: %s", begin, text, r->err);
    assert_ptr_equal(strchr(r->err, '\n'), r->err + strlen(r->err) - 1);
}

static void assert_json(const struct run *r, const char *result, int code)
{
    json_error_t where;
    json_t *o = json_loads(r->out, JSON_REJECT_DUPLICATES, &where);
    if (!o)
        fail_msg("not JSON: %s in: %s", where.text, r->out);
    assert_string_equal(json_string_value(json_object_get(o, "result")), result);
    assert_int_equal(json_integer_value(json_object_get(o, "exit")), code);
    const char *message = json_string_value(json_object_get(o, "message"));
    if (code == 0)
        assert_null(message);
    else if (!message || !strstr(r->err, message))
        fail_msg("the message in JSON is not that on stderr: %s", r->out);
    json_decref(o);
}

/* S0.3 */
static void every_command_without_arguments_says_what_is_missing(void **state)
{
    (void)state;
    struct run r = {0};
    char missing[60];
    for (size_t i = 0; i < cli_n_commands; i++) {
        program_expect(&r, 2, cli_commands[i].name);
        snprintf(missing, sizeof(missing), "missing: %s", cli_commands[i].operand);
        assert_says(&r, "USAGE", missing);
        assert_string_equal(r.out, "");
    }
    program_expect(&r, 2, "");
    assert_says(&r, "USAGE", "no command was given");
}

static void every_command_has_help(void **state)
{
    (void)state;
    struct run r = {0};
    char words[60];
    for (size_t i = 0; i < cli_n_commands; i++) {
        snprintf(words, sizeof(words), "%s --help", cli_commands[i].name);
        program_expect(&r, 0, words);
        assert_string_equal(r.err, "");
        assert_non_null(strstr(r.out, "Usage: nvkeep "));
        char first[OUTPUT_BYTES];
        memcpy(first, r.out, sizeof(first));
        snprintf(words, sizeof(words), "help %s", cli_commands[i].name);
        program_expect(&r, 0, words);
        assert_string_equal(r.out, first);
        snprintf(words, sizeof(words), "help words %s", cli_commands[i].name);
        program_expect(&r, 0, words);
        assert_non_null(strstr(r.out, "--json\n"));
    }
    program_expect(&r, 0, "--help");
    program_expect(&r, 0, "help");
    program_expect(&r, 0, "help exit-codes");
    assert_non_null(strstr(r.out, "11  KEY_WRONG "));
    program_expect(&r, 0, "help words");
    program_expect(&r, 0, "--version");
    assert_string_equal(r.out, "nvkeep " NVKEEP_VERSION "\n");
    program_expect(&r, 2, "help nonsense");
    assert_says(&r, "USAGE", "no help on that");
}

/* S0.17 */
static void every_command_refuses_unknown_options(void **state)
{
    (void)state;
    struct run r = {0};
    char words[60];
    for (size_t i = 0; i < cli_n_commands; i++) {
        snprintf(words, sizeof(words), "%s image --frobnicate", cli_commands[i].name);
        program_expect(&r, 2, words);
        assert_says(&r, "USAGE", "unknown option --frobnicate");
        snprintf(words, sizeof(words), "%s image --jsno --json", cli_commands[i].name);
        program_expect(&r, 2, words);
        assert_says(&r, "USAGE", "did you mean --json?");
        assert_json(&r, "USAGE", 2);
    }
}

/* S0.2 S1.5 S0.6 */
static void missing_key_is_its_own_class_and_changes_nothing(void **state)
{
    (void)state;
    static const char *const commands[] = {"serve", "verify-key", "check"};
    struct run r = {0};
    char words[100];
    make_image("i");
    uint64_t before = file_digest("i");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        snprintf(words, sizeof(words), "%s i --json%s", commands[i], rest_of(commands[i]));
        program_expect(&r, 10, words);
        assert_says(&r, "KEY_MISSING", "i is encrypted and no key was given");
        assert_json(&r, "KEY_MISSING", 10);
    }
    program_expect(&r, 10, "create new");
    assert_says(&r, "KEY_MISSING", "--new-key");
    assert_false(file_exists("new"));
    assert_false(file_exists("s"));
    program_expect(&r, 0, "info i");
    assert_true(file_digest("i") == before);
}

/* S0.4: everything that is missing in one error, whether or not it has a class of its own. */
static void missing_key_and_socket_are_named_together(void **state)
{
    (void)state;
    struct run r = {0};
    make_image("i");
    program_expect(&r, 2, "serve i");
    assert_says(&r, "USAGE", "missing: --ctrl SOCKET, --key SOURCE");
}

/* S0.6 S0.8 S3.3 S3.9 */
static void wrong_key_is_refused_by_every_command(void **state)
{
    (void)state;
    static const char *const commands[] = {"serve", "verify-key", "check", "info", "export"};
    struct run r = {0};
    char words[120];
    make_image("i");
    uint64_t before = file_digest("i");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        snprintf(words, sizeof(words), "%s i --key file=wrong --json%s", commands[i],
                 rest_of(commands[i]));
        program_expect(&r, 11, words);
        assert_says(&r, "KEY_WRONG", "none of the image's key slots");
        assert_json(&r, "KEY_WRONG", 11);
    }
    assert_false(file_exists("s"));
    assert_false(file_exists("t"));
    assert_true(file_digest("i") == before);
}

static void right_key_opens_without_writing(void **state)
{
    (void)state;
    static const char *const commands[] = {"verify-key", "check", "info"};
    struct run r = {0};
    char words[100];
    make_image("i");
    uint64_t before = file_digest("i");
    assert_int_equal(chmod("i", 0400), 0);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        snprintf(words, sizeof(words), "%s i --key file=right", commands[i]);
        program_expect(&r, 0, words);
        assert_string_equal(r.err, "");
        assert_non_null(strstr(r.out, "generation 1"));
        snprintf(words, sizeof(words), "%s i --key file=right --json", commands[i]);
        program_expect(&r, 0, words);
        assert_string_equal(r.err, "");
        assert_json(&r, "OK", 0);
        assert_non_null(strstr(r.out, "\"generation\": 1"));
    }
    assert_true(file_digest("i") == before);
}

/* S2.1 */
static void info_needs_no_key_and_shows_what_is_outside(void **state)
{
    (void)state;
    struct run r = {0};
    make_image("i");
    program_expect(&r, 0, "info i --json");
    assert_json(&r, "OK", 0);
    json_t *o = json_loads(r.out, 0, NULL);
    json_t *luks = json_object_get(o, "luks"), *slots = json_object_get(luks, "slots");
    assert_true(json_is_true(json_object_get(o, "encrypted")));
    assert_true(json_is_true(json_object_get(o, "nvkeep")));
    assert_int_equal(json_integer_value(json_object_get(o, "version")), 3);
    assert_int_equal(json_integer_value(json_object_get(o, "size")), 1 << 20);
    assert_string_equal(json_string_value(json_object_get(luks, "mode")), "xts-plain64");
    assert_int_equal(json_integer_value(json_object_get(luks, "key_bits")), 512);
    assert_int_equal(json_array_size(slots), 8);
    assert_true(json_is_true(json_object_get(json_array_get(slots, 0), "active")));
    assert_true(json_is_false(json_object_get(json_array_get(slots, 1), "active")));
    assert_int_equal(strlen(json_string_value(json_object_get(o, "instance"))), 36);
    assert_true(json_is_true(json_object_get(json_object_get(o, "serve"), "accepted")));
    assert_null(json_object_get(o, "inside"));
    json_decref(o);
}

static void what_is_no_image_is_refused_by_every_command(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int code;
        const char *class;
    } files[] = {
        {"absent", 2, "USAGE"},    {"directory", 2, "USAGE"},      {"fifo", 2, "USAGE"},
        {"/dev/null", 2, "USAGE"}, {"empty", 22, "STATE_FOREIGN"}, {"text", 22, "STATE_FOREIGN"},
    };
    struct run r = {0};
    char words[200];
    make_image("i");
    assert_int_equal(mkdir("directory", 0700), 0);
    assert_int_equal(mkfifo("fifo", 0600), 0);
    file_put("empty", "", 0);
    file_put("text", "no image", 8);
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        for (size_t j = 0; j < cli_n_commands; j++) {
            const char *c = cli_commands[j].name;
            if (strcmp(c, "create") == 0 || strcmp(cli_commands[j].operand, "IMAGE") != 0)
                continue;
            snprintf(words, sizeof(words), "%s %s --key file=right%s", c, files[i].name,
                     rest_of(c));
            program_run(&r, words);
            if (r.code != files[i].code)
                fail_msg("%s: %d: %s", words, r.code, r.err);
            assert_says(&r, files[i].class, files[i].name);
        }
}

static void create_never_replaces_a_file(void **state)
{
    (void)state;
    struct run r = {0};
    make_image("i");
    uint64_t before = file_digest("i"), key_before = file_digest("right");
    program_expect(&r, 2, "create i --key file=right");
    assert_says(&r, "USAGE", "i exists");
    program_expect(&r, 2, "create new --new-key right --json");
    assert_says(&r, "USAGE", "right exists");
    assert_json(&r, "USAGE", 2);
    program_expect(&r, 2, "create i --new-key other");
    assert_int_equal(symlink("nowhere", "dangling"), 0);
    program_expect(&r, 2, "create dangling --key file=right --iter-time 1");
    program_expect(&r, 2, "create new --new-key dangling");
    assert_false(file_exists("new"));
    assert_false(file_exists("nowhere"));
    assert_false(file_exists("other"));
    assert_true(file_digest("i") == before);
    assert_true(file_digest("right") == key_before);
}

static void create_refuses_keys_that_others_could_not_use(void **state)
{
    (void)state;
    static char big[1 << 20];
    static const struct {
        const char *name, *text;
        size_t n;
        int code;
        const char *class, *why;
    } keys[] = {
        {"empty", "", 0, 10, "KEY_MISSING", "is empty"},
        {"nul", "a\0b", 3, 2, "USAGE", "NUL byte"},
        {"latin1", "\xfc", 1, 2, "USAGE", "not valid UTF-8"},
        {"large", big, sizeof(big), 2, "USAGE", "longer than 65536 bytes"},
    };
    struct run r = {0};
    char words[100];
    memset(big, 'x', sizeof(big));
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        file_put(keys[i].name, keys[i].text, keys[i].n);
        snprintf(words, sizeof(words), "create i --iter-time 1 --key file=%s", keys[i].name);
        program_expect(&r, keys[i].code, words);
        assert_says(&r, keys[i].class, keys[i].why);
        assert_false(file_exists("i"));
    }
}

static void new_key_is_text_of_its_owner_alone(void **state)
{
    (void)state;
    struct run r = {0};
    struct stat st;
    char key[100] = "", other[100] = "";
    program_expect(&r, 0, "create i --new-key key --json");
    assert_json(&r, "OK", 0);
    assert_non_null(strstr(r.err, "stretching adds nothing to a random key"));
    assert_non_null(strstr(r.out, "\"iter_time_ms\": 10"));
    assert_int_equal(stat("key", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_size, 44);
    assert_int_equal(stat("i", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    program_expect(&r, 0, "verify-key i --key file=key");
    program_expect(&r, 0, "create j --new-key key2");
    int a = open("key", O_RDONLY), b = open("key2", O_RDONLY);
    assert_int_equal(read(a, key, 99), 44);
    assert_int_equal(read(b, other, 99), 44);
    close(a);
    close(b);
    assert_string_not_equal(key, other);
    assert_int_equal(
        strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"), 43);
    assert_int_equal(key[43], '=');
}

static void create_makes_what_was_asked_for(void **state)
{
    (void)state;
    struct run r = {0};
    program_expect(&r, 0, "create i --tpm12 --new-key k --size 2M --cluster-size=4K --iter-time 3");
    program_expect(&r, 0, "info i --key file=k");
    assert_non_null(strstr(r.out, "disk of 2097152 bytes\nclusters:    4096 bytes\n"));
    assert_non_null(strstr(r.out, "TPM 1.2"));
    program_expect(&r, 0, "check i --key file=k");
    program_expect(&r, 2, "create j --new-key k2 --cluster-size 5000");
    assert_says(&r, "USAGE", "5000 is not a power of two");
    program_expect(&r, 2, "create j --new-key k2 --size 1000000");
    assert_says(&r, "USAGE", "not a multiple of 4096");
    program_expect(&r, 2, "create j --new-key k2 --size 64K");
    program_expect(&r, 2, "create no/such/dir/j --new-key k2");
    program_expect(&r, 2, "create j --new-key no/such/dir/k2");
    assert_false(file_exists("j"));
    assert_false(file_exists("k2"));
}

/* S3.18: an image that waits for a migration is sound, and holds no TPM that could be served. */
static void create_incoming_makes_an_image_that_waits(void **state)
{
    (void)state;
    struct run r = {0};
    char words[100];
    program_expect(&r, 0, "create i --tpm12 --incoming --new-key k --iter-time 3");
    assert_non_null(strstr(r.out, "TPM 1.2"));
    assert_non_null(strstr(r.out, "created; it holds no TPM yet"));
    static const char *const commands[] = {"verify-key", "check", "info"};
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        snprintf(words, sizeof(words), "%s i --key file=k", commands[i]);
        program_expect(&r, 0, words);
        assert_non_null(strstr(r.out, "TPM 1.2"));
        assert_non_null(strstr(r.out, "it holds no TPM yet: a migration is to bring it"));
    }
    program_expect(&r, 20, "serve i --key file=k --ctrl type=unixio,path=s");
    assert_says(&r, "STATE_EMPTY", "holds no TPM");
    assert_false(file_exists("s"));

    program_expect(&r, 0, "create j --incoming --new-key k2 --iter-time 3 --json");
    assert_json(&r, "OK", 0);
    json_t *o = json_loads(r.out, 0, NULL);
    assert_true(json_is_false(json_object_get(o, "holds_tpm")));
    json_decref(o);
    program_expect(&r, 0, "verify-key j --key file=k2 --json");
    o = json_loads(r.out, 0, NULL);
    assert_true(json_is_false(json_object_get(o, "holds_tpm")));
    json_decref(o);
    make_image("with");
    program_expect(&r, 0, "verify-key with --key file=right --json");
    o = json_loads(r.out, 0, NULL);
    assert_true(json_is_true(json_object_get(o, "holds_tpm")));
    json_decref(o);
    program_expect(&r, 0, "check with --key file=right");
    assert_null(strstr(r.out, "no TPM"));
}

static void newline_at_the_end_of_a_key_is_pointed_out(void **state)
{
    (void)state;
    struct run r = {0};
    file_put("k", "pass\n", 5);
    program_expect(&r, 0, "create i --iter-time 1 --key file=k");
    assert_non_null(strstr(r.err, "the key ends in a newline, and that newline is part of it"));
    program_expect(&r, 11, "verify-key i --key pwdfile=k");
    program_expect(&r, 0, "create j --iter-time 1 --key pwdfile=k");
    assert_null(strstr(r.err, "newline"));
    program_expect(&r, 0, "verify-key j --key pwdfile=k");
}

/* S0.3 */
static void report_that_cannot_be_written_is_a_failure(void **state)
{
    (void)state;
    static const char *const lines[] = {"--help",
                                        "--version",
                                        "help exit-codes",
                                        "serve --help",
                                        "info i",
                                        "info i --json",
                                        "verify-key i --key file=right",
                                        "verify-key i --key file=right --json",
                                        "check i --key file=right",
                                        "check i --key file=right --json",
                                        "create new --iter-time 1 --key file=right",
                                        "create new --iter-time 1 --key file=right --json",
                                        "create new --new-key newkey --json"};
    make_image("i");
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        struct run full = {.stdout_to = "/dev/full"}, closed = {.stdout_to = ""};
        program_expect(&full, 41, lines[i]);
        if (!strstr(full.err, "STORAGE_ERROR: cannot write"))
            fail_msg("%s: %s", lines[i], full.err);
        program_expect(&closed, 41, lines[i]);
        assert_false(file_exists("new"));
        assert_false(file_exists("newkey"));
    }
    /* What was wrong in the first place stays the verdict. */
    struct run r = {.stdout_to = "/dev/full"};
    program_expect(&r, 11, "verify-key i --key file=wrong --json");
}

static void key_comes_from_a_descriptor_too(void **state)
{
    (void)state;
    make_image("i");
    struct run r = {.key_fd = open("right", O_RDONLY)};
    program_expect(&r, 0, "verify-key i --key fd=7");
    lseek(r.key_fd, 0, SEEK_SET);
    program_expect(&r, 0, "verify-key i --key pwdfd=7");
    lseek(r.key_fd, 1, SEEK_SET);
    program_expect(&r, 11, "verify-key i --key fd=7");
    close(r.key_fd);
    r.key_fd = 0;
    program_expect(&r, 2, "verify-key i --key fd=7");
    assert_says(&r, "USAGE", "descriptor 7 is not open for reading");
    program_expect(&r, 10, "verify-key i --key fd=0");
    assert_says(&r, "KEY_MISSING", "is empty");
}

/* S0.16: no source needs a person. */
static void every_source_of_a_key_opens_the_same_image(void **state)
{
    (void)state;
    struct run r = {0};
    make_image("i");
    file_put("line", "correct horse\n", 14);
    program_expect(&r, 0, "verify-key i --key file=right");
    program_expect(&r, 0, "verify-key i --key pwdfile=right");
    program_expect(&r, 0, "verify-key i --key pwdfile=line");
    program_expect(&r, 11, "verify-key i --key file=line");
    assert_int_equal(setenv("CREDENTIALS_DIRECTORY", program_dir, 1), 0);
    program_expect(&r, 0, "verify-key i --key credential=right");
    program_expect(&r, 11, "verify-key i --key credential=line");
    program_expect(&r, 2, "verify-key i --key credential=absent");
    unsetenv("CREDENTIALS_DIRECTORY");
    program_expect(&r, 2, "verify-key i --key credential=right");
    assert_says(&r, "USAGE", "CREDENTIALS_DIRECTORY is not set");
    r.key_fd = open("line", O_RDONLY);
    program_expect(&r, 0, "verify-key i --key pwdfd=7");
    close(r.key_fd);
}

/* S1.18 S1.17 S0.13: wherever the file system gives up, nothing is left. */
static void create_that_fails_at_any_write_leaves_nothing(void **state)
{
    (void)state;
    static const char *const lines[] = {"create i --new-key k --iter-time 1",
                                        "create i --key file=right --iter-time 1 --json"};
    struct run r = {0};
    unsigned failed = 0, done = 0;
    file_put("right", "correct horse", 13);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        for (long limit = 30; limit < 4 << 20; limit = limit < 4096 ? limit * 5 : limit + 98304) {
            r.file_limit = limit;
            program_run(&r, lines[i]);
            if (r.code == 0) {
                done++;
                assert_int_equal(unlink("i"), 0);
                (void)unlink("k");
                continue;
            }
            failed++;
            assert_int_equal(r.code, 41);
            assert_non_null(strstr(r.err, "nvkeep: STORAGE_ERROR: "));
            assert_false(file_exists("i"));
            assert_false(file_exists("k"));
        }
    assert_true(failed > 20);
    assert_true(done > 2);
}

/* Reads a file of /proc as root may, or as far as the process lets its owner. */
static size_t read_proc(pid_t pid, const char *name, char *ret, size_t room)
{
    char path[60];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, ret, room);
    if (fd >= 0)
        close(fd);
    return n < 0 ? 0 : (size_t)n;
}

static void wait_until_it_runs(pid_t pid)
{
    char line[200];
    for (int i = 0; i < 200; i++) {
        size_t n = read_proc(pid, "limits", line, sizeof(line));
        size_t m = read_proc(pid, "cmdline", line, sizeof(line));
        if (n && m && contains(line, m, "create") && i > 5)
            return;
        usleep(10000);
    }
    fail_msg("the program does not start");
}

/* S1.10 */
static void passphrase_is_in_no_place_where_others_look(void **state)
{
    (void)state;
    static char text[1 << 20];
    file_put("k", "marker-of-a-passphrase", 22);
    pid_t pid = program_start("create i --key file=k --iter-time 1500");
    wait_until_it_runs(pid);
    usleep(300000);
    size_t n = read_proc(pid, "cmdline", text, sizeof(text));
    assert_true(contains(text, n, "file=k")); /* as it was typed */
    assert_false(contains(text, n, "marker-of-a-passphrase"));
    n = read_proc(pid, "environ", text, sizeof(text));
    assert_false(contains(text, n, "marker-of-a-passphrase"));
    n = read_proc(pid, "limits", text, sizeof(text) - 1);
    text[n] = 0;
    const char *core = strstr(text, "Max core file size");
    unsigned long soft = 1, hard = 1;
    assert_non_null(core);
    assert_int_equal(sscanf(core, "Max core file size %lu %lu", &soft, &hard), 2);
    assert_int_equal(soft, 0);
    assert_int_equal(hard, 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_false(file_exists("i"));
}

/* S0.12 */
static void interrupted_create_leaves_nothing(void **state)
{
    (void)state;
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        int status = 0;
        pid_t pid = program_start("create i --new-key k --iter-time 6000");
        wait_until_it_runs(pid);
        for (int j = 0; j < 300 && !file_exists("k"); j++)
            usleep(10000);
        assert_true(file_exists("k"));
        usleep(100000);
        kill(pid, signals[i]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), signals[i]);
        assert_false(file_exists("i"));
        assert_false(file_exists("k"));
    }
}

static void names_that_are_no_text_are_reported_as_text(void **state)
{
    (void)state;
    struct run r = {0};
    make_image("i");
    assert_int_equal(rename("i", "\xff\x1b[31m"), 0);
    program_expect(&r, 0, "info \xff\x1b[31m --json");
    assert_json(&r, "OK", 0);
    assert_non_null(strstr(r.out, "\\\\xff"));
    program_expect(&r, 11, "verify-key \xff\x1b[31m --key file=wrong --json");
    assert_null(strchr(r.err, '\x1b'));
    assert_json(&r, "KEY_WRONG", 11);
}

#define IN_DIR(f) cmocka_unit_test_setup_teardown(f, program_enter, program_leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(every_command_without_arguments_says_what_is_missing),
        IN_DIR(every_command_has_help),
        IN_DIR(every_command_refuses_unknown_options),
        IN_DIR(missing_key_is_its_own_class_and_changes_nothing),
        IN_DIR(missing_key_and_socket_are_named_together),
        IN_DIR(wrong_key_is_refused_by_every_command),
        IN_DIR(right_key_opens_without_writing),
        IN_DIR(info_needs_no_key_and_shows_what_is_outside),
        IN_DIR(what_is_no_image_is_refused_by_every_command),
        IN_DIR(create_never_replaces_a_file),
        IN_DIR(create_refuses_keys_that_others_could_not_use),
        IN_DIR(new_key_is_text_of_its_owner_alone),
        IN_DIR(create_makes_what_was_asked_for),
        IN_DIR(create_incoming_makes_an_image_that_waits),
        IN_DIR(newline_at_the_end_of_a_key_is_pointed_out),
        IN_DIR(report_that_cannot_be_written_is_a_failure),
        IN_DIR(key_comes_from_a_descriptor_too),
        IN_DIR(every_source_of_a_key_opens_the_same_image),
        IN_DIR(create_that_fails_at_any_write_leaves_nothing),
        IN_DIR(passphrase_is_in_no_place_where_others_look),
        IN_DIR(interrupted_create_leaves_nothing),
        IN_DIR(names_that_are_no_text_are_reported_as_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
