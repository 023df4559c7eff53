#!/usr/bin/env bash
# What libnvkeep shows and what it is made of: names that begin with nvkeep_, nothing that encrypts
# for others, and no part that asks on a terminal, writes to one, or ends the process. [S1.7, S2.12]
. "$(dirname "$0")/lint.sh"
lib=$(ls "${NVKEEP_BUILD:-none}"/lib/libnvkeep.so.* "${NVKEEP_BUILD:-none}"/lib/libnvkeep.so 2>/dev/null | head -1)
[ -n "$lib" ] || { echo "libnvkeep was not built"; exit 77; }
if grep -qE '^NVKEEP_(SANITIZE:[A-Z]*=.+|FUZZ:[A-Z]*=ON)' "$NVKEEP_BUILD/CMakeCache.txt"; then
    echo "sanitizers add symbols of their own: run this on a plain build"
    exit 77
fi

# TREE here is a shared library.
rule()
{
    nm -D --defined-only "$1" | awk '$2 ~ /[B-Z]/ { print $3 }' | while read -r name; do
        case $name in
        *crypt* | *cipher* | *prompt* | *pass*ask* | *ask*pass* | *set_key*)
            echo "$(basename "$1"): shows $name: nobody encrypts through us, and nobody is asked" ;;
        nvkeep_*) ;;
        *) echo "$(basename "$1"): shows $name, which does not begin with nvkeep_" ;;
        esac
    done
    nm -D --undefined-only "$1" | awk '{ sub(/@.*/, "", $2); print $2 }' |
        grep -xE 'tcsetattr|tcgetattr|getpass|exit|_exit|abort|puts|putchar|printf|__printf_chk|vprintf|perror|stdin|stdout|stderr|fork|execv|execve|execvp|system|popen|signal|sigaction|setenv|chdir|umask|TPMLIB_.*' |
        sed "s,^,$(basename "$1"): calls ,"
}

compile()
{
    ${CC:-cc} -shared -fPIC -x c -o "$lint_tmp/x.so" - || exit 1
}
must_find()
{
    local found
    compile
    proofs=$((proofs + 1))
    found=$(rule "$lint_tmp/x.so")
    case $found in
    *"$1"*) ;;
    *) echo "$lint_name: planted and not found: $1 (found: $found)"; proofs_failed=1 ;;
    esac
}
must_find 'shows helper' <<<'int helper(void) { return 1; }'
must_find 'shows nvkeep_encrypt' <<<'int nvkeep_encrypt(void) { return 1; }'
must_find 'shows nvkeep_prompt' <<<'int nvkeep_prompt(void) { return 1; }'
must_find 'calls abort' <<<'#include <stdlib.h>
void nvkeep_x(void) { abort(); }'
must_find 'calls stderr' <<<'#include <stdio.h>
void nvkeep_x(int a) { fprintf(stderr, "%d", a); }'
compile <<<'int nvkeep_x(void) { return 1; }'
proofs=$((proofs + 1))
[ -z "$(rule "$lint_tmp/x.so")" ] || { echo "$lint_name: an innocent library was blamed"; proofs_failed=1; }

found=$(rule "$lib")
if [ -n "$found" ] || [ $proofs_failed -ne 0 ]; then
    printf '%s\n' "$found"
    exit 1
fi
nm -D --defined-only "$lib" | awk '$2 ~ /[B-Z]/' | wc -l | sed "s,^,$lint_name: symbols that are shown: ,"
