#!/usr/bin/env bash
# An image on a block device (a loop device), in our hands and in those of stock tools. [S2.7]
. "$(dirname "$0")/interop.sh"
needs losetup blockdev

head -c $((8 << 20)) /dev/zero >backing
device=$(losetup --find --show backing 2>>"$log") || { echo "a loop device cannot be had here"; exit 77; }
trap 'losetup -d "$device"; rm -rf "$work"' EXIT

filled()
{
    LD_PRELOAD=$quick run qemu-img create -q "${secrets[@]}" -f qcow2 -o "$luks_options" "$device" 2M &&
        qemu_io "$device" 'write -P 0x11 70000 300000' 'write -P 0x22 0 512' flush && same_content "$device"
}
created=
for _ in 1 2 3 4; do
    filled && created=1 && break
done
row "made and filled by stock tools, read by ours" test -n "$created"
row "ours counts references like qemu-img check" our_check "$device"

# An image that we made, copied onto the device: the file behind it is longer than the image.
moved()
{
    head -c 500000 /dev/urandom >pattern && run "$make_image" o.qcow2 key 16 1048576 pattern &&
        dd if=o.qcow2 of="$device" bs=64K conv=notrunc,fsync status=none && same_content "$device" &&
        our_check "$device"
}
row "ours, copied onto the device" moved

written()
{
    head -c 100000 /dev/urandom | head -c 99840 >piece && qemu_raw "$device" shadow || return
    run "$dump" write "$device" key 77 piece &&
        dd if=piece of=shadow bs=512 seek=77 conv=notrunc status=none && qemu_raw "$device" raw &&
        cmp raw shadow >>"$log" 2>&1 && qemu_check "$device"
}
row "we write in place, stock tools read it" written

held()
{
    local pid rc
    mkfifo fifo
    "$dump" hold "$device" <fifo >/dev/null 2>>"$log" &
    pid=$!
    exec 8>fifo
    sleep 0.3
    ! qemu_raw "$device" raw
    rc=$?
    says 31 "another process is using the image" "$dump" write "$device" key 77 piece || rc=1
    exec 8>&-
    wait $pid
    return $rc
}
row "we hold the device: stock tools and ours are refused" held

judge
