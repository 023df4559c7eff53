#!/usr/bin/env bash
# Static analysis: gcc's -fanalyzer, clang-tidy, cppcheck and clang's analyzer; every finding has a reason
#
# The first three are lints, which ./check runs as well; here clang-tidy looks at every test too, and
# what is excused is printed with its reason. clang's analyzer is run by itself, with checkers that
# clang-tidy leaves out. A count that is not 0 under "open" fails.
set -u
cd "$(dirname "$0")/../.." || exit 1
export NVKEEP_BUILD=${NVKEEP_BUILD:-$PWD/build} NVKEEP_SOURCE=$PWD
[ -f "$NVKEEP_BUILD/compile_commands.json" ] && [ -d "$NVKEEP_BUILD/gen" ] ||
    { cmake -S . -B "$NVKEEP_BUILD" -G Ninja && ninja --quiet -C "$NVKEEP_BUILD"; } >/dev/null || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
rows=$tmp/rows
failed=0

files()
{
    ls src/*.c src/*/*.c crypto/*.c backend/*.c migration/*.c
}

# row NAME FILES OPEN EXCUSED VERDICT
row()
{
    printf '%-22s %6s %6s %8s   %s\n' "$@" >>"$rows"
}

# lint NAME SCRIPT KNOWN FILES [OPTION]
lint()
{
    local name=$1 script=$2 known=$3 n=$4 excused=0 open
    shift 4
    [ "$known" = - ] || excused=$(grep -cvE '^(#|[[:space:]]*$)' "$known")
    if bash "$script" "$@" >"$tmp/out" 2>&1; then
        row "$name" "$n" 0 "$excused" 'clean'
        return
    fi
    open=$(grep -c . "$tmp/out")
    row "$name" "$n" "$open" "$excused" 'FAILED'
    cat "$tmp/out"
    failed=1
}

clang_one()
{
    local extra=(-include tests/lint/analyzer.h)
    [ "$1" = src/base/err.c ] && extra=() # it defines what analyzer.h wraps
    clang --analyze -std=gnu11 -D_GNU_SOURCE '-DNVKEEP_VERSION="0"' -I. -I"$NVKEEP_BUILD/gen" \
        -Wno-unused-value "${extra[@]}" -Xclang -analyzer-output=text \
        -Xclang -analyzer-checker=core,unix,deadcode,security,nullability,optin.performance,optin.portability \
        -Xclang -analyzer-disable-checker=security.insecureAPI.DeprecatedOrUnsafeBufferHandling \
        "$1" 2>&1 | grep -E ': (warning|error): '
}

# The reason for what it is excused for: it knows nothing of the cleanup attribute.
clang_analyzer()
{
    local open all
    # As always: a mistake must be seen.
    printf 'int f(int n); int f(int n) { int *p = 0; return n ? *p : 0; }\n' >"$tmp/bad.c"
    clang_one "$tmp/bad.c" | grep -q NullDereference || { echo "clang's analyzer sees nothing"; failed=1; }
    export -f clang_one
    files | xargs -P "$(nproc)" -I{} bash -c 'clang_one {}' | sort -u >"$tmp/clang"
    all=$(wc -l <"$tmp/clang")
    grep -v 'Potential leak of memory pointed to by' "$tmp/clang" >"$tmp/open"
    open=$(wc -l <"$tmp/open")
    row "clang's analyzer" "$(files | wc -l)" "$open" $((all - open)) \
        "$([ "$open" = 0 ] && echo clean || echo FAILED)"
    [ "$open" = 0 ] || { cat "$tmp/open"; failed=1; }
}

tidied()
{
    files
    find tests -name '*.c' -not -path 'tests/mustfail/*' -not -path 'tests/guest/*'
}

lint "gcc -fanalyzer" tests/lint/test_fanalyzer.sh tests/lint/fanalyzer.known "$(files | wc -l)"
lint "cppcheck" tests/lint/test_cppcheck.sh tests/lint/cppcheck.known "$(files | wc -l)"
lint "clang-tidy" tests/lint/test_tidy.sh - "$(tidied | wc -l)" --long
clang_analyzer

printf '\n%-22s %6s %6s %8s\n' tool files open excused
cat "$rows"
cat <<'END'

What is excused, and why

clang's analyzer and clang-tidy: "Potential leak of memory": both know nothing of the cleanup
attribute, so every OWNED() looks like a leak. LeakSanitizer sees the real ones, in every test.
Checks of clang-tidy that are off: see .clang-tidy, each with its reason.
END
for known in fanalyzer cppcheck; do
    printf '\n%s:\n' "$known"
    grep . "tests/lint/$known.known"
done
exit $failed
