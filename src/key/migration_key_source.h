/* Where the key comes from that two hosts share for a migration: swtpm's --migration-key, with its
 * grammar and its defaults, so that what is there for swtpm can be used as it is.
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
 */
#ifndef NVKEEP_SRC_MIGRATION_KEY_SOURCE_H
#define NVKEEP_SRC_MIGRATION_KEY_SOURCE_H

#include "crypto/migration_key.h"
#include "src/key/key_source.h"

struct migration_key_source {
    enum key_source_kind kind;
    char value[4096]; /* path, name or number */
    int fd;
    bool passphrase; /* then kdf, else form */
    enum migration_key_form form;
    enum migration_kdf kdf;
    unsigned bits;
    bool remove;
};

/* ERR_USAGE: names the part that is wrong. */
int migration_key_source_parse(const char *arg, struct migration_key_source *ret,
                               struct err *e) MUST_CHECK;

/* The same for another option of swtpm's with this grammar: its --key. */
int swtpm_key_source_parse(const char *option, const char *arg, struct migration_key_source *ret,
                           struct err *e) MUST_CHECK;
/* What --key gives as the passphrase of an image: a passphrase as it is, of a key its digits in
 * lower-case hexadecimal, so that qemu-img can be given the same. Errors as below. */
int swtpm_key_source_passphrase(const struct migration_key_source *s, struct secret **ret,
                                size_t *ret_n, struct err *e) MUST_CHECK;

/* Reads and makes the key. ERR_KEY_MISSING: there is nothing in it; ERR_KEY_WRONG: no key of that
 * form and length; ERR_USAGE: no such file or descriptor; ERR_STORAGE. */
int migration_key_source_read(const struct migration_key_source *s, struct migration_key **ret,
                              struct err *e) MUST_CHECK;
int swtpm_key_source_read(const char *option, const struct migration_key_source *s,
                          struct migration_key **ret, struct err *e) MUST_CHECK;
/* The file that is to be removed once all has gone well, or NULL: a start that fails for another
 * reason has not taken a key away. */
const char *migration_key_source_to_remove(const struct migration_key_source *s);

#endif
