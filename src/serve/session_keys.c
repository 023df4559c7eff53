#include "backend/qcow_key_io.h"
#include "crypto/luks_key.h"
#include "src/serve/session_priv.h"

static int begin(struct session *s, const struct key_area *area, struct key_access *a,
                 struct err *e)
{
    a->area_bytes = area->bytes;
    if (!custody_key(s->custody))
        return err_set(e, ERR_USAGE, "the image is not open here");
    return volume_key_copy(custody_key(s->custody), &a->key, e);
}

/* With its flush: what a commit flushes in between is not mistaken for this, nor a failure of the
 * one for one of the other. */
static int write_through(const struct key_io *io, const struct key_access *a, struct err *e)
{
    return io->write(io->ctx, a->header, a->at, a->from, a->n, e) < 0 ? -1 : io->flush(io->ctx, e);
}

void session_keys(struct session *s, struct key_access *a)
{
    struct err e = {0};
    struct key_area area;
    int r = tpm_key_area(s->tpm, &area, &e);
    if (r == 0) {
        const struct key_io io = key_area_io(&area);
        r = a->what == KEY_ACCESS_BEGIN  ? begin(s, &area, a, &e)
            : a->what == KEY_ACCESS_READ ? io.read(io.ctx, a->at, a->to, a->n, &e)
                                         : write_through(&io, a, &e);
    }
    a->error = r < 0 ? e : (struct err){0};
}
