#!/usr/bin/env bash
# The real program is killed at every write and every flush of `key rotate` and `remove`. Each time
# a key opens the image that opened it before or shall open it after, both checks are clean, the TPM's
# state is untouched, and the same command again comes to the same end. [S0.7]
set -u
: "${NVKEEP:?names the program}"
for tool in strace qemu-img cmp; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
strace -o /dev/null true 2>/dev/null || { echo "strace may not trace here (ptrace)"; exit 77; }
export ASAN_OPTIONS=detect_leaks=0 LSAN_OPTIONS=detect_leaks=0 # it cannot be had while being traced
dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-kill.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failed=0
n_killed=0

fail()
{
    echo "$*"
    failed=1
}
opens()
{
    "$NVKEEP" verify-key i --key "file=$1" >/dev/null 2>&1
}
generation()
{
    "$NVKEEP" info i --key "file=$1" --json | sed -n 's/.*"generation": \([0-9]*\).*/\1/p'
}

# judge NAME KEYS...: one of them opens, and nothing is damaged.
judge()
{
    local name=$1 k by=
    shift
    for k in "$@"; do opens "$k" && by=$k; done
    [ -n "$by" ] || { fail "$name: no key opens the image"; return; }
    "$NVKEEP" check i --key "file=$by" >out 2>&1 || fail "$name: $(cat out)"
    [ "$(generation "$by")" = 1 ] || fail "$name: another generation"
    qemu-img check -q --object "secret,id=s,file=$by" \
        --image-opts driver=qcow2,file.filename=i,encrypt.key-secret=s >out 2>&1 || fail "$name: $(cat out)"
    cmp -s <(tail -c +$((end + 1)) i) <(tail -c +$((end + 1)) start) || fail "$name: something beside the keys"
}

# killed NAME OPENING SHUT MIN WORDS...: SHUT is the key that does not open at the end, OPENING does.
# At least MIN writes and flushes there are.
killed()
{
    local name=$1 opening=$2 shut=$3 least=$4 at
    shift 4
    cp i whole
    for ((at = 1; at < 200; at++)); do
        cp whole i
        { strace -f -qq -o /dev/null -e trace=pwrite64,fdatasync \
            -e inject=pwrite64,fdatasync:signal=KILL:when=$at "$NVKEEP" key "$@" >out 2>&1; } 2>/dev/null
        local code=$?
        [ $code -eq 0 ] && break
        [ $code -eq 137 ] || fail "$name, call $at: exit code $code: $(cat out)"
        n_killed=$((n_killed + 1))
        judge "$name, killed at call $at" "$opening" "$shut"
        "$NVKEEP" key "$@" >out 2>&1 || fail "$name, killed at call $at, again: $(cat out)"
        opens "$opening" || fail "$name, killed at call $at, again: $opening does not open"
        ! opens "$shut" || fail "$name, killed at call $at, again: $shut opens"
    done
    [ $at -gt "$least" ] || fail "$name: only $((at - 1)) writes and flushes"
    judge "$name, not killed" "$opening"
}

for k in one two three; do printf 'key number %s' "$k" >$k; done
"$NVKEEP" create i --key file=one --iter-time 1 >/dev/null 2>&1 || exit 1
cp i start
# Everything behind the LUKS area.
end=$("$NVKEEP" info i --json | python3 -c 'import json, sys
l = json.load(sys.stdin)["luks"]
print(l["offset"] + l["bytes"])') || exit 1

killed rotate two one 12 rotate i --key file=one --next-key file=two --slot 6 --iter-time 1
"$NVKEEP" key add i --key file=two --next-key file=three --iter-time 1 >/dev/null || failed=1
killed remove three two 9 remove i --key file=three --slot 6
echo "killed at every write and flush: $n_killed, failed: $failed"
exit $failed
