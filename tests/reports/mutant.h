/* What the rewritten sources of mutants.py ask at each place: is this the one that is to be wrong?
 */
#ifndef NVKEEP_REPORTS_MUTANT_H
#define NVKEEP_REPORTS_MUTANT_H

extern __attribute__((visibility("hidden"))) int mutant_active;
extern __attribute__((visibility("hidden"))) unsigned char *mutant_seen;

#define MUTANT(n) (mutant_seen[n] = 1, mutant_active == (n))

#endif
