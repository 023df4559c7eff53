/* Part of the copy that mutate.py builds: reads once which mutant is active (NVKEEP_MUTANT), and
 * notes in a file (NVKEEP_MUTANTS_SEEN, one byte for each) which ones were reached. The file is
 * mapped before main() and shared, so that children, processes that are killed and those that lock
 * themselves in are seen as well. System calls are made directly: tests put their own functions in
 * the place of the library's.
 */
#include "tests/reports/mutant.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MUTANTS_MAX = 1 << 16 };

static unsigned char nobody_looks[MUTANTS_MAX];
int mutant_active;
unsigned char *mutant_seen = nobody_looks;

__attribute__((constructor(101))) static void mutant_begin(void)
{
    const char *active = getenv("NVKEEP_MUTANT"), *seen = getenv("NVKEEP_MUTANTS_SEEN");
    if (active)
        mutant_active = atoi(active);
    if (!seen)
        return;
    long fd = syscall(SYS_openat, AT_FDCWD, seen, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    long at = syscall(SYS_mmap, 0, MUTANTS_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (at != -1)
        mutant_seen = (unsigned char *)at;
}
