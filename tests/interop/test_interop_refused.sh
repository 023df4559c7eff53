#!/usr/bin/env bash
# Images that are refused: made by stock tools, or changed afterwards. Each has its class and one
# line, in time, opens no other file, and neither bytes nor times of the image change.
# [S0.1 S0.6 S0.15 S2.10 S2.11 S2.16 S4.3 S4.4 S4.10 S4.14]
. "$(dirname "$0")/interop.sh"
needs strace xxd

# refused CODE TEXT IMAGE: by all ways of looking at it that need no key. The limit is on CPU time:
# others may be at work here.
refused()
{
    local code=$1 text=$2 image=$3 before after ms
    before=$(sha256sum <"$image")$(stat -c '%Y %y %Z %z %s' "$image")
    says "$code" "$text" "$dump" open "$image" || return
    ms=$(TIMEFORMAT='%3U %3S'; { time "$dump" open "$image" >/dev/null 2>&1; } 2>&1 |
        awk '{ print int(($1 + $2) * 1000) }')
    echo "took $ms ms" >>"$log"
    after=$(sha256sum <"$image")$(stat -c '%Y %y %Z %z %s' "$image")
    [ "$before" = "$after" ] && [ "$ms" -lt "${limit_ms:-50}" ]
}
# The same, and every path that was opened: nothing but the image. [S4.4]
refused_alone()
{
    refused "$@" || return
    strace -f -e trace=open,openat,openat2,stat,newfstatat,access,faccessat2,connect,execve \
        -o trace "$dump" open "$3" >/dev/null 2>&1
    cat trace >>"$log"
    grep -q "$3" trace && ! grep -qE 'never-opened|/etc/hostname|nbd' trace
}
# patch IMAGE OFFSET HEX
patch()
{
    printf %s "$3" | xxd -r -p | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
instrumented=
if nm -D "$dump" 2>/dev/null | grep -qE '__(asan|ubsan|tsan)_'; then
    instrumented=1
fi
limit_ms=50
[ -n "$instrumented" ] && limit_ms=1000

# ---- formats and features of others ----

qemu-img create -q -f qcow2 plain.qcow2 1M
row "not encrypted: KEY_UNEXPECTED [S1.19]" refused 12 "is not encrypted" plain.qcow2

run qemu-img create -q --object secret,id=s0,file=key -f qcow2 -o encryption=on,encrypt.key-secret=s0 \
    aes.qcow2 1M
row "legacy AES, with the way to convert it" refused 40 "qemu-img convert --object secret" aes.qcow2

run qemu-img create -q -f qcow old.qcow 1M
row "qcow version 1" refused 40 "qcow image of version 1" old.qcow

run qemu-img create -q -f qcow2 -o extended_l2=on ext.qcow2 1M
row "extended L2 entries" refused 40 "extended_l2=off" ext.qcow2
run qemu-img create -q -f qcow2 -o compression_type=zstd zstd.qcow2 1M
row "compression by zstd" refused 40 "another compression" zstd.qcow2

run qemu-img create -q -f raw never-opened.raw 1M
run qemu-img create -q -f qcow2 -b "$PWD/never-opened.raw" -F raw backed.qcow2
row "a backing file: refused and never opened" refused_alone 40 "qemu-img rebase" backed.qcow2
run qemu-img create -q -u -f qcow2 -b 'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/hostname"}}' \
    -F raw json.qcow2 1M
row "a backing file by json: refused and never opened" refused_alone 40 "backing file" json.qcow2
run qemu-img create -q -u -f qcow2 -b nbd://127.0.0.1:1/x -F raw net.qcow2 1M
row "a backing file by nbd: refused, nothing connected" refused_alone 40 "backing file" net.qcow2
run qemu-img create -q -u -f qcow2 -b self.qcow2 -F qcow2 other.qcow2 1M
mv other.qcow2 self.qcow2
row "an image that backs itself [S4.14]" refused_alone 40 "backing file" self.qcow2
qemu_create luksbase.qcow2 1M ""
LD_PRELOAD=$quick patiently qemu-img create -q "${secrets[@]}" -u -f qcow2 -b never-opened.raw -F raw \
    -o "$luks_options" luksbacked.qcow2 1M
row "an encrypted image with a backing file" refused_alone 40 "backing file" luksbacked.qcow2
run qemu-img create -q -f qcow2 -o data_file="$PWD/never-opened.data,data_file_raw=on" data.qcow2 1M
row "an external data file: refused and never opened" refused_alone 40 "external data file" data.qcow2
cp data.qcow2 data2.qcow2
patch data2.qcow2 72 0000000000000000
row "the name of a data file without its bit [S4.16]" refused_alone 40 "external data file" data2.qcow2

LD_PRELOAD=$quick run qemu-img create -q "${secrets[@]}" -f luks -o key-secret=s0,iter-time=10 raw.luks 1M
row "LUKS without qcow2 [S2.16]" refused 22 "not inside a qcow2 image" raw.luks
run qemu-img convert -f raw -O qcow2 raw.luks wrapped.qcow2
row "LUKS inside a plain qcow2 [S2.16]" refused 12 "is not encrypted" wrapped.qcow2
: >empty
row "an empty file" refused 22 "an empty file" empty
head -c 1048576 /dev/zero >zero
row "zeroes" refused 22 "this is zeroes" zero
head -c 1048576 /dev/urandom >noise
row "noise" refused 22 "no qcow2 header was found" noise
qemu-img create -q -f vmdk x.vmdk 1M
row "another format" refused 22 "VMDK" x.vmdk

compressed()
{
    rm -f c.qcow2
    qemu_create c.qcow2 1M "" && qemu_io c.qcow2 'write -c -P 0x11 65536 65536' &&
        refused 40 "compressed clusters are not encrypted" c.qcow2
}
row "compressed (and thus clear) clusters in an encrypted image" compressed

# ---- what makes stock tools crash or hang ----

crashes_info()
{
    cp luksbase.qcow2 x.qcow2 && patch x.qcow2 112 00000000 || return
    (
        qemu-img info x.qcow2
        echo "qemu-img info ended with $?"
    ) >>"$log" 2>&1
    refused 21 "no LUKS area is named" x.qcow2 && run "$dump" inspect x.qcow2 &&
        tail -1 "$log" | grep -q 'crypt 2 luks 0 ours 0 refused STATE_CORRUPT'
}
row "encrypted without a LUKS area: what crashes qemu-img info [S4.12]" crashes_info

luks_at=$((0x$(xxd -s 120 -l 8 -p luksbase.qcow2)))
luks_patched()
{
    cp luksbase.qcow2 x.qcow2 && patch x.qcow2 $((luks_at + $3)) "$4" && refused "$1" "$2" x.qcow2
}
row "PBKDF2 count of a slot 0xffffffff" luks_patched 40 "iterations" 212 ffffffff
row "PBKDF2 count of the digest 0xffffffff" luks_patched 40 "iterations" 164 ffffffff
row "PBKDF2 count of a slot 0" luks_patched 21 "iterations" 212 00000000
row "slot material that wraps in 32 bits" luks_patched 21 "LUKS header" 584 fffffff0
row "slot material over another's" luks_patched 21 "LUKS header" 296 00000008
row "stripes of a slot" luks_patched 21 "LUKS header" 252 00000001
row "state of a slot" luks_patched 21 "LUKS header" 208 12345678
row "LUKS version 2" luks_patched 40 "LUKS" 6 0002
row "LUKS magic" luks_patched 21 "LUKS header" 0 00
row "key of 24 bytes, where stock tools abort" luks_patched 21 "LUKS header" 108 00000018
row "unknown cipher" luks_patched 40 "cipher-name" 8 62
row "cipher name without end" luks_patched 21 "LUKS header" 8 \
    "$(printf '61%.0s' {1..32})"

# ---- each header field, at its boundaries ----

field()
{
    cp luksbase.qcow2 x.qcow2 && patch x.qcow2 "$2" "$3" || return
    before=$(sha256sum <x.qcow2)
    "$dump" open x.qcow2 >said 2>&1
    local rc=$?
    cat said >>"$log"
    # refused as damaged or unsupported, one line, in time
    case $rc in 12 | 21 | 22 | 40) ;; *) return 1 ;; esac
    [ "$(wc -l <said)" -eq 1 ] && refused $rc "x.qcow2: " x.qcow2
}
for value in 00000000 00000001 00000008 00000016 0000003f ffffffff; do
    row "cluster_bits=$value" field - 20 $value
