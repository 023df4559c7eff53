/* What custody says to a step that is not allowed, and which blobs do not go together. */
#include "tests/migration/custody_hosts.h"

#include "migration/blob.h"

/* --- the table, in words --- */

/* As the header has it: by state first, then by what was asked. */
static enum err_kind class_for(enum handover_state s, enum handover_event v)
{
    if (s == HO_FENCED)
        return ERR_FENCED;
    if (s == HO_EXPORTED)
        return ERR_LOCKED;
    return v == HO_INIT || v == HO_INIT_LOAD ? ERR_STATE_EMPTY : ERR_USAGE;
}

static const char *words_for(enum handover_state s, enum handover_event v)
{
    switch (class_for(s, v)) {
    case ERR_FENCED:
        return "another owner has taken the TPM's state over";
    case ERR_LOCKED:
        return "is on its way to another host";
    case ERR_STATE_EMPTY:
        return s == HO_AWAY ? "no state was handed over yet" : "is not whole, or was refused";
    default:
        return s == HO_RELEASED || s == HO_RECLAIMING || s == HO_RELEASED_OFF
                   ? "was given away; it can be taken back"
                   : handover_state_name(s);
    }
}

/* S1.14 */
static void every_step_that_is_not_allowed_has_its_class_and_its_words(void **state)
{
    unsigned n[ERR_N_KINDS] = {0};
    (void)state;
    await(&at.a);
    for (enum handover_state s = 0; s < HO_N_STATES; s++)
        for (enum handover_event v = 0; v < HO_N_EVENTS; v++) {
            struct err e = {.text = "nothing"};
            custody_enter(at.a.c, s);
            struct handover_rule rule = custody_rule(at.a.c, v, &e);
            assert_int_equal(rule.verdict, handover_look(s, v)->verdict);
            if (rule.verdict != HO_NO) {
                assert_string_equal(e.text, "nothing");
                continue;
            }
            n[e.kind]++;
            if (e.kind != class_for(s, v) || !strstr(e.text, words_for(s, v)))
                fail_msg("%s in %s: %s: %s", handover_event_name(v), handover_state_name(s),
                         err_class(e.kind)->name, e.text);
        }
    assert_true(n[ERR_FENCED] && n[ERR_LOCKED] && n[ERR_STATE_EMPTY] && n[ERR_USAGE]);
    custody_enter(at.a.c, HO_AWAY);
}

static void only_who_runs_it_may_hand_it_over(void **state)
{
    (void)state;
    serve(&at.a);
    for (enum handover_state s = 0; s < HO_N_STATES; s++) {
        char token[CUSTODY_TOKEN_MAX] = "untouched";
        bool owns = s == HO_RUNNING || s == HO_LOADED || s == HO_EXPORTING;
        struct err e;
        custody_enter(at.a.c, s);
        int offered = custody_offer(at.a.c, at.a.s, 0x902, token, &e);
        assert_int_equal(offered, owns ? 0 : -1);
        if (!owns) {
            assert_string_equal(token, "untouched");
            assert_int_equal(e.kind, ERR_USAGE);
            assert_non_null(strstr(e.text, handover_state_name(s)));
        }
        assert_int_equal(custody_check_save(at.a.c, &e), owns ? 0 : -1);
    }
    custody_enter(at.a.c, HO_RUNNING);
}

/* --- what is given away --- */

static void nothing_is_exported_before_an_export_has_begun(void **state)
{
    OWNED(secret) blob = NULL;
    struct err e;
    bool encrypted = false;
    size_t n = 77;
    (void)state;
    serve(&at.a);
    for (unsigned round = 0; round < 2; round++) {
        assert_refused(custody_export(at.a.c, BLOB_PERMANENT, (const uint8_t *)"x", 1, &blob, &n,
                                      &encrypted, &e),
                       e, ERR_USAGE, "no export has begun");
        assert_null(blob);
        assert_int_equal(n, 77);
        struct set set = give(&at.a);
        drop_set(&set);
        custody_export_end(at.a.c); /* and then none has begun once more */
    }
}

/* --- what is handed in --- */

static int stage_bytes(struct side *h, enum blob_kind kind, const uint8_t *p, size_t n,
                       struct err *e)
{
    OWNED(secret) content = NULL;
    size_t content_n = 0;
    return custody_stage(h->c, kind, p, n, &content, &content_n, e);
}

