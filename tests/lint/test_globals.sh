#!/usr/bin/env bash
# No mutable global in the tree but the one that libtpms forces on backend/tpm.c, and those listed
# here with their reason. Read from the objects, so that a static inside a function counts as well.
. "$(dirname "$0")/lint.sh"

# object:symbol  why it may be there
allowed='
tpm.c.o:live  libtpms keeps one TPM per process and its callbacks carry no pointer of ours
'

[ -d "${NVKEEP_BUILD:-none}/lib" ] || { echo "needs a build: NVKEEP_BUILD is not set"; exit 77; }
if grep -qE '^NVKEEP_(SANITIZE:[A-Z]*=.+|FUZZ:[A-Z]*=ON)' "$NVKEEP_BUILD/CMakeCache.txt"; then
    echo "sanitizers add globals of their own to every object: run this on a plain build"
    exit 77
fi

objects()
{
    (cd "$1" && find . -path '*/nv*.dir/*' -name '*.c.o' -not -path './tests/*' | LC_ALL=C sort)
}

# TREE here is a build directory. Sections that can be written after relocation count; constant
# tables of pointers (.data.rel.ro) do not.
rule()
{
    local object
    for object in $(objects "$1"); do
        nm -f sysv "$1/$object" 2>/dev/null | awk -F'|' -v object="$(basename "$object")" '
            $7 ~ /^\.(data|bss|tdata|tbss)(\.|$)/ && $7 !~ /^\.data\.rel\.ro/ && $4 !~ /SECTION/ ||
            $7 ~ /COM/ {
                gsub(/ /, "", $1)
                print object ":" $1 " " $7
            }'
    done | while read -r symbol section; do
        # A static inside a function is called name.123 by the compiler.
        grep -qE "^${symbol%.[0-9]*}( |\$)" <<<"$allowed" ||
            echo "$symbol in $section: a mutable global"
    done
}

plant_object()
{
    rm -rf "$lint_tmp/tree"
    mkdir -p "$lint_tmp/tree/nvk_x.dir"
    ${CC:-cc} -fPIC -x c -c -o "$lint_tmp/tree/nvk_x.dir/x.c.o" - || exit 1
}
must_find()
{
    local found
    plant_object
    proofs=$((proofs + 1))
    found=$(rule "$lint_tmp/tree")
    [ -n "$found" ] && return
    echo "$lint_name: planted and not found: $1"
    proofs_failed=1
}
must_pass()
{
    local found
    plant_object
    proofs=$((proofs + 1))
    found=$(rule "$lint_tmp/tree")
    [ -z "$found" ] && return
    echo "$lint_name: innocent object was blamed: $found"
    proofs_failed=1
}

must_find 'an initialised global' <<<'int counter = 3;'
must_find 'a zeroed static' <<<'static int counter; int f(void); int f(void) { return counter++; }'
must_find 'a static of a function' <<<'int f(void); int f(void) { static int n; return n++; }'
must_find 'a thread-local' <<<'_Thread_local int n;'
must_find 'a flag for signals' <<<'#include <signal.h>
volatile sig_atomic_t stop;'
must_find 'a table of pointers that can be written' <<<'const char *names[] = {"a", "b"};'
must_pass <<<'const char *const names[] = {"a", "b"}; static const int t[] = {1, 2}; int f(int i); int f(int i) { return t[i]; }'

found=$(rule "$NVKEEP_BUILD")
n=$(objects "$NVKEEP_BUILD" | wc -l)
[ "$n" -gt 0 ] || { echo "$NVKEEP_BUILD holds no objects"; exit 1; }
if [ -n "$found" ] || [ $proofs_failed -ne 0 ]; then
    printf '%s\n' "$found"
    exit 1
fi
echo "$lint_name: $n objects without a mutable global that is not listed; $proofs proofs"
