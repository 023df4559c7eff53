/* Envelopes under known keys, for the tests that open them or are refused. */
#ifndef NVKEEP_TESTS_CRYPTO_ENVELOPE_FIXTURE_H
#define NVKEEP_TESTS_CRYPTO_ENVELOPE_FIXTURE_H

#include "tests/crypto/envelope_helpers.h"
#include "tests/crypto/helpers.h"
#include "tests/crypto/known_key.h"

enum { CONTENT = 77, ROOM = CONTENT + ENVELOPE_OVERHEAD_MAX, TAG = 16 };

/* Made once: both keys, others of their kinds, and a content. */
static struct {
    struct envelope_keys keys, others;
    uint8_t content[CONTENT];
} made;

static const enum envelope_use uses[] = {ENVELOPE_STATE, ENVELOPE_OFFER, ENVELOPE_READY};
static const enum envelope_key kinds[] = {ENVELOPE_IMAGE_KEY, ENVELOPE_MIGRATION_KEY};

struct sealed {
    uint8_t b[ROOM];
    size_t n;
};

static inline struct sealed seal(enum envelope_use use, enum envelope_key key)
{
    struct envelope_head h = known_head(use, key);
    struct sealed s = {0};
    struct err e;
    assert_done(envelope_seal(&h, &made.keys, made.content, CONTENT, s.b, &s.n, &e), e);
    assert_true(s.n > CONTENT && s.n <= sizeof(s.b));
    return s;
}

/* Nothing comes out, whatever the class. */
static inline enum err_kind refusal(enum envelope_use use, const struct envelope_keys *keys,
                                    const uint8_t *p, size_t n, struct err *e)
{
    struct envelope_head h, before;
    struct secret *content = NULL;
    size_t len = 4711;
    memset(&h, 0x5a, sizeof(h));
    before = h;
    *e = (struct err){0};
    assert_int_equal(envelope_open(use, keys, p, n, &h, &content, &len, e), -1);
    assert_null(content);
    assert_int_equal(len, 4711);
    assert_memory_equal(&h, &before, sizeof(h));
    assert_true(e->text[0] != 0);
    return e->kind;
}

static inline void refused(enum envelope_use use, const struct envelope_keys *keys,
                           const struct sealed *s, enum err_kind kind, const char *word)
{
    struct err e;
    enum err_kind got = refusal(use, keys, s->b, s->n, &e);
    if (got != kind || !strstr(e.text, word))
        fail_msg("%s, no \"%s\": %s", err_class(got)->name, word, e.text);
}

static inline struct volume_key *new_volume_key(void)
{
    struct luks_header h;
    struct volume_key *k = NULL;
    struct err e;
    assert_done(luks_volume_new(1000, &h, &k, &e), e);
    return k;
}

static struct {
    struct volume_key *image[2];
    struct migration_key *migration[2];
} owned;

static inline int make(void **state)
{
    (void)state;
    owned.image[0] = known_key();
    owned.image[1] = new_volume_key();
    owned.migration[0] = known_migration_key(256, 0x80);
    owned.migration[1] = known_migration_key(256, 0x81);
    made.keys = (struct envelope_keys){owned.image[0], owned.migration[0]};
    made.others = (struct envelope_keys){owned.image[1], owned.migration[1]};
    for (size_t i = 0; i < CONTENT; i++)
        made.content[i] = (uint8_t)(i * 7);
    return 0;
}

static inline int drop(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        volume_key_free(owned.image[i]);
        migration_key_free(owned.migration[i]);
    }
    return 0;
}

#endif
