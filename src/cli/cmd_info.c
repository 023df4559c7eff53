#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/qcow.h"
#include "src/cli/cmd_verify.h"
#include "src/make/ek_read.h"

static int read_facts(const char *image, struct qcow_facts *ret, uint64_t *ret_file_bytes,
                      struct err *e)
{
    OWNED(blk) b = NULL;
    if (blk_open(image, BLK_READ_ONLY, &b, e) < 0 || qcow_inspect(b, ret, e) < 0)
        return -1;
    *ret_file_bytes = blk_size(b);
    return 0;
}

/* 0 where the header, which may have been refused, says something impossible. */
static uint64_t cluster_bytes(const struct qcow_header *h)
{
    return h->cluster_bits < 32 ? UINT64_C(1) << h->cluster_bits : 0;
}

/* Would serve take it, given the key? An image that was made by others opens, but holds no TPM of
 * ours; with certainty only the key tells. */
static void verdict(const struct qcow_facts *f, struct err *ret)
{
    *ret = f->refused;
    if (ret->kind == ERR_KEY_UNEXPECTED)
        err_set(ret, ERR_KEY_UNEXPECTED,
                "it is not encrypted; nvkeep keeps state in encrypted images alone");
    if (ret->kind == ERR_NONE && !f->header.ours)
        err_set(ret, ERR_STATE_FOREIGN,
                "nvkeep did not make this image (its mark is not in the header); make one with "
                "nvkeep create");
}

static void json_slots(struct json_out *j, const struct luks_header *l)
{
    json_out_array(j, "slots");
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        json_out_object(j, NULL);
        json_out_number(j, "slot", i);
        json_out_bool(j, "active", l->slot[i].active);
        if (l->slot[i].active)
            json_out_number(j, "iterations", l->slot[i].iterations);
        json_out_end(j);
    }
    json_out_end(j);
}

static void json_luks(struct json_out *j, const struct qcow_facts *f)
{
    const struct luks_header *l = &f->luks;
    json_out_object(j, "luks");
    json_out_number(j, "version", 1);
    json_out_text(j, "uuid", l->uuid);
    json_out_text(j, "cipher", l->cipher_name);
    json_out_text(j, "mode", l->cipher_mode);
    json_out_text(j, "hash", l->hash_spec);
    json_out_number(j, "key_bits", l->cipher.key_bytes * 8);
    json_out_number(j, "digest_iterations", l->digest_iterations);
    json_out_number(j, "offset", f->header.luks.byte);
    json_out_number(j, "bytes", f->header.luks_bytes);
    json_slots(j, l);
    json_out_end(j);
}

static void json_facts(struct json_out *j, const char *image, const struct qcow_facts *f,
                       uint64_t file_bytes)
{
    const struct qcow_header *h = &f->header;
    struct err v;
    char uuid[UUID_TEXT_BYTES];
    verdict(f, &v);
    json_out_text(j, "image", image);
    json_out_text(j, "format", "qcow2");
    json_out_number(j, "file_bytes", file_bytes);
    if (h->version) { /* otherwise the header could not be read so far */
        json_out_number(j, "version", h->version);
        json_out_number(j, "size", h->size);
        json_out_number(j, "cluster_bytes", cluster_bytes(h));
        json_out_number(j, "snapshots", h->n_snapshots);
        json_out_bool(j, "dirty", h->incompatible & QCOW_DIRTY);
        json_out_bool(j, "marked_corrupt", h->incompatible & QCOW_CORRUPT);
        json_out_bool(j, "encrypted", h->crypt_method != 0);
        json_out_bool(j, "backing_file", f->odd.backing);
        json_out_bool(j, "data_file", f->odd.data_file);
    }
    json_out_bool(j, "nvkeep", h->ours);
    if (h->ours) {
        uuid_text(h->instance, uuid);
        json_out_number(j, "nvkeep_version", h->our_version);
        json_out_text(j, "instance", uuid);
    }
    if (f->has_luks)
        json_luks(j, f);
    json_out_object(j, "serve");
    json_out_bool(j, "accepted", v.kind == ERR_NONE);
    json_out_text(j, "class", err_class(v.kind)->name);
    if (v.kind != ERR_NONE)
        json_out_text(j, "message", v.text);
    json_out_end(j);
}

