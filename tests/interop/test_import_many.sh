#!/usr/bin/env bash
# Random TPMs of swtpm come in and go out again with the same identity: import_many.py.
for tool in swtpm python3 setpriv; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
exec python3 -B "$(dirname "$0")/import_many.py" "$@"
