#!/usr/bin/env bash
# Keys are changed by nvkeep, qemu-img and cryptsetup in turn, on one image: after each change all three
# agree on what every key does, and both checks are clean. [S0.7]
. "$(dirname "$0")/interop.sh"
needs cryptsetup od
: "${NVKEEP:=$build/bin/nvkeep}"
keys=(a b c d e)
for k in "${keys[@]}"; do printf 'the key called %s' "$k" >"k.$k"; done
secrets=()
for k in "${keys[@]}"; do secrets+=(--object "secret,id=$k,file=k.$k"); done

# area IMAGE: where the LUKS area is: offset and length, from the header extension.
area()
{
    local at=104
    while :; do
        local type bytes
        type=$(od -An -tx1 -j$at -N4 "$1" | tr -d ' \n')
        bytes=$(od -An -tu4 --endian=big -j$((at + 4)) -N4 "$1" | tr -d ' ')
        [ "$type" = 0537be77 ] && break
        at=$((at + 8 + (bytes + 7) / 8 * 8))
    done
    od -An -tu8 --endian=big -j$((at + 8)) -N16 "$1"
}
take_out()
{
    local o l
    read -r o l < <(area "$1")
    dd if="$1" of=area.luks bs=512 skip=$((o / 512)) count=$((l / 512)) status=none
}
put_back()
{
    local o l
    read -r o l < <(area "$1")
    dd if=area.luks of="$1" bs=512 seek=$((o / 512)) conv=notrunc status=none
}

ours()
{
    run "$NVKEEP" key "$@"
}
qemu()
{
    LD_PRELOAD=$quick patiently qemu-img amend -q "${secrets[@]}" --image-opts "$(spec i "$1")" -o "$2"
}
# crypt WORDS...: cryptsetup on the extracted area, which goes back.
crypt()
{
    take_out i && run cryptsetup --batch-mode "$@" && put_back i
}

# Which keys open the image, and which slots are used, as each of the three sees it.
seen_by_ours()
{
    local k
    for k in "${keys[@]}"; do
        "$NVKEEP" verify-key i --key "file=k.$k" >/dev/null 2>&1 && printf '%s' "$k"
    done
    "$NVKEEP" key list i | sed -n 's/^slot \([0-7]\): in use.*/ \1/p' | tr -d '\n'
}
seen_by_qemu()
{
    local k
    for k in "${keys[@]}"; do
        qemu_check i "$k" && printf '%s' "$k"
    done
    qemu-img info --output=json i | python3 -c 'import json, sys
for n, s in enumerate(json.load(sys.stdin)["format-specific"]["data"]["encrypt"]["slots"]):
    if s["active"]: print("", n, end="")'
}
seen_by_cryptsetup()
{
    local k
    take_out i
    for k in "${keys[@]}"; do
        cryptsetup open --test-passphrase --key-file "k.$k" area.luks 2>/dev/null && printf '%s' "$k"
    done
    cryptsetup luksDump area.luks | sed -n 's/^Key Slot \([0-7]\): ENABLED/ \1/p' | tr -d '\n'
}
n_looks=0
# agree KEYS SLOTS: what all three are to see.
agree()
{
    local who got any=${1:0:1}
    for who in ours qemu cryptsetup; do
        got=$(seen_by_$who)
        n_looks=$((n_looks + 1))
        [ "$got" = "$1 $2" ] || { echo "$who sees \"$got\", wanted \"$1 $2\"" >>"$log"; return 1; }
    done
    run "$NVKEEP" check i --key "file=k.$any" && qemu_check i "$any"
}

# step NAME KEYS SLOTS COMMAND...: what it is to lead to.
changed_to()
{
    local want_keys=$1 want_slots=$2
    shift 2
    "$@" && agree "$want_keys" "$want_slots"
}
step()
{
    local name=$1
    shift
    row "$name" changed_to "$@"
}

run "$NVKEEP" create i --key file=k.a --iter-time 1
fast='--pbkdf-force-iterations 1000'
step 'as created' a 0 true
step 'ours adds' ab '0 1' ours add i --key file=k.a --next-key file=k.b --iter-time 1
step 'qemu-img adds' abc '0 1 2' qemu b encrypt.state=active,encrypt.new-secret=c,encrypt.iter-time=1
# shellcheck disable=SC2086 # two words
step 'cryptsetup adds' abcd '0 1 2 3' crypt luksAddKey $fast --key-file k.c area.luks k.d
step 'ours adds to slot 6' abcde '0 1 2 3 6' ours add i --key file=k.d --next-key file=k.e --slot 6 --iter-time 1
step 'ours removes what cryptsetup added' abce '0 1 2 6' ours remove i --key file=k.a --old-key file=k.d
step 'qemu-img removes what was there first' bce '1 2 6' qemu b encrypt.state=inactive,encrypt.old-secret=a
step 'cryptsetup removes what ours added to slot 6' bc '1 2' crypt luksKillSlot --key-file k.b area.luks 6
step 'ours adds to slot 7, which is free' bcd '1 2 7' ours add i --key file=k.c --next-key file=k.d --slot 7 --iter-time 1
step 'ours rotates what qemu-img added' abd '0 1 7' ours rotate i --key file=k.c --next-key file=k.a --iter-time 1
step 'and once more: nothing is left to do' abd '0 1 7' ours rotate i --key file=k.c --next-key file=k.a --iter-time 1
step 'qemu-img adds where ours has overwritten' abcd '0 1 2 7' qemu d encrypt.state=active,encrypt.new-secret=c,encrypt.keyslot=2,encrypt.iter-time=1
step 'qemu-img removes slot 7' abc '0 1 2' qemu a encrypt.state=inactive,encrypt.keyslot=7
# shellcheck disable=SC2086
step 'cryptsetup adds where qemu-img has overwritten' abce '0 1 2 7' crypt luksAddKey $fast --key-slot 7 --key-file k.b area.luks k.e
step 'cryptsetup removes by key' bce '1 2 7' crypt luksRemoveKey area.luks k.a
step 'ours rotates to slot 0' abe '0 1 7' ours rotate i --key file=k.c --next-key file=k.a --slot 0 --iter-time 1
step 'ours removes by slot' ae '0 7' ours remove i --key file=k.a --slot 1
step 'ours removes the last but one' a 0 ours remove i --key file=k.a --slot 7
row 'the last is refused by ours' says 2 'the last key' "$NVKEEP" key remove i --key file=k.a --slot 0

# An image that qemu-img made, with another cipher: its keys are managed all the same.
LD_PRELOAD=$quick patiently qemu-img create -q "${secrets[@]}" -f qcow2 -o \
    "encrypt.format=luks,encrypt.key-secret=a,encrypt.iter-time=1,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha512" foreign 1M
row 'ours rotates in an image of qemu-img, aes-256-cbc-essiv and sha512' ours rotate foreign --key file=k.a --next-key file=k.b --slot 6 --iter-time 1
row 'qemu-img opens it with the new key' qemu_check foreign b
row 'and not with the old one' eval '! qemu_check foreign a'
echo "$n_looks looks at keys and slots, each by one of three programs"
judge
