#!/usr/bin/env bash
# Daemon and tools in swtpm's place and swtpm itself, asked the same: how much, what differs, and why
#
# tests/compat/test_two_daemons.py asks the questions and fails on an answer that differs without a
# reason in differences.py; tests/compat/test_bios.py does the same for swtpm_bios. About a minute.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${NVKEEP_BUILD:-$PWD/build}
export NVKEEP_BUILD=$build NVKEEP=$build/bin/nvkeep NVKEEP_SOURCE=$PWD
[ -x "$build/compat/swtpm_bios" ] ||
    { cmake -S . -B "$build" -G Ninja && ninja --quiet -C "$build"; } >/dev/null || exit 1
failed=0
python3 -B tests/compat/test_two_daemons.py || failed=1
python3 -B tests/compat/test_bios.py || failed=1
exit "$failed"
