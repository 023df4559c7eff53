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

static void put_escaped(FILE *to, char c)
{
    if (!is_printable((unsigned char)c) || c == '\'')
        fprintf(to, "\\%03o", (unsigned char)c);
    else if (c == '%' || c == '\\')
        fprintf(to, "%c%c", c, c);
    else
        fputc(c, to);
}

static void put_quoted(FILE *to, char c)
{
    if (c == '\'')
        fputs("'\\''", to);
    else
        fputc(c, to);
}

/* As it is, in '...', or by printf where something could not be read on a terminal: every shell has
 * that. (It takes newlines from the end; the line is then right but for that.) */
static void put(FILE *to, struct word w)
{
    bool bare = all_of(&w, is_plain), escaped = !all_of(&w, is_printable);
    fputs(bare ? " " : escaped ? " \"$(printf '" : " '", to);
    for (size_t i = 0; w.part[i]; i++)
        for (const char *p = w.part[i]; *p; p++)
            if (escaped)
                put_escaped(to, *p);
            else
                put_quoted(to, *p);
    fputs(bare ? "" : escaped ? "')\"" : "'", to);
}

/* Who reads the line may stand elsewhere. cwd: NULL: as it is. */
static void put_path(FILE *to, const char *cwd, const char *before, const char *path,
                     const char *behind)
{
    bool here = *path != '/' && cwd;
    put(to, (struct word){{before, here ? cwd : "", here ? "/" : "", path, behind}});
}

/* There, a path has no comma; and in place, % is the name of a machine. */
static void put_key(FILE *to, const char *cwd, const struct swtpm_key_source *k, bool in_place)
{
    const char *at = *k->value != '/' && cwd && !strchr(cwd, ',') ? cwd : "";
    bool in_file =
        k->kind == KEY_SOURCE_FILE && !(in_place && (strchr(k->value, '%') || strchr(at, '%')));
    char how[60];
    snprintf(how, sizeof(how), "%s%s%s", k->bits == 256 ? ",mode=aes-256-cbc" : "",
             !k->passphrase && k->form == MIGRATION_KEY_BINARY ? ",format=binary" : "",
             k->passphrase && k->kdf == MIGRATION_KDF_SHA512 ? ",kdf=sha512" : "");
    fputs(" --source-key", to);
    put_path(to, in_file && *at ? at : NULL,
             k->passphrase ? "pwdfile=" : "file=", in_file ? k->value : "FILE", how);
}

static void put_command(FILE *to, const char *cwd, const struct compat_place *p,
                        const struct swtpm_key_source *key, unsigned iter_ms)
{
    bool in_place = !p->dir, given = key->kind != KEY_SOURCE_NONE;
    fputs(in_place ? "nvkeep import --in-place" : "nvkeep import", to);
    put_path(to, cwd, in_place ? "" : "dir://", p->dir ?: p->image, "");
    if (!in_place)
        put_path(to, cwd, "", p->image, "");
    fputs(p->device == DEVICE_TPM20 ? " --tpm2" : " --tpm12", to);
    if (given)
        put_key(to, cwd, key, in_place);
    if (given && key->passphrase)
        fprintf(to, " --iter-time %u", iter_ms);
    if (in_place)
        return; /* it gives the image the key of the state, or makes one where we look for it */
    fputs(given ? " --keep-key" : " --new-key", to);
    if (!given)
        put_path(to, cwd, "", p->key_file, "");
}

char *compat_import_command(const struct compat_place *p, const struct swtpm_key_source *key,
                            unsigned iter_ms)
{
    OWNED_HEAP char *cwd = getcwd(NULL, 0);
    char *line = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&line, &n);
    if (!to)
        return NULL;
    put_command(to, cwd, p, key, iter_ms);
    bool whole = !ferror(to);
    if (fclose(to) != 0 || !whole) {
        free(line);
        return NULL;
    }
    return line;
}
