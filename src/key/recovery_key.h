/* A key that a person can write down and type: 34 random characters and six check characters, in
 * eight groups of five.
 *
 *     q7w3e-0zrk2-…
 *
 * The alphabet is that of Bech32 (no 1, b, i, o), and so is the code of the check characters [BIP
 * 173, with the constant of BIP 350]: up to four wrong characters are found always, and with them
 * each wrong one and each two that were swapped. 170 random bits need no stretching. The passphrase
 * is the text as it is printed, in small letters and with its dashes: other tools take it, too.
 */
#ifndef NVKEEP_SRC_RECOVERY_KEY_H
#define NVKEEP_SRC_RECOVERY_KEY_H

#include "crypto/secret.h"

enum {
    RECOVERY_CHARS = 40, /* six of them check the others */
    RECOVERY_GROUP = 5,
    RECOVERY_TEXT_BYTES = RECOVERY_CHARS + RECOVERY_CHARS / RECOVERY_GROUP - 1,
};

/* RECOVERY_TEXT_BYTES bytes. */
int recovery_key_new(struct secret **ret, struct err *e) MUST_CHECK;

/* As somebody typed it: capitals, blanks, newlines and dashes as they like. *ret: as it was
 * printed. ERR_USAGE says which character it cannot be, or that there is a mistake. */
int recovery_key_read(const uint8_t *text, size_t n, struct secret **ret, struct err *e) MUST_CHECK;

/* Does a passphrase that was typed mean one, right or with a mistake? By its form alone: forty
 * letters and digits, in groups. */
bool recovery_key_is_meant(const uint8_t *text, size_t n);

#endif