static void text_luks(const struct qcow_facts *f)
{
    const struct luks_header *l = &f->luks;
    printf("encryption:  LUKS1 %s-%s, %zu-bit key, %s, uuid %s\n", l->cipher_name, l->cipher_mode,
           l->cipher.key_bytes * 8, l->hash_spec, l->uuid);
    printf("key slots:  ");
    unsigned n = 0;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        if (l->slot[i].active && ++n)
            printf(" %u (%" PRIu32 " iterations)", i, l->slot[i].iterations);
    puts(n ? "" : " none in use");
}

static void text_facts(const char *image, const struct qcow_facts *f, uint64_t file_bytes)
{
    const struct qcow_header *h = &f->header;
    struct err v;
    char uuid[UUID_TEXT_BYTES], name[300];
    verdict(f, &v);
    printf("image:       %s, %" PRIu64 " bytes\n",
           err_quote(name, sizeof(name), image, strlen(image)), file_bytes);
    if (h->version)
        printf("format:      qcow2 version %u, disk of %" PRIu64 " bytes%s%s%s%s\n", h->version,
               h->size, h->incompatible & QCOW_DIRTY ? ", left dirty by a writer" : "",
               h->incompatible & QCOW_CORRUPT ? ", marked corrupt" : "",
               f->odd.backing ? ", with a backing file" : "",
               f->odd.data_file ? ", with an external data file" : "");
    if (h->version && cluster_bytes(h))
        printf("clusters:    %" PRIu64 " bytes\n", cluster_bytes(h));
    if (h->n_snapshots)
        printf("snapshots:   %" PRIu32 "\n", h->n_snapshots);
    if (f->has_luks)
        text_luks(f);
    else if (h->version)
        printf("encryption:  %s\n", f->odd.legacy_aes ? "the old qcow2 AES method" : "none");
    if (h->ours) {
        uuid_text(h->instance, uuid);
        printf("nvkeep:      version %u, instance %s\n", h->our_version, uuid);
    } else {
        puts("nvkeep:      no mark of ours in the header");
    }
    if (v.kind == ERR_NONE)
        puts("serve:       would open it, given the key");
    else
        printf("serve:       would refuse it: %s: %s\n", err_class(v.kind)->name, v.text);
}

/* --- inside --- */

struct inside {
    struct image_report report;
    struct ek_list eks;
    struct err eks_failed; /* a state that libtpms does not read is shown all the same */
};

/* A copy: the workbench has its own, and the look goes. */
static int copy_state(const struct store_look *look, struct tpm_blobs *ret, struct err *e)
{
    size_t n = 0;
    const uint8_t *p = store_look_get(look, BLOB_PERMANENT, &n);
    if (secret_new(n, &ret->blob[BLOB_PERMANENT - 1], e) < 0)
        return -1;
    memcpy(secret_bytes(ret->blob[BLOB_PERMANENT - 1]), p, n);
    ret->n[BLOB_PERMANENT - 1] = n;
    return 0;
}

static void read_eks(const struct store_look *look, struct inside *ret)
{
    struct tpm_blobs blobs = {0};
    ret->eks_failed = (struct err){.kind = ERR_NONE};
    if (ret->report.holds_tpm && copy_state(look, &blobs, &ret->eks_failed) == 0)
        (void)!ek_read(ret->report.facts.device, &blobs, &ret->eks, &ret->eks_failed);
    tpm_blobs_clear(&blobs);
}

