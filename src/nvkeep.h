/* libnvkeep: the state of a virtual TPM (or of another small device) in an encrypted qcow2 image.
 *
 * For emulators with a device model of their own. The library keeps up to three blobs; what a
 * successful nvkeep_save() was given is durable and authenticated, and survives a power cut whole.
 * It contains no TPM, prompts nobody, logs nothing, starts no thread and reads no configuration.
 *
 *     struct nvkeep *h = NULL;
 *     struct nvkeep_error err;
 *     struct nvkeep_key key = {.bytes = passphrase, .n_bytes = n};
 *     if (nvkeep_open("vm-tpm.qcow2", &key, &h, &err) < 0)
 *         fail(err.name, err.text);
 *     size_t n_state;
 *     const void *state = nvkeep_load(h, NVKEEP_PERMANENT, &n_state);
 *     ...
 *     struct nvkeep_change change = {NVKEEP_PERMANENT, NVKEEP_SET, new_state, n_new_state};
 *     if (nvkeep_save(h, &change, 1, &err) < 0)
 *         ...                                  the old state is still there, and is still served
 *     nvkeep_close(h);
 *
 * Results: 0, or -1 with *err filled. `err` may be NULL. A call that fails changes nothing: outputs
 * keep their value, the image holds the old state.
 *
 * Threads: one handle is used by one thread at a time; different handles are independent. A handle
 * must not be used after fork() by the child. SIGPIPE and other signals are not touched.
 *
 * Memory: keys and state are kept in locked memory (RLIMIT_MEMLOCK) that is left out of core dumps
 * and wiped when it is freed. Where it cannot be locked, calls fail with NVKEEP_STORAGE_ERROR.
 */
#ifndef NVKEEP_H
#define NVKEEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NVKEEP_API __attribute__((visibility("default")))

/* The classes of results; the numbers are the exit codes of the program nvkeep. They never change
 * their meaning; new ones may be added. */
enum nvkeep_code {
    NVKEEP_OK = 0,
    NVKEEP_USAGE = 2,              /* the call itself is wrong: path, argument, limit */
    NVKEEP_KEY_MISSING = 10,       /* no key was given */
    NVKEEP_KEY_WRONG = 11,         /* no key slot opens with this key */
    NVKEEP_KEY_UNEXPECTED = 12,    /* a key was given, and the image is not encrypted */
    NVKEEP_STATE_EMPTY = 20,       /* sound, and nothing has been written here yet */
    NVKEEP_STATE_CORRUPT = 21,     /* damaged */
    NVKEEP_STATE_FOREIGN = 22,     /* sound, but not nvkeep's, or another instance's */
    NVKEEP_STATE_ROLLED_BACK = 23, /* an older state was put in place of a newer one */
    NVKEEP_FENCED = 30,            /* another owner has taken over */
    NVKEEP_LOCKED = 31,            /* somebody else is using the image */
    NVKEEP_UNSUPPORTED = 40,       /* well-formed, but needs something that is not implemented */
    NVKEEP_STORAGE_ERROR = 41,     /* the system refused: I/O, space, memory */
};

struct nvkeep_error {
    int code;       /* enum nvkeep_code */
    int os;         /* errno, where one was behind it, else 0 */
    char name[24];  /* "KEY_WRONG" */
    char text[600]; /* for people: what was found and what to do; never holds a secret */
};

/* A passphrase: `n_bytes` bytes as they are (1 to 65536; no terminating NUL is expected or
 * dropped). Borrowed for the call; wiping `bytes` is the caller's part. Checking a passphrase can
 * take seconds (its cost was chosen when the image was made): go_on, where it is not NULL, is asked
 * meanwhile, possibly from another thread, and returning false ends the call with NVKEEP_USAGE. */
struct nvkeep_key {
    const void *bytes;
    size_t n_bytes;
    bool (*go_on)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
};

/* What kind of device the state belongs to; recorded in the image and authenticated. */
enum nvkeep_device { NVKEEP_TPM_12 = 1, NVKEEP_TPM_20 = 2 };

/* The blobs. The library does not look into them. */
enum nvkeep_blob { NVKEEP_PERMANENT = 1, NVKEEP_VOLATILE = 2, NVKEEP_SAVESTATE = 3 };

