/* A whole image, from the claim to a commit and back. Input: one byte that chooses an image whose
 * key is known, one with SEAL_* of what is made right again, then changes to it: {u32 place, u8
 * length, bytes}. The place is an offset in the file, or, with its highest bit set, one in the
 * decrypted disk; 0x7fffffff: the bytes are the file's length. What must hold is in hostile_way.h.
 *
 * The mutator of libFuzzer sets fields (image_fields.h) to the numbers at which readers break.
 */
#include <string.h>

#include "src/base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/memory.h"
#include "tests/support/hostile_way.h"
#include "tests/support/image_fields.h"

#define IN_DISK  UINT32_C(0x80000000)
#define THE_SIZE UINT32_C(0x7fffffff)
enum { HEAD_BYTES = 2, CHANGE_BYTES = 5, MAX_CHANGES = 64 };

static void apply(struct bytes_in *in)
{
    uint32_t place = bytes_be32(in);
    uint8_t n = bytes_u8(in);
    if (n > in->left)
        n = (uint8_t)in->left;
    const uint8_t *p = bytes_take(in, n);
    if (!p || n == 0)
        return;
    if (place == THE_SIZE && n == 8)
        hostile_resize(get_be64(p));
    else if (place & IN_DISK)
        hostile_disk(place & ~IN_DISK, p, n);
    else
        hostile_file(place, p, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct bytes_in in = bytes_in(bytes, n);
    unsigned kind = bytes_u8(&in), flags = bytes_u8(&in);
    struct err e;
    if (in.bad)
        return 0;
    hostile_begin(kind % KNOWN_KINDS);
    for (unsigned i = 0; i < MAX_CHANGES && in.left > CHANGE_BYTES; i++)
        apply(&in);
    hostile_seal(flags & SEAL_FLAGS);
    memory_begin();
    (void)hostile_way(&e);
    PROMISE(memory_peak() <= MEMORY_MOST);
    return 0;
}

/* ---- libFuzzer's mutator ---- */

size_t LLVMFuzzerMutate(uint8_t *bytes, size_t n, size_t max) __attribute__((weak));
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t n, size_t max, unsigned seed);

static const struct image_fields *fields_of(enum known_kind kind)
{
    static struct image_fields kept[KNOWN_KINDS];
    const struct known_image *im = known_image(kind);
    if (!kept[kind].field)
        image_fields_of(im->bytes, im->size, im->plain[0], sizeof(im->plain), true, &kept[kind]);
    return &kept[kind];
}

static uint32_t draw(uint32_t *state, size_t below)
{
    *state = *state * 1664525 + 1013904223;
    return (uint32_t)((*state >> 8) % below);
}

/* One field, set by a change at the end. Tables are long: a field of each is as likely. */
static size_t set_field(uint8_t *bytes, size_t n, size_t max, uint32_t *seed)
{
    enum known_kind kind = bytes[0] % KNOWN_KINDS;
    const struct known_image *im = known_image(kind);
    const struct image_fields *all = fields_of(kind);
    const struct image_field *f = &all->field[draw(seed, all->n)];
    for (int i = 0; i < 4 && !strcmp(f->name, "entry"); i++)
        f = &all->field[draw(seed, all->n)];
    uint64_t values[FIELD_VALUES_MAX];
    const uint8_t *now = (f->in_disk ? im->plain[0] : im->bytes) + f->at;
    size_t n_values = field_values(all, f, field_get(f, now), values);
    if (n_values == 0 || max - n < CHANGE_BYTES + 8u)
        return n;
    put_be32(bytes + n, (uint32_t)f->at | (f->in_disk ? IN_DISK : 0));
    bytes[n + 4] = f->bytes;
    field_put(f, values[draw(seed, n_values)], bytes + n + CHANGE_BYTES);
    if (f->in_disk && draw(seed, 8) != 0)
        bytes[1] |= SEAL_REFERENCE | SEAL_RECORDS;
    if (!f->in_disk && draw(seed, 4) == 0)
        bytes[1] |= SEAL_DIGEST | SEAL_REFERENCE;
    return n + CHANGE_BYTES + f->bytes;
}

/* One of the changes is taken out. */
static size_t drop_change(uint8_t *bytes, size_t n, uint32_t *seed)
{
    size_t at = HEAD_BYTES, skip = draw(seed, 8);
    while (at + CHANGE_BYTES < n) {
        size_t length = CHANGE_BYTES + bytes[at + 4], left = n - at;
        if (length > left)
            length = left;
        if (skip-- == 0) {
            memmove(bytes + at, bytes + at + length, left - length);
            return n - length;
        }
        at += length;
    }
    return n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t n, size_t max, unsigned seed)
{
    uint32_t state = seed;
    if (n < HEAD_BYTES || max < HEAD_BYTES) {
        memset(bytes, 0, max < HEAD_BYTES ? max : HEAD_BYTES);
        return max < HEAD_BYTES ? max : HEAD_BYTES;
    }
    switch (draw(&state, 8)) {
    case 0:
    case 1:
    case 2:
        return LLVMFuzzerMutate ? LLVMFuzzerMutate(bytes, n, max) : n;
    case 3:
        return drop_change(bytes, n, &state);
    default:
        return set_field(bytes, n, max, &state);
    }
}