static int read_inside(struct cli_run *run, struct inside *ret, struct err *e)
{
    OWNED(store_look) look = NULL;
    if (cli_verify_look(run, false, true, &ret->report, &look, e) < 0)
        return -1;
    read_eks(look, ret);
    if (ret->eks_failed.kind != ERR_STORAGE)
        return 0;
    *e = ret->eks_failed;
    return -1;
}

enum { DIGITS = 2 * SHA256_BYTES + 1, HANDLE_DIGITS = 11 };

static void print_digits(const uint8_t p[SHA256_BYTES], char ret[DIGITS])
{
    for (size_t i = 0; i < SHA256_BYTES; i++)
        (void)snprintf(ret + 2 * i, 3, "%02x", p[i]);
}

static void text_eks(const struct inside *in)
{
    char digits[DIGITS];
    if (in->eks_failed.kind != ERR_NONE)
        printf("EK:          cannot be read: %s\n", in->eks_failed.text);
    else if (in->eks.n == 0 && in->report.holds_tpm)
        puts("EK:          the TPM shows none");
    for (size_t i = 0; i < in->eks.n; i++) {
        print_digits(in->eks.ek[i].fingerprint, digits);
        printf("EK:          %s, SHA-256 %s", in->eks.ek[i].algorithm, digits);
        if (in->eks.ek[i].handle)
            printf(", at 0x%" PRIx32 "\n", in->eks.ek[i].handle);
        else
            puts(in->report.facts.device == DEVICE_TPM20 ? ", not persistent" : "");
    }
}

static void text_inside(const struct inside *in)
{
    const struct image_report *r = &in->report;
    printf("device:      %s%s\n", device_text(r->facts.device), waits_text(r));
    printf("state:       generation %" PRIu64 ", owner epoch %" PRIu64 ", %" PRIu64
           " of at most %" PRIu64 " bytes\n",
           r->store.generation, r->store.epoch, r->store.state_bytes, r->store.checkpoint_bytes);
    printf("log:         %" PRIu64 " of %" PRIu64 " sectors used by %" PRIu64 " records\n",
           r->store.log_used, r->store.log_sectors, r->store.n_records);
    text_eks(in);
}

static void json_eks(struct json_out *j, const struct inside *in)
{
    char digits[DIGITS], handle[HANDLE_DIGITS];
    json_out_array(j, "ek");
    for (size_t i = 0; i < in->eks.n; i++) {
        print_digits(in->eks.ek[i].fingerprint, digits);
        (void)snprintf(handle, sizeof(handle), "0x%" PRIx32, in->eks.ek[i].handle);
        json_out_object(j, NULL);
        json_out_text(j, "algorithm", in->eks.ek[i].algorithm);
        json_out_text(j, "sha256", digits);
        if (in->eks.ek[i].handle)
            json_out_text(j, "handle", handle);
        json_out_end(j);
    }
    json_out_end(j);
    if (in->eks_failed.kind != ERR_NONE)
        json_out_text(j, "ek_message", in->eks_failed.text);
}

static void json_inside(struct cli_run *run, const struct inside *in)
{
    json_out_object(run->json, "inside");
    report_inside(run, &in->report);
    json_eks(run->json, in);
    json_out_end(run->json);
}

int cmd_info(struct cli_run *run, struct err *e)
{
    const char *image = run->args->image;
    bool keyed = run->args->key.kind != KEY_SOURCE_NONE;
    uint64_t file_bytes = 0;
    OWNED_HEAP struct inside *inside = calloc(1, sizeof(*inside));
    OWNED_HEAP struct qcow_facts *f = calloc(1, sizeof(*f));
    if (!f || !inside)
        return err_nomem(e, "what is known of the image");
    if (read_facts(image, f, &file_bytes, e) < 0 || (keyed && read_inside(run, inside, e) < 0))
        return -1;
    if (run->json) {
        json_facts(run->json, image, f, file_bytes);
        if (keyed)
            json_inside(run, inside);
        return 0;
    }
    text_facts(image, f, file_bytes);
    if (keyed)
        text_inside(inside);
    return 0;
}
