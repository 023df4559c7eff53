#!/usr/bin/env bash
# One block device under two names: both grant their locks, as two machines on shared storage do
# where locks do not reach from one to the other. The owner that was taken over is fenced at its next
# commit, and the state of the new one is whole. In a file on a local file system the locks themselves
# keep the second out. What somebody else wrote is never read from a cache. [S3.20, S3.24, S3.25]
set -u
source_tree=${NVKEEP_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
build=${NVKEEP_BUILD:-$source_tree/build}
: "${NVKEEP:?}"
tool=$build/bin/tool_two_owners
for needed in losetup mknod "$tool"; do
    command -v "$needed" >/dev/null || { echo "missing: $needed"; exit 77; }
done
tmp=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-two-names.XXXXXX") || exit 1
device=
clean_up()
{
    [ -z "$device" ] || losetup --detach "$device"
    rm -rf "$tmp"
}
trap clean_up EXIT
cd "$tmp" || exit 1
fail() { echo "FAILED: $*"; exit 1; }

printf 'two names' >key
"$NVKEEP" create image --key file=key --incoming --iter-time 1 >log 2>&1 || fail "create: $(cat log)"
cp image kept
ln image linked || fail "ln"
"$tool" image linked 'two names' >log 2>&1 && fail "two names of one file: both were claimed"
grep -q 'LOCKED: linked: another process is using the image' log || fail "two names of one file: $(cat log)"
echo "two names of one file: the second is LOCKED"

device=$(losetup --find --show kept 2>log) || { echo "missing: a loop device ($(cat log))"; exit 77; }
numbers=$(stat -c '%Hr %Lr' "$device")
"$tool" --afresh kept "$device" 'two names' >log 2>&1 || fail "written behind the device's back: $(cat log)"
echo "written behind the device's back: seen by a look and by a claim"
# shellcheck disable=SC2086
mknod other b $numbers 2>log || { echo "missing: another node for $device ($(cat log))"; exit 77; }
head -c 1 other >first 2>log || { echo "missing: device nodes here ($(cat log))"; exit 77; }
"$tool" "$device" other 'two names' >log 2>&1 || fail "two names of one device: $(cat log)"
[ "$(grep -c 'somebody else has taken this TPM over' log)" = 8 ] || fail "not fenced each time: $(cat log)"
"$NVKEEP" check "$device" --key file=key >log 2>&1 || fail "check: $(cat log)"
echo "two names of one device: the stale owner is FENCED, the new one's state is whole"
