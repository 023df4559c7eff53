/* Calls that fail: the n-th allocation or system call that our own code makes, once or for good.
 *
 * For programs linked with -Wl,--wrap for each of the calls of fault.c (NVKEEP_FAULT_CALLS in
 * tests/crash/crash.cmake). Calls that libraries make among themselves are not counted, nor are
 * those that give something back (close, munmap, unlink, unlock): they cannot be told to fail in a
 * way that anybody could make good.
 */
#ifndef NVKEEP_TESTS_FAULT_H
#define NVKEEP_TESTS_FAULT_H

#include <stdbool.h>

/* From now on calls are counted, and the n-th (1 is the next one; 0: none) fails; with for_good,
 * all after it as well. variant chooses among the errors that the call can give: 0 is the most
 * common, and where there are fewer they repeat. */
void fault_arm(unsigned nth, bool for_good, unsigned variant);

/* No more faults. Returns how many calls were made since fault_arm(). */
unsigned fault_disarm(void);

/* The name and the errno of the first call that failed since fault_arm(); NULL: none did. */
const char *fault_hit(int *ret_errno);

/* How many of the calls since fault_arm() asked for memory (secret or not). */
unsigned fault_n_allocations(void);

/* Armed or not: the sector at this offset of any file cannot be read until it was written; up to
 * eight of them. fault_readable(): all can be read again. */
void fault_unreadable(long long at);
void fault_readable(void);

/* From now on, armed or not: what is opened lies on a file system of other machines as well, where
 * a claim does not keep every other writer out. */
void fault_elsewhere(bool yes);

/* Mappings of our own code that were not given back yet, since the program began. */
int fault_n_mapped(void);

#endif
