#include "src/compat/emulator_words.h"

#include <string.h>

bool words_next(struct words *w, const char **ret_name, const char **ret_value)
{
    char *word;
    do {
        word = strsep(&w->rest, ",");
        if (!word)
            return false;
    } while (!*word);
    char *equals = strchr(word, '=');
    *ret_name = word;
    *ret_value = equals ? equals + 1 : "";
    if (equals)
        *equals = 0;
    return true;
}

bool words_true(const char *value)
{
    return !*value || strcmp(value, "true") == 0 || strcmp(value, "1") == 0;
}

bool words_have(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = text; *at; at += strcspn(at, ","), at += *at == ',')
        if (strncmp(at, name, n) == 0 && (!at[n] || at[n] == ',' || at[n] == '='))
            return true;
    return false;
}

static bool is_one_of(const char *name, const char *const names[])
{
    for (; *names; names++)
        if (strcmp(name, *names) == 0)
            return true;
    return false;
}

char *words_for_us(const char *text, const char *const booleans[], const char *first)
{
    OWNED_HEAP char *copy = strdup(text);
    char *made = malloc(strlen(text) + (first ? strlen(first) : 0) + 2);
    if (!copy || !made) {
        free(made);
        return NULL;
    }
    char *to = made;
    const char *name, *value;
    if (first)
        to = stpcpy(stpcpy(to, first), ",");
    struct words w = {copy};
    while (words_next(&w, &name, &value)) {
        bool boolean = is_one_of(name, booleans);
        if (boolean && !words_true(value))
            continue;
        to = stpcpy(to, name);
        if (!boolean && *value)
            to = stpcpy(stpcpy(to, "="), value);
        to = stpcpy(to, ",");
    }
    *(to > made ? to - 1 : made) = 0;
    return made;
}
