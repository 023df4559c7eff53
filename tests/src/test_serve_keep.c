#include "serve_rig.h"

/* serve --keep-listening: one process, one emulator after the other. */

enum { INDEX = 0x01800001 };

/* As an emulator comes: a control connection, a data connection, power. */
struct emulator {
    int ctrl, data;
};

static struct emulator come(void)
{
    struct tpm_cmd c;
    struct emulator m = {.ctrl = rig_connect("c")};
    assert_true(m.ctrl >= 0);
    m.data = ctrl_data_fd(m.ctrl);
    assert_int_equal(ctrl_init(m.ctrl, 0), 0);
    cmd2_startup(&c, SU_CLEAR);
    assert_int_equal(data_rc(m.data, &c), 0);
    return m;
}

static void leave(struct emulator m)
{
    assert_int_equal(ctrl_simple(m.ctrl, CTRL_SHUTDOWN), 0);
    close(m.data);
    close(m.ctrl);
}

static void count_up(int data)
{
    struct tpm_cmd c;
    cmd2_nv_increment(&c, INDEX);
    assert_int_equal(data_rc(data, &c), 0);
}

static uint8_t counted(int data)
{
    struct tpm_cmd c;
    struct answer a;
    cmd2_nv_read(&c, INDEX, 8, 0);
    struct tpm_rsp r = data_call(data, &c, &a);
    assert_int_equal(r.rc, 0);
    bytes_skip(&r.body, 4 + 2 + 7);
    return bytes_u8(&r.body);
}

static void make_counter(int data)
{
    struct tpm_cmd c;
    cmd2_nv_define(&c, INDEX, 8, NV2_COUNTER, 0);
    assert_int_equal(data_rc(data, &c), 0);
    count_up(data);
}

static void one_process_serves_one_emulator_after_the_other(void **state)
{
    (void)state;
    rig_image("");
    pid_t pid = rig_start("--keep-listening");
    struct emulator m = come();
    make_counter(m.data);
    uint8_t first = counted(m.data);
    leave(m);
    for (uint8_t i = 1; i < 20; i++) {
        m = come();
        count_up(m.data);
        assert_int_equal(counted(m.data), first + i);
        leave(m);
    }
    assert_int_equal(rig_end(pid), 0);
}

static void shut_down_in_order_and_off_afterwards(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    rig_image("");
    pid_t pid = rig_start("--keep-listening");
    struct emulator m = come();
    assert_int_equal(ctrl_simple(m.ctrl, CTRL_SHUTDOWN), 0);
    assert_true(rig_is_closed(m.data, REPLY_MS));
    /* Its control connection may stay: there is nothing behind it that is on. */
    assert_int_equal(ctrl_simple(m.ctrl, CTRL_STORE_VOLATILE), CTRL_BAD_ORDINAL);
    struct emulator n = come();
    cmd2_read_clock(&c);
    struct tpm_rsp r = data_call(n.data, &c, &a);
    bytes_skip(&r.body, 8 + 8 + 4 + 4);
    assert_int_equal(bytes_u8(&r.body), 1); /* the clock is safe: there was a TPM2_Shutdown */
    close(m.data);
    close(m.ctrl);
    leave(n);
    assert_int_equal(rig_end(pid), 0);
}

static void image_is_free_in_between_and_read_afresh(void **state)
{
    (void)state;
    struct run r = {0};
    rig_image("");
    pid_t pid = rig_start("--keep-listening");
    struct emulator m = come();
    make_counter(m.data);
    uint8_t first = counted(m.data);
    program_expect(&r, 31, "recover i --key file=k --yes --no-backup");
    leave(m);
    /* Somebody else runs with it meanwhile. */
    program_expect(&r, 0, "export i dir://meanwhile --key file=k --plaintext");
    assert_int_equal(rename("c", "kept"), 0);
    pid_t other = rig_start("");
    m = come();
    count_up(m.data);
    leave(m);
    assert_int_equal(rig_wait(other), 0);
    assert_int_equal(rename("kept", "c"), 0);
    m = come();
    assert_int_equal(counted(m.data), first + 1);
    leave(m);
    assert_int_equal(rig_end(pid), 0);
}

