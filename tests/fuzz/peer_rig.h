/* A daemon's inside without its threads, for targets that play a peer: a real session over a real
 * image in a file in memory, whose bytes are put back before each input.
 *
 * Header only, for one target per program. Everything aborts that cannot be set up.
 */
#ifndef NVKEEP_TESTS_PEER_RIG_H
#define NVKEEP_TESTS_PEER_RIG_H

#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/luks_key.h"
#include "src/serve/serve.h"
#include "src/serve/session_priv.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/tpm_cmd.h"

enum { RIG_IMAGE_BYTES = 484 << 10 };

/* In memory, with the number of the process. */
#define RIG_FILES "/dev/shm/nvkeep-fuzz."

#define RIG_MUST(call)                                                                             \
    do {                                                                                           \
        if ((call) < 0) {                                                                          \
            fprintf(stderr, "%s: %s\n", #call, rig.e.text);                                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static struct rig {
    char path[40];
    uint8_t *now;   /* mapped */
    uint8_t *first; /* how each input finds it */
    size_t bytes;
    struct image *image; /* for looking at it; opened once */
    struct session *s;
    struct err e;
} rig;

static const struct log rig_log = {.fd = -1};

static inline struct secret *rig_pass(size_t *ret_bytes)
{
    static const char text[] = "correct horse";
    struct secret *s = NULL;
    RIG_MUST(secret_new(sizeof(text), &s, &rig.e));
    memcpy(secret_bytes(s), text, sizeof(text));
    *ret_bytes = sizeof(text) - 1;
    return s;
}

/* --- the storage --- */

static inline struct state_change rig_change(const struct tpm_blobs *b)
{
    struct state_change c = {0};
    tpm_blobs_change(b, &c);
    return c;
}

/* What a process that was killed has left behind, too. */
static inline void rig_clear_files(void)
{
    glob_t found = {0};
    int pid;
    if (glob(RIG_FILES "*", 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++)
            if (sscanf(found.gl_pathv[i], RIG_FILES "%d", &pid) == 1 &&
                (pid == getpid() || kill(pid, 0) < 0))
                unlink(found.gl_pathv[i]);
    globfree(&found);
}

static inline void rig_map_file(void)
{
    struct stat st;
    int fd = open(rig.path, O_RDWR | O_CLOEXEC);
    PROMISE(fd >= 0 && fstat(fd, &st) == 0);
    rig.bytes = (size_t)st.st_size;
    rig.now = mmap(NULL, rig.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    rig.first = malloc(rig.bytes);
    PROMISE(rig.now != MAP_FAILED && rig.first);
    memcpy(rig.first, rig.now, rig.bytes);
    close(fd);
}

static inline void rig_make_image(void)
{
    struct tpm_blobs blobs = {{NULL}, {0}};
    size_t n;
    OWNED(secret) pass = rig_pass(&n);
    RIG_MUST(tpm_manufacture(DEVICE_TPM20, &blobs, &rig.e));
    const struct state_change first = rig_change(&blobs);
    rig_clear_files();
    snprintf(rig.path, sizeof(rig.path), RIG_FILES "%d", (int)getpid());
    const struct image_create what = {.path = rig.path,
                                      .device = DEVICE_TPM20,
                                      .size = RIG_IMAGE_BYTES,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &first};
    RIG_MUST(image_create(&what, pass, n, NULL, NULL, &rig.e));
    rig_map_file();
    tpm_blobs_clear(&blobs);
}

/* To be looked at by somebody else than the session. */
static inline void rig_open_reader(void)
{
    struct image_file *f = NULL;
    size_t n;
    OWNED(secret) pass = rig_pass(&n);
    RIG_MUST(image_file_open(rig.path, &f, &rig.e));
    RIG_MUST(image_unlock(&f, pass, n, NULL, &rig.image, &rig.e));
}

/* What is there becomes how each input finds it. */
static inline void rig_keep(void)
{
    memcpy(rig.first, rig.now, rig.bytes);
}

static inline void rig_put_back(void)
{
    enum { PIECE = 65536 };
    for (size_t at = 0; at < rig.bytes; at += PIECE) {
        size_t n = rig.bytes - at < PIECE ? rig.bytes - at : PIECE;
        if (memcmp(rig.now + at, rig.first + at, n) != 0)
            memcpy(rig.now + at, rig.first + at, n);
    }
}

/* The system refuses every write from now on, or no more. */
static inline void rig_full(bool full)
{
    struct rlimit limit;
    PROMISE(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    limit.rlim_cur = full ? 0 : limit.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    PROMISE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

/* --- the session --- */

static inline void rig_session(unsigned flags, bool incoming, const struct custody_rules *rules,
                               void (*tell)(void *ctx, const struct session_event *event))
{
    size_t n;
    struct secret *pass = rig_pass(&n);
    const struct session_options o = {.image = rig.path,
                                      .flags = flags,
                                      .log = &rig_log,
                                      .rules = *rules,
                                      .incoming = incoming,
                                      .device = DEVICE_TPM20,
                                      .tell = tell};
    RIG_MUST(session_open(&o, &pass, n, NULL, &rig.s, &rig.e));
}

/* Not left to the system: what only secret memory points to would be taken for a leak. */
static inline void rig_end(void)
{
    session_free(rig.s);
    image_free(rig.image);
    free(rig.first);
    rig_clear_files();
}

static inline const struct store *rig_store(void)
{
    return tpm_store(rig.s->tpm);
}

static inline uint64_t rig_generation(void)
{
    struct store_stats stats;
    store_stats(rig_store(), &stats);
    return stats.generation;
}

static inline void rig_same_blob(const uint8_t *a, size_t a_n, const uint8_t *b, size_t b_n)
{
    PROMISE(!a == !b);
    if (a)
        PROMISE(a_n == b_n && memcmp(a, b, a_n) == 0);
}

/* What the store says it holds is what somebody finds who reads the file. */
static inline void rig_is_durable(void)
{
    OWNED(store_look) look = NULL;
    struct store_mark stored, found;
    RIG_MUST(image_look(rig.image, &look, &rig.e));
    store_mark(rig_store(), &stored);
    store_look_mark(look, &found);
    PROMISE(store_mark_equal(&stored, &found));
    for (int k = BLOB_PERMANENT; k <= N_BLOBS; k++) {
        size_t a_n = 0, b_n = 0;
        const uint8_t *a = store_get(rig_store(), (enum blob_kind)k, &a_n);
        const uint8_t *b = store_look_get(look, (enum blob_kind)k, &b_n);
        rig_same_blob(a, a_n, b, b_n);
    }
}

#endif
