/* What is to fail, and what did: shared memory between a test, tool_inject.c (system calls) and
 * shim_alloc.c (allocations). tests/crash/faults/inject.py knows this layout. */
#ifndef NVKEEP_TESTS_CRASH_INJECT_H
#define NVKEEP_TESTS_CRASH_INJECT_H

#include <stdint.h>

#define INJECT_NO_CALL UINT32_MAX
enum { INJECT_MAX_WAYS = 32768 };

enum inject_how {
    INJECT_INSTEAD,    /* the call is not made; it returns -error (0: end of file) */
    INJECT_AFTERWARDS, /* the call is made; then the same */
    INJECT_SHORT,      /* the call is made for half of its bytes, or of its sectors */
    INJECT_KILL,       /* the call is not made: the program is killed */
};
enum inject_match { INJECT_ANY, INJECT_FIRST, INJECT_SECOND };

struct control {
    volatile uint32_t armed;
    uint32_t arm_at_entry, until_confined; /* disarmed when a system call filter was loaded */
    uint32_t call;                         /* its number, or INJECT_NO_CALL */
    uint32_t match, value;                 /* only with this first or second argument */
    uint32_t nth, for_good;                /* from 1; 0: never */
    uint32_t error, how;
    uint32_t n_calls, n_seen, n_hits; /* made while armed; of those meant; that failed */
    /* Allocations: of those made along the way `alloc_way`, the nth; for good: and all after it. */
    uint32_t alloc_way, alloc_nth, alloc_for_good;
    uint32_t n_alloc_made, n_alloc_seen, n_alloc_hits, n_alloc_excluded;
    uint32_t program, status; /* process id; its wait status, once has_ended */
    volatile uint32_t has_ended;
    char hit[256], alloc_hit[256]; /* the first one */
    uint32_t record;               /* keep, of each allocation, the way and whose it was: */
    struct {
        uint32_t way, is_ours;
    } ways[INJECT_MAX_WAYS];
};

#endif
