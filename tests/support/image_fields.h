/* Every field of an image as {name, place, width}: qcow2 header, extensions and tables, the LUKS
 * header and its slots, and, in the decrypted disk, reference sector, records and their payload.
 * And for each field the numbers at which readers break. The one truth for whoever changes fields:
 * the test that tries them all, and the fuzzers' mutators.
 *
 * Read from an image that is sound, with no code of the product: from the texts of the formats.
 */
#ifndef NVKEEP_TESTS_IMAGE_FIELDS_H
#define NVKEEP_TESTS_IMAGE_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct image_field {
    const char *table, *name;
    uint32_t row;
    uint64_t at;   /* byte of the file, or of the decrypted disk */
    uint8_t bytes; /* 1 to 8; big-endian */
    bool in_disk;
};

enum { IMAGE_FIELDS_MAX = 16384, IMAGE_PLACES_MAX = 32, FIELD_VALUES_MAX = 96 };

struct image_fields {
    struct image_field *field; /* malloc()ed */
    size_t n;
    uint64_t place[IMAGE_PLACES_MAX]; /* where structures lie in the file */
    size_t n_places;
    uint64_t cluster, file_bytes;
};

/* all: also every entry of what repeats itself, otherwise the first, the last and those between
 * which something changes. plain: the decrypted disk, or NULL. */
void image_fields_of(const uint8_t *bytes, uint64_t n, const uint8_t *plain, size_t plain_bytes,
                     bool all, struct image_fields *ret);
void image_fields_clear(struct image_fields *f);

uint64_t field_get(const struct image_field *f, const uint8_t *bytes);
void field_put(const struct image_field *f, uint64_t value, uint8_t *ret);
/* Values other than `now`, each once; returns how many. */
size_t field_values(const struct image_fields *all, const struct image_field *f, uint64_t now,
                    uint64_t ret[FIELD_VALUES_MAX]);

#endif
