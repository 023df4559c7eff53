#!/usr/bin/env bash
# Our images in the hands of stock tools: qemu-img, qemu-io, cryptsetup; and back in ours.
# NVKEEP_LONG=1: longer ping-pong. [S2.4 S2.15]
. "$(dirname "$0")/interop.sh"
needs cryptsetup xxd

size=$((1 << 20))
head -c $size /dev/urandom >pattern

# Sector 0 of our images is the reference sector; the rest is compared.
same_but_sector_0()
{
    cmp -i 512 "$1" "$2" >>"$log" 2>&1
}
make()
{
    rm -f o.qcow2
    run "$make_image" o.qcow2 key "$1" $size pattern
}
bits_of()
{
    local n=$1 bits=0
    while [ $((1 << bits)) -lt "$n" ]; do bits=$((bits + 1)); done
    echo $bits
}

info()
{
    run qemu-img info o.qcow2 &&
        qemu-img info --output=json o.qcow2 >info.json 2>>"$log" &&
        grep -q '"cipher-alg": "aes-256"' info.json && grep -q '"cipher-mode": "xts"' info.json &&
        grep -q '"ivgen-alg": "plain64"' info.json && grep -q '"hash-alg": "sha256"' info.json &&
        grep -q '"format": "luks"' info.json && grep -q '"corrupt": false' info.json &&
        grep -q "\"cluster-size\": $1" info.json && grep -q "\"virtual-size\": $size" info.json
}
clean()
{
    qemu_check o.qcow2 && tail -4 "$log" | grep -q 'No errors were found' && our_check o.qcow2
}
stock_reads()
{
    qemu_raw o.qcow2 raw && same_but_sector_0 raw pattern && run "$dump" compare o.qcow2 key raw
}
stock_writes()
{
    qemu_io o.qcow2 'read 0 1M' 'write -P 0x5a 5000 70000' 'write -P 0xa5 600000 512' \
        'write -z 700000 70000' 'discard 851968 65536' 'read -P 0x5a 5000 70000' flush &&
        same_content o.qcow2
}

for cluster in 512 1024 2048 4096 8192 16384 32768 65536 131072 262144 524288 1048576 2097152; do
    row "cluster $cluster: made" make "$(bits_of $cluster)"
    row "cluster $cluster: qemu-img info" info $cluster
    row "cluster $cluster: qemu-img check, no errors, no leaks" clean
    row "cluster $cluster: qemu-img convert reads what we wrote" stock_reads
    row "cluster $cluster: qemu-io writes, we read" stock_writes
    row "cluster $cluster: qemu-img check after qemu-io" clean
done

# ---- ping-pong: we write in place, qemu-io writes, each reads the other ----

rounds=6
[ -n "${NVKEEP_LONG:-}" ] && rounds=100
ping_pong()
{
    local round at n
    make "$1" && qemu_raw o.qcow2 shadow || return
    for round in $(seq $rounds); do
        at=$((8 + RANDOM % 1500))
        n=$((1 + RANDOM % 200))
        head -c $((n * 512)) /dev/urandom >piece
        run "$dump" write o.qcow2 key $at piece || return
        dd if=piece of=shadow bs=512 seek=$at conv=notrunc status=none
        at=$((4096 + RANDOM * 30))
        n=$((1 + RANDOM))
        qemu_io o.qcow2 "write -P $round $at $n" flush || return
        head -c $n /dev/zero | tr '\0' "\\$(printf %03o "$round")" |
            dd of=shadow bs=64K seek=$at oflag=seek_bytes conv=notrunc status=none
        qemu_raw o.qcow2 raw && cmp raw shadow >>"$log" 2>&1 &&
            run "$dump" compare o.qcow2 key shadow && clean || return
    done
}
for cluster in 512 4096 65536 2097152; do
    row "ping-pong, cluster $cluster" ping_pong "$(bits_of $cluster)"
done

# Guest order and file order apart: stock tools discard and write again in another order, so that the
# same clusters come back elsewhere. Then ours writes through that map.
scattered()
{
    make 12 && qemu_io o.qcow2 'discard 200704 16384' 'discard 300000 40960' 'discard 600000 8192' \
        'write -P 1 600000 20480' 'write -P 2 303104 40960' 'write -P 3 200704 16384' flush &&
        qemu_raw o.qcow2 shadow || return
    head -c 512000 /dev/urandom >piece
    run "$dump" write o.qcow2 key 300 piece || return
    dd if=piece of=shadow bs=512 seek=300 conv=notrunc status=none
    qemu_raw o.qcow2 raw && cmp raw shadow >>"$log" 2>&1 && clean
}
row "we write through a map that stock tools scrambled [S2.5]" scattered

# ---- the LUKS area under cryptsetup ----

area_of()
{
    local at len
    at=$((0x$(xxd -s 120 -l 8 -p "$1")))
    len=$((0x$(xxd -s 128 -l 8 -p "$1")))
    rm -f area
    dd if="$1" of=area bs=512 skip=$((at / 512)) count=$((len / 512)) status=none
}
into_image()
{
    dd if=area of="$1" bs=512 seek=$((0x$(xxd -s 120 -l 8 -p "$1") / 512)) conv=notrunc status=none
}
opens()
{
    cryptsetup open --test-passphrase --key-file "$1" area >>"$log" 2>&1
}

