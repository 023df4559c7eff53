#!/usr/bin/env bash
# Snapshots of a TPM that is being used all the time: see snapshot_live.py. [S0.7, S1.11]
command -v python3 >/dev/null || { echo "python3 is missing"; exit 77; }
command -v qemu-img >/dev/null || { echo "qemu-img is missing"; exit 77; }
exec python3 -B "$(dirname "$0")/snapshot_live.py" "$@"
