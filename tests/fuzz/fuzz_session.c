/* An emulator on the control channel, and what else happens to a daemon meanwhile: commands of its
 * guest, hang-ups, states given away, handed back, swapped and spoilt, another owner of the image,
 * the admin socket's commands, a disk that is full.
 * Class: control
 *
 * Input: a byte of options, then items. After each message: the claim is held exactly where the
 * table says so, and so is the TPM's power; what is not claimed is not written; a blob that is
 * handed in writes nothing, and where states travel sealed it is one that was given away; a set is
 * of one instant; who gave the state away does not go on after somebody else.
 */
#include "tests/fuzz/items.h"
#include "tests/fuzz/peer_rig.h"

#include <poll.h>

#include "src/serve/ctrl_client.h"
#include "src/serve/data_channel.h"

enum { MAX_ITEMS = 40, MAX_JOBS = 64, N_KEPT = 24 };
const unsigned fuzz_replays = 12;

enum {
    ITEM_CONTROL,   /* bytes of the control channel, as they are */
    ITEM_COMMAND,   /* of the guest; its size field is made right */
    ITEM_ATTACH,    /* a data connection is passed */
    ITEM_HANG_UP,   /* it is lost */
    ITEM_RECONNECT, /* the control connection is lost, and another one comes */
    ITEM_HAND_BACK, /* a blob that was given away: kind, which, and how it was spoilt */
    ITEM_OTHER,     /* somebody else claims the image, if nobody has, and stores a state */
    ITEM_ADMIN,     /* a command of the admin socket */
    ITEM_FULL_DISK, /* for the next item */
    ITEM_KINDS,
};

/* What was given away. */
struct kept {
    uint32_t kind;
    unsigned instant; /* the same for the blobs of one set */
    uint8_t *p;
    size_t n;
};

static struct tpm_blobs other; /* the state that somebody else stores */

static struct run {
    struct custody_rules rules;
    struct ctrl_client *client;
    struct data_channel *channel;
    int control, data; /* our ends; -1: none */
    bool ended;        /* SHUTDOWN */
    bool full;         /* the next item's disk */
    bool moved;        /* somebody else stored after we released */
    struct kept kept[N_KEPT];
    size_t n_kept;
    unsigned instant;
    unsigned staged[N_TPM_BLOBS]; /* of which instant; 0: none */
    char token[CUSTODY_TOKEN_MAX];
} run;
static uint8_t *before; /* the image's bytes, of a moment */

/* --- what is always true --- */

static bool is_locked(void)
{
    OWNED_FD fd = open(rig.path, O_RDWR | O_CLOEXEC);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    PROMISE(fd >= 0 && fcntl(fd, F_OFD_GETLK, &l) == 0);
    return l.l_type != F_UNLCK;
}

static bool is_on_in(enum handover_state s)
{
    return (s >= HO_RUNNING && s <= HO_RECLAIMING);
}

static enum handover_state state_now(void)
{
    return custody_state(rig.s->custody);
}

static void check_state(void)
{
    bool claimed = handover_is_claimed(state_now());
    PROMISE(claimed == (rig_store() != NULL));
    PROMISE(claimed == is_locked());
    PROMISE(is_on_in(state_now()) == tpm_is_on(rig.s->tpm));
}

/* Around everything that the session is asked. */
struct moment {
    enum handover_state state;
    bool claimed;
    bool may_claim; /* in between, even where it is not claimed in the end */
};

static struct moment begin_moment(bool compares, bool may_claim)
{
    struct moment m = {state_now(), handover_is_claimed(state_now()), may_claim};
    if (compares || !m.claimed)
        memcpy(before, rig.now, rig.bytes);
    rig_full(run.full);
    return m;
}

static bool same_bytes(void)
{
    return memcmp(before, rig.now, rig.bytes) == 0;
}

static bool was_released(enum handover_state s)
{
    return s >= HO_RELEASED && s <= HO_RELEASED_SET;
}

