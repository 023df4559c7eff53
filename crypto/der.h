/* DER through libtasn1, for values of the types in nvkeep.asn and tcg.asn. der.c is the only file
 * that sees libtasn1, and knows what it does not check.
 *
 * Writing and reading keep the first error, so that fields are written or read one after the other
 * and asked for once, at the end (der_encode, der_got). Strict: DER has one spelling for each
 * value, and libtasn1 lets some others pass; whoever reads a value therefore writes it again and
 * compares (der_same): what would be written differently was not written by us.
 */
#ifndef NVKEEP_CRYPTO_DER_H
#define NVKEEP_CRYPTO_DER_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/bytes.h"
#include "src/base/err.h"
#include "src/base/own.h"

enum { DER_OID_MAX = 64 }; /* an object identifier as text, with its zero */

struct der;
/* An empty value. type: "NVKEEP.ReferenceSector", "TCG.TPMSpecification". name: what messages call
 * it; borrowed. */
int der_new(const char *type, const char *name, struct der **ret, struct err *e) MUST_CHECK;
void der_free(struct der *d);
DEFINE_OWNED(der);

void der_put_u64(struct der *d, const char *field, uint64_t v);
void der_put_bytes(struct der *d, const char *field, const uint8_t *p, size_t n);
void der_put_oid(struct der *d, const char *field, const char *oid);
void der_put_bool(struct der *d, const char *field, bool v);
/* One more element of a SEQUENCE OF or SET OF, ""  being the value itself; what is put next under
 * "?LAST" goes into it. */
void der_add(struct der *d, const char *field);
/* ERR_STORAGE: no memory; the module is ours, and what is put fits. */
int der_encode(struct der *d, uint8_t *ret, size_t room, size_t *ret_n, struct err *e) MUST_CHECK;

/* Fills the empty value from n bytes, all of them. ERR_STATE_CORRUPT: they are no such value. */
int der_decode(struct der *d, const uint8_t *p, size_t n, struct err *e) MUST_CHECK;
uint64_t der_get_u64(struct der *d, const char *field);
void der_get_bytes(struct der *d, const char *field, uint8_t *ret, size_t n); /* exactly n */
void der_get_oid(struct der *d, const char *field, char ret[DER_OID_MAX]);
/* ERR_STATE_CORRUPT: one of the fields that were asked for is not what was wanted. */
int der_got(struct der *d, struct err *e) MUST_CHECK;

/* again: what der_encode() made of what was read. ERR_STATE_CORRUPT. */
int der_same(const struct der *d, const uint8_t *p, size_t n, const uint8_t *again, size_t again_n,
             struct err *e) MUST_CHECK;

/* Elements without libtasn1's copies, for what is long. Tag and length: at most DER_HEAD_MAX bytes,
 * for contents below 16 MiB. */
enum { DER_INTEGER = 0x02, DER_OCTET_STRING = 0x04, DER_SEQUENCE = 0x30, DER_HEAD_MAX = 5 };
size_t der_head_bytes(size_t content);
void der_put_head(struct bytes_out *out, uint8_t tag, size_t content);
/* The content of the next element, which must have this tag and its length in the shortest form; or
 * a cursor that is bad. */
struct bytes_in der_take(struct bytes_in *in, uint8_t tag);

#endif
