/* What can be counted instead of timed: system calls between a command and its answer, bytes that
 * reached the block layer, memory of a process, time on a CPU. These do not depend on how busy the
 * machine is (block bytes and memory: hardly).
 */
#ifndef NVKEEP_TESTS_BENCH_COUNTERS_H
#define NVKEEP_TESTS_BENCH_COUNTERS_H

#include "compare_daemon.h"

/* Of one command, from strace. State: the files whose path starts with the state's. */
struct calls {
    unsigned all;
    unsigned state_writes, flushes, opens, renames;
    uint64_t state_bytes;
};

/* A command that was sent at `from` and answered at `to` (seconds, real time). */
struct interval {
    double from, to;
};

/* Reads a log of `strace -f -y -ttt -s 0` and distributes its calls over n intervals. A call counts
 * where it was entered; what was entered between two intervals (the wait for the next command)
 * counts for the earlier one, so that the waiting call is counted once per command. */
void calls_count(const char *trace, const char *state_path, const struct interval *at, size_t n,
                 struct calls *ret);

/* Bytes written so far to the device that holds `path`; 0 where the system does not say. */
uint64_t device_bytes_written(const char *path);

struct memory {
    uint64_t rss_kb, pss_kb, private_kb;
};
struct memory process_memory(pid_t pid);

/* Microseconds that all threads of a process have spent on a CPU. */
double process_cpu_us(pid_t pid);

double real_time(void);

#endif