static void end_moment(const struct moment *m)
{
    rig_full(false);
    check_state();
    bool claimed = handover_is_claimed(state_now());
    if (!m->claimed && !claimed)
        PROMISE(m->may_claim || same_bytes());
    if (run.moved && claimed && was_released(m->state))
        PROMISE(run.rules.rewind);
    if (!was_released(state_now()))
        run.moved = false;
}

/* --- states that travel --- */

static void keep(const struct ctrl_job *job)
{
    struct kept *k = &run.kept[run.n_kept % N_KEPT];
    const uint8_t *p = secret_peek(job->state);
    if (job->req.offset > 0)
        return;
    free(k->p);
    *k = (struct kept){job->req.kind, run.instant, malloc(job->reply.total), job->reply.total};
    PROMISE(k->p);
    memcpy(k->p, p + job->state_at, k->n);
    run.n_kept++;
}

static const struct kept *find_kept(const struct ctrl_job *job)
{
    for (size_t i = 0; i < N_KEPT; i++) {
        const struct kept *k = &run.kept[i];
        if (k->p && k->n == job->req.bytes && k->kind == job->req.kind &&
            memcmp(k->p, secret_peek(job->blob), k->n) == 0)
            return k;
    }
    return NULL;
}

static void check_handed_in(const struct ctrl_job *job)
{
    PROMISE(same_bytes());
    if (job->reply.result != CTRL_OK)
        return;
    if (job->req.kind == BLOB_PERMANENT)
        memset(run.staged, 0, sizeof(run.staged));
    if (job->req.bytes == 0 || run.rules.seal == SEAL_OFF)
        return;
    const struct kept *k = find_kept(job);
    PROMISE(k);
    run.staged[k->kind - 1] = k->instant;
}

/* A set was stored. */
static void check_one_instant(void)
{
    unsigned first = run.staged[0];
    for (size_t i = 1; i < N_TPM_BLOBS; i++)
        PROMISE(run.staged[i] == 0 || run.staged[i] == first);
}

static void note_event(void *ctx, const struct session_event *event)
{
    (void)ctx;
    PROMISE(event->what >= EVENT_CLAIMED && event->what <= EVENT_FENCED);
    if (event->what == EVENT_COMMITTED)
        check_one_instant();
}

/* --- the control channel --- */

static void answer_job(struct ctrl_job *job)
{
    bool hands_in = job->req.code == CTRL_SET_STATEBLOB;
    bool new_instant = job->req.code == CTRL_GET_STATEBLOB && state_now() != HO_EXPORTING;
    struct moment m =
        begin_moment(hands_in, job->req.code == CTRL_INIT || job->req.code == CTRL_LOCK_STORAGE ||
                                   job->req.code == CTRL_GET_STATEBLOB);
    session_control(rig.s, job);
    end_moment(&m);
    if (new_instant)
        run.instant++;
    if (job->req.code == CTRL_GET_STATEBLOB && job->state)
        keep(job);
    if (hands_in)
        check_handed_in(job);
    if (job->req.code == CTRL_SET_DATAFD) {
        job->reply.result = data_channel_adopt(run.channel, &job->fd);
        if (job->reply.result == CTRL_OK)
            session_note_emulator(rig.s, 1);
    }
    run.ended |= job->req.code == CTRL_SHUTDOWN;
}

static void note_sent(bool sent)
{
    struct moment m = begin_moment(false, false);
    session_sent(rig.s, sent);
    end_moment(&m);
}

static void drop_client(void)
{
    bool waits = ctrl_client_last(run.client) == CLIENT_LAST_HERE;
    ctrl_client_free(MOVE(run.client));
    if (waits)
        note_sent(false);
}

static void connect_control(void)
{
    int ends[2];
    if (run.client)
        drop_client();
    if (run.control >= 0)
        close(run.control);
    PROMISE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    run.control = ends[0];
    RIG_MUST(ctrl_client_new(&ends[1], &run.client, &rig.e));
}

static bool take_replies(void)
{
    static uint8_t scrap[65536];
    bool any = false;
    while (recv(run.control, scrap, sizeof(scrap), 0) > 0)
        any = true;
    return any;
}

