#!/usr/bin/env bash
# The format is what nvkeep-format(7) says: a reader made from that page alone, on top of stock
# qemu-img and cryptsetup, finds the state that nvkeep finds. [S2.14]
set -u
: "${NVKEEP:?}" "${NVKEEP_SOURCE:?}"
for tool in python3 qemu-img cryptsetup tpm2_nvdefine tpm2_nvwrite; do
    command -v $tool >/dev/null || { echo "missing: $tool"; exit 77; }
done
tmp=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill "$daemon" 2>/dev/null; rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1
fail() { echo "FAILED: $*"; exit 1; }

"$NVKEEP" create i --new-key k >log 2>&1 || fail "create: $(cat log)"

# The volume key, as cryptsetup sees it in the LUKS area.
read -r at bytes < <("$NVKEEP" info i --json | python3 -c 'import json, sys; l = json.load(sys.stdin)["luks"]; print(l["offset"], l["bytes"])')
dd if=i of=area bs=4096 iflag=skip_bytes,count_bytes skip="$at" count="$bytes" status=none
truncate -s 8M area
cryptsetup luksDump --batch-mode --dump-volume-key --volume-key-file vk --key-file k area >log 2>&1 || fail "cryptsetup: $(cat log)"

compare()
{
    rm -f disk
    qemu-img convert --object secret,id=s0,file=k --image-opts driver=qcow2,file.filename=i,encrypt.key-secret=s0 -O raw disk || fail "qemu-img convert"
    python3 -B "$NVKEEP_SOURCE/tests/src/read_format.py" i disk vk "$@" >theirs || fail "$1: the second reader gave up"
    "$NVKEEP" info i --key file=k --json >ours || fail "info"
    python3 -B - <<'PY' || fail "the two readers differ: $(cat theirs)"
import json
ours, theirs = json.load(open("ours"))["inside"], json.load(open("theirs"))
ours["instance"] = ours["instance"].replace("-", "")
bad = [k for k in theirs if k != "blobs" and theirs[k] != ours[k]]
for k in bad:
    print(k, ours[k], theirs[k])
raise SystemExit(bool(bad))
PY
}

compare
serve()
{
    "$NVKEEP" serve i --key file=k --flags startup-clear --server type=unixio,path=t --ctrl type=unixio,path=t.ctrl --daemon --pid file=p || fail "serve"
    daemon=$(cat p)
}
export TPM2TOOLS_TCTI=swtpm:path=$tmp/t
serve
tpm2_nvdefine -Q 0x1500001 -C o -s 600 -a 'ownerread|ownerwrite' || fail "tpm2_nvdefine"
for i in 1 2 3 4 5; do
    printf 'second-reader-%d%570s' "$i" '' | tpm2_nvwrite -Q 0x1500001 -C o -i - || fail "tpm2_nvwrite"
done
# Like a power cut: nothing is tidied up, the log holds records.
kill -9 "$daemon"
while kill -0 "$daemon" 2>/dev/null; do sleep 0.05; done
daemon=
rm -f t t.ctrl p
compare --blob 1 permanent
[ "$(python3 -c 'import json; print(json.load(open("theirs"))["log_records"] > 3)')" = True ] || fail "the log holds too little: $(cat theirs)"
grep -q 'second-reader-5' permanent || fail "what was written last is not in the state"
grep -qa 'second-reader' i && fail "the image holds it in clear"

# The second reader looks at what it reads: another key, another reference sector, another header.
second() { python3 -B "$NVKEEP_SOURCE/tests/src/read_format.py" "$@" 2>&1; }
head -c 64 /dev/urandom >other
second i disk other | grep -q 'reference sector: HMAC' || fail "the second reader takes any key"
cp disk bent && printf x | dd of=bent bs=1 seek=100 conv=notrunc status=none
second i bent vk | grep -q 'reference sector: HMAC' || fail "the second reader takes a bent reference sector"
"$NVKEEP" create j --new-key k2 >log 2>&1 || fail "create: $(cat log)"
second j disk vk | grep -q 'instance of header and reference sector differ' || fail "the second reader takes another header"

echo "format: two readers agree at generation $(python3 -c 'import json; t = json.load(open("theirs")); print(t["generation"], "with", t["log_records"], "records in the log")')"
