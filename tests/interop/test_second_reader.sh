#!/bin/bash
# A reader in Python, made from src/doc/format.md alone, opens our images and finds what we find,
# and calls damage what we call damage. S2.14
set -u
source_tree=${NVKEEP_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
build=${NVKEEP_BUILD:-$source_tree/build}
make_store=$build/bin/tool_store_make
reader=$source_tree/tests/interop/second_reader.py
command -v python3 >/dev/null || { echo "python3 is missing"; exit 77; }
[ -x "$make_store" ] || { echo "$make_store is missing"; exit 77; }
work=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-reader.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
printf 'a passphrase for two readers' >key
failed=0

fail()
{
    echo "FAILED: $*"
    failed=1
}

seed=0
for commits in 0 1 30 200; do
    seed=$((seed + 1))
    "$make_store" "image$commits" "$(cat key)" $seed $commits >ours || { fail "making $commits"; continue; }
    python3 -B "$reader" "image$commits" key >theirs || fail "reading $commits: $(cat theirs)"
    if python3 -B -c 'import json, sys; sys.exit(json.load(open("ours")) != json.load(open("theirs")))'; then
        echo "ok: $commits commits, $(cat theirs)"
    else
        fail "$commits commits: ours $(cat ours) theirs $(cat theirs)"
    fi
done

# One flipped bit: both find the same, or both refuse.
refused=0
for sector in 0 8 10 449 888 900 1000; do # reference sector, both checkpoints, log
    cp image30 flipped
    python3 -B - $sector <<'PYTHON'
import sys
image = bytearray(open("flipped", "rb").read())
sector = int(sys.argv[1]) # the data clusters are the last in the file
image[len(image) - (1 << 19) + sector * 512 + sector * 7 % 512] ^= 1 << sector % 8
open("flipped", "wb").write(image)
PYTHON
    "$make_store" --read flipped "$(cat key)" >ours 2>message
    ours=$?
    python3 -B "$reader" flipped key >theirs
    theirs=$?
    [ $ours = $theirs ] || fail "sector $sector: ours $ours ($(cat message)), theirs $theirs ($(cat theirs))"
    [ $ours = 0 ] || refused=$((refused + 1))
done
[ $refused -ge 3 ] || fail "only $refused flipped bits were refused"
echo "ok: 7 images with a flipped bit judged alike, $refused of them refused"
printf 'another passphrase' >key
python3 -B "$reader" image1 key >theirs && fail "the wrong key opened it"
exit $failed
