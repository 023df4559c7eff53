#!/usr/bin/env bash
# The claim against the locks of stock tools, both directions. [S3.25 S3.17 S3.9]
. "$(dirname "$0")/interop.sh"

head -c 1048576 /dev/zero >pattern
run "$make_image" o.qcow2 key 16 1048576 pattern || { cat "$log"; exit 1; }
head -c 512 pattern >piece

# In the background, until the pipe is closed: somebody who holds the image.
begin()
{
    exec 9> >("$@" >holder.out 2>&1)
    holder=$!
    local i
    for i in $(seq 100); do
        grep -qE 'claimed|qemu-io>|:' holder.out 2>/dev/null && return
        sleep 0.05
    done
    cat holder.out >>"$log"
    return 1
}
end()
{
    exec 9>&-
    wait "$holder" 2>/dev/null
    : >holder.out
}

# stock_says TEXT COMMAND...: refused, with this text.
stock_says()
{
    local text=$1
    shift
    ! run "$@" && tail -3 "$log" | grep -qF "$text"
}
write_io()
{
    qemu-io "${secrets[@]}" --image-opts "$(spec o.qcow2)" -c 'write 4096 512'
}
read_io()
{
    qemu-io -r "${secrets[@]}" --image-opts "$(spec o.qcow2)" -c 'read 4096 512'
}

image=(--image-opts "$(spec o.qcow2)")
sum=$(sha256sum <o.qcow2)

row "we hold: begins" begin "$dump" hold o.qcow2
row "we hold: qemu-img info is refused" \
    stock_says 'Failed to get shared "write" lock' qemu-img info o.qcow2
row "we hold: qemu-img info -U works" run qemu-img info -U o.qcow2
row "we hold: qemu-img check is refused" \
    stock_says 'Failed to get "consistent read" lock' qemu-img check "${secrets[@]}" "${image[@]}"
row "we hold: qemu-img convert is refused" \
    stock_says 'Failed to get "consistent read" lock' \
    qemu-img convert "${secrets[@]}" "${image[@]}" -O raw raw
row "we hold: qemu-io for writing is refused" stock_says 'lock' write_io
row "we hold: qemu-io for reading is refused" stock_says 'lock' read_io
row "we hold: qemu-img resize is refused" \
    stock_says 'lock' qemu-img resize "${secrets[@]}" "${image[@]}" 2M
row "we hold: qemu-img snapshot -c is refused" \
    stock_says 'lock' qemu-img snapshot -c x "${secrets[@]}" "${image[@]}"
row "we hold: qemu-img amend is refused" \
    stock_says 'lock' qemu-img amend "${secrets[@]}" "${image[@]}" \
    -o encrypt.state=inactive,encrypt.keyslot=0
row "we hold: qemu-img create over it is refused" \
    stock_says 'lock' qemu-img create -f qcow2 o.qcow2 1M
row "we hold: ours is refused, LOCKED" \
    says 31 "another process is using the image" "$dump" write o.qcow2 key 8 piece
row "we hold: reading without a claim works" run "$dump" check o.qcow2
end
row "nothing of all this changed a byte" test "$sum" = "$(sha256sum <o.qcow2)"
row "we let go: qemu-io writes" run write_io

stock_holds()
{
    begin qemu-io "$@" "${secrets[@]}" --image-opts "$(spec o.qcow2)" && sleep 0.3
}
row "qemu-io holds for writing: begins" stock_holds
row "qemu-io holds for writing: ours is refused, LOCKED" \
    says 31 "another process is using the image" "$dump" write o.qcow2 key 8 piece
row "qemu-io holds for writing: reading without a claim works" run "$dump" check o.qcow2
end
row "qemu-io holds for reading: begins" stock_holds -r
row "qemu-io holds for reading: ours is refused, LOCKED" \
    says 31 "another process is using the image" "$dump" write o.qcow2 key 8 piece
end
row "qemu-io let go: ours writes" run "$dump" write o.qcow2 key 8 piece

# A VM whose disk this is, as far as locks are concerned, held by the storage daemon's sibling.
killed()
{
    "$dump" hold o.qcow2 <fifo >/dev/null &
    local pid=$!
    exec 8>fifo
    sleep 0.3
    kill -9 $pid
    wait $pid 2>/dev/null
    exec 8>&-
    write_io >>"$log" 2>&1
}
mkfifo fifo
row "we are killed while holding: qemu-io writes at once" killed

linked()
{
    ln -f o.qcow2 hard.qcow2 && ln -sf o.qcow2 soft.qcow2 && begin "$dump" hold soft.qcow2 &&
        stock_says 'lock' qemu-img info hard.qcow2
    local rc=$?
    end
    return $rc
}
row "hard and symbolic links are the same image" linked

judge
