#include "serve_rig.h"

#include <netinet/in.h>

static int connect_tcp(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    for (int i = 0; i < 1000 && connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0; i++)
        usleep(5000);
    return fd;
}

/* One that is free now. */
static uint16_t free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t n = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void command_may_come_in_pieces(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    int data = rig_connect("d");
    cmd2_get_random(&c, 8);
    for (size_t cut = 1; cut < c.n; cut++) {
        rig_send(data, c.b, cut);
        usleep(3000);
        rig_send(data, c.b + cut, c.n - cut);
        assert_int_equal(data_receive(data, &a).rc, 0);
    }
    for (size_t i = 0; i < c.n; i++) {
        rig_send(data, c.b + i, 1);
        usleep(3000);
    }
    assert_int_equal(data_receive(data, &a).rc, 0);
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

static void commands_sent_together_are_answered_in_order(void **state)
{
    (void)state;
    enum { N = 300 };
    struct tpm_cmd c;
    struct answer a;
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    int data = rig_connect("d");
    static uint8_t all[N * 12];
    for (size_t i = 0; i < N; i++) {
        cmd2_get_random(&c, (uint16_t)(i % 30 + 1));
        memcpy(all + i * c.n, c.b, c.n);
    }
    rig_send(data, all, sizeof(all));
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(data_receive(data, &a).rc, 0);
        assert_int_equal(a.n, 12 + i % 30 + 1);
    }
    rig_is_silent(data, 50);
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

/* What was sent is answered also when nothing more can come. */
static void client_that_closes_its_half_still_gets_its_answers(void **state)
{
    (void)state;
    struct tpm_cmd c;
    struct answer a;
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    int data = rig_connect("d");
    cmd2_get_random(&c, 8);
    rig_send(data, c.b, c.n);
    rig_send(data, c.b, c.n);
    rig_send(data, c.b, 7);
    shutdown(data, SHUT_WR);
    assert_int_equal(data_receive(data, &a).rc, 0);
    assert_int_equal(data_receive(data, &a).rc, 0);
    assert_int_not_equal(data_receive(data, &a).rc, 0);
    assert_true(rig_is_closed(data, REPLY_MS));
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

/* The guest writes the size field; the emulator sends what its buffer holds. */
static void size_field_that_lies_gets_one_answer_and_the_next_command_works(void **state)
{
    (void)state;
    static const struct {
        uint32_t size;
        size_t sent;
    } lies[] = {{0, 10},         {1, 12},          {5, 6},
                {9, 9},          {4097, 4096},     {8000, 3968},
                {65536, 4096},   {0x7fffffff, 10}, {0xffffffff, 4096},
                {0xfffffff6, 30}};
    struct answer a;
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    int data = rig_connect("d");
    for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
        uint8_t m[4096] = {0x80, 1, 0, 0, 0, 0, 0, 0, 1, 0x7b};
        put_be32(m + 2, lies[i].size);
        rig_send(data, m, lies[i].sent);
        int64_t before = rig_ms();
        struct tpm_rsp r = data_receive(data, &a);
        assert_int_equal(r.tag, 0x8001);
        assert_int_equal(r.rc, lies[i].sent < 10 ? r.rc : RC2_COMMAND_SIZE);
        assert_int_not_equal(r.rc, 0);
        assert_true(rig_ms() - before < 500);
        rig_is_silent(data, 10);
        data_works(data);
    }
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

/* Fewer bytes than a size field needs: nobody knows whether more is to come. */
static void command_that_never_becomes_whole_is_answered_after_a_while(void **state)
{
    (void)state;
    static const size_t sent[] = {1, 5, 11};
    struct tpm_cmd c;
    struct answer a;
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    int data = rig_connect("d");
    cmd2_get_random(&c, 8);
    for (size_t i = 0; i < ARRAY_LEN(sent); i++) {
        rig_send(data, c.b, sent[i]);
        rig_is_silent(data, 500);
        struct tpm_rsp r = data_receive(data, &a);
        assert_int_not_equal(r.rc, 0);
        data_works(data);
    }
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

static void send_framed(int fd, uint8_t locality, const struct tpm_cmd *c)
{
    uint8_t head[9] = {0, 0, 0, 8, locality};
    put_be32(head + 5, (uint32_t)c->n);
    rig_send(fd, head, sizeof(head));
    rig_send(fd, c->b, c->n);
}

static struct tpm_rsp receive_framed(int fd, struct answer *a)
{
    uint8_t size[4], end[4];
    rig_receive(fd, size, 4);
    struct tpm_rsp r = data_receive(fd, a);
    rig_receive(fd, end, 4);
    assert_int_equal(get_be32(size), a->n);
    assert_int_equal(get_be32(end), 0);
    return r;
}

static void framed_commands_carry_their_locality(void **state)
{
    (void)state;
    struct tpm_cmd c, extend;
    struct answer a;
    static const uint8_t digest[32] = {1};
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET " --locality reject-locality-4");
    int data = rig_connect("d");
    cmd2_get_random(&c, 8);
    cmd2_pcr_extend(&extend, 20, digest); /* only from localities 1 to 3 */
    send_framed(data, 0, &c);
    assert_int_equal(receive_framed(data, &a).rc, 0);
    send_framed(data, 0, &extend);
    assert_int_equal(receive_framed(data, &a).rc, RC2_LOCALITY);
    send_framed(data, 2, &extend);
    assert_int_equal(receive_framed(data, &a).rc, 0);
    assert_int_equal(data_rc(data, &extend), 0); /* it stays */
    send_framed(data, 4, &c);
    assert_int_equal(receive_framed(data, &a).rc, RC2_LOCALITY);
    send_framed(data, 255, &c);
    assert_int_equal(receive_framed(data, &a).rc, RC2_LOCALITY);
    /* a frame that lies about its length */
    uint8_t lie[40] = {0, 0, 0, 8, 0, 0, 0, 0, 3};
    rig_send(data, lie, sizeof(lie));
    assert_int_equal(receive_framed(data, &a).rc, 0x84); /* no such tag */
    send_framed(data, 0, &c);
    assert_int_equal(receive_framed(data, &a).rc, 0);
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

static void locality_command_is_obeyed_only_where_it_is_allowed(void **state)
{
    (void)state;
    static const uint8_t digest[32] = {1};
    struct tpm_cmd extend, set = {.b = {0x80, 1, 0, 0, 0, 11, 0x20, 0, 0x10, 0, 2}, .n = 11};
    rig_image("");
    cmd2_pcr_extend(&extend, 20, digest);
    for (int allowed = 0; allowed < 2; allowed++) {
        pid_t pid = rig_start(
            allowed ? DATA_SOCKET " --locality allow-set-locality,reject-locality-4" : DATA_SOCKET);
        int data = rig_connect("d");
        set.b[10] = 2;
        assert_int_equal(data_rc(data, &set), allowed ? 0 : RC2_COMMAND_CODE);
        assert_int_equal(data_rc(data, &extend), allowed ? 0 : RC2_LOCALITY);
        set.b[10] = 4;
        assert_int_equal(data_rc(data, &set), allowed ? RC2_LOCALITY : RC2_COMMAND_CODE);
        close(data);
        assert_int_equal(rig_end(pid), 0);
    }
}

/* OVMF on TIS sends one. */
static void tpm12_command_to_a_tpm2_is_answered(void **state)
{
    (void)state;
    struct tpm_cmd c;
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    int data = rig_connect("d");
    cmd1_get_random(&c, 8);
    assert_int_not_equal(data_rc(data, &c), 0);
    data_works(data);
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

static void clients_come_one_after_the_other(void **state)
{
    (void)state;
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    int first = rig_connect("d"), second = rig_connect("d");
    struct tpm_cmd c;
    struct answer a;
    data_works(first);
    cmd2_get_random(&c, 8);
    rig_send(second, c.b, c.n);
    rig_is_silent(second, 100);
    data_works(first);
    close(first);
    assert_int_equal(data_receive(second, &a).rc, 0);
    close(second);
    for (int i = 0; i < 100; i++) {
        int fd = rig_connect("d");
        if (i % 3 == 0)
            data_works(fd);
        close(fd);
    }
    assert_int_equal(rig_end(pid), 0);
}

static void terminate_ends_with_the_data_connection(void **state)
{
    (void)state;
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET " --terminate");
    int data = rig_connect("d");
    data_works(data);
    close(data);
    assert_int_equal(rig_wait(pid), 0);
    assert_false(rig_is_there("c"));
    assert_false(rig_is_there("d"));
    pid = rig_start("--terminate");
    int ctrl = rig_connect("c");
    data = ctrl_data_fd(ctrl);
    close(data);
    assert_int_equal(rig_wait(pid), 0);
    close(ctrl);
}

static void tcp_works_and_disconnect_means_one_command(void **state)
{
    (void)state;
    char options[200];
    uint16_t port = free_port();
    rig_image("");
    snprintf(options, sizeof(options),
             "--server type=tcp,port=%u,disconnect --flags not-need-init,startup-clear", port);
    pid_t pid = rig_start(options);
    for (int i = 0; i < 5; i++) {
        int data = connect_tcp(port);
        data_works(data);
        assert_true(rig_is_closed(data, REPLY_MS));
        close(data);
    }
    assert_int_equal(rig_end(pid), 0);
    snprintf(options, sizeof(options),
             "--server type=tcp,port=%u --flags not-need-init,startup-clear", port);
    pid = rig_start(options); /* at once: a port that is just dying is free */
    int data = connect_tcp(port);
    for (int i = 0; i < 5; i++)
        data_works(data);
    close(data);
    assert_int_equal(rig_end(pid), 0);
}

/* A response is waited for until it is taken; the next command is not read before. */
static void client_that_never_reads_is_not_waited_for(void **state)
{
    (void)state;
    struct tpm_cmd c;
    uint8_t r[8];
    rig_image("");
    pid_t pid = rig_start(DATA_SOCKET);
    int data = rig_connect("d"), ctrl = rig_connect("c");
    cmd2_get_random(&c, 48);
    fcntl(data, F_SETFL, O_NONBLOCK);
    size_t sent = 0;
    for (int idle = 0; idle < 20;) {
        ssize_t n = send(data, c.b, c.n, MSG_NOSIGNAL);
        idle = n > 0 ? 0 : idle + 1;
        sent += n > 0 ? (size_t)n : 0;
        if (n < 0)
            usleep(5000);
    }
    assert_true(sent > 1000);
    /* The control channel does not notice. */
    for (int i = 0; i < 20; i++)
        assert_int_equal(ctrl_call(ctrl, CTRL_GET_TPMESTABLISHED, NULL, 0, r, 8), 0);
    close(data);
    data = rig_connect("d");
    data_works(data);
    close(data);
    close(ctrl);
    assert_int_equal(rig_end(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(command_may_come_in_pieces),
        IN_DIR(commands_sent_together_are_answered_in_order),
        IN_DIR(client_that_closes_its_half_still_gets_its_answers),
        IN_DIR(size_field_that_lies_gets_one_answer_and_the_next_command_works),
        IN_DIR(command_that_never_becomes_whole_is_answered_after_a_while),
        IN_DIR(framed_commands_carry_their_locality),
        IN_DIR(locality_command_is_obeyed_only_where_it_is_allowed),
        IN_DIR(tpm12_command_to_a_tpm2_is_answered),
        IN_DIR(clients_come_one_after_the_other),
        IN_DIR(terminate_ends_with_the_data_connection),
        IN_DIR(tcp_works_and_disconnect_means_one_command),
        IN_DIR(client_that_never_reads_is_not_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