static void another_image_under_the_name_is_no_start(void **state)
{
    (void)state;
    struct run r = {0};
    rig_image("");
    pid_t pid = rig_start("--keep-listening");
    leave(come());
    assert_int_equal(rename("i", "old"), 0);
    program_expect(&r, 0, "create i --key file=k --iter-time 1");
    int ctrl = rig_connect("c");
    assert_int_not_equal(ctrl_init(ctrl, 0), 0);
    rig_log_says("was replaced after it was opened here");
    assert_int_equal(rename("old", "i"), 0);
    assert_int_equal(ctrl_init(ctrl, 0), 0);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

/* A machine that was saved, and is restored after it has run on: as with a new process. */
static void older_state_is_taken_as_by_a_new_process(void **state)
{
    (void)state;
    static uint8_t blob[3][BLOB_ROOM];
    size_t n[3];
    rig_image("");
    pid_t pid = rig_start("--keep-listening");
    struct emulator m = come();
    make_counter(m.data);
    uint8_t first = counted(m.data);
    for (uint32_t i = 0; i < 3; i++) /* there is no third one */
        (void)ctrl_get_state(m.ctrl, i + 1, 0, blob[i], &n[i]);
    assert_true(n[0] > 0 && n[1] > 0);
    leave(m);
    m = come();
    count_up(m.data);
    leave(m);
    m.ctrl = rig_connect("c");
    m.data = ctrl_data_fd(m.ctrl);
    assert_int_equal(ctrl_simple(m.ctrl, CTRL_STOP), 0);
    for (uint32_t i = 0; i < 3; i++)
        if (n[i] > 0)
            assert_int_equal(ctrl_set_state(m.ctrl, i + 1, 0, blob[i], n[i]), 0);
    assert_int_equal(ctrl_init(m.ctrl, CTRL_INIT_DELETE_VOLATILE), 0);
    assert_int_equal(counted(m.data), first);
    leave(m);
    assert_int_equal(rig_end(pid), 0);
}

static void emulator_that_dies_leaves_the_tpm_to_the_next_one(void **state)
{
    (void)state;
    rig_image("");
    pid_t pid = rig_start("--keep-listening");
    struct emulator m = come();
    make_counter(m.data);
    uint8_t first = counted(m.data);
    close(m.data);
    close(m.ctrl);
    m = come();
    assert_int_equal(counted(m.data), first);
    leave(m);
    assert_int_equal(rig_end(pid), 0);
}

static void what_would_end_it_or_start_it_is_refused(void **state)
{
    (void)state;
    const struct {
        const char *options, *says;
    } wrong[] = {
        {"--ctrl type=unixio,path=c --keep-listening --terminate", "exclude each other"},
        {"--ctrl type=unixio,path=c,terminate --keep-listening", "leave one of the two out"},
        {"--ctrl type=unixio,path=c --keep-listening --flags not-need-init", "leave --flags out"},
    };
    struct run r = {0};
    char words[300];
    rig_image("");
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        snprintf(words, sizeof(words), "serve i --key file=k %s", wrong[i].options);
        program_expect(&r, 2, words);
        if (!strstr(r.err, wrong[i].says))
            fail_msg("%s: %s", wrong[i].options, r.err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(one_process_serves_one_emulator_after_the_other),
        IN_DIR(shut_down_in_order_and_off_afterwards),
        IN_DIR(image_is_free_in_between_and_read_afresh),
        IN_DIR(another_image_under_the_name_is_no_start),
        IN_DIR(older_state_is_taken_as_by_a_new_process),
        IN_DIR(emulator_that_dies_leaves_the_tpm_to_the_next_one),
        IN_DIR(what_would_end_it_or_start_it_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
