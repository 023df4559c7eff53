/* The whole way of a tampered image (hostile.h), and what must hold on it:
 *
 * - it is refused, in a class that says why, or it opens;
 * - refusing it takes little reading and changes nothing;
 * - where only the file was changed, what opens is a state that was once committed;
 * - what opens takes a commit, and reopens with exactly that;
 * - what is corrupt is refused by recovery as well, or is sound afterwards, with the state that was
 *   announced; where only the file was changed, one that was once committed.
 *
 * Aborts where one of them was broken.
 */
#ifndef NVKEEP_TESTS_HOSTILE_WAY_H
#define NVKEEP_TESTS_HOSTILE_WAY_H

#include "tests/support/hostile.h"

/* What became of it: ERR_NONE, or the class of the refusal, with its text in *e. */
enum err_kind hostile_way(struct err *e);
/* Of the last one that opened: which of the known image's generations it was opened with; 0: of
 * none of them. */
unsigned hostile_way_generation(void);

#endif
