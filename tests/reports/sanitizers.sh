#!/usr/bin/env bash
# Address, undefined behaviour and thread sanitizers and valgrind's memcheck, over the whole suite
#
#     tests/reports/sanitizers.sh [address] [thread] [memcheck]      all three unless named
#
# address   what ./check leaves out under address and undefined behaviour sanitizers: real machines,
#           real tools, ten thousand wrong keys; the rest runs in every ./check
# thread    every C test and every test with QEMU; the threads are in src/worker and src/serve
# memcheck  every C test below src, and the real daemon while a guest works with its TPM
#
# A row whose last column is not 0 fails. Builds go to build, build-asan and build-tsan.
set -u
cd "$(dirname "$0")/../.." || exit 1
root=${NVKEEP_BUILD:-$PWD/build}
export NVKEEP_SOURCE=$PWD
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
failed=0
rows=$tmp/rows
: >"$rows"

# row WHAT PASSED FAILED SKIPPED REPORTS
row()
{
    printf '%-46s %7s %7s %8s %8s\n' "$@" >>"$rows"
    [ "$3" = 0 ] && [ "$5" = 0 ] || failed=1
}

# build FOLDER OPTION...
build()
{
    local folder=$1
    shift
    { cmake -S . -B "$folder" -G Ninja -DNVKEEP_TESTS=ON "$@" && ninja --quiet -C "$folder"; } >"$tmp/log" 2>&1 ||
        { cat "$tmp/log"; echo "$folder does not build"; exit 1; }
}

# Sanitizers end the process they find something in, and say so where the test's output is kept: a
# report that no test turned into a failure counts all the same.
n_reports()
{
    grep -cE 'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error:' "$1"
}

# suite WHAT FOLDER CTEST-OPTION...
suite()
{
    local what=$1 folder=$2 passed bad skipped
    shift 2
    ctest --test-dir "$folder" --no-tests=error -j2 --timeout 3600 --output-on-failure "$@" \
        --output-junit "$tmp/junit.xml" </dev/null >"$tmp/out" 2>&1
    read -r passed bad skipped <<<"$(python3 -B tests/support/junit_sum.py "$tmp/junit.xml" 2>/dev/null)"
    grep -E 'Failed|Timeout|ERROR: .*Sanitizer|WARNING: ThreadSanitizer|runtime error:|SUMMARY:' "$tmp/out"
    row "$what" "${passed:-0}" "${bad:-1}" "${skipped:-0}" "$(n_reports "$tmp/out")"
}

# The sanitizer sees what it is for, or its silence means nothing.
# planted NAME SANITIZER TEXT <<< program
planted()
{
    cat >"$tmp/bad.c"
    clang -g -fsanitize="$2" -fno-sanitize-recover=all -pthread -o "$tmp/bad" "$tmp/bad.c" &&
        "$tmp/bad" >"$tmp/out" 2>&1
    grep -q "$3" "$tmp/out" || { echo "$1: a planted mistake was not reported"; failed=1; }
}

address()
{
    planted address address,undefined 'heap-buffer-overflow' <<<'#include <stdlib.h>
int main(int n, char **v) { (void)v; char *p = malloc(3); p[n + 2] = 1; return p[n + 2]; }'
    build "$root-asan" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_COMPILER=clang \
        -DNVKEEP_SANITIZE=address,undefined
    suite 'address, undefined: ten thousand wrong keys' "$root-asan" -R '^src/test_wrong_keys$'
    suite 'address, undefined: real tools and counters' "$root-asan" -L '^(interop|bench|mustfail)$'
    suite 'address, undefined: real machines' "$root-asan" -L '^qemu$'
}

thread()
{
    planted thread thread 'data race' <<<'#include <pthread.h>
static int n;
static void *f(void *p) { for (int i = 0; i < 9999; i++) n++; return p; }
int main(void) { pthread_t t; pthread_create(&t, 0, f, 0); f(0); pthread_join(t, 0); return 0; }'
    build "$root-tsan" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_COMPILER=clang -DNVKEEP_SANITIZE=thread
    export TSAN_OPTIONS=halt_on_error=1 # a daemon that ends with 66 fails its test
    suite 'thread: C tests' "$root-tsan" -L '^(base|crypto|backend|migration|src|fuzz|crash)$' \
        -E '^src/test_wrong_keys$'
    suite 'thread: real machines' "$root-tsan" -L '^qemu$'
}

