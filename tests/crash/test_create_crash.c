/* Simulated power loss while an image is made: until its header is there it is no image at all, and
 * as soon as it opens it holds the whole first state.
 *
 * (An image in a file has no name before all of this is over. A block device has.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/store_image.h"

enum { MOST_SECTORS = 8192, SUBSETS_OF_BODY = 40, SUBSETS_OF_HEADER = 8 };

static struct {
    unsigned long states, refused, opened, violations;
} tally;
static unsigned n_flushes;
static uint8_t want[SHA256_BYTES];
static uint64_t random_bits = 0x2545f4914f6cdd1d;

static uint32_t draw(uint32_t below)
{
    random_bits ^= random_bits << 13;
    random_bits ^= random_bits >> 7;
    random_bits ^= random_bits << 17;
    return (uint32_t)(random_bits >> 20) % below;
}

static void violation(const char *what, const char *detail)
{
    if (tally.violations++ < 20)
        fprintf(stderr, "flush %u: %s: %s\n", n_flushes, what, detail);
}

static void check_state(struct store_image *im, bool must_not_open, bool must_open)
{
    struct err e = {0};
    OWNED(store) s = NULL;
    tally.states++;
    if (store_image_open(im, &s, &e) < 0) {
        tally.refused++;
        if (must_open)
            violation("a whole image does not open", e.text);
        if (e.kind != ERR_STATE_FOREIGN && e.kind != ERR_STATE_CORRUPT &&
            e.kind != ERR_STATE_EMPTY && e.kind != ERR_UNSUPPORTED)
            violation(err_class(e.kind)->name, e.text);
        return;
    }
    uint8_t got[SHA256_BYTES];
    struct state_change c = store_image_content(s);
    store_image_digest(&c, got);
    tally.opened++;
    if (must_not_open)
        violation("an image without a header opens", "");
    if (memcmp(got, want, sizeof(got)) != 0)
        violation("another state", "than the first one");
}

static void try_cut(struct store_image *im, const bool *arrived, enum power_lost lost, bool is_body,
                    bool whole)
{
    power_cut(im->power, arrived, lost, 0);
    check_state(im, is_body, whole);
    power_restore(im->power);
}

/* What is flushed first is all but the header; then the header. */
static void at_flush(void *ctx)
{
    struct store_image *im = ctx;
    static bool arrived[MOST_SECTORS];
    size_t n = power_n_volatile(im->power);
    bool is_body = n > SUBSETS_OF_HEADER;
    n_flushes++;
    if (n > MOST_SECTORS) {
        violation("so many volatile sectors", "are not foreseen");
        return;
    }
    unsigned tries = is_body ? SUBSETS_OF_BODY : 1U << n;
    for (unsigned i = 0; i < tries; i++) {
        for (size_t j = 0; j < n; j++)
            arrived[j] = is_body ? i == 0 || draw(i + 1) == 0 : i >> j & 1;
        for (enum power_lost lost = LOST_STALE; lost < LOST_KINDS; lost++)
            try_cut(im, arrived, lost, is_body, !is_body && i == tries - 1);
    }
}

int main(void)
{
    static uint8_t bytes[5000];
    struct store_image im;
    struct err e;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)draw(256);
    const struct state_change first = {{{BLOB_SET, bytes, sizeof(bytes)}}};
    store_image_digest(&first, want);
    if (store_image_new_watched(NULL, 2048, &first, at_flush, &im, &e) < 0) {
        fprintf(stderr, "test_create_crash: %s\n", e.text);
        return 1;
    }
    if (n_flushes != 2)
        violation("making an image", "is not two flushes");
    check_state(&im, false, true);
    store_image_clear(&im);
    printf(
        "power loss while an image is made: states %lu, refused %lu, whole %lu, violations %lu\n",
        tally.states, tally.refused, tally.opened, tally.violations);
    return tally.violations != 0;
}
