#!/usr/bin/env bash
# Power loss below real daemons on real file systems, nvkeep and stock swtpm in one table: the short form
# of block_power.py, whose head says what is tried and what the columns mean. Under sanitizers nvkeep
# alone, and fewer states: there the daemon is tested, not the harness.
set -u
: "${NVKEEP:?}" "${NVKEEP_BUILD:?}"
command -v python3 >/dev/null || { echo "missing: python3"; exit 77; }
less=()
if grep -qE '^NVKEEP_(SANITIZE:[A-Z]*=.+|FUZZ:[A-Z]*=ON)' "$NVKEEP_BUILD/CMakeCache.txt"; then
    less=(--states 60 nvkeep)
fi
exec python3 -B "$(dirname "$0")/block_power.py" "${less[@]}"
