#include "admin_rig.h"

enum { KEY_WRONG = 11 };

#define PARTIAL_MS 5000

static void messages_are_those_of_qmp(void **state)
{
    (void)state;
    struct admin a;
    rig_image("");
    pid_t pid = admin_start("--key file=k");
    admin_connect(&a);
    admin_says(&a, "\"package\": \"\"}, \"capabilities\": []}}");
    admin_call(&a, "{\"execute\": \"query-version\", \"id\": 1}\n",
               "\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities negotiation");
    admin_call(&a, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}\n",
               "\"class\": \"USAGE\"");
    admin_call(&a, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": []}}\n",
               "{\"return\": {}}");
    admin_call(&a, "{\"execute\": \"qmp_capabilities\"}\n", "already complete");
    admin_call(&a, "{\"execute\": \"query-version\", \"id\": {\"a\": [1, null]}}\n",
               "\"package\": \"\"}, \"id\": {\"a\": [1, null]}}");
    admin_call(&a, "{\"execute\": \"query-commands\", \"id\": \"x\"}\n",
               "{\"return\": [{\"name\": \"qmp_capabilities\"}, {\"name\": \"query-status\"}");
    admin_call(&a, "{\"execute\": \"stop\"}\n",
               "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command stop has not "
               "been found\"}}");
    admin_call(&a, "{\"id\": 7}\n", "QMP input lacks member 'execute'\"}, \"id\": 7}");
    admin_call(&a, "{\"execute\": 3}\n", "'execute' must be a string");
    admin_call(&a, "{\"exec-oob\": \"quit\"}\n", "QMP input member 'exec-oob' is unexpected");
    admin_call(&a, "{\"execute\": \"quit\", \"arguments\": []}\n", "must be an object");
    admin_call(&a, "[1]\n", "QMP input must be a JSON object");
    admin_call(&a, "{\"execute\": \"quit\", \"arguments\": {\"now\": true}}\n",
               "\"class\": \"USAGE\", \"desc\": \"quit: unexpected argument");
    admin_call(&a, "{\"execute\": \"prepare-incoming\"}\n", "\"class\": \"USAGE\"");
    admin_call(&a, "{\"execute\": \"prepare-incoming\", \"arguments\": {\"token\": 1}}\n",
               "\"class\": \"USAGE\"");
    admin_close(&a);
    assert_int_equal(rig_end(pid), 0);
    assert_false(rig_is_there("a"));
}

static void a_message_ends_with_its_last_bracket(void **state)
{
    (void)state;
    static const char split[] = "{\n \"execute\":\r\n\t\"query-version\" , \"id\": \"}{\\\"\"}";
    struct admin a;
    rig_image("");
    pid_t pid = admin_start("--key file=k");
    admin_open(&a);
    /* no newline behind it; then several in one piece; then byte by byte */
    admin_call(&a, "{\"execute\": \"query-version\", \"id\": 1}", "\"id\": 1}");
    admin_send(&a,
               "{\"execute\":\"query-version\",\"id\":2}{\"execute\":\"query-version\",\"id\":3}"
               "\n\n \r\n{\"execute\":\"query-version\",\"id\":4}\n");
    admin_says(&a, "\"id\": 2}");
    admin_says(&a, "\"id\": 3}");
    admin_says(&a, "\"id\": 4}");
    for (size_t i = 0; i < strlen(split); i++) {
        rig_send(a.fd, split + i, 1);
        if (i % 8 == 0)
            usleep(2000);
    }
    admin_says(&a, "\"id\": \"}{\\\"\"}");
    admin_close(&a);
    assert_int_equal(rig_end(pid), 0);
}

static void garbage_is_answered_and_survived(void **state)
{
    (void)state;
    static const char *const garbage[] = {
        "hello\n",
        "}\n",
        "\"execute\"\n",
        "{]\n",
        "{\"execute\": nope}\n",
        "{\"execute\": \"quit\n",
        "\x16\x03\x01\x02\n",
        "{\"execute\": \"\xff\xfe\"}\n",
        "{\"execute\": \"quit\", \"execute\": \"quit\"}\n",
        "{\"execute\": \"qu\\u0000it\"}\n",
    };
    struct admin a;
    rig_image("");
    pid_t pid = admin_start("--key file=k");
    admin_open(&a);
    for (size_t i = 0; i < ARRAY_LEN(garbage); i++) {
        admin_call(&a, garbage[i], "{\"error\": {\"class\": \"GenericError\", \"desc\": ");
        admin_call(&a, "{\"execute\": \"query-version\", \"id\": 5}\n", "\"id\": 5}");
    }
    admin_close(&a);
    assert_int_equal(rig_end(pid), 0);
}

