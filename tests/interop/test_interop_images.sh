#!/usr/bin/env bash
# Images made and filled by stock qemu-img and qemu-io, of every geometry and cipher it offers,
# opened here and compared sector by sector. [S2.4 S2.5]
# NVKEEP_LONG=1: every combination of cipher, mode, IV generator and hash.
. "$(dirname "$0")/interop.sh"
needs python3

# Writes in an order that is neither that of the disk nor regular, so that places on the disk and in
# the file differ; holes, zeroes and discarded clusters among them.
fill()
{
    qemu_io "$1" 'write -P 0x11 3000000 70000' 'write -P 0x22 100000 5000' 'write -P 0x33 2000000 1' \
        'write -P 0x44 1500000 200000' 'write -P 0x55 0 512' 'write -P 0x66 600000 131072' \
        'write -z 1530000 90000' 'discard 655360 65536' 'write -P 0x77 1048576 4096' \
        'write -P 0x88 3999744 200000' flush
}

# [S2.5] Clusters do not lie where they lie on the disk (but for a coincidence), and they lie in
# another order: an image with everything in its place would prove nothing. Read by other code than ours; `qemu-img map` does not
# tell for encrypted images.
is_scrambled()
{
    python3 - "$1" <<'PY'
import struct, sys
image = open(sys.argv[1], "rb").read()
bits, = struct.unpack_from(">I", image, 20)
l1_size, l1 = struct.unpack_from(">IQ", image, 36)
cluster, mask = 1 << bits, 0x00fffffffffffe00
places = []
for i in range(l1_size):
    l2 = struct.unpack_from(">Q", image, l1 + 8 * i)[0] & mask
    for k in range(cluster // 8 if l2 else 0):
        host = struct.unpack_from(">Q", image, l2 + 8 * k)[0] & mask
        if host:
            places.append(((i * cluster // 8 + k) * cluster, host))
hosts = [host for _, host in places]
moved = sum(guest != host for guest, host in places)
sys.exit(not (moved > 3 and moved * 2 > len(places) and hosts != sorted(hosts)))
PY
}

geometry()
{
    rm -f i.qcow2
    qemu_create i.qcow2 4200960 "$1" && fill i.qcow2 && same_content i.qcow2 && our_check i.qcow2 &&
        qemu_check i.qcow2
}
scrambled()
{
    geometry "$1" && is_scrambled i.qcow2
}

for size in 512 1k 2k 4k 8k 16k 32k 64k 128k; do
    row "cluster_size=$size" scrambled "cluster_size=$size"
done
for size in 256k 512k 1M 2M; do
    row "cluster_size=$size" geometry "cluster_size=$size"
done
for size in 512 4k 64k 2M; do
    row "compat=0.10 cluster_size=$size" geometry "compat=0.10,cluster_size=$size"
done
for bits in 1 2 4 8 32 64; do
    row "refcount_bits=$bits" scrambled "refcount_bits=$bits"
    row "refcount_bits=$bits cluster_size=512" scrambled "refcount_bits=$bits,cluster_size=512"
done
for how in metadata falloc full; do
    row "preallocation=$how" geometry "preallocation=$how"
    row "preallocation=$how cluster_size=4k" geometry "preallocation=$how,cluster_size=4k"
done
row "lazy_refcounts=on" scrambled "lazy_refcounts=on"

# ---- sizes ----

size_of()
{
    rm -f i.qcow2
    qemu_create i.qcow2 "$1" "$2" && same_content i.qcow2 && our_check i.qcow2
}
row "size=0" size_of 0 ""
row "size=512" size_of 512 ""
row "size=1G, nothing written" size_of 1G "cluster_size=64k"
row "size=200000 (rounded by qemu-img)" size_of 200000 "cluster_size=4k"

# ---- ciphers ----

cipher()
{
    rm -f i.qcow2
    qemu_create i.qcow2 1M "cluster_size=16k,encrypt.cipher-alg=$1,encrypt.cipher-mode=$2,$3" &&
        qemu_io i.qcow2 'write -P 0x11 900000 5000' 'write -P 0x22 1000 50000' &&
        same_content i.qcow2 && our_check i.qcow2
}
# QEMU itself ends by an assertion on keys of 24 bytes (aes-192 and its like without xts), and CAST5
# has blocks too short for xts.
possible()
{
    case $1/$2 in
    *-192/cbc | *-192/ctr | *-192/ecb | cast5-128/xts | des-*/* | 3des/*) return 1 ;;
    esac
}
ivs=(encrypt.ivgen-alg=plain64 encrypt.ivgen-alg=plain
    "encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256")
hashes=(sha256 sha1 sha224 sha384 sha512 ripemd160 md5)
algs=(aes-256 aes-128 aes-192 serpent-256 serpent-128 serpent-192 twofish-256 twofish-128
    twofish-192 cast5-128)

# The one thing that qemu-img offers and we do not: ESSIV with another cipher than AES and its like.
cast5_essiv()
{
    rm -f i.qcow2
    qemu_create i.qcow2 1M "encrypt.cipher-alg=cast5-128,encrypt.cipher-mode=$1,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=md5" &&
        says 40 "cipher-mode is \"$1-essiv:md5\"" "$dump" compare i.qcow2 key /dev/null
}

one_cipher()
{
    case $1/$3 in
    cast5-128/*essiv*)
        row "$1 $2 essiv is refused by name" cast5_essiv "$2"
        return
        ;;
    esac
    row "$1 $2 ${3//encrypt./} hash=$4" cipher "$1" "$2" "$3,encrypt.hash-alg=$4"
}
if [ -n "${NVKEEP_LONG:-}" ]; then
    for alg in "${algs[@]}"; do
        for mode in xts cbc ctr ecb; do
            possible "$alg" "$mode" || continue
            for iv in "${ivs[@]}"; do
                for hash in "${hashes[@]}"; do
                    one_cipher "$alg" "$mode" "$iv" "$hash"
                done
            done
        done
    done
else
    # Every pair of values of two of the four, about.
    i=0
    for alg in "${algs[@]}"; do
        for mode in xts cbc ctr ecb; do
            possible "$alg" "$mode" || continue
            one_cipher "$alg" "$mode" "${ivs[i % 3]}" "${hashes[i % 7]}"
            i=$((i + 1))
        done
    done
    for iv in "${ivs[@]}"; do
        one_cipher aes-256 cbc "$iv" sha256
        one_cipher aes-128 xts "$iv" sha1
    done
fi

# ---- snapshots: clusters shared and copied, tables shared and not ----

snapshots()
{
    rm -f i.qcow2
    qemu_create i.qcow2 4200960 "$1" && fill i.qcow2 && qemu_snapshot i.qcow2 -c one &&
        qemu_io i.qcow2 'write -P 0x99 90000 40000' 'write -P 0xaa 3000000 512' &&
        qemu_snapshot i.qcow2 -c two && qemu_snapshot i.qcow2 -c three &&
        qemu_io i.qcow2 'write -P 0xbb 600000 200000' 'write -z 0 1000' &&
        same_content i.qcow2 && our_check i.qcow2 &&
        qemu_snapshot i.qcow2 -d two && same_content i.qcow2 && our_check i.qcow2 &&
        qemu_snapshot i.qcow2 -a one && same_content i.qcow2 && our_check i.qcow2 && qemu_check i.qcow2
}
row "snapshots" snapshots ""
row "snapshots cluster_size=512" snapshots "cluster_size=512"
row "snapshots compat=0.10" snapshots "compat=0.10"
row "snapshots refcount_bits=64" snapshots "refcount_bits=64,cluster_size=4k"

bitmaps()
{
    rm -f i.qcow2
    qemu_create i.qcow2 4200960 "" && fill i.qcow2 &&
        run qemu-img bitmap "${secrets[@]}" --image-opts --add "$(spec i.qcow2)" b0 &&
        run qemu-img bitmap "${secrets[@]}" --image-opts --add --disable "$(spec i.qcow2)" b1 &&
        qemu_io i.qcow2 'write -P 0x12 90000 40000' && same_content i.qcow2 && our_check i.qcow2
}
row "bitmaps" bitmaps

# ---- key slots ----

key_slots()
{
    rm -f i.qcow2
    qemu_create i.qcow2 1M "" && qemu_io i.qcow2 'write -P 0x11 0 1M' || return
    qemu_amend i.qcow2 encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time=10,encrypt.keyslot=5 &&
        qemu_raw i.qcow2 raw s1 && run "$dump" compare i.qcow2 key raw &&
        run "$dump" compare i.qcow2 key2 raw &&
        says 11 "(2 tried)" "$dump" compare i.qcow2 key.wrong raw &&
        qemu_amend i.qcow2 encrypt.state=inactive,encrypt.keyslot=0 s1 &&
        run "$dump" compare i.qcow2 key2 raw &&
        says 11 "(1 tried)" "$dump" compare i.qcow2 key raw
}
row "key slots added and erased by qemu-img amend" key_slots

all_slots()
{
    local slot
    rm -f i.qcow2
    qemu_create i.qcow2 1M "" && qemu_io i.qcow2 'write -P 0x11 0 1M' || return
    for slot in 1 2 3 4 5 6 7; do
        printf 'pass %d' $slot >key2
        qemu_amend i.qcow2 "encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time=10,encrypt.keyslot=$slot" ||
            return
    done
    qemu_raw i.qcow2 raw || return
    for slot in 1 2 3 4 5 6 7; do
        printf 'pass %d' $slot >key2
        run "$dump" compare i.qcow2 key2 raw || return
    done
}
row "all eight key slots" all_slots
printf 'another passphrase' >key2

# ---- passphrases, and what an image costs by default ----

passphrase()
{
    rm -f i.qcow2
    printf '%b' "$1" >key
    qemu_create i.qcow2 1M "" && qemu_io i.qcow2 'write -P 0x11 4096 70000' && same_content i.qcow2
    local rc=$?
    printf 'the right passphrase' >key
    return $rc
}
row "passphrase with a newline at its end" passphrase 'secret\n'
row "empty passphrase" passphrase ''
row "passphrase of one byte" passphrase 'x'
row "passphrase in UTF-8" passphrase '\303\244\342\202\254\360\237\224\221'
row "passphrase of 4000 bytes" passphrase "$(printf 'long%.0s' {1..1000})"

default_time()
{
    rm -f i.qcow2
    luks_options=encrypt.format=luks,encrypt.key-secret=s0 quick='' qemu_create i.qcow2 1M "" &&
        qemu_io i.qcow2 'write -P 0x11 4096 70000' && same_content i.qcow2
}
row "qemu-img's own choice of iterations" default_time

judge
