#include "serve_rig.h"

#include <dirent.h>

enum {
    CAPS_TPM2 = 0x1ffff,
    CAPS_TPM12 = 0x17fdf,
    PCR = 16,
    INDEX = 0x01800001,
    STORED_KEY = 1, /* of GET_CONFIG */
};

static void power_on(int ctrl)
{
    assert_int_equal(ctrl_init(ctrl, 0), 0);
}

static void start_up(int data)
{
    struct tpm_cmd c;
    cmd2_startup(&c, SU_CLEAR);
    assert_int_equal(data_rc(data, &c), 0);
}

/* The order and the lengths of QEMU 7.2 with tpm-tis. */
static void qemus_boot_is_answered_message_by_message(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    uint8_t r[8];
    uint32_t size;
    rig_image("");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c"), data = ctrl_data_fd(ctrl);
    cmd2_read_clock(&c);
    struct tpm_rsp clock = data_call(data, &c, &a);
    assert_int_equal(clock.rc, RC2_FAILURE);
    assert_int_equal(clock.tag, 0x8001);
    assert_int_equal(ctrl_call(ctrl, CTRL_GET_CAPABILITY, NULL, 0, r, 8), 0);
    assert_int_equal(get_be32(r + 4), CAPS_TPM2);
    for (uint32_t want = 0; want <= 3968; want += 3968) {
        assert_int_equal(ctrl_simple(ctrl, CTRL_STOP), 0);
        assert_int_equal(ctrl_buffer_size(ctrl, want, &size), 0);
        assert_int_equal(size, want ? 3968 : 4096);
    }
    power_on(ctrl);
    assert_int_equal(ctrl_call(ctrl, CTRL_GET_TPMESTABLISHED, NULL, 0, r, 8), 0);
    assert_int_equal(ctrl_result(ctrl, CTRL_SET_LOCALITY, "\0\0\0\0", 4), 0);
    start_up(data);
    data_works(data);
    /* A guest reset. */
    assert_int_equal(ctrl_simple(ctrl, CTRL_STOP), 0);
    assert_int_equal(ctrl_buffer_size(ctrl, 3968, &size), 0);
    power_on(ctrl);
    start_up(data);
    assert_int_equal(ctrl_simple(ctrl, CTRL_SHUTDOWN), 0);
    assert_int_equal(rig_wait(pid), 0);
    assert_false(rig_is_there("c"));
    close(data);
    close(ctrl);
}

