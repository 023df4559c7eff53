#include "serve_rig.h"

#include <sys/resource.h>

/* Storage that is slow or refuses, made so by strace: it delays or fails the calls of the daemon.
 */

/* Of the calls of a daemon with DATA_SOCKET, the first ones are for the claim and the start-up;
 * this one is for the first command that changes something. */
enum { INDEX = 0x01800020 };
#define THE_FLUSH "3"
#define THE_WRITE "2"

static pid_t start_under(const char *inject, const char *options)
{
    char tracer[300];
    if (system("strace -f -o /dev/null -e inject=fdatasync:delay_exit=1 true 2>/dev/null") != 0) {
        print_message("missing: strace, or the right to trace\n");
        skip();
    }
    snprintf(tracer, sizeof(tracer), "strace -f -o trace -e trace=pwrite64,fdatasync %s", inject);
    pid_t pid = rig_spawn(tracer, options);
    rig_wait_for("c");
    rig_wait_for("d");
    return pid;
}

/* The tracer ends with the daemon, and as it does. */
static void end_under(pid_t pid)
{
    int ctrl = rig_connect("c");
    assert_int_equal(ctrl_simple(ctrl, CTRL_SHUTDOWN), 0);
    close(ctrl);
    assert_int_equal(rig_wait(pid), 0);
}

