/* The header of swtpm's linear store (its file:// back end): up to three files of a TPM in one.
 * Pure.
 *
 * Little-endian, 192 bytes: u64 magic "swtpmlin" (as a number), u8 version 1, u8 unused, u16 header
 * size, then 15 entries {u32 offset, u32 bytes, u32 bytes up to the next one}; an offset of 0 says
 * that there is no such file. The first three are the permanent, volatile and saved state of one
 * TPM, each in the file form of blob.h. Nothing is checked by swtpm but the magic and the version,
 * and a wrong magic makes it begin a new store: here everything is.
 */
#ifndef NVKEEP_MIGRATION_LINEAR_H
#define NVKEEP_MIGRATION_LINEAR_H

#include "backend/store.h"

enum { LINEAR_HEADER_BYTES = 192 };

struct linear {
    struct {
        uint32_t off, n; /* both 0: there is none */
    } part[N_TPM_BLOBS]; /* index: kind - 1 */
};

bool linear_has_magic(const uint8_t *p, size_t n);
/* p: the beginning of a store of file_bytes. What is in *ret lies in the store and does not
 * overlap. ERR_STATE_FOREIGN: no such store; ERR_STATE_CORRUPT: parts outside of it, or over each
 * other; ERR_UNSUPPORTED: of another version, with more files, or too large ones. */
int linear_decode(const uint8_t *p, size_t n, uint64_t file_bytes, struct linear *ret,
                  struct err *e) MUST_CHECK;

/* Where parts of these sizes (0: none) lie in a new store. Returns its bytes. */
size_t linear_plan(const size_t n[N_TPM_BLOBS], struct linear *ret);
void linear_encode(const struct linear *l, uint8_t ret[LINEAR_HEADER_BYTES]);

#endif
