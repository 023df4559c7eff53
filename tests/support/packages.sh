#!/usr/bin/env bash
# Installs the packages of tests/packages for the kinds named, those that are missing. Says what it
# does; does nothing and needs nothing where all are there.
#
#     tests/support/packages.sh build test
set -eu
list=$(dirname "$0")/../packages

missing=()
for kind in "$@"; do
    # shellcheck disable=SC2013 # words, not lines
    for package in $(sed -n "s/^$kind  *//p" "$list"); do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "These packages are missing, and neither are you root nor is there sudo. As root:" >&2
        echo "    apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

echo "Installing by apt-get: ${missing[*]}"
apt()
{
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 "$@"
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The lock of the package lists has no waiting of its own.
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    apt update >"$log" 2>&1 && break
    if [ $attempt = 10 ]; then
        cat "$log" >&2
        exit 1
    fi
    sleep 6
done
if ! apt install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
