/* A TPM daemon as an emulator sees it: a process, a control channel, a data channel.
 *
 * The same code drives nvkeep and swtpm: the control socket is found by trying to connect, the data
 * channel is one end of a socket pair given away with SET_DATAFD, as QEMU does it. Whatever fails
 * ends the whole run with a line on stderr: a measurement that limps on is worth nothing.
 */
#ifndef NVKEEP_TESTS_BENCH_DAEMON_H
#define NVKEEP_TESTS_BENCH_DAEMON_H

#include <sys/resource.h>
#include <sys/types.h>

#include "tpm_cmd.h"

struct daemon {
    pid_t pid;
    int ctrl, data;
};

/* Prints and exits with 1, after ending what was started. */
void fail(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));

/* Starts argv, with stderr going to the file `log`, and takes it to "TPM started": control socket
 * at `ctrl_path` reachable, data channel handed over, CMD_INIT and TPM2_Startup(CLEAR) answered.
 * The time from before the fork to that answer is *ret_us (may be NULL). */
void daemon_start(const char *const argv[], const char *ctrl_path, const char *log,
                  struct daemon *ret, double *ret_us);

/* TPM2_Shutdown, CMD_SHUTDOWN, and the wait for its end. ret_usage may be NULL. */
void daemon_stop(struct daemon *d, struct rusage *ret_usage);

/* One command, one response: its response code, and the time the round trip took. */
uint32_t daemon_command(struct daemon *d, const struct tpm_cmd *c, double *ret_us);

/* Daemons still alive are ended; called at exit. */
void daemon_kill_all(void);

#endif
