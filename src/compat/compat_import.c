#include "src/compat/compat_import.h"

#include <stdio.h>
#include <string.h>

/* A word of the command line, in parts. NULL ends them. */
enum { WORD_PARTS = 5 };
struct word {
    const char *part[WORD_PARTS + 1];
};

static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                            "_-./:=,@%+";

static bool all_of(const struct word *w, bool (*is)(unsigned char c))
{
    for (size_t i = 0; w->part[i]; i++)
        for (const char *p = w->part[i]; *p; p++)
            if (!is((unsigned char)*p))
                return false;
    return true;
}

static bool is_plain(unsigned char c)
{
    return strchr(plain, c);
}

static bool is_printable(unsigned char c)
{
    return c >= 0x20 && c < 0x7f;
}

/* As it is, in '...', or in $'...' where something could not be read on a terminal. */
static void put(FILE *to, struct word w)
{
    bool bare = all_of(&w, is_plain), escaped = !all_of(&w, is_printable);
    fputs(bare ? " " : escaped ? " $'" : " '", to);
    for (size_t i = 0; w.part[i]; i++)
        for (const char *p = w.part[i]; *p; p++)
            if (!is_printable((unsigned char)*p))
                fprintf(to, "\\x%02x", (unsigned char)*p);
            else if (escaped && (*p == '\'' || *p == '\\'))
                fprintf(to, "\\%c", *p);
            else if (*p == '\'')
                fputs("'\\''", to);
            else
                fputc(*p, to);
    if (!bare)
        fputc('\'', to);
}

/* Who reads the line may stand elsewhere. cwd: NULL: as it is. */
static void put_path(FILE *to, const char *cwd, const char *before, const char *path,
                     const char *behind)
{
    bool here = *path != '/' && cwd;
    put(to, (struct word){{before, here ? cwd : "", here ? "/" : "", path, behind}});
}

/* There, a path has no comma. */
static void put_key(FILE *to, const char *cwd, const struct swtpm_key_source *k)
{
    bool in_file = k->kind == KEY_SOURCE_FILE;
    char how[60];
    snprintf(how, sizeof(how), "%s%s%s", k->bits == 256 ? ",mode=aes-256-cbc" : "",
             !k->passphrase && k->form == MIGRATION_KEY_BINARY ? ",format=binary" : "",
             k->passphrase && k->kdf == MIGRATION_KDF_SHA512 ? ",kdf=sha512" : "");
    fputs(" --source-key", to);
    put_path(to, in_file && cwd && !strchr(cwd, ',') ? cwd : NULL,
             k->passphrase ? "pwdfile=" : "file=", in_file ? k->value : "FILE", how);
    fputs(" --keep-key", to);
}

static void put_command(FILE *to, const char *cwd, const struct compat_place *p,
                        const struct swtpm_key_source *key)
{
    const char *more = p->dir ? "" : ".qcow2";
    fputs("nvkeep import", to);
    put_path(to, cwd, p->dir ? "dir://" : "file://", p->dir ?: p->image, "");
    put_path(to, cwd, "", p->image, more);
    fputs(p->device == DEVICE_TPM20 ? " --tpm2" : " --tpm12", to);
    if (key->kind != KEY_SOURCE_NONE) {
        put_key(to, cwd, key);
        return;
    }
    fputs(" --new-key", to);
    put_path(to, cwd, "", p->dir ? p->key_file : p->image, p->dir ? "" : ".qcow2.key");
}

char *compat_import_command(const struct compat_place *p, const struct swtpm_key_source *key)
{
    OWNED_HEAP char *cwd = getcwd(NULL, 0);
    char *line = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&line, &n);
    if (!to)
        return NULL;
    put_command(to, cwd, p, key);
    bool whole = !ferror(to);
    if (fclose(to) != 0 || !whole) {
        free(line);
        return NULL;
    }
    return line;
}
