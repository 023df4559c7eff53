/* Blobs that swtpm wrote: the seeds of the fuzz target. */
#ifndef NVKEEP_TESTS_MIGRATION_BLOB_GOLDEN_H
#define NVKEEP_TESTS_MIGRATION_BLOB_GOLDEN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct file {
    uint8_t b[16384];
    size_t n;
};

static inline struct file golden(const char *name)
{
    struct file f = {0};
    char path[4096];
    const char *top = getenv("NVKEEP_SOURCE");
    snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/blob/%s", top ? top : ".", name);
    FILE *in = fopen(path, "rb");
    if (!in)
        fail_msg("cannot open %s", path);
    f.n = fread(f.b, 1, sizeof(f.b), in);
    fclose(in);
    return f;
}

#endif