enum { NVKEEP_BLOB_MAX_BYTES = 512 * 1024 }; /* of one blob; see also nvkeep_capacity() */

enum nvkeep_what { NVKEEP_SET = 1, NVKEEP_DELETE = 2 };

struct nvkeep_change {
    enum nvkeep_blob blob;
    enum nvkeep_what what;
    const void *bytes; /* NVKEEP_SET; borrowed for the call */
    size_t n_bytes;    /* NVKEEP_SET; 0: present and empty */
};

struct nvkeep;          /* an image that is open, unlocked, and claimed for writing */
struct nvkeep_target;   /* one that is unlocked and not claimed, and waits for a state */
struct nvkeep_released; /* one whose state was given away, and which is not claimed any more */

/* The version of the library, "0.1.0". */
NVKEEP_API const char *nvkeep_version(void);

struct nvkeep_new {
    const char *path;          /* must not exist */
    enum nvkeep_device device; /* what the image shall be of */
    unsigned iter_time_ms;     /* cost of one try of the key, milliseconds; 0: 2000. For a key of
                                  256 random bits 10 is enough */
    uint64_t disk_bytes;       /* multiple of 4096; 0: 1 MiB */
    uint64_t reserved[4];      /* zero */
};

/* Makes an image that holds `changes` (all NVKEEP_SET) as its first state. The file appears whole
 * and durable, or not at all; an existing file is never touched (NVKEEP_USAGE). The key must be
 * UTF-8 without NUL, so that QEMU's tools can use it, too (NVKEEP_USAGE). */
NVKEEP_API int nvkeep_create(const struct nvkeep_new *how, const struct nvkeep_key *key,
                             const struct nvkeep_change *changes, size_t n_changes,
                             struct nvkeep_error *err);

/* Claims the image, checks the key, verifies the state and loads the newest. Holds QEMU's image
 * lock until nvkeep_close(): qemu-img refuses meanwhile, and so does a second nvkeep_open()
 * (NVKEEP_LOCKED), also in the same process. */
NVKEEP_API int nvkeep_open(const char *path, const struct nvkeep_key *key, struct nvkeep **ret,
                           struct nvkeep_error *err);

/* Ends the claim, wipes, frees. Takes NULL. Nothing is left to be written. */
NVKEEP_API void nvkeep_close(struct nvkeep *h);

/* The blob as it was last saved, or NULL and 0 where there is none. The bytes belong to the handle
 * and stay valid until the next nvkeep_save() or nvkeep_close(). No I/O. */
NVKEEP_API const void *nvkeep_load(const struct nvkeep *h, enum nvkeep_blob blob,
                                   size_t *ret_bytes);

/* Makes the changes, all of them or none, durable before it returns: one write and one flush.
 * Changes that change nothing write nothing. Each blob may be named once.
 * On failure nvkeep_load() answers the old state; the handle stays usable, and a later save may
 * succeed (after NVKEEP_STORAGE_ERROR, for instance, once there is space again). NVKEEP_FENCED is
 * final: another owner has taken over, close the handle. */
NVKEEP_API int nvkeep_save(struct nvkeep *h, const struct nvkeep_change *changes, size_t n_changes,
                           struct nvkeep_error *err);

/* Does the key open the image, and does the image hold a sound state? Reads only, takes no lock:
 * also while another process has the image open. */
NVKEEP_API int nvkeep_verify_key(const char *path, const struct nvkeep_key *key,
                                 struct nvkeep_error *err);

NVKEEP_API void nvkeep_instance(const struct nvkeep *h, uint8_t ret_uuid[16]);
NVKEEP_API enum nvkeep_device nvkeep_device_of(const struct nvkeep *h);
/* Counts the saved states; the first is 1. */
NVKEEP_API uint64_t nvkeep_generation(const struct nvkeep *h);
/* All blobs together may have so many bytes in this image. */
NVKEEP_API uint64_t nvkeep_capacity(const struct nvkeep *h);

