/* Ownership, written down in the declaration.
 *
 *     OWNED(blk) b = NULL;                  freed by blk_free() when the scope is left
 *     return MOVE(b);                       the value leaves, the variable becomes NULL
 *
 * A type takes part by DEFINE_OWNED(name) after its name_free() was declared: name_free() takes
 * NULL and cannot fail. OWNED_FD is the same for a descriptor; -1 owns nothing.
 */
#ifndef NVKEEP_BASE_OWN_H
#define NVKEEP_BASE_OWN_H

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define MUST_CHECK        __attribute__((warn_unused_result))
#define NONNULL           __attribute__((nonnull))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

#define DEFINE_OWNED(name)                                                                         \
    static inline void own_drop_##name(struct name **p)                                            \
    {                                                                                              \
        name##_free(*p);                                                                           \
    }                                                                                              \
    struct name
#define OWNED(name) __attribute__((cleanup(own_drop_##name))) struct name *

static inline void own_drop_heap(void *p)
{
    free(*(void **)p);
}
/* Heap memory that holds nothing secret. */
#define OWNED_HEAP __attribute__((cleanup(own_drop_heap)))

static inline void own_drop_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
#define OWNED_FD __attribute__((cleanup(own_drop_fd))) int

#define MOVE(p)                                                                                    \
    ({                                                                                             \
        __typeof__(p) own_moved_ = (p);                                                            \
        (p) = NULL;                                                                                \
        own_moved_;                                                                                \
    })
#define MOVE_FD(fd)                                                                                \
    ({                                                                                             \
        int own_moved_ = (fd);                                                                     \
        (fd) = -1;                                                                                 \
        own_moved_;                                                                                \
    })

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
