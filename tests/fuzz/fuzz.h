/* What a fuzz target is: one function that takes any bytes and only returns. libFuzzer calls it in
 * builds for fuzzing, replay.c in all others. It aborts where a promise was broken.
 */
#ifndef NVKEEP_TESTS_FUZZ_H
#define NVKEEP_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* A target whose inputs take long says how many mutations and prefixes of a seed are replayed. */
extern const unsigned fuzz_replays __attribute__((weak));

/* A promise; stays in builds without assertions. */
#define PROMISE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
