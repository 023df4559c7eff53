#!/usr/bin/env bash
# gcc's -fanalyzer over the product: nothing found but what fanalyzer.known excuses, with a reason;
# and nothing is excused that is not found any more. A file that did not change since is not looked
# at again.
. "$(dirname "$0")/lint.sh"
. "$(dirname "$0")/known.sh"
[ -d "${NVKEEP_BUILD:-none}/gen" ] || { echo "needs a configured build: NVKEEP_BUILD"; exit 77; }
echo 'int main(void) { return 0; }' >"$lint_tmp/any.c"
gcc -fanalyzer -c -o /dev/null "$lint_tmp/any.c" 2>/dev/null || { echo "gcc with -fanalyzer is missing"; exit 77; }
known=$source_tree/tests/lint/fanalyzer.known

# one_file TREE FILE: prints "FILE -Wanalyzer-... place: what".
one_file()
{
    local extra=(-include "$source_tree/tests/lint/analyzer.h")
    # err.c defines what analyzer.h wraps.
    [ "$2" = src/base/err.c ] && extra=()
    (cd "$1" && LC_ALL=C gcc -std=gnu11 -O1 -D_GNU_SOURCE '-DNVKEEP_VERSION="0"' -I. -I"$source_tree" \
        -I"$NVKEEP_BUILD/gen" -fanalyzer \
        "${extra[@]}" -c -o /dev/null "$2" 2>&1) |
        sed -nE "s,^(.*): (warning|error): (.*) \[(-Wanalyzer[a-z-]*)\]\$,$2 \4 \1: \3,p" | sort -u
}

headers=$(cd "$source_tree" && find . -name '*.h' -not -path './build*' -print0 | LC_ALL=C sort -z |
    xargs -0 cat tests/lint/test_fanalyzer.sh | sha256sum)
cache=$NVKEEP_BUILD/fanalyzer
mkdir -p "$cache"

look()
{
    local at
    at=$cache/$( (echo "$1 $headers"; cat "$source_tree/$1") | sha256sum | cut -c1-40)
    [ -e "$at" ] || { one_file "$source_tree" "$1" >"$at.$$" && mv "$at.$$" "$at"; }
    cat "$at"
}

# excused KNOWN: findings on standard input; prints those that are not excused, and excuses for
# nothing.
excused()
{
    awk -v known="$1" '
        BEGIN {
            while ((getline line < known) > 0)
                if (line !~ /^#/ && line != "") excuse[line] = 0
        }
        { entry = $1 " " $2; if (entry in excuse) excuse[entry]++; else print }
        END { for (entry in excuse) if (!excuse[entry]) print "excused and not found: " entry }'
}

rule()
{
    local f
    for f in $(product_files "$1" | grep '\.c$'); do
        one_file "$1" "$f"
    done
}

bad '-Wanalyzer-double-free' src/x.c <<<'#include <stdlib.h>
void f(void *p); void f(void *p) { free(p); free(p); }'
bad '-Wanalyzer-null-dereference' backend/x.c <<<'int f(int n); int f(int n) { int *p = 0; return n ? *p : 0; }'
bad '-Wanalyzer-use-of-uninitialized-value' crypto/x.c <<<'int f(int n); int f(int n) { int a[2]; a[0] = n; return a[0] + a[1]; }'
bad '-Wanalyzer-file-leak' src/x.c <<<'#include <stdio.h>
int f(void); int f(void) { FILE *p = fopen("/x", "r"); return p ? fgetc(p) : 0; }'
bad '-Wanalyzer-malloc-leak' src/x.c <<<'#include <stdlib.h>
int f(void); int f(void) { char *p = malloc(3); return p ? p[0] = 1 : 0; }'
good src/x.c <<<'#include "src/base/own.h"
int f(void); int f(void) { OWNED_HEAP char *p = malloc(3); return p ? p[0] = 1 : 0; }'
printf '# why\nsrc/x.c -Wanalyzer-double-free\n' >"$lint_tmp/stale"
proofs=$((proofs + 2))
excused "$lint_tmp/stale" </dev/null | grep -q 'excused and not found' ||
    { echo "$lint_name: an excuse for nothing was not found"; proofs_failed=1; }
[ -z "$(echo 'src/x.c -Wanalyzer-double-free src/x.c:2: twice' | excused "$lint_tmp/stale")" ] ||
    { echo "$lint_name: what is excused was blamed"; proofs_failed=1; }
prove_unexplained

export -f look one_file
export source_tree NVKEEP_BUILD cache headers
found=$(unexplained "$known"
    product_files "$source_tree" | grep '\.c$' | xargs -P "$(nproc)" -I{} bash -c 'look {}' | excused "$known")
[ -z "$found" ] || printf '%s\n' "$found"
[ -z "$found" ] && [ $proofs_failed -eq 0 ] || exit 1
echo "$lint_name: $(product_files "$source_tree" | grep -c '\.c$') files, nothing found;" \
    "$(grep -cvE '^(#|[[:space:]]*$)' "$known") kinds of findings are excused;" \
    "$proofs proofs that a mistake is seen"
