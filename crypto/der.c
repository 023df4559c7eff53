#include "crypto/der.h"

#include <assert.h>
#include <libtasn1.h>
#include <stdio.h>
#include <string.h>

extern const asn1_static_node nvkeep_asn1[], tcg_asn1[];

struct der {
    asn1_node definitions, value;
    const char *name;
    int r; /* the first thing that went wrong, as libtasn1 calls it */
};

static int failed(const struct der *d, enum err_kind kind, const char *what, int code,
                  struct err *e)
{
    return err_set(e, code == ASN1_MEM_ALLOC_ERROR ? ERR_STORAGE : kind, "%s: cannot %s: %s",
                   d->name, what, asn1_strerror(code));
}

/* libtasn1 does not check all of its allocations. All that the module and one value take (some 10
 * KiB in small pieces) fits into what is had and given back here, so that the lack of memory is met
 * where it can be reported. */
static int memory_for_asn1(const char *name, struct err *e)
{
    char what[100];
    void *p = malloc(64 << 10);
    if (!p) {
        snprintf(what, sizeof(what), "decoding the %s", name);
        return err_nomem(e, what);
    }
    __asm__ volatile("" : : "r"(p) : "memory"); /* or the pair is optimised away */
    free(p);
    return 0;
}

static const asn1_static_node *module_of(const char *type)
{
    return strncmp(type, "TCG.", 4) == 0 ? tcg_asn1 : nvkeep_asn1;
}

/* The module is ours and sound; what fails while it is loaded or written is memory, whatever
 * libtasn1 calls it. */
int der_new(const char *type, const char *name, struct der **ret, struct err *e)
{
    if (memory_for_asn1(name, e) < 0)
        return -1;
    OWNED(der) d = calloc(1, sizeof(*d));
    if (!d)
        return err_nomem(e, name);
    d->name = name;
    int r = asn1_array2tree(module_of(type), &d->definitions, NULL);
    if (r == ASN1_SUCCESS)
        r = asn1_create_element(d->definitions, type, &d->value);
    if (r != ASN1_SUCCESS)
        return failed(d, ERR_STORAGE, "load the ASN.1 module", r, e);
    *ret = MOVE(d);
    return 0;
}

void der_free(struct der *d)
{
    if (!d)
        return;
    asn1_delete_structure2(&d->value, ASN1_DELETE_FLAG_ZEROIZE);
    asn1_delete_structure2(&d->definitions, ASN1_DELETE_FLAG_ZEROIZE);
    free(d);
}

/* ---- writing ---- */

static void put(struct der *d, const char *field, const void *value, size_t n)
{
    if (d->r == ASN1_SUCCESS)
        d->r = asn1_write_value(d->value, field, value, (int)n);
}

void der_put_bytes(struct der *d, const char *field, const uint8_t *p, size_t n)
{
    put(d, field, p, n);
}

void der_put_oid(struct der *d, const char *field, const char *oid)
{
    put(d, field, oid, 1);
}

void der_put_u64(struct der *d, const char *field, uint64_t v)
{
    uint8_t be[9] = {0}; /* a zero in front: INTEGERs have a sign */
    put_be64(be + 1, v);
    put(d, field, be, sizeof(be));
}

void der_put_bool(struct der *d, const char *field, bool v)
{
    put(d, field, v ? "TRUE" : "FALSE", 1);
}

void der_add(struct der *d, const char *field)
{
    put(d, field, "NEW", 1);
}

int der_encode(struct der *d, uint8_t *ret, size_t room, size_t *ret_n, struct err *e)
{
    int n = (int)room;
    if (d->r == ASN1_SUCCESS)
        d->r = asn1_der_coding(d->value, "", ret, &n, NULL);
    if (d->r != ASN1_SUCCESS)
        return failed(d, ERR_STORAGE, "encode its body", d->r, e);
    *ret_n = (size_t)n;
    return 0;
}

/* ---- reading ---- */

int der_decode(struct der *d, const uint8_t *p, size_t n, struct err *e)
{
    int len = (int)n;
    d->r = asn1_der_decoding2(&d->value, p, &len, ASN1_DECODE_FLAG_STRICT_DER, NULL);
    return d->r == ASN1_SUCCESS ? 0 : failed(d, ERR_STATE_CORRUPT, "decode its body", d->r, e);
}

void der_get_bytes(struct der *d, const char *field, uint8_t *ret, size_t n)
{
    int len = (int)n;
    if (d->r == ASN1_SUCCESS)
        d->r = asn1_read_value(d->value, field, ret, &len);
    if (d->r == ASN1_SUCCESS && (size_t)len != n)
        d->r = ASN1_VALUE_NOT_VALID;
}

uint64_t der_get_u64(struct der *d, const char *field)
{
    uint8_t be[9] = {0};
    int len = sizeof(be);
    if (d->r == ASN1_SUCCESS)
        d->r = asn1_read_value(d->value, field, be, &len);
    if (d->r == ASN1_SUCCESS && (len < 1 || (be[0] & 0x80) || (len == sizeof(be) && be[0] != 0)))
        d->r = ASN1_VALUE_NOT_VALID;
    if (d->r != ASN1_SUCCESS)
        return 0;
    uint64_t v = 0;
    for (int i = 0; i < len; i++)
        v = v << 8 | be[i];
    return v;
}

void der_get_oid(struct der *d, const char *field, char ret[DER_OID_MAX])
{
    int len = DER_OID_MAX;
    ret[0] = 0;
    if (d->r == ASN1_SUCCESS)
        d->r = asn1_read_value(d->value, field, ret, &len);
}

int der_got(struct der *d, struct err *e)
{
    return d->r == ASN1_SUCCESS ? 0 : failed(d, ERR_STATE_CORRUPT, "read its body", d->r, e);
}

int der_same(const struct der *d, const uint8_t *p, size_t n, const uint8_t *again, size_t again_n,
             struct err *e)
{
    return again_n == n && !memcmp(again, p, n)
               ? 0
               : failed(d, ERR_STATE_CORRUPT, "decode its body", ASN1_DER_ERROR, e);
}

/* ---- elements ---- */

/* How many bytes of length stand behind the first byte of it. [X.690 10.1] */
static size_t length_bytes(size_t content)
{
    return content < 0x80 ? 0 : content <= 0xff ? 1 : content <= 0xffff ? 2 : 3;
}

size_t der_head_bytes(size_t content)
{
    return 2 + length_bytes(content);
}

void der_put_head(struct bytes_out *out, uint8_t tag, size_t content)
{
    size_t more = length_bytes(content);
    assert(content < 1 << 24);
    bytes_put_u8(out, tag);
    bytes_put_u8(out, more == 0 ? (uint8_t)content : (uint8_t)(0x80 | more));
    while (more-- > 0)
        bytes_put_u8(out, (uint8_t)(content >> 8 * more));
}

struct bytes_in der_take(struct bytes_in *in, uint8_t tag)
{
    uint8_t found = bytes_u8(in), first = bytes_u8(in);
    size_t n = first & 0x7f, more = 0;
    if (first & 0x80) {
        more = n;
        n = 0;
        for (size_t i = 0; i < more && i < 4; i++)
            n = n << 8 | bytes_u8(in);
    }
    bool good = !in->bad && found == tag && more == length_bytes(n) && (more > 0) == (first >> 7);
    const uint8_t *p = good ? bytes_take(in, n) : NULL;
    if (!p)
        in->bad = true;
    struct bytes_in content = bytes_in(p, p ? n : 0);
    content.bad = !p;
    return content;
}