/* Everything that has been sent is worked on. */
static void pump(void)
{
    for (int i = 0; i < MAX_JOBS && run.client && !run.ended; i++) {
        struct ctrl_job *job = NULL;
        enum ctrl_client_step step = ctrl_client_run(run.client, POLLIN, &job);
        if (ctrl_client_last(run.client) == CLIENT_LAST_LEFT)
            note_sent(true);
        if (step == CLIENT_GONE) {
            drop_client();
            return;
        }
        if (step == CLIENT_REQUEST) {
            job->from = 1;
            answer_job(job);
            ctrl_client_answer(run.client, job);
            ctrl_job_free(job);
        } else if (!take_replies()) {
            return;
        }
    }
}

static void say(const void *p, size_t n)
{
    const uint8_t *at = p;
    while (n > 0 && run.client && !run.ended) {
        ssize_t sent = send(run.control, at, n < 32768 ? n : 32768, MSG_NOSIGNAL);
        if (sent > 0) {
            at += sent;
            n -= (size_t)sent;
        }
        pump();
    }
}

static void attach_data(void)
{
    static const uint8_t request[4] = {0, 0, 0, CTRL_SET_DATAFD};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec v = {(void *)(uintptr_t)request, sizeof(request)};
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof(control.bytes)};
    int ends[2];
    PROMISE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &ends[1], sizeof(int));
    (void)!sendmsg(run.control, &m, MSG_NOSIGNAL);
    close(ends[1]);
    if (run.data >= 0)
        close(run.data);
    run.data = ends[0];
    pump();
}

static void hang_up(void)
{
    if (run.data < 0)
        return;
    close(MOVE_FD(run.data));
    if (data_channel_run(run.channel, rig.s, POLLIN) != DATA_LOST)
        return;
    struct moment m = begin_moment(false, false);
    session_hangup(rig.s);
    end_moment(&m);
}

/* p: kind; which, from the newest; how it is changed; where. */
static void hand_back(const struct item *item)
{
    static uint8_t message[16 + BLOB_MAX_BYTES];
    struct bytes_in in = bytes_in(item->p, item->n);
    uint8_t kind = bytes_u8(&in), which = bytes_u8(&in), how = bytes_u8(&in);
    uint16_t where = bytes_be16(&in);
    const struct kept *k = &run.kept[(run.n_kept - 1 - which % N_KEPT) % N_KEPT];
    size_t n = run.n_kept && k->p && how % 8 != 7 && k->n <= BLOB_MAX_BYTES ? k->n : 0;
    if (n > 0)
        memcpy(message + 16, k->p, n);
    if (how % 8 == 6 && n > 0)
        message[16 + where % n] ^= 1;
    if (how % 8 == 5 && n > 0)
        n = where % n;
    put_be32(message, CTRL_SET_STATEBLOB);
    put_be32(message + 4, n > 0 && how & 8 ? CTRL_STATE_ENCRYPTED : 0);
    put_be32(message + 8, kind % 4 || !k->p ? kind % 5 : k->kind);
    put_be32(message + 12, (uint32_t)n);
    say(message, 16 + n);
}

/* --- everybody else --- */

static void run_command(const struct item *item)
{
    static uint8_t cmd[TPM_BUFFER_BYTES], resp[TPM_BUFFER_BYTES];
    size_t n = item->n < sizeof(cmd) ? item->n : sizeof(cmd), got = 0;
    if (n < DATA_HEADER_BYTES)
        return;
    memcpy(cmd, item->p, n);
    put_be32(cmd + 2, (uint32_t)n);
    const struct data_frame f = {.cmd_bytes = n, .bytes = n};
    struct moment m = begin_moment(false, state_now() == HO_RECLAIMING);
    session_command(rig.s, &f, cmd, resp, &got);
    end_moment(&m);
    PROMISE(got >= DATA_HEADER_BYTES && get_be32(resp + 2) == got);
    uint32_t rc = get_be32(resp + 6);
    if (!handover_is_claimed(state_now()))
        PROMISE(rc == RC2_NV_UNAVAILABLE || (rc == RC2_FAILURE && !tpm_is_on(rig.s->tpm)));
}