cs_dump()
{
    make 16 && area_of o.qcow2 && run cryptsetup luksDump area &&
        run cryptsetup isLuks --type luks1 area &&
        tail -60 "$log" | grep -q 'Payload offset'
}
cs_right()
{
    opens key
}
cs_wrong()
{
    opens key.wrong
    [ $? -eq 2 ]
}
cs_volume_key()
{
    run cryptsetup luksDump --dump-volume-key --batch-mode --key-file key area
}
cs_add()
{
    run cryptsetup luksAddKey --batch-mode --pbkdf-force-iterations 1000 --key-file key area key2 &&
        into_image o.qcow2 && qemu_raw o.qcow2 raw s1 && same_but_sector_0 raw pattern &&
        run "$dump" compare o.qcow2 key raw && run "$dump" compare o.qcow2 key2 raw && clean
}
cs_kill()
{
    run cryptsetup luksKillSlot --batch-mode --key-file key2 area 0 && into_image o.qcow2 &&
        run "$dump" compare o.qcow2 key2 raw && says 11 "(1 tried)" "$dump" compare o.qcow2 key raw
}
row "cryptsetup luksDump of the area" cs_dump
row "cryptsetup open --test-passphrase, right" cs_right
row "cryptsetup open --test-passphrase, wrong: 2" cs_wrong
row "cryptsetup luksDump --dump-volume-key" cs_volume_key
row "cryptsetup luksAddKey: both keys open here and in qemu-img" cs_add
row "cryptsetup luksKillSlot: the killed key opens no more" cs_kill

# ---- qemu-img amend and snapshot on ours ----

amend()
{
    make 16 &&
        qemu_amend o.qcow2 encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time=10 &&
        qemu_raw o.qcow2 raw && run "$dump" compare o.qcow2 key2 raw && clean &&
        qemu_amend o.qcow2 encrypt.state=inactive,encrypt.keyslot=0 s1 &&
        run "$dump" compare o.qcow2 key2 raw &&
        says 11 "none of the image's key slots" "$dump" compare o.qcow2 key raw &&
        qemu_check o.qcow2 s1 && our_check o.qcow2
}
row "qemu-img amend adds and erases a key" amend

our_extension_stays()
{
    run "$dump" inspect o.qcow2 && tail -1 "$log" | grep -q 'ours 1 refused OK'
}
row "our header extension survives qemu-img amend [S2.2]" our_extension_stays

snapshot()
{
    make 12 && head -c 4096 /dev/urandom >piece && run "$dump" write o.qcow2 key 800 piece &&
        qemu_snapshot o.qcow2 -c one && same_content o.qcow2 && clean &&
        says 40 "marked as shared with a snapshot" "$dump" write o.qcow2 key 800 piece &&
        qemu_io o.qcow2 'write -P 7 409600 4096' &&
        same_content o.qcow2 && clean && qemu_snapshot o.qcow2 -a one && same_content o.qcow2 &&
        clean && qemu_snapshot o.qcow2 -d one && clean &&
        head -c 4096 /dev/urandom >piece && run "$dump" write o.qcow2 key 800 piece &&
        qemu_raw o.qcow2 raw && cmp -n 4096 -i 0:409600 piece raw >>"$log" 2>&1 && clean
}
row "qemu-img snapshot -c, -a, -d; ours refuses to write what is shared" snapshot

resized()
{
    make 12 && run qemu-img resize "${secrets[@]}" --image-opts "$(spec o.qcow2)" 2M &&
        same_content o.qcow2 && clean && run "$dump" write o.qcow2 key 800 piece && clean &&
        run qemu-img resize --shrink "${secrets[@]}" --image-opts "$(spec o.qcow2)" 512K &&
        says 21 "was the image made smaller" "$dump" write o.qcow2 key 800 piece
}
row "qemu-img resize: grown goes on, shrunk is refused" resized

bitmap()
{
    make 12 && run qemu-img bitmap "${secrets[@]}" --image-opts --add "$(spec o.qcow2)" b0 &&
        clean && says 40 "dirty bitmaps" "$dump" write o.qcow2 key 800 piece &&
        run qemu-img bitmap "${secrets[@]}" --image-opts --remove "$(spec o.qcow2)" b0 &&
        clean && run "$dump" write o.qcow2 key 800 piece
}
row "a dirty bitmap is refused for writing, and read" bitmap

# ---- what `nvkeep create` makes ----

created()
{
    local cluster=$1
    rm -f o.qcow2
    run "$NVKEEP" create o.qcow2 --key file=key --tpm2 --iter-time 10 ${cluster:+--cluster-size "$cluster"} &&
        clean && same_content o.qcow2 && our_extension_stays && area_of o.qcow2 && opens key
}
if [ -x "${NVKEEP:-}" ] && "$NVKEEP" create --help >/dev/null 2>&1; then
    row "nvkeep create" created ""
    row "nvkeep create --cluster-size 4K" created 4K
    row "nvkeep create --cluster-size 2M" created 2M
else
    echo "SKIP  nvkeep create: no program in $build/bin"
fi

judge
