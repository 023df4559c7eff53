#!/usr/bin/env bash
# An image on a block device is served like one in a file: claimed against QEMU's tools, durable, and
# nothing beyond it is touched. [S2.7, S2.10]
set -u
: "${NVKEEP:?}"
for tool in losetup qemu-img tpm2_nvdefine tpm2_nvwrite tpm2_nvread; do
    command -v $tool >/dev/null || { echo "missing: $tool"; exit 77; }
done
tmp=$(mktemp -d)
device='' daemon=''
clean_up()
{
    [ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null
    [ -z "$device" ] || losetup --detach "$device"
    rm -rf "$tmp"
}
trap clean_up EXIT
cd "$tmp" || exit 1
fail() { echo "FAILED: $*"; exit 1; }

"$NVKEEP" create image --new-key key >log 2>&1 || fail "create: $(cat log)"
bytes=$(stat -c %s image)
truncate -s +8K image # a device is rarely as long as its image
device=$(losetup --find --show image 2>log) || { echo "missing: a loop device ($(cat log))"; exit 77; }

serve()
{
    "$NVKEEP" serve "$device" --key file=key --flags startup-clear --server type=unixio,path=t \
        --ctrl type=unixio,path=t.ctrl --daemon --pid file=pid || fail "serve: $?"
    daemon=$(cat pid)
}
power_cut()
{
    kill -9 "$daemon"
    while kill -0 "$daemon" 2>/dev/null; do sleep 0.05; done
    daemon=
    rm -f t t.ctrl pid
}
export TPM2TOOLS_TCTI=swtpm:path=$tmp/t

serve
"$NVKEEP" serve "$device" --key file=key --ctrl type=unixio,path=other 2>log
[ $? = 31 ] || fail "a second daemon on the device: $(cat log)"
qemu=(--object secret,id=s0,file=key --image-opts "driver=qcow2,file.driver=host_device,file.filename=$device,encrypt.key-secret=s0")
qemu-img check "${qemu[@]}" >log 2>&1 && fail "qemu-img checks what is being served"
grep -q lock log || fail "qemu-img says: $(cat log)"
tpm2_nvdefine -Q 0x1500001 -C o -s 16 -a 'ownerread|ownerwrite' || fail "tpm2_nvdefine"
for i in 1 2 3 4 5; do
    printf 'on a device, %03d' "$i" | tpm2_nvwrite -Q 0x1500001 -C o -i - || fail "tpm2_nvwrite"
done
power_cut

"$NVKEEP" check "$device" --key file=key || fail "check"
qemu-img check "${qemu[@]}" >log 2>&1 || fail "qemu-img check: $(cat log)"
serve
[ "$(tpm2_nvread 0x1500001 -C o -s 16 2>/dev/null)" = 'on a device, 005' ] || fail "NV is lost"
power_cut
"$NVKEEP" verify-key "$device" --key file=/dev/null 2>/dev/null
[ $? = 10 ] || fail "an empty key"
cmp -s <(tail -c +$((bytes + 1)) image) <(head -c 8192 /dev/zero) || fail "bytes behind the image were written"
echo "block device: served, claimed, cut off, served again"
