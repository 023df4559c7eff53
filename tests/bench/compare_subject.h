/* The ones that are compared, each with two states on disk: small (one index of 64 bytes) and full
 * (NV memory filled until the TPM says that there is no more).
 */
#ifndef NVKEEP_TESTS_BENCH_SUBJECT_H
#define NVKEEP_TESTS_BENCH_SUBJECT_H

#include "compare_daemon.h"

enum subject_kind { SUBJECT_NVKEEP, SUBJECT_SWTPM_DIR, SUBJECT_SWTPM_KEY, SUBJECT_SWTPM_FILE };
enum fill { FILL_SMALL, FILL_FULL };
enum { BENCH_INDEX = 0x01800001, BENCH_INDEX_BYTES = 64 };

struct subject {
    enum subject_kind kind;
    const char *name;
    const char *program;
    const char *work; /* the directory everything lives in */
};

extern const struct subject_names {
    const char *name, *program, *what;
} subject_names[];

/* Makes the state `tag` and fills it. */
void subject_prepare(const struct subject *s, const char *tag, enum fill fill);
/* A second state with the same content. */
void subject_copy(const struct subject *s, const char *tag, const char *new_tag);
/* trace: NULL, or a file that strace writes to. */
void subject_start(const struct subject *s, const char *tag, const char *trace, struct daemon *ret,
                   double *ret_us);
/* Bytes of the files that hold the state. */
uint64_t subject_state_bytes(const struct subject *s, const char *tag);
/* The path that a system call on the state names: of the image, or of the directory. */
void subject_state_path(const struct subject *s, const char *tag, char *ret, size_t ret_bytes);

/* In compare_image.c: an image as `nvkeep create` makes it, but with the least iterations that are
 * allowed, so that key stretching takes next to nothing. */
void image_make(const char *path, const char *passphrase);

#endif
