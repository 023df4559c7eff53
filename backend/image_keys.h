/* An image opened for its keys: claimed, so that they can be changed, or for looking at them.
 *
 * Whose image it is does not matter here, nor whether the state inside is sound: the keys of every
 * image that qcow_open() takes can be managed.
 */
#ifndef NVKEEP_BACKEND_IMAGE_KEYS_H
#define NVKEEP_BACKEND_IMAGE_KEYS_H

#include "backend/qcow_keys.h"

struct image_keys;

/* claims: ERR_LOCKED where somebody else has the image. Nothing is written. */
int image_keys_open(const char *path, bool claims, struct image_keys **ret,
                    struct err *e) MUST_CHECK;
void image_keys_free(struct image_keys *i);
DEFINE_OWNED(image_keys);
struct qcow_keys *image_keys_slots(struct image_keys *i); /* borrowed */

#endif
