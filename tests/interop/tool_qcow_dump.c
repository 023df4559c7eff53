/* Opens an image with a key file and reads, compares or writes its disk through the code under
 * test:
 *
 *     tool_qcow_dump read IMAGE KEYFILE                  the whole disk to standard output
 *     tool_qcow_dump compare IMAGE KEYFILE RAW           0 only if every sector is that of RAW
 *     tool_qcow_dump check IMAGE KEYFILE                 counts references, as `nvkeep check` does
 *     tool_qcow_dump write IMAGE KEYFILE FIRST RAW       RAW to sectors FIRST...: claims, attaches,
 *                                                        arms, writes in place, flushes
 *     tool_qcow_dump hold IMAGE                          claims, says so, waits for end of input
 *     tool_qcow_dump open IMAGE                          validates without a key
 *     tool_qcow_dump inspect IMAGE
 *
 * A failure prints "CLASS: text" and exits with the code of the class. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/qcow.h"
#include "src/base/fd.h"

enum { CHUNK_SECTORS = 1000 }; /* no divisor of any cluster */

static int key_from(const char *path, struct secret **ret, size_t *ret_bytes, struct err *e)
{
    OWNED(secret) s = NULL;
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, ERR_USAGE, "%s: cannot be opened", path);
    if (secret_new(65536, &s, e) < 0)
        return -1;
    ssize_t n = fd_read_full(fd, secret_bytes(s), secret_size(s));
    if (n < 0)
        return err_set(e, ERR_STORAGE, "%s: cannot be read", path);
    *ret_bytes = (size_t)n;
    *ret = MOVE(s);
    return 0;
}

static int volume_on(const struct blk *b, const char *key_path, struct qcow_volume **ret,
                     struct err *e)
{
    OWNED(secret) pass = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED(volume_key) key = NULL;
    size_t n;
    if (key_from(key_path, &pass, &n, e) < 0 || qcow_open(b, &img, e) < 0 ||
        qcow_recover(img, pass, n, NULL, &key, e) < 0)
        return -1;
    return qcow_unlock(&img, &key, ret, e);
}

static int read_or_compare(char **argv, FILE *raw, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_volume) v = NULL;
    uint8_t buf[CHUNK_SECTORS * SECTOR_BYTES], want[sizeof(buf)];
    if (blk_open(argv[2], BLK_READ_ONLY, &b, e) < 0 || volume_on(b, argv[3], &v, e) < 0)
        return -1;
    uint64_t n = qcow_volume_sectors(v);
    for (uint64_t at = 0; at < n; at += CHUNK_SECTORS) {
        size_t part = n - at < CHUNK_SECTORS ? (size_t)(n - at) : CHUNK_SECTORS;
        if (qcow_volume_read(v, (struct sector){at}, part, buf, e) < 0)
            return -1;
        if (!raw) {
            fwrite(buf, SECTOR_BYTES, part, stdout);
            continue;
        }
        if (fread(want, SECTOR_BYTES, part, raw) != part)
            return err_set(e, ERR_STATE_CORRUPT, "the raw file ends before sector %" PRIu64, at);
        for (size_t i = 0; i < part; i++)
            if (memcmp(buf + i * SECTOR_BYTES, want + i * SECTOR_BYTES, SECTOR_BYTES) != 0)
                return err_set(e, ERR_STATE_CORRUPT, "sector %" PRIu64 " differs", at + i);
    }
    if (raw && fgetc(raw) != EOF)
        return err_set(e, ERR_STATE_CORRUPT, "the raw file is longer than the disk");
    if (raw)
        printf("%" PRIu64 " sectors equal\n", n);
    return fflush(stdout) == 0 ? 0 : err_set(e, ERR_STORAGE, "standard output");
}

static int compare(char **argv, struct err *e)
{
    FILE *raw = fopen(argv[4], "rb");
    if (!raw)
        return err_set(e, ERR_USAGE, "%s: cannot be opened", argv[4]);
    int r = read_or_compare(argv, raw, e);
    fclose(raw);
    return r;
}

static int read_all(char **argv, struct err *e)
{
    return read_or_compare(argv, NULL, e);
}

static int check(char **argv, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    struct qcow_check c;
    if (blk_open(argv[2], BLK_READ_ONLY, &b, e) < 0 || qcow_open(b, &img, e) < 0 ||
        qcow_check_image(img, &c, e) < 0)
        return -1;
    printf("clusters %" PRIu64 " leaks %" PRIu64 " corruptions %" PRIu64 "%s%s\n", c.clusters,
           c.leaks, c.corruptions, c.first[0] ? ": " : "", c.first);
    return 0;
}

static int write_to(char **argv, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    OWNED(qcow_volume) v = NULL;
    OWNED(qcow_disk) d = NULL;
    OWNED(qcow_disk_rw) rw = NULL;
    uint8_t buf[CHUNK_SECTORS * SECTOR_BYTES];
    uint64_t at = strtoull(argv[4], NULL, 10);
    FILE *raw = fopen(argv[5], "rb");
    int r = 0;
    if (!raw)
        return err_set(e, ERR_USAGE, "%s: cannot be opened", argv[5]);
    if (blk_open(argv[2], BLK_READ_WRITE, &b, e) < 0 || blk_claim(&b, &w, e) < 0 ||
        volume_on(blk_of(w), argv[3], &v, e) < 0 || qcow_attach(&v, &d, e) < 0 ||
        qcow_arm(&d, &w, &rw, e) < 0)
        r = -1;
    for (size_t n; r == 0 && (n = fread(buf, SECTOR_BYTES, CHUNK_SECTORS, raw)) > 0; at += n)
        r = qcow_disk_write(rw, (struct sector){at}, n, buf, e);
    fclose(raw);
    return r < 0 ? -1 : qcow_disk_flush(rw, e);
}

static int hold(char **argv, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    if (blk_open(argv[2], BLK_READ_WRITE, &b, e) < 0 || blk_claim(&b, &w, e) < 0)
        return -1;
    puts("claimed");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}

static int open_only(char **argv, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    return blk_open(argv[2], BLK_READ_ONLY, &b, e) < 0 ? -1 : qcow_open(b, &img, e);
}

static int inspect(char **argv, struct err *e)
{
    OWNED(blk) b = NULL;
    struct qcow_facts f;
    if (blk_open(argv[2], BLK_READ_ONLY, &b, e) < 0 || qcow_inspect(b, &f, e) < 0)
        return -1;
    printf("version %u cluster_bits %u size %" PRIu64 " crypt %u luks %d ours %d refused %s\n",
           f.header.version, f.header.cluster_bits, f.header.size, f.header.crypt_method,
           f.has_luks, f.header.ours, err_class(f.refused.kind)->name);
    return 0;
}

static const struct {
    const char *name;
    int argc;
    int (*run)(char **argv, struct err *e);
} commands[] = {
    {"read", 4, read_all}, {"compare", 5, compare}, {"check", 3, check},     {"write", 6, write_to},
    {"hold", 3, hold},     {"open", 3, open_only},  {"inspect", 3, inspect},
};

int main(int argc, char **argv)
{
    struct err e;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (argc == commands[i].argc && !strcmp(argv[1], commands[i].name)) {
            if (commands[i].run(argv, &e) == 0)
                return 0;
            fprintf(stderr, "%s: %s\n", err_class(e.kind)->name, e.text);
            return err_class(e.kind)->exit_code;
        }
    fprintf(stderr, "usage: see the top of tool_qcow_dump.c\n");
    return 2;
}