# What was logged, each program in a log of its own, but for system calls that valgrind does not know.
memcheck_log()
{
    find "$tmp/memcheck" -name 'log.*' -size +0 -exec cat {} + 2>/dev/null |
        grep -vE 'WARNING: unhandled amd64-linux syscall|You may be able to write|Read the file README_MISSING|Nevertheless we consider|at http://valgrind.org'
}

# Errors and definite leaks, one line each.
memcheck_reports()
{
    memcheck_log | grep -cE '== (Invalid|Conditional|Use of uninit|Syscall param|Process terminating|.* definitely lost|.* indirectly lost|Mismatched|Source and dest)'
}

memcheck()
{
    local checked test n=0 bad=0 before
    mkdir -p "$tmp/memcheck"
    build "$root" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=gcc -DNVKEEP_SANITIZE=
    local options=(-q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite
        --log-file="$tmp/memcheck/log.%p" --child-silent-after-fork=yes)
    echo 'int main(int n, char **v) { (void)v; int a[2]; if (a[n]) return 3; return 0; }' >"$tmp/bad.c"
    gcc -g -w -o "$tmp/bad" "$tmp/bad.c" && valgrind "${options[@]}" "$tmp/bad"
    [ "$(memcheck_reports)" -gt 0 ] || { echo "memcheck: a planted mistake was not reported"; failed=1; }
    rm -f "$tmp"/memcheck/log.*

    # test_secret and test_nothing_remains look at the memory of their process, which is valgrind's too;
    # test_constant_time runs itself under valgrind.
    for test in "$root"/bin/{base,crypto,backend,migration}_test_*; do
        case ${test##*/} in
        crypto_test_constant_time | crypto_test_secret) continue ;;
        esac
        n=$((n + 1))
        before=$(memcheck_reports)
        (cd "$root" && NVKEEP_BUILD=$root timeout 3600 valgrind "${options[@]}" "$test") >"$tmp/out" 2>&1 ||
            { bad=$((bad + 1)); echo "memcheck: $test"; grep -E '^\[  FAILED|ERROR' "$tmp/out"; }
        [ "$(memcheck_reports)" = "$before" ] || { echo "memcheck: reports in $test"; memcheck_log | tail -n 40; }
    done
    row 'memcheck: C tests of base to migration' $((n - bad)) "$bad" 0 "$(memcheck_reports)"

    # The daemon, and nothing else, under valgrind: the harness starts what NVKEEP names.
    rm -f "$tmp"/memcheck/log.*
    gcc -shared -fPIC -o "$tmp/unconfined.so" tests/reports/unconfined.c || exit 1
    checked=$tmp/nvkeep
    {
        echo '#!/bin/sh'
        echo '[ "$1" = serve ] || exec '"'$root/bin/nvkeep'"' "$@"'
        echo "LD_PRELOAD='$tmp/unconfined.so' exec valgrind ${options[*]} '$root/bin/nvkeep' \"\$@\""
    } >"$checked"
    chmod +x "$checked"
    n=0 bad=0
    # Those that measure no time. Where the firmware gives up waiting for a TPM that is twenty times
    # slower, it leaves the TPM unusable to the guest: that needs a machine with nothing else to do.
    while read -r -a test; do
        n=$((n + 1))
        NVKEEP=$checked NVKEEP_BUILD=$root timeout 1800 "${test[@]}" </dev/null >"$tmp/out" 2>&1 ||
            { bad=$((bad + 1)); echo "memcheck: ${test[*]}"; cat "$tmp/out"; }
    done <<'END'
bash tests/src/test_serve_tpm2_tools.sh
python3 -B tests/qemu/test_boot.py sixty_commands_of_every_size_pass
python3 -B tests/qemu/test_power.py nv_is_there_after_a_power_cut_with_tis
python3 -B tests/qemu/test_restore.py a_saved_machine_goes_on_by_cont
END
    memcheck_log
    row 'memcheck: the daemon, with guests that work' $((n - bad)) "$bad" 0 "$(memcheck_reports)"
}

[ $# -gt 0 ] || set -- address thread memcheck
for part in "$@"; do
    case $part in
    address | thread | memcheck) "$part" ;;
    *) echo "unknown: $part" >&2; exit 2 ;;
    esac
done

printf '\n%-46s %7s %7s %8s %8s\n' '' passed failed skipped reports
cat "$rows"
cat <<'END'

MemorySanitizer is not used: it takes for uninitialised what a library writes that was not built with
it, and libtpms, nettle, libtasn1 and cmocka are the distribution's. Below them there is only src/base.
memcheck sees the same mistakes in all of them, and test_constant_time uses it for secrets.
END
exit $failed
