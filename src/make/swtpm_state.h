/* The state of a TPM where swtpm keeps it: in a directory, or in a linear store.
 *
 *     dir://PATH      DIR/tpm2-00.permall, .volatilestate, .savestate (TPM 1.2: tpm-00.*), locked
 * by DIR/.lock file://PATH     one file, see migration/linear.h, locked itself where swtpm locks it
 *     PATH            the one of the two that is there
 *
 * Each file is a blob of migration/blob.h in its file form. A source is only read, and locked as
 * long as it is open: no swtpm that locks runs on it meanwhile. A target is new, and appears whole
 * or not at all.
 */
#ifndef NVKEEP_SRC_SWTPM_STATE_H
#define NVKEEP_SRC_SWTPM_STATE_H

#include "backend/tpm.h"
#include "crypto/migration_key.h"

struct swtpm_place {
    bool is_store; /* one linear file, and no directory */
    char path[4096];
};

/* Of a name alone the file system is asked; one that does not exist is a directory. ERR_USAGE. */
int swtpm_place_parse(const char *text, struct swtpm_place *ret, struct err *e) MUST_CHECK;

struct swtpm_source;
/* ERR_LOCKED: a swtpm has it; ERR_USAGE: cannot be read. */
int swtpm_source_open(const struct swtpm_place *place, struct swtpm_source **ret,
                      struct err *e) MUST_CHECK;
/* The same in the directory dir, without following a link; a store has that name in it. `place` is
 * for messages. to_go: swtpm's lock is one for writing, and is made where there is none. */
int swtpm_source_open_at(int dir, const char *name, const struct swtpm_place *place, bool to_go,
                         struct swtpm_source **ret, struct err *e) MUST_CHECK;
/* Has a swtpm come that takes no lock? ERR_LOCKED. */
int swtpm_source_is_idle(const struct swtpm_source *s, struct err *e) MUST_CHECK;
void swtpm_source_free(struct swtpm_source *s);
DEFINE_OWNED(swtpm_source);

struct swtpm_state {
    enum device_kind kind;
    struct tpm_blobs blobs;
};
/* want: DEVICE_TPM20 or DEVICE_TPM12 where the caller knows, NULL: as it is found. key: NULL where
 * it is not encrypted. ERR_STATE_EMPTY: no TPM is in it; ERR_USAGE: one of each kind is, and want
 * is NULL; ERR_KEY_MISSING, ERR_KEY_WRONG, ERR_KEY_UNEXPECTED; ERR_STATE_FOREIGN,
 * ERR_STATE_CORRUPT, ERR_UNSUPPORTED. */
int swtpm_source_read(const struct swtpm_source *s, const enum device_kind *want,
                      const struct migration_key *key, struct swtpm_state *ret,
                      struct err *e) MUST_CHECK;

/* ERR_USAGE: there is something already (an empty directory is nothing). */
int swtpm_target_is_free(const struct swtpm_place *place, struct err *e) MUST_CHECK;
/* key: NULL: in clear. Modes 0700 and 0600, or owner and mode of the empty directory whose place it
 * takes. Durable on return. */
int swtpm_target_write(const struct swtpm_place *place, const struct swtpm_state *state,
                       const struct migration_key *key, struct err *e) MUST_CHECK;
/* What was written under this name is taken away again; keep_directory: all but the directory. */
void swtpm_target_remove(const char *name, bool keep_directory);

#endif