static void sealed_and_plain_blobs_make_no_set(void **state)
{
    static const uint8_t text[] = "volatile";
    uint8_t plain[sizeof(text) + BLOB_WIRE_OVERHEAD + 64];
    struct err e;
    (void)state;
    size_t n = blob_encoded_bytes(BLOB_WIRE, sizeof(text));
    assert_true(n <= sizeof(plain));
    blob_encode(BLOB_WIRE, text, sizeof(text), plain);
    at.a.rules = at.b.rules = (struct custody_rules){.seal = SEAL_AUTO};
    snprintf(at.b.path, sizeof(at.b.path), "%s/copy", at.folder);
    copy_file(at.a.path, at.b.path); /* the key of the image opens it */
    serve(&at.a);
    assert_done(custody_export_begin(at.a.c, at.a.s, 3, 0x902, &e), e);
    struct set sealed = {0};
    bool encrypted;
    assert_done(custody_export(at.a.c, BLOB_PERMANENT, (const uint8_t *)"made in A", 10,
                               &sealed.blob, &sealed.n, &encrypted, &e),
                e);
    await(&at.b);
    assert_done(stage_bytes(&at.b, BLOB_PERMANENT, secret_peek(sealed.blob), sealed.n, &e), e);
    assert_true(custody_set_is_sealed(at.b.c));
    assert_refused(stage_bytes(&at.b, BLOB_VOLATILE, plain, n, &e), e, ERR_STATE_FOREIGN,
                   "not sealed and the one before it was");
    assert_false(custody_set_is_whole(at.b.c));

    /* The other way round. */
    assert_done(stage_bytes(&at.b, BLOB_PERMANENT, plain, n, &e), e);
    assert_false(custody_set_is_sealed(at.b.c));
    struct set other = {0};
    assert_done(custody_export(at.a.c, BLOB_VOLATILE, text, sizeof(text), &other.blob, &other.n,
                               &encrypted, &e),
                e);
    assert_refused(stage_bytes(&at.b, BLOB_VOLATILE, secret_peek(other.blob), other.n, &e), e,
                   ERR_STATE_FOREIGN, "not of the same hand-over");
    drop_set(&sealed);
    drop_set(&other);
}

/* A kind of which there is nothing is handed in as nothing. */
static void what_is_not_in_the_set_need_not_be_handed_in(void **state)
{
    static const uint8_t text[] = "permanent";
    uint8_t plain[sizeof(text) + BLOB_WIRE_OVERHEAD + 64];
    struct err e;
    (void)state;
    serve(&at.a);
    struct set sealed = give(&at.a); /* the permanent state alone */
    await(&at.b);
    assert_done(stage_bytes(&at.b, BLOB_PERMANENT, secret_peek(sealed.blob), sealed.n, &e), e);
    assert_done(stage_bytes(&at.b, BLOB_VOLATILE, NULL, 0, &e), e);
    assert_true(custody_set_is_whole(at.b.c));
    stop(&at.b);
    size_t n = blob_encoded_bytes(BLOB_WIRE, sizeof(text));
    blob_encode(BLOB_WIRE, text, sizeof(text), plain);
    at.b.rules = (struct custody_rules){.seal = SEAL_OFF};
    await(&at.b);
    assert_done(stage_bytes(&at.b, BLOB_PERMANENT, plain, n, &e), e);
    assert_done(stage_bytes(&at.b, BLOB_VOLATILE, NULL, 0, &e), e);
    assert_true(custody_set_is_whole(at.b.c));
    drop_set(&sealed);
}

static void swtpms_file_is_not_what_travels(void **state)
{
    static const uint8_t text[] = "permanent";
    uint8_t file[sizeof(text) + BLOB_FILE_OVERHEAD + 64];
    struct err e;
    (void)state;
    size_t n = blob_encoded_bytes(BLOB_FILE, sizeof(text));
    assert_true(n <= sizeof(file));
    blob_encode(BLOB_FILE, text, sizeof(text), file);
    at.b.rules = (struct custody_rules){.seal = SEAL_OFF};
    await(&at.b);
    assert_refused(stage_bytes(&at.b, BLOB_PERMANENT, file, n, &e), e, ERR_STATE_FOREIGN,
                   "swtpm's file on disk");
    assert_false(custody_set_is_whole(at.b.c));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_step_that_is_not_allowed_has_its_class_and_its_words),
        TEST(only_who_runs_it_may_hand_it_over),
        TEST(nothing_is_exported_before_an_export_has_begun),
        TEST(sealed_and_plain_blobs_make_no_set),
        TEST(what_is_not_in_the_set_need_not_be_handed_in),
        TEST(swtpms_file_is_not_what_travels),
    };
    return cmocka_run_group_tests(tests, open_folder, drop_folder);
}
