/* A real TPM's image, damaged at each place of its live state in turn: what opening says of it, and
 * that the way back leads to the newest state that verifies, with which that TPM goes on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/store_record.h"
#include "tests/crash/damage_places.h"

enum { INDEX = 0x01800001 };

/* What the image held after each commit. */
static struct {
    uint8_t digest[SHA256_BYTES];
    uint64_t generation;
} past[MAX_VERSIONS];
static const char *const text_of[] = {NULL,
                                      NULL,
                                      NULL,
                                      "what was written first",
                                      "what was written then, and is longer",
                                      "what was written last"};
static uint64_t first_of_area[3]; /* sectors of the file */

static void digest_of(const struct store *s, uint8_t ret[SHA256_BYTES])
{
    const struct state_change c = store_image_content(s);
    store_image_digest(&c, ret);
}

static int make(void **state)
{
    struct err e;
    OWNED(image) i = NULL;
    OWNED(store) s = NULL;
    (void)state;
    make_image(12, 968 * SECTOR_BYTES);
    most_iterations = UINT64_MAX;
    assert_int_equal(image.n_versions, ARRAY_LEN(text_of));
    for (size_t v = 0; v < image.n_versions; v++) {
        memcpy(image.now, image.version[v], image.n);
        store_free(MOVE(s));
        image_free(MOVE(i));
        if (open_image(&i, &s, &e) < 0)
            fail_msg("%s", e.text);
        struct store_stats stats;
        store_stats(s, &stats);
        past[v].generation = stats.generation;
        digest_of(s, past[v].digest);
    }
    const struct store_layout *l = &store_facts(s)->layout;
    for (unsigned a = 0; a < 3; a++)
        first_of_area[a] =
            store_image_host_sector(store_disk(s), a == AREA_LOG ? l->log : l->checkpoint[a]);
    find_places(store_disk(s));
    return 0;
}

static int clear(void **state)
{
    (void)state;
    free(written_by);
    clear_image();
    return 0;
}

static void sound_again(void)
{
    memcpy(image.now, sound(), image.n);
    image.unreadable = 0;
}

/* As the messages have it: sector N of which area. */
static void name_of_place(uint64_t sector, char *buf, size_t n)
{
    static const char *const names[] = {"checkpoint A", "checkpoint B", "the log"};
    unsigned area = 0;
    while (area < 2 && sector >= first_of_area[area + 1])
        area++;
    snprintf(buf, n, "sector %llu of %s", (unsigned long long)(sector - first_of_area[area]),
             names[area]);
}

/* ---- what is said ---- */

static void assert_both_say(enum err_kind kind, const char *const *texts)
{
    struct err e = {0};
    struct image_report report;
    OWNED(image) i = NULL;
    OWNED(store) s = NULL;
    assert_int_equal(open_image(&i, &s, &e), -1);
    for (unsigned check = 0; check < 2; check++) {
        if (check)
            assert_int_equal(check_image(&report, &e), -1);
        for (const char *const *t = texts; *t; t++)
            if (e.kind != kind || !strstr(e.text, *t))
                fail_msg("%s \"%s\" lacks \"%s\"", err_class(e.kind)->name, e.text, *t);
    }
}

/* ---- the way back ---- */

static struct recovery *opened_damaged(void)
{
    struct err e;
    struct recovery *r = NULL;
    if (image_open_damaged(IN_MEMORY, image.pass, sizeof(TPM_IMAGE_PASS) - 1, NULL, &r, &e) < 0)
        fail_msg("%s", e.text);
    return r;
}

static void assert_index(struct store **s, const char *text)
{
    struct tpm_run run = {0};
    struct tpm_cmd c;
    assert_int_equal(tpm_new(s, &run.t, &run.e), 0);
    assert_int_equal(tpm_power_on(run.t, false, &run.e), 0);
    assert_int_equal(tpm_startup(run.t, STARTUP_CLEAR, &run.e), 0);
    cmd2_nv_read(&c, INDEX, (uint16_t)strlen(text), 0);
    const uint8_t *got = rsp2_nv(TPM_OK(&run, &c), (uint16_t)strlen(text));
    assert_non_null(got);
    assert_memory_equal(got, text, strlen(text));
    tpm_free(run.t);
}

