/* Sampled states of a disk, looked at from outside: written to a file and given to the real
 * `qemu-img check` and the real `nvkeep check`, with the passphrase of the tests' images.
 */
#ifndef NVKEEP_TESTS_OUTSIDE_H
#define NVKEEP_TESTS_OUTSIDE_H

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/store_image.h"

static struct {
    char dir[200];
    unsigned long images, bad;
} outside;

/* The program that was built with this one, unless another is named. */
static inline void outside_find_nvkeep(void)
{
    char self[PATH_MAX - 16], nvkeep[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = '\0';
    (void)snprintf(nvkeep, sizeof(nvkeep), "%s/nvkeep", dirname(self));
    (void)setenv("NVKEEP", nvkeep, 0);
}

static inline void outside_end(void)
{
    (void)unlink("image");
    (void)unlink("key");
    (void)unlink("log");
    (void)rmdir(outside.dir);
}

static inline void outside_begin(void)
{
    const char *tmp = getenv("TMPDIR");
    outside_find_nvkeep();
    if (system("command -v qemu-img >/dev/null && test -x \"$NVKEEP\"") != 0) {
        printf("missing: qemu-img, or %s\n", getenv("NVKEEP"));
        exit(77);
    }
    (void)snprintf(outside.dir, sizeof(outside.dir), "%.150s/nvkeep-outside-XXXXXX",
                   tmp ? tmp : "/tmp");
    if (!mkdtemp(outside.dir) || chdir(outside.dir) != 0) {
        perror(outside.dir);
        exit(1);
    }
    (void)atexit(outside_end);
}

static inline void outside_write(const char *name, const void *p, size_t n)
{
    FILE *f = fopen(name, "w");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f) != 0) {
        perror(name);
        exit(1);
    }
}

/* What either says is in the file "log" then. */
static inline bool outside_is_clean(void)
{
    (void)fflush(NULL);
    return system("qemu-img check --object secret,id=s0,file=key --image-opts "
                  "driver=qcow2,file.filename=image,encrypt.key-secret=s0 >log 2>&1") == 0 &&
           system("\"$NVKEEP\" check image --key file=key >log 2>&1") == 0;
}

/* The disk as it is now. */
static inline void outside_check(struct store_image *im)
{
    char line[300] = "";
    const char *pass = (const char *)secret_peek(im->pass);
    outside_write("key", pass, strlen(pass));
    outside_write("image", power_disk_bytes(im->power), power_disk_size(im->power));
    outside.images++;
    if (outside_is_clean())
        return;
    outside.bad++;
    FILE *log = fopen("log", "r");
    if (log && fgets(line, sizeof(line), log))
        fprintf(stderr, "seen from outside: %s\n", line);
    if (log)
        (void)fclose(log);
}

#endif
