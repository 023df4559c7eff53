#!/usr/bin/env bash
# What one command costs, counted and not timed: writes, flushes, bytes and system calls per command
# for a small and a full NV memory, against fixed limits. The full comparison with swtpm and with the
# floor of the machine is `bin/tool_compare` (some minutes; see its head).
set -u
command -v strace >/dev/null || { echo "strace is missing"; exit 77; }
strace -o /dev/null true 2>/dev/null || { echo "strace may not trace here (ptrace)"; exit 77; }
if grep -qE '^NVKEEP_(SANITIZE:[A-Z]*=.+|FUZZ:[A-Z]*=ON)' "$NVKEEP_BUILD/CMakeCache.txt"; then
    echo "sanitizers make system calls of their own: this counts on a plain build"
    exit 77
fi
exec "$NVKEEP_BUILD/bin/tool_compare" --counters --nvkeep "$NVKEEP"