static void a_message_without_end_is_bounded_in_size_and_time(void **state)
{
    (void)state;
    static char big[70000];
    struct admin a, half, busy;
    rig_image("");
    pid_t pid = admin_start("--key file=k");
    admin_open(&half);
    admin_send(&half, "{\"execute\": ");
    int64_t begun = rig_ms();
    memset(big, 'x', sizeof(big));
    memcpy(big, "{\"execute\": \"", 13);
    admin_open(&a);
    (void)!send(a.fd, big, sizeof(big), MSG_NOSIGNAL);
    admin_says(&a, "the message is too long");
    assert_true(rig_is_closed(a.fd, 1000));
    /* blanks are the beginning of nothing */
    admin_open(&busy);
    admin_send(&busy, " \n ");
    assert_true(rig_is_closed(half.fd, 2 * PARTIAL_MS));
    assert_true(rig_ms() - begun >= PARTIAL_MS - 500);
    admin_call(&busy, "{\"execute\": \"query-version\"}", "return");
    admin_close(&half);
    admin_close(&a);
    admin_close(&busy);
    assert_int_equal(rig_end(pid), 0);
}

static void the_ninth_client_waits_for_a_place(void **state)
{
    (void)state;
    static struct admin a[9];
    rig_image("");
    pid_t pid = admin_start("--key file=k");
    for (size_t i = 0; i < 8; i++)
        admin_open(&a[i]);
    admin_connect(&a[8]);
    admin_is_silent(&a[8], 200);
    for (size_t i = 0; i < 8; i++)
        admin_call(&a[i], "{\"execute\": \"query-status\"}\n", "\"phase\": \"idle\"");
    admin_close(&a[3]);
    admin_says(&a[8], "\"QMP\"");
    for (size_t i = 0; i < 9; i++)
        if (i != 3)
            admin_close(&a[i]);
    assert_int_equal(rig_end(pid), 0);
}

/* Whoever asks and never listens loses its place, and nobody else anything. */
static void a_client_that_does_not_read_is_dropped(void **state)
{
    (void)state;
    static const char ask[] = "{\"execute\": \"query-commands\"}\n";
    struct admin deaf, other;
    rig_image("");
    pid_t pid = admin_start("--key file=k");
    admin_open(&other);
    admin_open(&deaf);
    int64_t limit = rig_ms() + REPLY_MS;
    bool dropped = false;
    while (!dropped && rig_ms() < limit) {
        ssize_t n = send(deaf.fd, ask, strlen(ask), MSG_NOSIGNAL | MSG_DONTWAIT);
        dropped = n < 0 && errno != EAGAIN;
        if (n < 0)
            usleep(1000);
    }
    assert_true(dropped);
    admin_call(&other, "{\"execute\": \"query-status\"}\n", "\"phase\": \"idle\"");
    admin_close(&deaf);
    admin_close(&other);
    assert_int_equal(rig_end(pid), 0);
}

/* printf ... | socat - UNIX-CONNECT:a */
static void a_client_that_only_sends_is_answered_all_the_same(void **state)
{
    (void)state;
    struct admin a;
    rig_image("");
    pid_t pid = admin_start("--key file=k");
    admin_connect(&a);
    admin_send(&a, "{\"execute\": \"qmp_capabilities\"}{\"execute\": \"query-status\"}");
    assert_int_equal(shutdown(a.fd, SHUT_WR), 0);
    admin_says(&a, "QMP");
    admin_says(&a, "{\"return\": {}}");
    admin_says(&a, "{\"return\": {\"phase\": \"");
    assert_true(rig_is_closed(a.fd, REPLY_MS));
    admin_close(&a);
    assert_int_equal(rig_end(pid), 0);
}

