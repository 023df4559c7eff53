#!/usr/bin/env bash
# Keys, passphrases and what a guest stores, searched for in every place where they must not be
#
# Place by place, with how often each kind of secret was found; what is found has its reason below the
# table, or the report fails. In each place a copy of each secret is planted and must be found. As root
# the memory of the daemon is searched too. ./check runs the same tests.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${NVKEEP_BUILD:-$PWD/build}
export NVKEEP_BUILD=$build NVKEEP=$build/bin/nvkeep NVKEEP_SOURCE=$PWD
[ -f "$build/bin/guest.elf" ] && [ -x "$NVKEEP" ] && [ -x "$build/bin/src_test_nothing_remains" ] ||
    { cmake -S . -B "$build" -G Ninja && ninja --quiet -C "$build"; } >/dev/null || exit 1
failed=0

# part WHAT COMMAND...
part()
{
    echo "--- $1"
    shift
    "$@" || failed=1
}

part 'a machine that runs, moves, is killed and recovered; the admin socket' \
    python3 -B tests/qemu/test_secrets.py
part 'a saved machine, sealed and (to show that the search finds) not sealed' \
    python3 -B tests/qemu/test_restore.py a_secret_of_the_tpm_is_in_no_saved_machine
part 'the memory of a process that opened, created, verified and closed an image' \
    "$build/bin/src_test_nothing_remains"
part 'a passphrase while it is stretched; terminal, standard streams, exit of every command' \
    bash -c '"$0" 2>&1 | grep -aE "passphrase|never_shown|FAILED|PASSED"; exit "${PIPESTATUS[0]}"' \
    "$build/bin/src_test_program"
part 'what a guest stores while tools look at its image' bash tests/src/test_while_running.sh
[ $failed = 0 ] && echo 'secrets: nothing found but what has its reason above' ||
    echo 'secrets: FAILED'
exit $failed
