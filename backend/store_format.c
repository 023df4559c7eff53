#include <inttypes.h>

#include "backend/store_state.h"

enum {
    ALIGN_SECTORS = 8, /* everything begins at a multiple of 4 KiB */
    REFERENCE_SECTORS = 8,
    WANTED_STATE_BYTES = 256 * 1024,
    LEAST_STATE_BYTES = 160 * 1024,
    LEAST_LOG_SECTORS = 128,
    MOST_LOG_SECTORS = 4096, /* opening reads all of it */
};

static uint64_t aligned_down(uint64_t n)
{
    return n / ALIGN_SECTORS * ALIGN_SECTORS;
}

static uint64_t checkpoint_for(size_t state_bytes)
{
    return aligned_down(record_sectors(state_bytes + STATE_OVERHEAD_BYTES) + ALIGN_SECTORS - 1);
}

int store_plan(uint64_t disk_sectors, struct store_layout *ret, struct err *e)
{
    uint64_t least = REFERENCE_SECTORS + 2 * checkpoint_for(LEAST_STATE_BYTES) + LEAST_LOG_SECTORS;
    if (disk_sectors < least)
        return err_set(e, ERR_USAGE,
                       "a disk of %" PRIu64 " bytes is too small for a TPM: at least %" PRIu64
                       " bytes are needed (%" PRIu64 " KiB)",
                       disk_sectors * SECTOR_BYTES, least * SECTOR_BYTES,
                       least * SECTOR_BYTES / 1024);
    uint64_t usable = aligned_down(disk_sectors) - REFERENCE_SECTORS;
    uint64_t checkpoint = checkpoint_for(WANTED_STATE_BYTES);
    if (checkpoint > aligned_down((usable - LEAST_LOG_SECTORS) / 2))
        checkpoint = aligned_down((usable - LEAST_LOG_SECTORS) / 2);
    uint64_t log = usable - 2 * checkpoint;
    *ret = (struct store_layout){
        .checkpoint = {REFERENCE_SECTORS, REFERENCE_SECTORS + checkpoint},
        .checkpoint_sectors = checkpoint,
        .log = REFERENCE_SECTORS + 2 * checkpoint,
        .log_sectors = log < MOST_LOG_SECTORS ? log : MOST_LOG_SECTORS,
    };
    return 0;
}

int store_format(struct qcow_new *n, const struct ref_facts *facts, const struct mac_key *key,
                 const struct state_change *first, struct err *e)
{
    static const uint8_t none[RECORD_MAC_BYTES];
    struct state_view state = {0};
    for (size_t i = 0; i < N_BLOBS; i++)
        if (first->blob[i].what == BLOB_SET)
            state.blob[i] = (struct blob_view){true, first->blob[i].p, first->blob[i].n};
    size_t bytes = state_encoded_bytes(&state), sectors = record_sectors(bytes);
    for (size_t i = 0; i < N_BLOBS; i++)
        if (state.blob[i].n > BLOB_MAX_BYTES || sectors > facts->layout.checkpoint_sectors)
            return err_set(e, ERR_UNSUPPORTED,
                           "the TPM's state has %zu bytes and an image of this size has room for "
                           "%" PRIu64 ": choose a larger size",
                           bytes, facts->layout.checkpoint_sectors * RECORD_PART_BYTES);

    OWNED(secret) buf = NULL;
    uint8_t mac[RECORD_MAC_BYTES];
    if (secret_new(sectors * SECTOR_BYTES, &buf, e) < 0)
        return -1;
    struct bytes_out out = bytes_out(secret_bytes(buf), secret_size(buf));
    state_encode(&state, &out);
    const struct record_head head = {1, 1, RECORD_FULL, (uint32_t)bytes};
    record_seal(key, AREA_CHECKPOINT_A, 0, &head, none, secret_bytes(buf), mac);
    return qcow_new_write(n, area_first(&facts->layout, AREA_CHECKPOINT_A), sectors,
                          secret_bytes(buf), e);
}
