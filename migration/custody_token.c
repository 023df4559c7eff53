#include <string.h>
#include <time.h>

#include "migration/custody_priv.h"
#include "src/base/bytes.h"

enum { ARMED_MS = 60000, CONTENT_BYTES = 8, LIBRARY_LEVEL = 8 /* shift: major and minor */ };

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* --- as text --- */

static int token_write(const struct custody *c, const struct envelope_head *head, uint64_t bytes,
                       char ret[CUSTODY_TOKEN_MAX], struct err *e)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t content[CONTENT_BYTES], raw[CONTENT_BYTES + ENVELOPE_OVERHEAD_MAX];
    struct envelope_keys keys = custody_keys(c);
    size_t n = 0;
    put_be64(content, bytes);
    if (envelope_seal(head, &keys, content, sizeof(content), raw, &n, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        ret[2 * i] = digits[raw[i] >> 4];
        ret[2 * i + 1] = digits[raw[i] & 15];
    }
    ret[2 * n] = 0;
    return 0;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int token_read(const struct custody *c, enum envelope_use use, const char *text,
                      struct envelope_head *ret, uint64_t *ret_bytes, struct err *e)
{
    uint8_t raw[CUSTODY_TOKEN_MAX / 2];
    struct envelope_keys keys = custody_keys(c);
    OWNED(secret) content = NULL;
    size_t len = strnlen(text, CUSTODY_TOKEN_MAX), n = 0;
    bool bad = len % 2 != 0 || len >= CUSTODY_TOKEN_MAX;
    for (size_t i = 0; !bad && i < len / 2; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        bad = high < 0 || low < 0;
        raw[i] = (uint8_t)((unsigned)high << 4 | (unsigned)low);
    }
    if (bad)
        return err_set(e, ERR_USAGE, "this is not a token of a prepared hand-over");
    if (envelope_open(use, &keys, raw, len / 2, ret, &content, &n, e) < 0)
        return err_prefix(e, "the token");
    if (n != CONTENT_BYTES)
        return err_set(e, ERR_STATE_CORRUPT, "the token: its content has %zu bytes", n);
    *ret_bytes = get_be64(secret_peek(content));
    return 0;
}

/* --- source --- */

int custody_offer(struct custody *c, const struct store *s, uint32_t library,
                  char ret[CUSTODY_TOKEN_MAX], struct err *e)
{
    struct envelope_head head;
    struct store_stats stats;
    if (custody_owns(c, e) < 0 || custody_head(c, s, &head, e) < 0 ||
        random_bytes(head.set, sizeof(head.set), e) < 0)
        return -1;
    store_stats(s, &stats);
    head.use = ENVELOPE_OFFER;
    head.library = library;
    if (token_write(c, &head, stats.state_bytes, ret, e) < 0)
        return -1;
    custody_disarm(c);
    c->offered_at = now_ms();
    memcpy(c->nonce, head.set, sizeof(c->nonce));
    return 0;
}

int custody_arm(struct custody *c, const char *ready, struct err *e)
{
    struct envelope_head head;
    uint64_t ignored;
    int64_t window = c->rules.armed_ms > 0 ? c->rules.armed_ms : ARMED_MS;
    if (c->offered_at == 0)
        return err_set(e, ERR_USAGE, "nothing was offered: call prepare-outgoing first");
    if (token_read(c, ENVELOPE_READY, ready, &head, &ignored, e) < 0)
        return -1;
    if (!equal_constant_time(head.set, c->nonce, sizeof(c->nonce)))
        return err_set(e, ERR_USAGE,
                       "the token answers another offer than the last one that was made here");
    /* What was found good long ago may be so no more; the nonce binds the answer to the offer. */
    if (now_ms() - c->offered_at > window)
        return err_set(e, ERR_USAGE,
                       "the offer that this token answers is more than %lld seconds old: prepare "
                       "anew",
                       (long long)window / 1000);
    c->offered_at = 0;
    c->armed_until = now_ms() + window;
    return 0;
}

bool custody_is_armed(const struct custody *c)
{
    return c->armed_until > 0 && now_ms() < c->armed_until;
}

int custody_not_armed(struct err *e)
{
    return err_set(e, ERR_USAGE,
                   "a hand-over must be prepared first (--migration require-prepare), and none is: "
                   "prepare-outgoing here, prepare-incoming there, commit-outgoing here");
}

void custody_disarm(struct custody *c)
{
    c->offered_at = 0;
    c->armed_until = 0;
}

/* --- destination --- */

/* The state here may be newer than the offer: the guest goes on. */
static int check_same_image(const struct envelope_head *offer, const struct store_look *look,
                            struct err *e)
{
    struct store_mark here;
    size_t n;
    if (!store_look_get(look, BLOB_PERMANENT, &n))
        return err_set(e, ERR_STATE_EMPTY,
                       "the image holds no TPM yet, and the one that is offered is in this image: "
                       "the copy is not finished");
    store_look_mark(look, &here);
    if (here.generation < offer->generation)
        return err_set(e, ERR_STATE_ROLLED_BACK,
                       "the image holds generation %llu, and the offer is of generation %llu: the "
                       "copy is not finished, or it is an old copy",
                       (unsigned long long)here.generation, (unsigned long long)offer->generation);
    return 0;
}

static int check_other_image(const struct custody *c, const struct envelope_head *offer,
                             const struct store_look *look, struct err *e)
{
    struct store_mark mark;
    struct lineage here;
    size_t n = 0;
    if (!store_look_get(look, BLOB_PERMANENT, &n))
        return 0;
    const uint8_t *origin = store_look_get(look, BLOB_ORIGIN, &n);
    store_look_mark(look, &mark);
    if (custody_lineage(origin, n, store_look_facts(look), mark.generation, &here, e) < 0)
        return -1;
    return custody_accepts_other(c, &here, offer, c->rules.rewind, e);
}

int custody_ready(struct custody *c, const char *offer, const struct store_look *look,
                  uint32_t library, char ret[CUSTODY_TOKEN_MAX], struct err *e)
{
    struct envelope_head head, ready = {0};
    struct store_stats stats;
    uint64_t wanted;
    if (token_read(c, ENVELOPE_OFFER, offer, &head, &wanted, e) < 0)
        return -1;
    if (head.library >> LIBRARY_LEVEL > library >> LIBRARY_LEVEL)
        return err_set(e, ERR_UNSUPPORTED,
                       "the TPM's state is kept by libtpms %u.%u there, and here is %u.%u: install "
                       "one that is at least as new",
                       head.library >> 16, head.library >> 8 & 0xff, library >> 16,
                       library >> 8 & 0xff);
    const struct ref_facts *facts = store_look_facts(look);
    bool same = memcmp(head.image, facts->instance, sizeof(head.image)) == 0;
    if (head.device != facts->device)
        return err_set(e, ERR_STATE_FOREIGN, "the image is for another kind of TPM");
    if ((same ? check_same_image(&head, look, e) : check_other_image(c, &head, look, e)) < 0)
        return -1;
    store_look_stats(look, &stats);
    if (wanted > stats.checkpoint_bytes)
        return err_set(e, ERR_UNSUPPORTED,
                       "the TPM's state has %llu bytes and the image has room for %llu: make a "
                       "larger one",
                       (unsigned long long)wanted, (unsigned long long)stats.checkpoint_bytes);
    ready = head;
    ready.use = ENVELOPE_READY;
    memcpy(ready.image, facts->instance, sizeof(ready.image));
    return token_write(c, &ready, stats.checkpoint_bytes, ret, e);
}
