#!/usr/bin/env bash
# clang-tidy with the checks of .clang-tidy over the product and the tools of the tests; with --long
# over every test as well. Needs a configured build for the command lines; a file changed since the
# last clean pass is looked at again, others are not.
. "$(dirname "$0")/lint.sh"
command -v clang-tidy >/dev/null || { echo "clang-tidy is missing"; exit 77; }
[ -f "${NVKEEP_BUILD:-none}/compile_commands.json" ] || { echo "needs a configured build: NVKEEP_BUILD"; exit 77; }
long=no
[ "${1:-}" = --long ] && long=yes

# One process per file: checks of one file must not depend on the files before it.
one_file()
{
    local extra=()
    # err.c defines what analyzer.h wraps.
    case $1 in
    */err.c) ;;
    *) extra=("--extra-arg-before=-include$source_tree/tests/lint/analyzer.h") ;;
    esac
    # Leaks: this analyser knows nothing of the cleanup attribute, so every OWNED() looks like one.
    # They are found by LeakSanitizer, which every test runs under in the sanitizer build.
    clang-tidy -p "$NVKEEP_BUILD" --quiet --extra-arg=-Wno-unknown-warning-option \
        "${extra[@]}" "$1" 2>/dev/null |
        grep -E '(warning|error): ' | grep -vE 'Potential (leak of memory|memory leak)' | sort -u
}

wanted()
{
    (cd "$source_tree" && ls src/*.c src/*/*.c crypto/*.c backend/*.c migration/*.c 2>/dev/null
        if [ $long = yes ]; then
            find tests -name '*.c' -not -path 'tests/mustfail/*' -not -path 'tests/guest/*'
        else
            ls tests/support/*.c tests/*/tool_*.c 2>/dev/null
        fi)
}

# What was found clean is remembered by what it was made of: the file, all headers, the rules.
headers=$(cd "$source_tree" && find . -name '*.h' -not -path './build*' -print0 | LC_ALL=C sort -z | xargs -0 cat .clang-tidy | sha256sum)
cache=$NVKEEP_BUILD/tidy-clean
mkdir -p "$cache"

look()
{
    local stamp
    stamp=$cache/$( (echo "$headers"; cat "$1" "$source_tree/tests/lint/test_tidy.sh") | sha256sum | cut -c1-40)
    [ -e "$stamp" ] && return
    local found
    found=$(one_file "$1")
    if [ -z "$found" ]; then
        : >"$stamp"
    else
        printf '%s\n' "${found//$source_tree\//}"
    fi
}

# A file with a mistake of each family must be found, or clang-tidy did not run at all.
prove()
{
    local bad=$lint_tmp/bad.c
    cat >"$bad" <<'END'
#include <stdlib.h>
#include <string.h>
int f(const char *s);
int f(const char *s)
{
    int *p = NULL;
    char *q = malloc(strlen(s + 1));
    if (strlen(s) > 3)
        *p = atoi(s);
    free(q);
    return sizeof(sizeof(s));
}
END
    (cd "$lint_tmp" && cp "$source_tree/.clang-tidy" . && clang-tidy --quiet "$bad" -- -std=gnu11 2>/dev/null) >"$lint_tmp/out"
    for check in clang-analyzer-core.NullDereference cert-err34-c bugprone-; do
        proofs=$((proofs + 1))
        grep -q -- "$check" "$lint_tmp/out" || { echo "$lint_name: planted and not found: $check"; proofs_failed=1; }
    done
}
prove

export -f one_file look
export source_tree NVKEEP_BUILD headers cache
found=$(wanted | sed "s,^,$source_tree/," | xargs -P "$(nproc)" -I{} bash -c 'look {}')

n=$(wanted | wc -l)
[ "$n" -gt 5 ] || { echo "only $n files to look at"; exit 1; }
if [ -n "$found" ] || [ $proofs_failed -ne 0 ]; then
    printf '%s\n' "$found"
    exit 1
fi
echo "$lint_name: $n files clean; $proofs proofs that a mistake is seen"
