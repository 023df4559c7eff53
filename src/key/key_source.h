/* Where a key comes from: one grammar for every command.
 *
 *     file=PATH          the bytes exactly as they are (as QEMU's secret object reads them)
 *     pwdfile=PATH       a passphrase; one trailing newline is dropped
 *     pwdfd=N            the same from an inherited descriptor, read to its end and closed
 *     fd=N               bytes exactly, from an inherited descriptor
 *     credential=NAME    file NAME in $CREDENTIALS_DIRECTORY (systemd), bytes exactly
 *     recovery=PATH      a recovery key as somebody typed it (recovery_key.h)
 *     prompt             asked on the terminal, without echo; a recovery key in any spelling
 *     admin              comes later, through the admin socket of serve: nothing is read here
 *
 * Never argv, never the environment. The passphrase goes from the descriptor straight into a
 * secret. PATH may be a pipe (process substitution): reading then waits for its writer.
 */
#ifndef NVKEEP_SRC_KEY_SOURCE_H
#define NVKEEP_SRC_KEY_SOURCE_H

#include "src/key/key_rules.h"

enum key_source_kind {
    KEY_SOURCE_NONE = 0,
    KEY_SOURCE_FILE,
    KEY_SOURCE_PWDFILE,
    KEY_SOURCE_PWDFD,
    KEY_SOURCE_FD,
    KEY_SOURCE_CREDENTIAL,
    KEY_SOURCE_RECOVERY,
    KEY_SOURCE_PROMPT,
    KEY_SOURCE_ADMIN,
    KEY_SOURCE_N_KINDS
};
/* As long as whoever starts a daemon for a machine can wait for it. */
enum { KEY_MAX_BYTES = 65536, KEY_LIMIT_MS = 10000 };

struct key_source {
    enum key_source_kind kind;
    const char *value; /* path or name; points into the argument */
    int fd;
    int limit_ms; /* how long it may take to read; 0: as long as it takes */
};

/* arg must live as long as *ret. swtpm's sub-options mode=, format= and remove= are refused by name
 * here. ERR_USAGE. */
int key_source_parse(const char *arg, struct key_source *ret, struct err *e) MUST_CHECK;

/* Reads the key. ERR_KEY_MISSING: the source delivered nothing (os ETIMEDOUT: in time); ERR_USAGE:
 * no such file, longer than KEY_MAX_BYTES, no terminal to ask on. ret_bytes <= secret_size(*ret).
 * image is for the prompt. */
int key_source_read(const struct key_source *src, const char *image, struct secret **ret,
                    size_t *ret_bytes, struct err *e) MUST_CHECK;

#endif
