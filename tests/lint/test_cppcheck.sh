#!/usr/bin/env bash
# cppcheck over the product: nothing found but what cppcheck.known excuses, with a reason; and
# nothing is excused that is not found any more.
. "$(dirname "$0")/lint.sh"
. "$(dirname "$0")/known.sh"
command -v cppcheck >/dev/null || { echo "cppcheck is missing"; exit 77; }
known=$source_tree/tests/lint/cppcheck.known

# rule TREE [KNOWN]
rule()
{
    local excuses=()
    if [ -n "${2-}" ]; then
        grep -vE '^(#|[[:space:]]*$)' "$2" >"$lint_tmp/excused"
        excuses=(--suppressions-list="$lint_tmp/excused" --enable=information
            --suppress=missingIncludeSystem)
    fi
    (cd "$1" && product_files . | grep '\.c$' | xargs cppcheck --quiet --std=c11 --library=posix \
        --library=gnu --enable=warning,performance,portability,style "${excuses[@]}" -I. \
        -D_GNU_SOURCE '-DNVKEEP_VERSION="0"' --include="$source_tree/tests/lint/cppcheck.h" \
        --template='{file}:{line}: {id}: {message}' 2>&1) | grep -vE '^nofile:0: missingInclude|Suppression: missingIncludeSystem'
}

bad 'arrayIndexOutOfBounds' src/x.c <<<'int f(void); int f(void) { int a[2] = {0, 1}; return a[2]; }'
bad 'uninitvar' crypto/x.c <<<'int f(int n); int f(int n) { int a; if (n) a = 1; return a; }'
bad 'nullPointer' backend/x.c <<<'int f(int *p); int f(int *p) { int a = *p; if (!p) return 0; return a; }'
bad 'doubleFree' src/x.c <<<'#include <stdlib.h>
void f(char *p); void f(char *p) { free(p); free(p); }'
good src/x.c <<<'int f(const int *p); int f(const int *p) { return p ? *p : 0; }'
plant src/x.c <<<'int f(int n); int f(int n) { return n; }'
printf '# why\nnullPointer:src/x.c\n' >"$lint_tmp/stale"
proofs=$((proofs + 1))
rule "$lint_tmp/tree" "$lint_tmp/stale" | grep -q unmatchedSuppression ||
    { echo "$lint_name: what is excused and not found was not reported"; proofs_failed=1; }
prove_unexplained

found=$(unexplained "$known"; rule "$source_tree" "$known")
[ -z "$found" ] || printf '%s\n' "$found"
[ -z "$found" ] && [ $proofs_failed -eq 0 ] || exit 1
echo "$lint_name: $(product_files "$source_tree" | grep -c '\.c$') files, nothing found;" \
    "$(grep -cvE '^(#|[[:space:]]*$)' "$known") kinds of findings are excused;" \
    "$proofs proofs that a mistake is seen"
