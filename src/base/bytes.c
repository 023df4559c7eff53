#include "src/base/bytes.h"

#include <string.h>

const uint8_t *bytes_take(struct bytes_in *in, size_t n)
{
    static const uint8_t nothing[1];
    if (in->bad || n > in->left) {
        in->bad = true;
        return NULL;
    }
    const uint8_t *p = in->at ? in->at : nothing;
    if (n > 0)
        in->at += n;
    in->left -= n;
    return p;
}

void bytes_copy_out(struct bytes_in *in, void *ret, size_t n)
{
    const uint8_t *p = bytes_take(in, n);
    if (!p)
        memset(ret, 0, n);
    else if (n > 0)
        memcpy(ret, p, n);
}

void bytes_skip(struct bytes_in *in, size_t n)
{
    (void)bytes_take(in, n);
}

uint8_t bytes_u8(struct bytes_in *in)
{
    const uint8_t *p = bytes_take(in, 1);
    return p ? p[0] : 0;
}

uint16_t bytes_be16(struct bytes_in *in)
{
    const uint8_t *p = bytes_take(in, 2);
    return p ? get_be16(p) : 0;
}

uint32_t bytes_be32(struct bytes_in *in)
{
    const uint8_t *p = bytes_take(in, 4);
    return p ? get_be32(p) : 0;
}

uint64_t bytes_be64(struct bytes_in *in)
{
    const uint8_t *p = bytes_take(in, 8);
    return p ? get_be64(p) : 0;
}

static uint8_t *room(struct bytes_out *out, size_t n)
{
    if (out->bad || n > out->cap - out->n) {
        out->bad = true;
        return NULL;
    }
    uint8_t *p = out->start + out->n;
    out->n += n;
    return p;
}

void bytes_put(struct bytes_out *out, const void *p, size_t n)
{
    uint8_t *to = room(out, n);
    if (to && n > 0)
        memcpy(to, p, n);
}

void bytes_put_zero(struct bytes_out *out, size_t n)
{
    uint8_t *to = room(out, n);
    if (to && n > 0)
        memset(to, 0, n);
}

void bytes_put_u8(struct bytes_out *out, uint8_t v)
{
    bytes_put(out, &v, 1);
}

void bytes_put_be16(struct bytes_out *out, uint16_t v)
{
    uint8_t *to = room(out, 2);
    if (to)
        put_be16(to, v);
}

void bytes_put_be32(struct bytes_out *out, uint32_t v)
{
    uint8_t *to = room(out, 4);
    if (to)
        put_be32(to, v);
}

void bytes_put_be64(struct bytes_out *out, uint64_t v)
{
    uint8_t *to = room(out, 8);
    if (to)
        put_be64(to, v);
}

uint16_t get_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

uint32_t get_be32(const uint8_t *p)
{
    return (uint32_t)get_be16(p) << 16 | get_be16(p + 2);
}

uint64_t get_be64(const uint8_t *p)
{
    return (uint64_t)get_be32(p) << 32 | get_be32(p + 4);
}

void put_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

void put_be32(uint8_t *p, uint32_t v)
{
    put_be16(p, (uint16_t)(v >> 16));
    put_be16(p + 2, (uint16_t)v);
}

void put_be64(uint8_t *p, uint64_t v)
{
    put_be32(p, (uint32_t)(v >> 32));
    put_be32(p + 4, (uint32_t)v);
}

bool bytes_all_zero(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= b[i];
    return any == 0;
}