static void only_the_owner_may_connect(void **state)
{
    (void)state;
    struct stat st;
    rig_image("");
    pid_t pid = admin_start("--key file=k");
    assert_int_equal(stat("a", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(rig_end(pid), 0);
}

static void status_says_what_the_daemon_is_doing(void **state)
{
    (void)state;
    struct admin a;
    struct run r = {0};
    file_put("k", "correct horse", 13);
    program_expect(&r, 0, "create i --key file=k --iter-time 1000");
    pid_t pid = admin_start("--key file=k");
    admin_open(&a);
    admin_call(&a, "{\"execute\": \"query-status\"}\n", "{\"return\": {\"phase\": \"verifying\"}}");
    /* What needs the image waits for the verdict. */
    admin_call(&a, "{\"execute\": \"migrate-abort\"}\n", "\"return\"");
    admin_call(&a, "{\"execute\": \"query-status\"}\n",
               "{\"phase\": \"idle\", \"on\": false, \"armed\": false, \"instance\": \"");
    rig_wait_for("c");
    int ctrl = rig_connect("c");
    assert_int_equal(ctrl_init(ctrl, 0), 0);
    admin_call(&a, "{\"execute\": \"query-status\"}\n", "{\"phase\": \"running\", \"on\": true");
    close(ctrl);
    admin_close(&a);
    assert_int_equal(rig_end(pid), 0);
}

static void a_refusal_at_start_is_told_to_who_waits(void **state)
{
    (void)state;
    struct admin a;
    struct run r = {0};
    file_put("k", "correct horse", 13);
    file_put("wrong", "correct house", 13);
    program_expect(&r, 0, "create i --key file=k --iter-time 1000");
    uint64_t before = file_digest("i");
    pid_t pid = admin_start("--key file=wrong");
    admin_open(&a);
    admin_call(&a, "{\"execute\": \"migrate-prepare\", \"id\": 9}\n",
               "{\"error\": {\"class\": \"KEY_WRONG\"");
    admin_says(&a, "\"event\": \"SHUTDOWN\", \"data\": {\"class\": \"KEY_WRONG\"");
    assert_int_equal(rig_wait(pid), KEY_WRONG);
    assert_true(rig_is_closed(a.fd, 1000));
    admin_close(&a);
    assert_false(rig_is_there("a"));
    assert_true(file_digest("i") == before);
}

/* S1.16: when RELEASED is heard, the image is free; SHUTDOWN is the last word. */
static void events_are_sent_after_the_fact(void **state)
{
    (void)state;
    struct admin a;
    struct run r = {0};
    rig_image("");
    pid_t pid = admin_start("--key file=k");
    admin_open(&a);
    rig_wait_for("c");
    int ctrl = rig_connect("c");
    assert_int_equal(ctrl_init(ctrl, 0), 0);
    admin_call(&a, "{\"execute\": \"quit\"}\n", "{\"return\": {}}");
    admin_says(&a, "\"event\": \"RELEASED\", \"data\": {\"generation\": ");
    admin_says(&a, "\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"quit\"}");
    assert_null(admin_line_within(&a, 1000));
    assert_int_equal(rig_wait(pid), 0);
    program_expect(&r, 0, "check i --key file=k");
    close(ctrl);
    admin_close(&a);
}

static void a_signal_is_told_as_well(void **state)
{
    (void)state;
    struct admin a;
    rig_image("");
    pid_t pid = admin_start("--key file=k");
    admin_open(&a);
    rig_wait_for("c");
    kill(pid, SIGTERM);
    admin_says(&a, "RELEASED");
    admin_says(&a, "{\"reason\": \"SIGTERM\"}");
    assert_int_equal(rig_wait(pid), 0);
    admin_close(&a);
}

static void refused(const char *options, const char *why)
{
    struct run r = {0};
    char words[400];
    snprintf(words, sizeof(words), "serve no-such --ctrl type=unixio,path=c %s", options);
    program_expect(&r, 2, words);
    if (!strstr(r.err, why))
        fail_msg("%s: %s", options, r.err);
}

/* S0.17 */
static void what_contradicts_itself_is_refused_by_name(void **state)
{
    (void)state;
    refused("--key admin", "--key admin: the key could come nowhere: add --admin");
    refused("--key file=k --admin path=a", "wanted type=unixio,path=PATH or fd=N");
    refused("--key file=k --admin type=tcp,path=a", "wanted type=unixio,path=PATH or fd=N");
    refused("--key file=k --admin type=unixio,path=c", "--ctrl and --admin name the same path");
    refused("--key file=k --migration storage=copied", "add incoming");
    refused("--key file=k --migration rewind", "add incoming");
    refused("--key file=k --migration incoming,storage=some", "wanted shared or copied");
    refused("--key file=k --migration incomming", "did you mean \"incoming\"?");
    refused("--key file=k --migration incoming --flags startup-clear", "not powered on at start");
    refused("--key file=k --migration incoming --flags not-need-init", "not powered on at start");
    refused("--key file=k --tpm12", "--tpm12: the image says what it is");
    refused("--key file=k --migration incoming --tpm2", "--tpm2: the image says what it is");
    refused("--key file=k --tpm2 --tpm12", "exclude each other");
    refused("--key file=k --migration require-prepare", "without --admin");
    refused("--key file=k --admin type=unixio,path=a --migration require-prepare=0",
            "wanted a number from 1 to 3600");
    refused("--key file=k --migration-seal maybe", "--migration-seal: unknown \"maybe\"");
    refused("--key file=k --migration-key format=hex", "--migration-key: wanted file=PATH");
    refused("--key file=k --migration-key file=k", "--key and --migration-key are the same file");
    assert_false(file_exists("c"));
    assert_false(file_exists("a"));
    struct run r = {0};
    program_expect(&r, 2, "info i --key admin");
    assert_non_null(strstr(r.err, "only serve"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(messages_are_those_of_qmp),
        IN_DIR(a_message_ends_with_its_last_bracket),
        IN_DIR(garbage_is_answered_and_survived),
        IN_DIR(a_message_without_end_is_bounded_in_size_and_time),
        IN_DIR(the_ninth_client_waits_for_a_place),
        IN_DIR(a_client_that_does_not_read_is_dropped),
        IN_DIR(a_client_that_only_sends_is_answered_all_the_same),
        IN_DIR(only_the_owner_may_connect),
        IN_DIR(status_says_what_the_daemon_is_doing),
        IN_DIR(a_refusal_at_start_is_told_to_who_waits),
        IN_DIR(events_are_sent_after_the_fact),
        IN_DIR(a_signal_is_told_as_well),
        IN_DIR(what_contradicts_itself_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
