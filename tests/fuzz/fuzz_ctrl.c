/* Any bytes as a stream of control messages, read by a client that gets them in one piece and by
 * one that gets them byte by byte. Both see the same messages, except that how much of an unknown
 * one has arrived decides how much of it is thrown away. */
#include "tests/fuzz/fuzz.h"

#include "src/serve/ctrl_msg.h"

enum { MAX_MESSAGES = 64 };

struct seen {
    struct ctrl_request r[MAX_MESSAGES];
    size_t n;
    enum ctrl_decoded end;
};

static void note(struct seen *s, const struct ctrl_request *r)
{
    PROMISE(r->code > 0 && r->code < CTRL_N_CODES);
    PROMISE(r->code != CTRL_HASH_DATA || (r->data && r->bytes <= CTRL_HASH_MAX_BYTES));
    s->r[s->n++] = *r;
}

static void check_reply(const struct ctrl_request *r)
{
    uint8_t head[CTRL_REPLY_MAX];
    const struct ctrl_reply reply = {.result = r->flags, .bytes = r->bytes};
    size_t n = ctrl_reply_encode(r->code, &reply, head);
    PROMISE(n >= 4 && n <= CTRL_REPLY_MAX && n % 4 == 0);
}

/* step 0: all that is there at once. */
static void read_all(const uint8_t *bytes, size_t n, size_t step, struct seen *ret)
{
    size_t at = 0, have = step ? 0 : n;
    bool padding = false;
    *ret = (struct seen){.end = CTRL_MORE};
    while (ret->n < MAX_MESSAGES) {
        struct ctrl_request r = {0};
        size_t used = 0;
        ret->end = ctrl_request_decode(bytes + at, have - at, &padding, &r, &used);
        if (ret->end == CTRL_WHOLE) {
            PROMISE(used >= 4 && used <= have - at);
            check_reply(&r);
            note(ret, &r);
            at += used;
        } else if (ret->end != CTRL_MORE || have == n) {
            PROMISE(ret->end != CTRL_MORE || n - at < CTRL_REQUEST_MAX + 3);
            return;
        } else {
            have = have + step < n ? have + step : n;
        }
    }
}

static bool same(const struct ctrl_request *a, const struct ctrl_request *b)
{
    return a->code == b->code && a->flags == b->flags && a->locality == b->locality &&
           a->kind == b->kind && a->offset == b->offset && a->bytes == b->bytes &&
           a->data == b->data && a->size == b->size && a->info == b->info &&
           a->retries == b->retries;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct seen whole, pieces;
    if (n == 0)
        return 0;
    read_all(bytes, n, 0, &whole);
    read_all(bytes, n, 1, &pieces);
    PROMISE(whole.n == pieces.n && whole.end == pieces.end);
    for (size_t i = 0; i < whole.n; i++)
        PROMISE(same(&whole.r[i], &pieces.r[i]));
    return 0;
}
