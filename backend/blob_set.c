#include "backend/blob_set.h"

#include <string.h>

/* A state grows by a few bytes per command; room for more saves a mapping each time. */
static size_t room_for(size_t n)
{
    size_t room = 8192;
    while (room < n)
        room *= 2;
    return room;
}

int blob_set_put(struct blob_set *b, enum blob_kind kind, const uint8_t *p, size_t n, struct err *e)
{
    if (n > BLOB_MAX_BYTES)
        return err_set(e, ERR_UNSUPPORTED, "a TPM state blob of %zu bytes; at most %d are stored",
                       n, BLOB_MAX_BYTES);
    struct secret *at = b->blob[kind - 1].at;
    if (!at || secret_size(at) < n) {
        OWNED(secret) larger = NULL;
        if (secret_new(room_for(n), &larger, e) < 0)
            return -1;
        secret_free(at);
        at = b->blob[kind - 1].at = MOVE(larger);
    }
    if (n > 0)
        memcpy(secret_bytes(at), p, n);
    b->blob[kind - 1].n = n;
    b->blob[kind - 1].what = BLOB_SET_HOLDS;
    return 0;
}

void blob_set_delete(struct blob_set *b, enum blob_kind kind)
{
    b->blob[kind - 1].what = BLOB_SET_DELETES;
}

bool blob_set_is_empty(const struct blob_set *b)
{
    for (size_t i = 0; i < N_BLOBS; i++)
        if (b->blob[i].what != BLOB_SET_KEEPS)
            return false;
    return true;
}

bool blob_set_get(const struct blob_set *b, enum blob_kind kind, const uint8_t **ret,
                  size_t *ret_bytes)
{
    if (b->blob[kind - 1].what == BLOB_SET_KEEPS)
        return false;
    bool holds = b->blob[kind - 1].what == BLOB_SET_HOLDS;
    *ret = holds ? secret_peek(b->blob[kind - 1].at) : NULL;
    *ret_bytes = holds ? b->blob[kind - 1].n : 0;
    return true;
}

void blob_set_overlay(const struct blob_set *b, struct state_change *change)
{
    for (size_t i = 0; i < N_BLOBS; i++) {
        const uint8_t *p;
        size_t n;
        if (!blob_set_get(b, (enum blob_kind)(i + 1), &p, &n))
            continue;
        change->blob[i].what = p ? BLOB_SET : BLOB_DELETE;
        change->blob[i].p = p;
        change->blob[i].n = n;
    }
}

void blob_set_reset(struct blob_set *b)
{
    for (size_t i = 0; i < N_BLOBS; i++)
        b->blob[i].what = BLOB_SET_KEEPS;
}

void blob_set_clear(struct blob_set *b)
{
    for (size_t i = 0; i < N_BLOBS; i++)
        secret_free(b->blob[i].at);
    *b = (struct blob_set){0};
}
