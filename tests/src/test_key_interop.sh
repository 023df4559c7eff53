#!/usr/bin/env bash
# The bytes of a key are the same for us and for QEMU's secret object: each key that one side takes,
# the other takes; what one side would not take, neither does. Both directions.
set -u
: "${NVKEEP:?}"
command -v qemu-img >/dev/null || { echo "missing: qemu-img"; exit 77; }
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1
bad=0
n=0
fail()
{
    echo "FAILED: $*"
    bad=1
}
# Wants an exit code.
want()
{
    local code=$1 out
    shift
    out=$("$@" 2>&1)
    local got=$?
    n=$((n + 1))
    [ $got = "$code" ] || fail "$* gave $got and not $code: $out"
}
qemu_check()
{
    qemu-img check -q --object "secret,id=s0,file=$1" --image-opts "driver=qcow2,file.filename=$2,encrypt.key-secret=s0"
}
# Its benchmark sometimes gives up.
qemu_create()
{
    local _ out
    for _ in $(seq 60); do
        out=$(qemu-img create -q -f qcow2 --object "secret,id=s0,file=$1" -o encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=1 "$2" 1M 2>&1) && return 0
        case $out in *"CPU usage"*) ;; *) break ;; esac
        sleep 0.2
    done
    echo "$out"
    return 1
}

printf 'pass' >k.plain
printf 'pass\n' >k.newline
printf '\n' >k.only-newline
printf ' two  blanks ' >k.blanks
printf 'p\303\244ssw\303\266rt \342\202\254 \360\237\224\221' >k.utf8
printf 'a\tb\r\n' >k.control
head -c 4096 /dev/zero | tr '\0' x >k.4096
head -c 65536 /dev/zero | tr '\0' x >k.65536

for k in k.*; do
    i=ours.${k#k.}
    want 0 "$NVKEEP" create "$i" --key "file=$k" --iter-time 1
    want 0 qemu_check "$k" "$i"
    printf y | cat - "$k" >other
    want 1 qemu_check other "$i"
    i=theirs.${k#k.}
    want 0 qemu_create "$k" "$i"
    # The key is right; that there is nothing of ours inside is another matter.
    want 20 "$NVKEEP" verify-key "$i" --key "file=$k"
    head -c 65536 other >other2
    want 11 "$NVKEEP" verify-key "$i" --key file=other2
done

# A final newline counts in both, unless pwdfile= drops it.
want 1 qemu_check k.plain ours.newline
want 11 "$NVKEEP" verify-key ours.newline --key file=k.plain
want 0 "$NVKEEP" create trimmed --key pwdfile=k.newline --iter-time 1
want 0 qemu_check k.plain trimmed
want 1 qemu_check k.newline trimmed
want 20 "$NVKEEP" verify-key theirs.plain --key pwdfile=k.newline
exec 9<k.newline
want 20 "$NVKEEP" verify-key theirs.plain --key pwdfd=9
exec 9<k.newline
want 11 "$NVKEEP" verify-key theirs.plain --key fd=9

# A key made by us is one that they take.
want 0 "$NVKEEP" create made --new-key made.key
want 0 qemu_check made.key made

# What they refuse, we refuse, by what it is.
printf 'a\0b' >r.nul
printf '\374' >r.latin1
printf '\355\240\200' >r.surrogate
printf '\300\200' >r.overlong
for k in r.*; do
    want 1 qemu_create "$k" refused >/dev/null
    rm -f refused
    want 2 "$NVKEEP" create refused --key "file=$k" --iter-time 1
    [ -e refused ] && fail "an image was made with $k"
done

# S1.19 S2.16 S0.1 S0.15
qemu-img create -q -f qcow2 plain 1M
want 12 "$NVKEEP" verify-key plain --key file=k.plain
want 12 "$NVKEEP" serve plain --key file=k.plain --ctrl type=unixio,path=s
want 40 "$NVKEEP" verify-key plain
want 0 "$NVKEEP" info plain
qemu-img create -q -f qcow2 --object secret,id=s0,file=k.plain -o encryption=on,encrypt.key-secret=s0 aes 1M 2>/dev/null &&
    want 40 "$NVKEEP" verify-key aes --key file=k.plain
want 2 "$NVKEEP" create aes2 --key file=k.plain --encrypt.format=aes

[ $bad = 0 ] && echo "keys: $n comparisons with $(qemu-img --version | head -1), 0 differences"
exit $bad