static void replies_keep_their_length_when_they_are_errors(void **state)
{
    (void)state;
    uint8_t r[16];
    size_t n = 99;
    static uint8_t blob[BLOB_ROOM];
    rig_image("");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c");
    /* off */
    assert_int_equal(ctrl_call(ctrl, CTRL_GET_TPMESTABLISHED, NULL, 0, r, 8), CTRL_BAD_ORDINAL);
    assert_int_equal(ctrl_result(ctrl, CTRL_RESET_TPMESTABLISHED, "\3", 1), CTRL_BAD_ORDINAL);
    assert_int_equal(ctrl_simple(ctrl, CTRL_HASH_START), CTRL_BAD_ORDINAL);
    assert_int_equal(ctrl_result(ctrl, CTRL_HASH_DATA, "\0\0\0\2ab", 6), CTRL_BAD_ORDINAL);
    assert_int_equal(ctrl_simple(ctrl, CTRL_HASH_END), CTRL_BAD_ORDINAL);
    assert_int_equal(ctrl_simple(ctrl, CTRL_CANCEL_TPM_CMD), CTRL_BAD_ORDINAL);
    assert_int_equal(ctrl_simple(ctrl, CTRL_STORE_VOLATILE), CTRL_BAD_ORDINAL);
    assert_int_equal(ctrl_get_state(ctrl, 1, 0, blob, &n), CTRL_BAD_ORDINAL);
    assert_int_equal(n, 0);
    assert_int_equal(ctrl_simple(ctrl, CTRL_SET_DATAFD), CTRL_BAD_PARAMETER);
    assert_int_equal(ctrl_result(ctrl, CTRL_SET_LOCALITY, "\5", 1), CTRL_BAD_LOCALITY);
    assert_int_equal(ctrl_simple(ctrl, 0x14), CTRL_BAD_ORDINAL);
    /* on */
    power_on(ctrl);
    assert_int_equal(ctrl_buffer_size(ctrl, 4096, NULL), CTRL_BAD_ORDINAL);
    assert_int_equal(ctrl_result(ctrl, CTRL_RESET_TPMESTABLISHED, "\5", 1), CTRL_BAD_LOCALITY);
    assert_int_equal(ctrl_get_state(ctrl, 4, 0, blob, &n), CTRL_FAIL);
    assert_int_equal(ctrl_get_state(ctrl, 3, 0, blob, &n), CTRL_NO_SUCH_STATE);
    assert_int_equal(n, 0);
    assert_int_equal(ctrl_set_state(ctrl, 1, 0, "abc", 3), CTRL_BAD_ORDINAL);
    /* and what never fails */
    assert_int_equal(ctrl_call(ctrl, CTRL_GET_CONFIG, NULL, 0, r, 8), 0);
    assert_int_equal(get_be32(r + 4), STORED_KEY);
    assert_int_equal(ctrl_result(ctrl, CTRL_LOCK_STORAGE, "\0\0\1\x2c", 4), 0);
    assert_int_equal(ctrl_simple(ctrl, CTRL_CANCEL_TPM_CMD), 0);
    assert_int_equal(ctrl_simple(ctrl, CTRL_STORE_VOLATILE), 0);
    assert_int_equal(ctrl_result(ctrl, CTRL_RESET_TPMESTABLISHED, "\3", 1), 0);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

static void tpm12_offers_what_it_has(void **state)
{
    (void)state;
    struct tpm_cmd c;
    uint8_t r[8];
    rig_image("--tpm12");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c"), data = ctrl_data_fd(ctrl);
    assert_int_equal(ctrl_call(ctrl, CTRL_GET_CAPABILITY, NULL, 0, r, 8), 0);
    assert_int_equal(get_be32(r + 4), CAPS_TPM12);
    cmd1_get_random(&c, 8);
    assert_int_equal(data_rc(data, &c), RC1_FAIL);
    power_on(ctrl);
    cmd1_startup(&c, ST_CLEAR);
    assert_int_equal(data_rc(data, &c), 0);
    cmd1_get_random(&c, 8);
    assert_int_equal(data_rc(data, &c), 0);
    assert_int_equal(ctrl_simple(ctrl, CTRL_CANCEL_TPM_CMD), CTRL_FAIL);
    close(data);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

static void messages_may_come_in_pieces_or_together(void **state)
{
    (void)state;
    static const uint8_t all[] = {0,
                                  0,
                                  0,
                                  CTRL_STOP,
                                  0,
                                  0,
                                  0,
                                  CTRL_SET_BUFFERSIZE,
                                  0,
                                  0,
                                  0,
                                  0,
                                  0,
                                  0,
                                  0,
                                  CTRL_SET_LOCALITY,
                                  1,
                                  0,
                                  0,
                                  0,
                                  CTRL_INIT,
                                  0,
                                  0,
                                  0,
                                  0,
                                  0,
                                  0,
                                  0,
                                  CTRL_GET_CAPABILITY};
    static const uint8_t want[36] = {[4 + 6] = 0x10,
                                     [4 + 10] = 0x0a,
                                     [4 + 11] = 0xf8,
                                     [4 + 14] = 0x10,
                                     [4 + 16 + 4 + 4 + 5] = 0x01,
                                     [4 + 16 + 4 + 4 + 6] = 0xff,
                                     [4 + 16 + 4 + 4 + 7] = 0xff};
    uint8_t r[sizeof(want)];
    rig_image("");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c");
    rig_send(ctrl, all, sizeof(all));
    rig_receive(ctrl, r, sizeof(r));
    assert_memory_equal(r, want, sizeof(r));
    for (size_t i = 0; i < sizeof(all); i++) {
        rig_send(ctrl, all + i, 1);
        usleep(2000);
    }
    rig_receive(ctrl, r, sizeof(r));
    assert_memory_equal(r, want, sizeof(r));
    rig_is_silent(ctrl, 50);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

/* Four bytes from QEMU and swtpm_ioctl, the last three of them anything; one from tpm2-tools. */
static void locality_counts_in_either_length(void **state)
{
    (void)state;
    struct tpm_cmd c;
    static const uint8_t digest[32] = {1};
    rig_image("");
    pid_t pid = rig_start("--locality reject-locality-4");
    int ctrl = rig_connect("c"), data = ctrl_data_fd(ctrl);
    power_on(ctrl);
    start_up(data);
    cmd2_pcr_extend(&c, 20, digest); /* only from localities 1 to 3 */
    assert_int_equal(data_rc(data, &c), RC2_LOCALITY);
    assert_int_equal(ctrl_result(ctrl, CTRL_SET_LOCALITY, "\2\xde\xad\xbe", 4), 0);
    assert_int_equal(data_rc(data, &c), 0);
    assert_int_equal(ctrl_result(ctrl, CTRL_SET_LOCALITY, "\0", 1), 0);
    assert_int_equal(data_rc(data, &c), RC2_LOCALITY);
    assert_int_equal(ctrl_result(ctrl, CTRL_SET_LOCALITY, "\4", 1), CTRL_BAD_LOCALITY);
    assert_int_equal(ctrl_result(ctrl, CTRL_SET_LOCALITY, "\2", 1), 0);
    usleep(20000);
    rig_send(ctrl, "\xde\xad\xbe", 3); /* padding that comes late */
    usleep(20000);
    assert_int_equal(ctrl_simple(ctrl, CTRL_STORE_VOLATILE), 0);
    assert_int_equal(data_rc(data, &c), 0);
    close(data);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

/* --- SET_DATAFD --- */

static size_t n_open(pid_t pid)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *d = opendir(path);
    size_t n = 0;
    if (!d) {
        print_message("missing: the right to look at /proc/PID/fd\n");
        skip();
    }
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void only_one_stream_socket_becomes_the_data_channel(void **state)
{
    (void)state;
    int pair[2], dgram[2];
    uint8_t r[4];
    rig_image("");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c"), file = open("k", O_RDONLY),
        listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, dgram), 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "x"};
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(listener, 1), 0);
    ctrl_simple(ctrl, CTRL_STOP);
    size_t before = n_open(pid);
    const int wrong[] = {file, dgram[0], listener};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        ctrl_send_fds(ctrl, CTRL_SET_DATAFD, &wrong[i], 1);
        assert_int_equal(ctrl_reply(ctrl, r, 4), CTRL_BAD_PARAMETER);
    }
    ctrl_send_fds(ctrl, CTRL_SET_DATAFD, pair, 2);
    assert_int_equal(ctrl_reply(ctrl, r, 4), CTRL_BAD_PARAMETER);
    int many[200];
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = pair[0];
    ctrl_send_fds(ctrl, CTRL_SET_DATAFD, many, ARRAY_LEN(many));
    assert_int_equal(ctrl_reply(ctrl, r, 4), CTRL_BAD_PARAMETER);
    /* Where they do not belong they are closed. */
    ctrl_send_fds(ctrl, CTRL_STOP, pair, 2);
    assert_int_equal(ctrl_reply(ctrl, r, 4), 0);
    assert_int_equal(ctrl_simple(ctrl, CTRL_SET_DATAFD), CTRL_BAD_PARAMETER);
    assert_int_equal(n_open(pid), before);
    ctrl_send_fds(ctrl, CTRL_SET_DATAFD, &pair[1], 1);
    assert_int_equal(ctrl_reply(ctrl, r, 4), 0);
    assert_int_equal(n_open(pid), before + 1);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

static void next_data_channel_is_taken_when_the_one_before_is_gone(void **state)
{
    (void)state;
    int pair[2];
    uint8_t r[4];
    rig_image("");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c"), data = ctrl_data_fd(ctrl);
    power_on(ctrl);
    start_up(data);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ctrl_send_fds(ctrl, CTRL_SET_DATAFD, &pair[1], 1);
    assert_int_equal(ctrl_reply(ctrl, r, 4), CTRL_IO_ERROR);
    data_works(data);
    for (int i = 0; i < 20; i++) {
        close(data);
        data = ctrl_data_fd(ctrl);
        data_works(data);
    }
    close(data);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

static void descriptor_is_refused_where_the_server_has_a_socket(void **state)
{
    (void)state;
    int pair[2];
    uint8_t r[4];
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    int ctrl = rig_connect("c");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ctrl_send_fds(ctrl, CTRL_SET_DATAFD, &pair[1], 1);
    assert_int_equal(ctrl_reply(ctrl, r, 4), CTRL_IO_ERROR);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

/* What came while the passphrase was stretched is done when all is there: confined, and the
 * server's socket listening. */
static void what_came_early_is_not_done_before_the_daemon_is_ready(void **state)
{
    (void)state;
    struct run r = {0};
    int pair[2];
    uint8_t reply[4];
    file_put("k", "correct horse", 13);
    program_expect(&r, 0, "create i --key file=k --iter-time 1500");
    pid_t pid = rig_start(DATA_SOCKET);
    int ctrl = rig_connect("c");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ctrl_send_fds(ctrl, CTRL_SET_DATAFD, &pair[1], 1);
    assert_int_equal(ctrl_reply(ctrl, reply, 4), CTRL_IO_ERROR);
    rig_log_says("clients may connect, and wait");
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

/* --- state --- */

static uint8_t permanent[BLOB_ROOM], volatile_state[BLOB_ROOM], other[BLOB_ROOM];

static void state_travels_and_comes_back(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    size_t n_permanent, n_volatile, n_other;
    uint8_t digest[32] = {7}, pcr[32];
    rig_image("");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c"), data = ctrl_data_fd(ctrl);
    power_on(ctrl);
    start_up(data);
    cmd2_nv_define(&c, INDEX, 8, NV2_ORDINARY, 0);
    assert_int_equal(data_rc(data, &c), 0);
    cmd2_nv_write(&c, INDEX, "handover", 8, 0);
    assert_int_equal(data_rc(data, &c), 0);
    cmd2_pcr_extend(&c, PCR, digest);
    assert_int_equal(data_rc(data, &c), 0);
    cmd2_pcr_read(&c, PCR);
    memcpy(pcr, rsp2_pcr(data_call(data, &c, &a)), sizeof(pcr));
    assert_int_equal(ctrl_get_state(ctrl, 1, 0, permanent, &n_permanent), 0);
    assert_int_equal(ctrl_get_state(ctrl, 2, 0, volatile_state, &n_volatile), 0);
    assert_int_equal(ctrl_get_state(ctrl, 1, 1000, other, &n_other), 0);
    assert_int_equal(n_other, n_permanent - 1000);
    assert_memory_equal(other, permanent + 1000, n_other);
    assert_int_equal(ctrl_get_state(ctrl, 1, 0xffffffff, other, &n_other), 0);
    assert_int_equal(n_other, 0);

    /* What happens after that is undone by going back. */
    cmd2_pcr_extend(&c, PCR, digest);
    assert_int_equal(data_rc(data, &c), 0);
    cmd2_nv_write(&c, INDEX, "tomorrow", 8, 0);
    assert_int_equal(data_rc(data, &c), 0);
    assert_int_equal(ctrl_simple(ctrl, CTRL_STOP), 0);
    assert_int_equal(ctrl_set_state(ctrl, 1, 0, permanent, n_permanent), 0);
    assert_int_equal(ctrl_set_state(ctrl, 2, 0, volatile_state, n_volatile), 0);
    assert_int_equal(ctrl_init(ctrl, CTRL_INIT_DELETE_VOLATILE), 0);
    cmd2_pcr_read(&c, PCR);
    assert_memory_equal(rsp2_pcr(data_call(data, &c, &a)), pcr, 32);
    cmd2_nv_read(&c, INDEX, 8, 0);
    assert_memory_equal(rsp2_nv(data_call(data, &c, &a), 8), "handover", 8);
    close(data);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

static void refused_state_is_never_taken_for_commands(void **state)
{
    (void)state;
    size_t n;
    rig_image("");
    pid_t pid = rig_start("--migration-seal off");
    int ctrl = rig_connect("c");
    power_on(ctrl);
    assert_int_equal(ctrl_get_state(ctrl, 1, 0, permanent, &n), 0);
    /* Each four bytes are a SHUTDOWN. */
    for (size_t i = 0; i < sizeof(other); i += 4)
        put_be32(other + i, CTRL_SHUTDOWN);
    assert_int_equal(ctrl_set_state(ctrl, 1, 0, other, 4000), CTRL_BAD_ORDINAL); /* on */
    assert_int_equal(ctrl_simple(ctrl, CTRL_STOP), 0);
    assert_int_not_equal(ctrl_set_state(ctrl, 1, 0, other, 4000), 0);
    assert_int_equal(ctrl_set_state(ctrl, 7, 0, other, 400), CTRL_FAIL);
    assert_int_equal(ctrl_set_state(ctrl, 1, CTRL_STATE_ENCRYPTED, permanent, n),
                     CTRL_KEY_NOT_FOUND);
    /* the old state is not what was asked for */
    assert_int_equal(ctrl_result(ctrl, CTRL_INIT, "\0\0\0\0", 4), CTRL_KEY_NOT_FOUND);
    /* and who stops the TPM begins anew */
    assert_int_equal(ctrl_simple(ctrl, CTRL_STOP), 0);
    power_on(ctrl);
    assert_int_equal(ctrl_simple(ctrl, CTRL_STOP), 0);
    assert_int_not_equal(ctrl_set_state(ctrl, 1, 0, permanent, n - 1), 0);
    assert_int_not_equal(ctrl_result(ctrl, CTRL_INIT, "\0\0\0\0", 4), 0);
    assert_int_not_equal(ctrl_set_state(ctrl, 2, 0, permanent, n), 0);
    /* longer than any state */
    assert_int_equal(ctrl_set_state(ctrl, 1, 0, other, 600 * 1024), CTRL_SIZE);
    assert_int_equal(ctrl_set_state(ctrl, 1, 0, other, 1 << 20), CTRL_SIZE);
    assert_int_equal(ctrl_set_state(ctrl, 1, 0, permanent, n), 0);
    power_on(ctrl);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

static void state_that_is_cut_off_by_its_client_changes_nothing(void **state)
{
    (void)state;
    size_t n;
    uint8_t head[16] = {0, 0, 0, CTRL_SET_STATEBLOB, 0, 0, 0, 0, 0, 0, 0, 1};
    rig_image("");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c");
    power_on(ctrl);
    assert_int_equal(ctrl_get_state(ctrl, 1, 0, permanent, &n), 0);
    assert_int_equal(ctrl_simple(ctrl, CTRL_STOP), 0);
    for (size_t part = 0; part < n; part += n / 3) {
        int cut = rig_connect("c");
        put_be32(head + 12, (uint32_t)n);
        rig_send(cut, head, 16);
        rig_send(cut, permanent, part);
        close(cut);
    }
    power_on(ctrl);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

static void measured_launch_reaches_its_pcr(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    uint8_t before[32];
    rig_image("");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c"), data = ctrl_data_fd(ctrl);
    power_on(ctrl);
    start_up(data);
    cmd2_pcr_read(&c, 17);
    memcpy(before, rsp2_pcr(data_call(data, &c, &a)), 32);
    static uint8_t chunk[4 + CTRL_HASH_MAX_BYTES] = {0, 0, 0x10, 0, 'x'};
    assert_int_equal(ctrl_simple(ctrl, CTRL_HASH_START), 0);
    assert_int_equal(ctrl_result(ctrl, CTRL_HASH_DATA, chunk, sizeof(chunk)), 0);
    assert_int_equal(ctrl_result(ctrl, CTRL_HASH_DATA, "\0\0\0\0", 4), 0);
    assert_int_equal(ctrl_simple(ctrl, CTRL_HASH_END), 0);
    assert_memory_not_equal(rsp2_pcr(data_call(data, &c, &a)), before, 32);
    uint8_t r[8];
    assert_int_equal(ctrl_call(ctrl, CTRL_GET_TPMESTABLISHED, NULL, 0, r, 8), 0);
    assert_int_equal(r[4], 1);
    close(data);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

static void libtpms_is_described_in_its_own_words(void **state)
{
    (void)state;
    uint8_t body[16] = {0}, head[12];
    char text[4000], rest[4000];
    rig_image("");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c");
    body[7] = 7;
    assert_int_equal(ctrl_call(ctrl, CTRL_GET_INFO, body, 16, head, 12), 0);
    size_t n = get_be32(head + 8);
    assert_int_equal(get_be32(head + 4), n);
    rig_receive(ctrl, text, n);
    assert_int_equal(text[n - 1], 0);
    assert_non_null(strstr(text, "\"TPMSpecification\":{\"family\":\"2.0\""));
    assert_non_null(strstr(text, "\"TPMAttributes\""));
    body[11] = 5;
    assert_int_equal(ctrl_call(ctrl, CTRL_GET_INFO, body, 16, head, 12), 0);
    assert_int_equal(get_be32(head + 4), n);
    assert_int_equal(get_be32(head + 8), n - 5);
    rig_receive(ctrl, rest, n - 5);
    assert_memory_equal(rest, text + 5, n - 5);
    put_be32(body + 8, (uint32_t)n);
    assert_int_equal(ctrl_call(ctrl, CTRL_GET_INFO, body, 16, head, 12), CTRL_BAD_PARAMETER);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

/* --- while a command runs --- */

/* An RSA key takes long enough to get in between. */
static void create_rsa(struct tpm_cmd *c, uint16_t bits)
{
    static const uint8_t head[] = {0x80, 2,    0, 0, 0, 0, 0, 0, 1, 0x31, 0x40, 0, 0, 1, 0, 0, 0,
                                   9,    0x40, 0, 0, 9, 0, 0, 0, 0, 0,    0,    4, 0, 0, 0, 0};
    struct bytes_out o = bytes_out(c->b, sizeof(c->b));
    bytes_put(&o, head, sizeof(head));
    bytes_put_be16(&o, 26);
    bytes_put_be16(&o, 1);          /* RSA */
    bytes_put_be16(&o, 0x0b);       /* SHA-256 */
    bytes_put_be32(&o, 0x00030072); /* restricted, decrypt, fixed, with authorization */
    bytes_put_be16(&o, 0);
    bytes_put_be16(&o, 6); /* AES-128-CFB */
    bytes_put_be16(&o, 128);
    bytes_put_be16(&o, 0x43);
    bytes_put_be16(&o, 0x10); /* no scheme */
    bytes_put_be16(&o, bits);
    bytes_put_be32(&o, 0);
    bytes_put_be16(&o, 0);
    bytes_put_be16(&o, 0); /* outside info */
    bytes_put_be32(&o, 0); /* no PCRs */
    put_be32(c->b + 2, (uint32_t)o.n);
    c->n = o.n;
}

static void running_command_is_cancelled_at_once_and_others_still_answered(void **state)
{
    (void)state;
    struct tpm_cmd c, clear;
    struct answer a;
    uint8_t r[8];
    unsigned cancelled = 0;
    int64_t fastest = INT64_MAX;
    rig_image("");
    pid_t pid = rig_start("");
    int ctrl = rig_connect("c"), data = ctrl_data_fd(ctrl), second = rig_connect("c");
    power_on(ctrl);
    start_up(data);
    create_rsa(&c, 3072);
    cmd2_clear(&clear); /* a new seed: the next key is another one */
    for (int i = 0; i < 20 && cancelled < 3; i++) {
        assert_int_equal(data_rc(data, &clear), 0);
        rig_send(data, c.b, c.n);
        usleep(20000);
        int64_t before = rig_ms();
        assert_int_equal(ctrl_call(second, CTRL_GET_CAPABILITY, NULL, 0, r, 8), 0);
        assert_int_equal(ctrl_simple(ctrl, CTRL_CANCEL_TPM_CMD), 0);
        fastest = rig_ms() - before < fastest ? rig_ms() - before : fastest;
        struct tpm_rsp rsp = data_receive(data, &a);
        assert_true(rsp.rc == 0 || rsp.rc == RC2_CANCELED);
        cancelled += rsp.rc == RC2_CANCELED;
        if (rsp.rc == 0) {
            struct tpm_cmd flush;
            cmd2_flush(&flush, rsp2_handle(rsp));
            assert_int_equal(data_rc(data, &flush), 0);
        }
        data_works(data);
    }
    assert_true(cancelled > 0);
    assert_in_range(fastest, 0, 1000);
    close(second);
    close(data);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

static void several_clients_are_served_side_by_side(void **state)
{
    (void)state;
    int client[8];
    uint8_t r[8];
    rig_image("");
    pid_t pid = rig_start("");
    for (size_t i = 0; i < ARRAY_LEN(client); i++) {
        client[i] = rig_connect("c");
        assert_int_equal(ctrl_call(client[i], CTRL_GET_CAPABILITY, NULL, 0, r, 8), 0);
    }
    int data = ctrl_data_fd(client[3]);
    power_on(client[5]);
    start_up(data);
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < ARRAY_LEN(client); i++)
            ctrl_send(client[i], CTRL_GET_TPMESTABLISHED, NULL, 0);
        data_works(data);
        for (size_t i = 0; i < ARRAY_LEN(client); i++)
            assert_int_equal(ctrl_reply(client[i], r, 8), 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(client); i++)
        close(client[i]);
    data_works(data);
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(qemus_boot_is_answered_message_by_message),
        IN_DIR(replies_keep_their_length_when_they_are_errors),
        IN_DIR(tpm12_offers_what_it_has),
        IN_DIR(messages_may_come_in_pieces_or_together),
        IN_DIR(locality_counts_in_either_length),
        IN_DIR(only_one_stream_socket_becomes_the_data_channel),
        IN_DIR(next_data_channel_is_taken_when_the_one_before_is_gone),
        IN_DIR(descriptor_is_refused_where_the_server_has_a_socket),
        IN_DIR(what_came_early_is_not_done_before_the_daemon_is_ready),
        IN_DIR(state_travels_and_comes_back),
        IN_DIR(refused_state_is_never_taken_for_commands),
        IN_DIR(state_that_is_cut_off_by_its_client_changes_nothing),
        IN_DIR(measured_launch_reaches_its_pcr),
        IN_DIR(libtpms_is_described_in_its_own_words),
        IN_DIR(running_command_is_cancelled_at_once_and_others_still_answered),
        IN_DIR(several_clients_are_served_side_by_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
