/* A key as swtpm's command line names it, in --key and --migration-key, with its grammar and its
 * defaults, so that what is there for swtpm can be used as it is.
 *
 *     file=PATH | fd=N [,format=hex|binary]        a key; hex is the default
 *     pwdfile=PATH | pwdfd=N [,kdf=pbkdf2|sha512]  a passphrase; pbkdf2 is the default. Every byte
 *                                                  counts, a newline at the end too
 *     credential=NAME                              file NAME in $CREDENTIALS_DIRECTORY: a key, or
 *                                                  with kdf= a passphrase
 *     [,mode=aes-cbc|aes-128-cbc|aes-256-cbc]      its length; aes-cbc, the default, is aes-128-cbc
 *     [,remove[=true|false]]                       the file is removed, see below
 *
 * Nothing is escaped: a path has no comma in it.
 *
 * Two things are made of what stands there:
 *
 *     source --read--> text --cipher------> the key of swtpm's own formats (state, migration)
 *                           --passphrase--> the passphrase of an image of ours: a passphrase as it
 *                                           is, of a key its digits in lower-case hexadecimal, so
 *                                           that qemu-img can be given the same
 */
#ifndef NVKEEP_SRC_SWTPM_KEY_H
#define NVKEEP_SRC_SWTPM_KEY_H

#include "crypto/migration_key.h"
#include "src/key/key_source.h"

struct swtpm_key_source {
    enum key_source_kind kind; /* KEY_SOURCE_NONE: no such option was given */
    char value[4096];          /* path, name or number */
    int fd;
    bool passphrase; /* then kdf, else form */
    enum migration_key_form form;
    enum migration_kdf kdf;
    unsigned bits;
    bool remove;
    int limit_ms; /* as a key_source has it */
};

/* option: its name, for messages here and below. ERR_USAGE: names the part that is wrong. */
int swtpm_key_parse(const char *option, const char *arg, struct swtpm_key_source *ret,
                    struct err *e) MUST_CHECK;

/* As it is, to the last byte; a descriptor is used up. ERR_KEY_MISSING: there is nothing in it;
 * ERR_USAGE: no such file or descriptor; ERR_STORAGE. */
int swtpm_key_read(const char *option, const struct swtpm_key_source *s, struct secret **ret,
                   size_t *ret_bytes, struct err *e) MUST_CHECK;
/* ERR_KEY_WRONG: no key of that form and length. */
int swtpm_key_cipher(const char *option, const struct swtpm_key_source *s,
                     const struct secret *text, size_t n, struct migration_key **ret,
                     struct err *e) MUST_CHECK;
/* The text becomes the passphrase. Errors as above. */
int swtpm_key_passphrase(const char *option, const struct swtpm_key_source *s, struct secret **text,
                         size_t *n, struct err *e) MUST_CHECK;
/* The first two at once. */
int swtpm_key_read_cipher(const char *option, const struct swtpm_key_source *s,
                          struct migration_key **ret, struct err *e) MUST_CHECK;

/* The file that is to be removed once all has gone well, or NULL: a start that fails for another
 * reason has not taken a key away. */
const char *swtpm_key_to_remove(const struct swtpm_key_source *s);

#endif