done
for value in 00000001 00000003 ffffffff; do
    row "crypt_method=$value" field - 32 $value
done
for value in 00000000 00400001 ffffffff; do
    row "l1_size=$value" field - 36 $value
done
for value in 0000000000000000 0000000000000200 0000000000100000 7fffffffffff0000 ffffffffffff0000; do
    row "l1_table_offset=$value" field - 40 $value
    row "refcount_table_offset=$value" field - 48 $value
    row "LUKS offset=$value" field - 120 $value
done
for value in 00000000 00000081 ffffffff; do
    row "refcount_table_clusters=$value" field - 56 $value
done
for value in 00000001 00010001 ffffffff; do
    row "nb_snapshots=$value" field - 60 $value
done
row "snapshots_offset unaligned" field - 64 0000000000000001
for value in 0000000000000004 0000000000000008 0000000000000010 8000000000000000; do
    row "incompatible=$value" field - 72 $value
done
row "refcount_order=7" field - 96 00000007
row "refcount_order=2^32-1" field - 96 ffffffff
for value in 00000000 00000048 00000068 0000006c 00010008 ffffffff; do
    row "header_length=$value" field - 100 $value
done
for value in 0000000000000000 0000000000000fff 0000000001000001 8000000000000000; do
    row "LUKS length=$value" field - 128 $value