/* --- migration --- *
 *
 * Both hosts hold the same image key: the same image on shared storage, or a copy of it. The state
 * travels sealed under a key derived from that one.
 *
 *     source                                     destination
 *                                                nvkeep_target_open, nvkeep_prepare_load
 *     nvkeep_prepare_save
 *     guest stopped; nvkeep_save
 *     nvkeep_export for each blob   -- bytes -->  nvkeep_stage for each blob
 *     nvkeep_release                             nvkeep_commit_load
 *     (nvkeep_take_back, if it failed)           guest runs: nvkeep_mark_used, or nvkeep_save
 *
 * What can be wrong with key or image is found by nvkeep_target_open() and nvkeep_prepare_load(),
 * while the source still runs. Until the state is marked as used at the destination, the source can
 * take it back; from then on it is refused (NVKEEP_FENCED). A handle is consumed (its pointer set
 * to NULL) by the call that turns it into another kind, and only if that succeeds.
 */

/* Unlocks without a claim: also while another process runs on the image. Fails as nvkeep_open()
 * does, but never with NVKEEP_LOCKED. */
NVKEEP_API int nvkeep_target_open(const char *path, const struct nvkeep_key *key,
                                  struct nvkeep_target **ret, struct nvkeep_error *err);
/* What was handed in is forgotten; the image is as it was. Takes NULL. */
NVKEEP_API void nvkeep_target_close(struct nvkeep_target *t);

/* Would a state be accepted, as far as that can be known now? Reads the image afresh, any number of
 * times, changes nothing. NVKEEP_STATE_EMPTY, NVKEEP_STATE_CORRUPT: also of an image that is still
 * being copied; try again. */
NVKEEP_API int nvkeep_prepare_load(struct nvkeep_target *t, struct nvkeep_error *err);

/* Takes one blob as nvkeep_export() gave it; all of one export, in the order of enum nvkeep_blob.
 * What is accepted is kept in memory. On failure the whole set is forgotten: NVKEEP_STATE_FOREIGN
 * (another image's, or of another export), NVKEEP_STATE_CORRUPT (modified). */
NVKEEP_API int nvkeep_stage(struct nvkeep_target *t, enum nvkeep_blob blob, const void *bytes,
                            size_t n_bytes, struct nvkeep_error *err);

/* Claims the image, reads everything afresh, and stores the set as one generation; durable when it
 * returns. NVKEEP_STATE_EMPTY: the set is not whole; NVKEEP_LOCKED: the source has not released it;
 * NVKEEP_STATE_ROLLED_BACK: the image holds an older state (a copy that is not finished) or a newer
 * one (an old set) than the set belongs to. After a failure it can be tried again. */
NVKEEP_API int nvkeep_commit_load(struct nvkeep_target **t, struct nvkeep **ret,
                                  struct nvkeep_error *err);
/* Forgets what was staged. */
NVKEEP_API void nvkeep_abort_load(struct nvkeep_target *t);
/* To be called before the guest's first command, unless an nvkeep_save() comes first: from now on
 * the source cannot take back. NVKEEP_FENCED: it has. Nothing to do for a handle that is in use. */
NVKEEP_API int nvkeep_mark_used(struct nvkeep *h, struct nvkeep_error *err);

/* Could the state be exported now? Changes nothing. */
NVKEEP_API int nvkeep_prepare_save(struct nvkeep *h, struct nvkeep_error *err);

/* The blob as it travels: sealed, authenticated, bound to this image and generation. All blobs are
 * of one instant, which begins with the first call and ends with the next nvkeep_save(). NULL and 0
 * where there is no such blob. The bytes belong to the handle, until that or its end. */
NVKEEP_API int nvkeep_export(struct nvkeep *h, enum nvkeep_blob blob, const void **ret,
                             size_t *ret_bytes, struct nvkeep_error *err);

/* Lets the claim go, writes nothing. NVKEEP_USAGE: not every blob that exists was exported. */
NVKEEP_API int nvkeep_release(struct nvkeep **h, struct nvkeep_released **ret,
                              struct nvkeep_error *err);
/* Claims again, if nobody has used the state since. NVKEEP_LOCKED: somebody holds it now, and may
 * still give it up; NVKEEP_FENCED is final. */
NVKEEP_API int nvkeep_take_back(struct nvkeep_released **r, struct nvkeep **ret,
                                struct nvkeep_error *err);
/* The state stays given away. Takes NULL. */
NVKEEP_API void nvkeep_released_close(struct nvkeep_released *r);

#undef NVKEEP_API

#ifdef __cplusplus
}
#endif

#endif