/* Recovered, the image opens with the state of that version, and so does its TPM. */
static void recovers_to(size_t version, uint64_t n_unreadable, bool ask_the_tpm)
{
    struct err e;
    struct recovery_facts f;
    struct image_report report;
    struct store_stats stats;
    uint8_t digest[SHA256_BYTES];
    OWNED(recovery) r = opened_damaged();
    recovery_facts(r, &f);
    assert_int_not_equal(f.damage.kind, ERR_NONE);
    assert_int_equal(f.generation, past[version].generation);
    assert_int_equal(f.n_unreadable, n_unreadable);
    assert_int_equal(image.n_writes, 0);
    if (recovery_write(r, &e) < 0)
        fail_msg("%s", e.text);
    recovery_free(MOVE(r));

    OWNED(image) i = NULL;
    OWNED(store) s = NULL;
    if (open_image(&i, &s, &e) < 0 || check_image(&report, &e) < 0)
        fail_msg("after the recovery: %s", e.text);
    assert_int_equal(report.check.corruptions + report.check.leaks, 0);
    digest_of(s, digest);
    assert_memory_equal(digest, past[version].digest, sizeof(digest));
    store_stats(s, &stats);
    assert_true(stats.generation > past[image.n_versions - 1].generation);
    assert_int_equal(stats.generation, f.next_generation);
    if (ask_the_tpm && text_of[version])
        assert_index(&s, text_of[version]);
}

/* ---- tests ---- */

/* The first sector of the state that each commit wrote is enough to ask the TPM for. */
static bool first_of_commit(uint64_t sector)
{
    return written_by[sector - 1] != written_by[sector];
}

static void damage_says_where_it_is_and_recover_leads_to_the_state_before_it(void **state)
{
    unsigned n = 0;
    (void)state;
    for (uint64_t s = 1; s < image.n / SECTOR_BYTES; s++) {
        char place[60], newest[100];
        if (written_by[s] == 0)
            continue;
        size_t before = written_by[s] - 1;
        sound_again();
        image.now[s * SECTOR_BYTES + s % SECTOR_BYTES] ^= 0x04;
        image.n_writes = 0;
        name_of_place(s, place, sizeof(place));
        snprintf(newest, sizeof(newest),
                 "the newest state that verifies is generation %llu; nvkeep recover can go back",
                 (unsigned long long)past[before].generation);
        assert_both_say(ERR_STATE_CORRUPT, (const char *const[]){place, newest, NULL});
        recovers_to(before, 0, first_of_commit(s));
        n++;
    }
    print_message("sectors of live state damaged and recovered: %u\n", n);
    assert_true(n > 8);
}

static void what_cannot_be_read_is_read_around(void **state)
{
    unsigned n = 0;
    (void)state;
    for (uint64_t s = first_of_area[0]; s < image.n / SECTOR_BYTES; s++) {
        if (written_by[s] == 0 && s % 64 != 5)
            continue; /* some of what is older or empty */
        size_t to = written_by[s] > 0 ? written_by[s] - 1 : image.n_versions - 1;
        sound_again();
        image.unreadable = s;
        image.n_writes = 0;
        assert_both_say(ERR_STORAGE, (const char *const[]){"nvkeep recover reads around", NULL});
        recovers_to(to, 1, false);
        assert_int_equal(image.unreadable, 0);
        n++;
    }
    print_message("sectors that cannot be read, recovered around: %u\n", n);
}