done
for value in 0000000000000200 ffffffffffffffff; do
    row "backing_file_offset=$value" field - 8 $value
done
for value in 0000000100000000 7ffffffffffffe00 ffffffffffffffff; do
    row "size=$value" field - 24 $value
done

# ---- tables laid over each other ----

l1_at=$((0x$(xxd -s 40 -l 8 -p luksbase.qcow2)))
qemu_io luksbase.qcow2 'write -P 1 0 131072' >/dev/null
l2_at=$((0x$(xxd -s $l1_at -l 8 -p luksbase.qcow2) & 0x00fffffffffffe00))
entry()
{
    cp luksbase.qcow2 x.qcow2 && patch x.qcow2 "$1" "$(printf '%016x' $((1 << 63 | $2)))" &&
        refused 21 "is used twice" x.qcow2
}
row "data in the LUKS header" entry $l2_at $luks_at
row "data in the LUKS key material" entry $l2_at $((luks_at + 1048576))
row "data in the L1 table" entry $l2_at $l1_at
row "data in its own L2 table" entry $l2_at $l2_at
row "data in the refcount table" entry $l2_at 65536
row "data in a refcount block" entry $l2_at 131072
row "two guest clusters in one place" entry $((l2_at + 8)) \
    $((0x$(xxd -s $l2_at -l 8 -p luksbase.qcow2) & 0x00fffffffffffe00))
row "an L2 table in the L1 table" entry $l1_at $l1_at
row "an L2 table in the LUKS area" entry $l1_at $luks_at
row "an L2 table in a refcount block" entry $l1_at 131072

# ---- cut off ----

truncations()
{
    local n full short
    run "$make_image" t.qcow2 key 12 65536 - || return
    full=$(stat -c %s t.qcow2)
    # every sector of the metadata, and of the data; the LUKS area in larger steps
    for n in $(seq 0 512 20480) $(seq 24576 65536 2097152) $(seq 2097152 512 "$full"); do
        [ "$n" -lt "$full" ] || break
        head -c "$n" t.qcow2 >x.qcow2
        "$dump" open x.qcow2 >said 2>&1
        short=$?
        # only within the last data cluster it may open: to be read, not written
        if [ "$n" -gt $((full - 4096)) ]; then
            [ $short -eq 0 ] || return
        else
            [ $short -eq 21 ] || [ $short -eq 22 ] || { echo "$n: $short" >>"$log"; return 1; }
        fi
    done
}
row "cut off at every sector" truncations

judge
