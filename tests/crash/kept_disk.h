/* A disk that outlives each store that is opened on it. Unlocking the image anew for each of a
 * million states would cost hours, and a commit changes nothing that unlocking looks at. For
 * programs linked with --wrap=qcow_disk_rw_free.
 */
#ifndef NVKEEP_TESTS_KEPT_DISK_H
#define NVKEEP_TESTS_KEPT_DISK_H

#include "tests/support/store_image.h"

void __real_qcow_disk_rw_free(struct qcow_disk_rw *d);
void __wrap_qcow_disk_rw_free(struct qcow_disk_rw *d);
static struct qcow_disk_rw *kept_disk;

void __wrap_qcow_disk_rw_free(struct qcow_disk_rw *d)
{
    if (d != kept_disk)
        __real_qcow_disk_rw_free(d);
}

static inline int kept_disk_begin(struct store_image *im, struct err *e)
{
    return store_image_arm(im, &kept_disk, e);
}

static inline struct store *kept_disk_open(struct err *e)
{
    struct qcow_disk_rw *d = kept_disk;
    struct store *s = NULL;
    return store_open(&d, &s, e) < 0 ? NULL : s;
}

static inline void kept_disk_end(void)
{
    struct qcow_disk_rw *d = kept_disk;
    kept_disk = NULL;
    __real_qcow_disk_rw_free(d);
}

#endif
