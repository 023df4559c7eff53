/* Places are never bare integers: a guest offset cannot be passed where a host offset is wanted. */
#ifndef NVKEEP_BACKEND_OFFSET_H
#define NVKEEP_BACKEND_OFFSET_H

#include <stdint.h>

struct host { /* byte in the image file */
    uint64_t byte;
};
struct sector { /* 512-byte sector of the decrypted disk, as the guest of the image sees it */
    uint64_t nr;
};

#endif