static void without_any_state_recover_says_what_is_there(void **state)
{
    struct err e;
    struct recovery *r = NULL;
    (void)state;
    sound_again();
    for (unsigned a = AREA_CHECKPOINT_A; a <= AREA_CHECKPOINT_B; a++)
        image.now[first_of_area[a] * SECTOR_BYTES + 200] ^= 1;
    image.n_writes = 0;
    assert_both_say(ERR_STATE_CORRUPT,
                    (const char *const[]){"neither checkpoint of the record store is intact",
                                          "checkpoint A mentions generation 1", NULL});
    assert_int_equal(
        image_open_damaged(IN_MEMORY, image.pass, sizeof(TPM_IMAGE_PASS) - 1, NULL, &r, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_CORRUPT);
    assert_non_null(strstr(e.text, "there is no state to go back to in this image"));
    assert_int_equal(image.n_writes, 0);
}

static void nothing_is_recovered_from_unreadable_checkpoints(void **state)
{
    struct err e;
    struct recovery *r = NULL;
    (void)state;
    sound_again();
    image.now[first_of_area[AREA_CHECKPOINT_A] * SECTOR_BYTES + 200] ^= 1;
    image.unreadable = first_of_area[AREA_CHECKPOINT_B];
    image.n_writes = 0;
    assert_int_equal(
        image_open_damaged(IN_MEMORY, image.pass, sizeof(TPM_IMAGE_PASS) - 1, NULL, &r, &e), -1);
    assert_int_equal(e.kind, ERR_STORAGE); /* they may be given another time */
    assert_non_null(strstr(e.text, "1 sectors of the record store cannot be read"));
    assert_int_equal(image.n_writes, 0);
}

/* ---- where the state came from ---- */

static uint64_t commit_blob(struct store *s, enum blob_kind kind, const uint8_t *p, size_t n)
{
    struct err e;
    struct state_change c = {0};
    struct store_stats stats;
    c.blob[kind - 1] = (struct blob_change){BLOB_SET, p, n};
    if (store_commit(s, &c, &e) < 0)
        fail_msg("%s", e.text);
    store_stats(s, &stats);
    return stats.generation;
}

/* Three commits: of an origin, of what is damaged afterwards, and of one more. Returns the last. */
static uint64_t damaged_behind_an_origin(const struct store_origin *o)
{
    struct err e;
    uint8_t blob[ORIGIN_BYTES];
    OWNED(image) i = NULL;
    OWNED(store) s = NULL;
    OWNED_HEAP uint8_t *before = malloc(image.n);
    assert_non_null(before);
    assert_int_equal(open_image(&i, &s, &e), 0);
    origin_encode(o, blob);
    (void)commit_blob(s, BLOB_ORIGIN, blob, sizeof(blob));
    memcpy(before, image.now, image.n);
    (void)commit_blob(s, BLOB_SAVESTATE, (const uint8_t *)"lost", 4);
    size_t at = 0;
    while (before[at] == image.now[at])
        at++;
    uint64_t last = commit_blob(s, BLOB_SAVESTATE, (const uint8_t *)"lost as well", 12);
    image.now[at] ^= 1;
    return last;
}

static void the_origin_stays_and_the_clock_is_ahead_of_what_was_lost(void **state)
{
    struct err e;
    struct store_origin found, o = {.how = ORIGIN_HANDED_OVER, .used = true, .clock = 500};
    struct store_stats stats;
    size_t n;
    (void)state;
    sound_again();
    o.at = past[image.n_versions - 1].generation + 1;
    memset(o.lineage, 7, sizeof(o.lineage));
    memset(o.set, 8, sizeof(o.set));
    uint64_t lost = damaged_behind_an_origin(&o);
    OWNED(recovery) r = opened_damaged();
    assert_int_equal(recovery_write(r, &e), 0);
    recovery_free(MOVE(r));

    OWNED(image) i = NULL;
    OWNED(store) s = NULL;
    assert_int_equal(open_image(&i, &s, &e), 0);
    const uint8_t *blob = store_get(s, BLOB_ORIGIN, &n);
    assert_non_null(blob);
    assert_int_equal(origin_decode(blob, n, &found, &e), 0);
    assert_memory_equal(found.lineage, o.lineage, sizeof(o.lineage));
    assert_true(found.clock == o.clock && found.at == o.at);
    assert_null(store_get(s, BLOB_SAVESTATE, &n));
    store_stats(s, &stats);
    assert_true(origin_clock(&found, stats.generation) > origin_clock(&o, lost));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damage_says_where_it_is_and_recover_leads_to_the_state_before_it),
        cmocka_unit_test(what_cannot_be_read_is_read_around),
        cmocka_unit_test(the_origin_stays_and_the_clock_is_ahead_of_what_was_lost),
        cmocka_unit_test(without_any_state_recover_says_what_is_there),
        cmocka_unit_test(nothing_is_recovered_from_unreadable_checkpoints),
    };
    return cmocka_run_group_tests(tests, make, clear);
}
