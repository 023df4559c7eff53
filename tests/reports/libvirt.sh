#!/usr/bin/env bash
# The whole list of libvirt, our swtpm and the distribution's side by side; three failures of stock
#
# Only PATH differs between the two columns. Each row is what a guest found in its TPM; one that is not
# as it is expected of that side fails the report. About ten minutes.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${NVKEEP_BUILD:-$PWD/build}
export NVKEEP_BUILD=$build NVKEEP=$build/bin/nvkeep NVKEEP_SOURCE=$PWD
[ -f "$build/lib/shared_fs.so" ] && [ -x "$build/compat/swtpm" ] ||
    { cmake -S . -B "$build" -G Ninja && ninja --quiet -C "$build"; } >/dev/null || exit 1
failed=0
python3 -B tests/compat/libvirt_table.py || failed=1
NVKEEP_LONG=1 python3 -B tests/compat/test_stock_failures.py || failed=1
exit "$failed"
