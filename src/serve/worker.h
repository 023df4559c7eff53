/* The thread that owns the TPM.
 *
 * It opens the image, then takes turns between the control jobs that the main thread queued and the
 * commands of the data channel: one thing at a time, in order, each finished before the next. The
 * main thread talks to it through the functions below, and to the TPM through none but
 * worker_cancel().
 *
 *     VERIFYING --image, key and state are good--> SERVING --worker_end()--> ENDED
 *          |                                                                   ^
 *          +---- anything else ----> REFUSED -------------worker_end()---------+
 *
 * Jobs that are queued while it verifies wait for the verdict. After a refusal each is answered
 * with the code of its class.
 */
#ifndef NVKEEP_SRC_WORKER_H
#define NVKEEP_SRC_WORKER_H

#include "src/serve/data_channel.h"

struct worker;

enum worker_phase { WORKER_VERIFYING, WORKER_SERVING, WORKER_REFUSED, WORKER_ENDED };

/* Takes *pass and *data on success, and starts to verify. */
int worker_start(const struct session_options *o, struct secret **pass, size_t pass_bytes,
                 struct data_channel **data, struct worker **ret, struct err *e) MUST_CHECK;
/* After WORKER_ENDED: joins the thread. */
void worker_free(struct worker *w);
DEFINE_OWNED(worker);

/* Readable when something has changed: a phase, a job done, a data client lost. */
int worker_fd(const struct worker *w);
void worker_clear_fd(struct worker *w);

/* *ret_verdict is filled for WORKER_REFUSED. */
enum worker_phase worker_phase(struct worker *w, struct err *ret_verdict);
bool worker_is_on(struct worker *w); /* the TPM, after the newest job */
/* While VERIFYING: the image is claimed and sound so far, and the passphrase is being stretched. */
bool worker_is_stretching(struct worker *w);
/* A passphrase is being stretched for an image that has come after all: nothing else is done
 * meanwhile, and that is no fault of the storage. */
bool worker_is_opening(struct worker *w);
enum device_kind worker_kind(struct worker *w); /* while SERVING */
bool worker_has_migration_key(const struct worker *w);
bool worker_data_was_lost(struct worker *w); /* since it was asked last */

/* Takes the job; it comes back through worker_done(), or worker_admin_done() where it has a call of
 * the admin socket. */
void worker_submit(struct worker *w, struct ctrl_job *job);
struct ctrl_job *worker_done(struct worker *w); /* NULL: none */
struct ctrl_job *worker_admin_done(struct worker *w);
/* Waits until it was done. For a thread of its own, which ends before worker_free(). */
void worker_do_keys(struct worker *w, struct key_access *a);
/* While SERVING: from here on jobs are done and data clients are heard, not before. listener: for
 * them, or -1; borrowed, for as long as the worker lives. */
void worker_begin(struct worker *w, int listener);

/* The reply of a job with is_last has left, or its client has gone before. */
void worker_sent(struct worker *w, bool sent);
/* What happened, in order; false: nothing (more). Rings worker_fd(). */
bool worker_next_event(struct worker *w, struct session_event *ret);

/* Makes a running TPM command end early. */
void worker_cancel(struct worker *w);
/* Finish what is running, do what is queued, power off in order, let the claim go. Verification is
 * interrupted. Does not wait: see WORKER_ENDED. */
void worker_end(struct worker *w);

#endif
