/* How much memory the product asks for: what its own code has from malloc(), calloc(), realloc()
 * and mmap() and has not given back. For programs linked with -Wl,--wrap for each of those.
 */
#ifndef NVKEEP_TESTS_FUZZ_MEMORY_H
#define NVKEEP_TESTS_FUZZ_MEMORY_H

#include <stddef.h>

enum { MEMORY_MOST = 16 << 20 }; /* for any image that is refused */

void memory_begin(void);
size_t memory_peak(void); /* most at a time since then, beyond what was there then */

#endif