static void define_index(void)
{
    struct tpm_cmd c;
    pid_t pid = rig_start(DATA_SOCKET);
    int data = rig_connect("d");
    cmd2_nv_define(&c, INDEX, 8, NV2_ORDINARY, 0);
    assert_int_equal(data_rc(data, &c), 0);
    cmd2_nv_write(&c, INDEX, "original", 8, 0);
    assert_int_equal(data_rc(data, &c), 0);
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

/* Slow storage delays its own command and nothing else. */
static void control_channel_answers_while_a_commit_hangs(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    uint8_t r[8];
    rig_image("");
    define_index();
    pid_t pid =
        start_under("-e inject=fdatasync:delay_exit=1500000:when=" THE_FLUSH "+", DATA_SOCKET);
    int ctrl = rig_connect("c"), data = rig_connect("d");
    cmd2_nv_write(&c, INDEX, "slowness", 8, 0);
    int64_t begin = rig_ms(), fastest = INT64_MAX;
    rig_send(data, c.b, c.n);
    usleep(100000);
    for (int i = 0; i < 20; i++) {
        int64_t before = rig_ms();
        int newcomer = rig_connect("c");
        assert_int_equal(ctrl_call(newcomer, CTRL_GET_CAPABILITY, NULL, 0, r, 8), 0);
        assert_int_equal(ctrl_call(ctrl, CTRL_GET_CONFIG, NULL, 0, r, 8), 0);
        assert_int_equal(ctrl_simple(ctrl, CTRL_CANCEL_TPM_CMD), 0);
        close(newcomer);
        fastest = rig_ms() - before < fastest ? rig_ms() - before : fastest;
    }
    assert_in_range(fastest, 0, 300);
    /* What needs the TPM waits for its turn. */
    ctrl_send(ctrl, CTRL_GET_TPMESTABLISHED, NULL, 0);
    assert_int_equal(data_receive(data, &a).rc, 0);
    assert_true(rig_ms() - begin >= 1400);
    assert_int_equal(ctrl_reply(ctrl, r, 8), 0);
    close(data);
    close(ctrl);
    end_under(pid);
}

/* A client that has given up must not have its command done later, behind the next one's back. */
static void command_of_a_client_that_gave_up_is_not_done_later(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    rig_image("");
    define_index();
    pid_t pid = start_under("-e inject=fdatasync:delay_exit=1500000:when=" THE_FLUSH, DATA_SOCKET);
    int data = rig_connect("d"), impatient = rig_connect("c");
    cmd2_nv_write(&c, INDEX, "patience", 8, 0);
    rig_send(data, c.b, c.n);
    usleep(50000);
    ctrl_send(impatient, CTRL_STOP, NULL, 0);
    usleep(50000);
    close(impatient);
    assert_int_equal(data_receive(data, &a).rc, 0);
    data_works(data); /* it was not stopped */
    close(data);
    end_under(pid);
}

static void told_to_end_it_finishes_the_commit_first(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    char line[80];
    rig_image("");
    define_index();
    pid_t pid = start_under("-e inject=fdatasync:delay_enter=700000:when=" THE_FLUSH,
                            DATA_SOCKET " --pid file=p");
    int data = rig_connect("d");
    rig_read_file("p", line, sizeof(line));
    cmd2_nv_write(&c, INDEX, "finished", 8, 0);
    rig_send(data, c.b, c.n);
    usleep(100000);
    kill((pid_t)strtol(line, NULL, 10), SIGTERM);
    usleep(100000);
    assert_false(rig_is_there("c")); /* nobody new can come */
    assert_int_equal(data_receive(data, &a).rc, 0);
    assert_int_equal(rig_wait(pid), 0);
    close(data);
    pid = rig_start(DATA_SOCKET);
    data = rig_connect("d");
    cmd2_nv_read(&c, INDEX, 8, 0);
    assert_memory_equal(rsp2_nv(data_call(data, &c, &a), 8), "finished", 8);
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

static void told_twice_it_no_longer_waits_for_dead_storage(void **state)
{
    (void)state;
    struct tpm_cmd c;
    char line[80];
    rig_image("");
    define_index();
    pid_t pid = start_under("-e inject=fdatasync:delay_enter=30000000:when=" THE_FLUSH,
                            DATA_SOCKET " --pid file=p");
    int data = rig_connect("d");
    rig_read_file("p", line, sizeof(line));
    pid_t daemon = (pid_t)strtol(line, NULL, 10);
    cmd2_nv_write(&c, INDEX, "patience", 8, 0);
    rig_send(data, c.b, c.n);
    usleep(100000);
    int64_t begin = rig_ms();
    kill(daemon, SIGTERM);
    kill(daemon, SIGTERM);
    usleep(1200000);
    assert_true(file_exists("p")); /* twice at once was once */
    kill(daemon, SIGTERM);
    while (file_exists("p") && rig_ms() - begin < 20000)
        usleep(5000);
    assert_false(file_exists("p")); /* long before the storage answers */
    assert_false(rig_is_there("c"));
    kill(daemon, SIGKILL);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    close(data);
}

/* QEMU's main loop, and its monitor with it, waits for these answers. */
static void storage_that_hangs_keeps_no_emulator_waiting_for_ever(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    uint8_t body[12] = {[3] = 1, [7] = 1}, reply[16];
    rig_image("");
    define_index();
    pid_t pid =
        start_under("-e inject=fdatasync:delay_enter=10000000:when=" THE_FLUSH, DATA_SOCKET);
    int data = rig_connect("d"), ctrl = rig_connect("c");
    cmd2_nv_write(&c, INDEX, "patience", 8, 0);
    rig_send(data, c.b, c.n);
    usleep(100000);
    int64_t begin = rig_ms();
    assert_int_equal(ctrl_call(ctrl, CTRL_GET_STATEBLOB, body, sizeof(body), reply, sizeof(reply)),
                     CTRL_FAIL);
    assert_true(rig_ms() - begin >= 4500);
    struct pollfd still = {.fd = data, .events = POLLIN};
    assert_int_equal(poll(&still, 1, 0), 0); /* the storage hangs on */
    /* What was given up is not done later: the TPM is not frozen, and the command was carried out.
     */
    assert_int_equal(data_receive(data, &a).rc, 0);
    cmd2_nv_read(&c, INDEX, 8, 0);
    assert_memory_equal(rsp2_nv(data_call(data, &c, &a), 8), "patience", 8);
    close(data);
    close(ctrl);
    end_under(pid);
}

/* An error of storage is the error of one command. */
static void full_disk_fails_one_command_and_the_next_one_works(void **state)
{
    (void)state;
    static const char *const faults[] = {"pwrite64:error=ENOSPC:when=" THE_WRITE,
                                         "fdatasync:error=EIO:when=" THE_FLUSH};
    struct tpm_cmd write, read;
    struct answer a;
    rig_image("");
    define_index();
    cmd2_nv_write(&write, INDEX, "replaced", 8, 0);
    cmd2_nv_read(&read, INDEX, 8, 0);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        char inject[100];
        snprintf(inject, sizeof(inject), "-e inject=%s", faults[i]);
        pid_t pid = start_under(inject, DATA_SOCKET);
        int data = rig_connect("d");
        assert_int_equal(data_rc(data, &write), RC2_NV_UNAVAILABLE);
        assert_memory_equal(rsp2_nv(data_call(data, &read, &a), 8), i ? "replaced" : "original", 8);
        cmd2_nv_write(&write, INDEX, i ? "original" : "replaced", 8, 0);
        assert_int_equal(data_rc(data, &write), 0);
        assert_memory_equal(rsp2_nv(data_call(data, &read, &a), 8), i ? "original" : "replaced", 8);
        cmd2_nv_write(&write, INDEX, i ? "replaced" : "original", 8, 0);
        close(data);
        end_under(pid);
        rig_log_says("STORAGE_ERROR: ");
    }
}

/* A limit on the size of files is an error of the storage too, and no death by signal. */
static void limit_on_files_fails_commands_until_it_is_lifted(void **state)
{
    (void)state;
    struct tpm_cmd write;
    struct rlimit all, few;
    rig_image("");
    define_index();
    pid_t pid = rig_start(DATA_SOCKET);
    int data = rig_connect("d");
    data_works(data);
    assert_int_equal(prlimit(pid, RLIMIT_FSIZE, NULL, &all), 0);
    few = (struct rlimit){65536, all.rlim_max};
    cmd2_nv_write(&write, INDEX, "too much", 8, 0);
    assert_int_equal(prlimit(pid, RLIMIT_FSIZE, &few, NULL), 0);
    assert_int_equal(data_rc(data, &write), RC2_NV_UNAVAILABLE);
    assert_int_equal(prlimit(pid, RLIMIT_FSIZE, &all, NULL), 0);
    assert_int_equal(data_rc(data, &write), 0);
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(limit_on_files_fails_commands_until_it_is_lifted),
        IN_DIR(control_channel_answers_while_a_commit_hangs),
        IN_DIR(command_of_a_client_that_gave_up_is_not_done_later),
        IN_DIR(storage_that_hangs_keeps_no_emulator_waiting_for_ever),
        IN_DIR(told_to_end_it_finishes_the_commit_first),
        IN_DIR(told_twice_it_no_longer_waits_for_dead_storage),
        IN_DIR(full_disk_fails_one_command_and_the_next_one_works),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
