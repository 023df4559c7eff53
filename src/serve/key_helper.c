#include "src/serve/key_helper.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "crypto/luks_key.h"
#include "src/key/key_rules.h"
#include "src/serve/confine.h"

enum { LOW_PRIORITY = 5 };

struct key_helper {
    pthread_t thread;
    int done_fd;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct worker *worker; /* of the task */
    struct key_task *todo, *done;
    bool busy;
    _Atomic bool stop;
};

void key_task_free(struct key_task *t)
{
    if (!t)
        return;
    secret_free(t->pass);
    free(t);
}

/* --- the image, through the worker --- */

static int ask(struct worker *w, struct key_access *a, struct err *e)
{
    worker_do_keys(w, a);
    if (a->error.kind == ERR_NONE)
        return 0;
    *e = a->error;
    return -1;
}

static int far_read(void *ctx, uint64_t at, void *buf, size_t n, struct err *e)
{
    struct key_access a = {.what = KEY_ACCESS_READ, .at = at, .to = buf, .n = n};
    return ask(ctx, &a, e);
}

static int far_write(void *ctx, const uint8_t *header, uint64_t at, const void *buf, size_t n,
                     struct err *e)
{
    struct key_access a = {
        .what = KEY_ACCESS_WRITE, .at = at, .from = buf, .header = header, .n = n};
    return ask(ctx, &a, e);
}

/* Each write has been flushed. */
static int far_flush(void *ctx, struct err *e)
{
    (void)ctx;
    (void)e;
    return 0;
}

/* --- on its thread --- */

static bool may_go_on(void *ctx, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    return !atomic_load(&((struct key_helper *)ctx)->stop);
}

static int try_key(struct qcow_keys *k, const struct key_task *t, const struct watch *watch,
                   unsigned *ret, struct err *e)
{
    return qcow_keys_try(k, t->pass, t->pass_bytes, watch, ret, NULL, e);
}

static int change(struct qcow_keys *k, const struct volume_key *key, struct key_task *t,
                  const struct watch *watch, struct err *e)
{
    struct key_new n = {.pass = t->pass, .bytes = t->pass_bytes, .slot = KEY_SLOT_ANY};
    if (t->kind == KEY_TASK_ADD)
        n.slot = t->slot;
    if (key_usable_by_qemu(t->pass, t->pass_bytes, e) < 0 || key_cost(t->ms, &n.iterations, e) < 0)
        return -1;
    if (t->kind == KEY_TASK_ADD)
        return key_change_add(k, key, &n, watch, &t->done, e);
    return key_change_rotate(k, key, 1u << t->slot, &n, watch, &t->done, e);
}

static int remove_slot(struct qcow_keys *k, struct key_task *t, const struct watch *watch,
                       struct err *e)
{
    unsigned stays = 0;
    if (try_key(k, t, watch, &stays, e) < 0)
        return -1;
    if (stays == 0)
        return err_set(e, ERR_KEY_WRONG,
                       "the key opens none of the image's key slots; it must be one that stays");
    return key_change_remove(k, 1u << t->slot, stays, &t->done, e);
}

static int perform(struct key_helper *h, struct worker *w, struct key_task *t, struct err *e)
{
    const struct watch watch = {may_go_on, h};
    struct key_access first = {.what = KEY_ACCESS_BEGIN};
    if (ask(w, &first, e) < 0)
        return -1;
    OWNED(volume_key) key = first.key;
    OWNED(qcow_keys) k = NULL;
    const struct key_io io = {far_read, far_write, far_flush, w, first.area_bytes};
    int r = qcow_keys_open(&io, &k, e);
    if (r < 0)
        return -1;
    if (t->kind == KEY_TASK_TEST)
        r = try_key(k, t, &watch, &t->opens, e);
    else if (t->kind == KEY_TASK_REMOVE)
        r = remove_slot(k, t, &watch, e);
    else if (t->kind != KEY_TASK_LIST)
        r = change(k, key, t, &watch, e);
    t->header = *qcow_keys_header(k);
    return r;
}

/* It writes to nothing but the answer; the worker has the file. */
static void *help(void *arg)
{
    static const struct confine nowhere = {{-1, -1, -1, -1}};
    struct key_helper *h = arg;
    struct err ignored;
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), LOW_PRIORITY);
    (void)!confine_names(&nowhere, &ignored);
    pthread_mutex_lock(&h->lock);
    for (;;) {
        while (!h->todo && !atomic_load(&h->stop))
            pthread_cond_wait(&h->wake, &h->lock);
        if (!h->todo)
            break;
        struct key_task *t = MOVE(h->todo);
        struct worker *w = h->worker;
        uint64_t one = 1;
        struct err e = {0};
        pthread_mutex_unlock(&h->lock);
        if (perform(h, w, t, &e) < 0)
            t->error = e;
        pthread_mutex_lock(&h->lock);
        h->done = t;
        (void)!write(h->done_fd, &one, sizeof(one));
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* --- on the main thread --- */

int key_helper_new(struct key_helper **ret, struct err *e)
{
    OWNED_FD done = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (done < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot make an event descriptor");
    OWNED_HEAP struct key_helper *h = calloc(1, sizeof(*h));
    if (!h)
        return err_nomem(e, "a thread");
    h->done_fd = done;
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->wake, NULL);
    int os = pthread_create(&h->thread, NULL, help, h);
    if (os) {
        pthread_cond_destroy(&h->wake);
        pthread_mutex_destroy(&h->lock);
        return err_sys(e, ERR_STORAGE, os, "cannot start a thread");
    }
    (void)MOVE_FD(done);
    *ret = MOVE(h);
    return 0;
}

void key_helper_stop(struct key_helper *h)
{
    pthread_mutex_lock(&h->lock);
    atomic_store(&h->stop, true);
    pthread_cond_broadcast(&h->wake);
    pthread_mutex_unlock(&h->lock);
}

void key_helper_free(struct key_helper *h)
{
    if (!h)
        return;
    key_helper_stop(h);
    pthread_join(h->thread, NULL);
    key_task_free(h->todo);
    key_task_free(h->done);
    pthread_cond_destroy(&h->wake);
    pthread_mutex_destroy(&h->lock);
    close(h->done_fd);
    free(h);
}

int key_helper_fd(const struct key_helper *h)
{
    return h->done_fd;
}

int key_helper_begin(struct key_helper *h, struct worker *w, struct key_task **t, struct err *e)
{
    int r = 0;
    pthread_mutex_lock(&h->lock);
    if (atomic_load(&h->stop))
        r = err_set(e, ERR_USAGE, "the daemon is ending");
    else if (h->busy)
        r = err_set(e, ERR_LOCKED, "the keys are being changed; wait for what becomes of it");
    if (r == 0) {
        h->busy = true;
        h->worker = w;
        h->todo = MOVE(*t);
        pthread_cond_broadcast(&h->wake);
    }
    pthread_mutex_unlock(&h->lock);
    return r;
}

struct key_task *key_helper_done(struct key_helper *h)
{
    uint64_t n;
    (void)!read(h->done_fd, &n, sizeof(n));
    pthread_mutex_lock(&h->lock);
    struct key_task *t = MOVE(h->done);
    h->busy &= !t;
    pthread_mutex_unlock(&h->lock);
    return t;
}
