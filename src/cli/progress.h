/* What a long key derivation shows, and how it is interrupted.
 *
 * Between progress_begin() and progress_end() the signals that end a program are held back: the
 * watch sees them and stops the work, the caller tidies up, and progress_end() says which signal it
 * was, so that the program can end by it afterwards. Percentages go to standard error, only when it
 * is a terminal and only when the work takes longer than half a second.
 */
#ifndef NVKEEP_SRC_PROGRESS_H
#define NVKEEP_SRC_PROGRESS_H

#include <pthread.h>
#include <signal.h>

#include "crypto/prim.h"

struct progress {
    struct watch watch; /* hand this to the work */
    const char *what;   /* "checking the passphrase" */
    bool shows;
    int signals; /* signalfd */
    sigset_t was;
    int64_t began_ms;
    pthread_mutex_t lock; /* the watch is asked from several threads */
    int shown;            /* percent, -1: nothing yet */
    int caught;
};

int progress_begin(struct progress *p, const char *what, struct err *e) MUST_CHECK;
/* Returns the signal that asked the program to end meanwhile, or 0. */
int progress_end(struct progress *p);
/* Did such a signal come already? For the steps between two pieces of work. */
bool progress_interrupted(struct progress *p);

#endif