static void store_by_other(void)
{
    OWNED(store) store = NULL;
    struct state_change c = rig_change(&other);
    if (handover_is_claimed(state_now()) || image_claim(rig.image, &store, &rig.e) < 0)
        return;
    c.blob[BLOB_VOLATILE - 1].what = BLOB_DELETE;
    struct store_mark was, is;
    store_mark(store, &was);
    RIG_MUST(store_commit(store, &c, &rig.e));
    store_mark(store, &is);
    run.moved |= was_released(state_now()) && !store_mark_equal(&was, &is);
    image_release(rig.image, &store);
}

static void administer(const struct item *item)
{
    struct admin_call call = {.what = item->n ? item->p[0] % (ADMIN_MIGRATE_ABORT + 1) : 0};
    size_t n = item->n > 1 ? item->n - 1 : 0;
    if (n >= sizeof(call.token))
        n = sizeof(call.token) - 1;
    memcpy(call.token, run.token, sizeof(call.token));
    if (n > 0)
        memcpy(call.token, item->p + 1, n);
    struct moment m = begin_moment(true, false);
    session_admin(rig.s, &call);
    end_moment(&m);
    PROMISE(call.status.state == state_now() && call.status.is_on == tpm_is_on(rig.s->tpm));
    PROMISE(call.error.kind == ERR_NONE || call.error.text[0]);
    PROMISE(same_bytes() || call.what == ADMIN_MIGRATE_PREPARE);
    if (call.error.kind == ERR_NONE)
        memcpy(run.token, call.token, sizeof(run.token));
}

/* --- an input --- */

static void run_item(const struct item *item)
{
    switch (item->what % ITEM_KINDS) {
    case ITEM_CONTROL:
        say(item->p, item->n);
        break;
    case ITEM_COMMAND:
        run_command(item);
        break;
    case ITEM_ATTACH:
        attach_data();
        break;
    case ITEM_HANG_UP:
        hang_up();
        break;
    case ITEM_RECONNECT:
        connect_control();
        break;
    case ITEM_HAND_BACK:
        hand_back(item);
        break;
    case ITEM_OTHER:
        store_by_other();
        break;
    case ITEM_ADMIN:
        administer(item);
        break;
    default:
        run.full = true;
        return;
    }
    run.full = false;
}

static void begin_process(void)
{
    RIG_MUST(tpm_manufacture(DEVICE_TPM20, &other, &rig.e));
    rig_make_image();
    rig_open_reader();
    before = malloc(rig.bytes);
    PROMISE(before);
}

static void begin_input(uint8_t options)
{
    unsigned flags = (options & 8 ? SERVE_NOT_NEED_INIT | SERVE_STARTUP_CLEAR : 0u) |
                     (options & 16 ? (unsigned)SERVE_NO_AUTO_SHUTDOWN : 0u);
    run = (struct run){.control = -1, .data = -1};
    run.rules.seal = options & 2 ? SEAL_OFF : SEAL_AUTO;
    run.rules.rewind = options & 4;
    run.rules.armed_ms = options & 32 ? 60000 : 0;
    rig_put_back();
    rig_session(options & 1 ? 0 : flags, options & 1, &run.rules, note_event);
    RIG_MUST(data_channel_new(false, &run.channel, &rig.e));
    connect_control();
    check_state();
}

static void end_input(void)
{
    OWNED(store_look) look = NULL;
    if (run.client)
        drop_client();
    close(run.control);
    if (run.data >= 0)
        close(run.data);
    data_channel_free(run.channel);
    session_free(MOVE(rig.s));
    for (size_t i = 0; i < N_KEPT; i++)
        free(run.kept[i].p);
    PROMISE(!is_locked());
    RIG_MUST(image_look(rig.image, &look, &rig.e));
}

#include "tests/fuzz/session_items.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct bytes_in in = bytes_in(bytes, n);
    struct item item;
    if (!rig.image)
        begin_process();
    if (n == 0)
        return 0;
    begin_input(bytes_u8(&in));
    for (int i = 0; i < MAX_ITEMS && !run.ended && item_next(&in, &item); i++)
        run_item(&item);
    end_input();
    return 0;
}
