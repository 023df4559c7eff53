#!/usr/bin/env bash
# Bad input, one line each: what is wrong with the image, which class the refusal has, and a word its
# message must contain. Every case is tried with serve, verify-key and check (and info, which may
# answer but never crashes). Each refusal: the exit code of its class, one clear line on stderr, within
# two seconds and 64 MiB, no socket, and the image with the same bytes, times and neighbours as before.
# [S0.2, S0.6, S0.8, S0.11, S0.13, S0.15, S1.5, S1.6, S1.14, S1.17, S1.19, S2.10, S2.11, S2.16, S4.1, S4.3,
#  S4.4, S4.5, S4.6, S4.10, S4.11, S4.12, S4.14, S4.16]
set -u
export LC_ALL=C
for tool in qemu-img qemu-io strace cryptsetup; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
[ -x /usr/bin/time ] || { echo "time is missing"; exit 77; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-bad.XXXXXX") || exit 1
chmod 755 "$dir"
trap '[ -z "${holder:-}" ] || kill "$holder" 2>/dev/null; rm -rf "$dir"' EXIT
case=$dir/case
image=$case/image
key=$dir/key
printf 'the right key' >"$key"
failed=0
n_cases=0
n_refusals=0
slowest=0
fattest=0

# Sanitizers need more of both.
limit_ms=2000
limit_kb=65536
if grep -qE '^NVKEEP_(SANITIZE:[A-Z]*=.+|FUZZ:[A-Z]*=ON)' "$NVKEEP_BUILD/CMakeCache.txt"; then
    limit_ms=10000
    limit_kb=1000000
fi

declare -A exit_code=([OK]=0 [USAGE]=2 [KEY_MISSING]=10 [KEY_WRONG]=11 [KEY_UNEXPECTED]=12
    [STATE_EMPTY]=20 [STATE_CORRUPT]=21 [STATE_FOREIGN]=22 [LOCKED]=31 [UNSUPPORTED]=40 [STORAGE_ERROR]=41)

complain()
{
    echo "$name: $1"
    sed 's/^/    /' "$dir/err" 2>/dev/null
    failed=1
}

# Everything that could be seen to have changed.
fingerprint()
{
    find "$case" -printf '%P %y %m %s %T@ %C@ %i\n' | sort
    find "$case" -type f -readable -print0 | sort -z | xargs -0 -r sha256sum
}

# timed command...: sets rc and ms.
timed()
{
    # %e is too coarse; the shell's clock is not.
    local t0=${EPOCHREALTIME/./}
    timeout 30 /usr/bin/time -f '%M' -o "$dir/usage" "$@" >"$dir/out" 2>"$dir/err" </dev/null
    rc=$?
    ms=$(((${EPOCHREALTIME/./} - t0) / 1000))
}

# refused CLASS TEXT command...: one try; three where the machine may have been busy.
refused()
{
    local class=$1 text=$2 rc ms kb lines
    shift 2
    fingerprint >"$dir/before"
    timed "$@"
    [ "$ms" -le $limit_ms ] || timed "$@"
    [ "$ms" -le $limit_ms ] || timed "$@"
    kb=$(tail -1 "$dir/usage")
    fingerprint >"$dir/after"
    n_refusals=$((n_refusals + 1))
    [ $ms -le $slowest ] || slowest=$ms
    [ "$kb" -le $fattest ] || fattest=$kb
    shift
    [ $rc -eq "${exit_code[$class]}" ] || complain "$1: exit $rc, wanted ${exit_code[$class]} ($class)"
    lines=$(wc -l <"$dir/err")
    [ "$lines" -eq 1 ] || complain "$1: $lines lines on stderr, wanted one"
    grep -q "^nvkeep: $class: " "$dir/err" || complain "$1: the line does not begin with its class $class"
    grep -qiE -- "$text" "$dir/err" || complain "$1: the line does not say \"$text\""
    grep -q '[^[:print:]]' "$dir/err" && complain "$1: the line contains bytes that a terminal would obey"
    [ -s "$dir/out" ] && complain "$1: something on stdout"
    [ $ms -le $limit_ms ] || complain "$1: took $ms ms"
    [ "$kb" -le $limit_kb ] || complain "$1: took $kb kB"
    cmp -s "$dir/before" "$dir/after" || { diff "$dir/before" "$dir/after"; complain "$1: changed something"; }
}

# bad NAME CLASS TEXT [KEY-ARGS...]: the image lies at $image.
bad()
{
    name=$1
    local class=$2 text=$3
    shift 3
    [ $# -gt 0 ] || set -- --key file="$key"
    [ "$1" = no-key ] && set --
    n_cases=$((n_cases + 1))
    refused "$class" "$text" "$NVKEEP" serve "$image" "$@" --ctrl type=unixio,path="$case/s"
    refused "$class" "$text" "$NVKEEP" verify-key "$image" "$@"
    refused "$class" "$text" "$NVKEEP" check "$image" "$@"
    # Facts without the key: an answer or a class, never a signal. [S4.12]
    timeout 5 "$NVKEEP" info "$image" >"$dir/out" 2>"$dir/err" </dev/null
    case $? in
    0 | 2 | 2[0-3] | 40 | 41) ;;
    *) complain "info: exit $?" ;;
    esac
    grep -q '[^[:print:][:space:]]' "$dir/out" "$dir/err" && complain "info: bytes that a terminal would obey"
    new
}

new()
{
    rm -rf "$case"
    mkdir "$case"
}

good_image()
{
    cp "$dir/good" "$image"
}

# poke OFFSET HEX: changes bytes of the image.
poke()
{
    # shellcheck disable=SC2059 # the format is made here
    printf "$(sed 's/../\\x&/g' <<<"$2")" | dd of="$image" bs=1 seek="$(($1))" conv=notrunc status=none
}
peek()
{
    dd if="$image" bs=1 skip="$(($1))" count="$2" status=none | od -An -v -tx1 | tr -d ' \n'
}
luks_pointer() # where the header extension with the LUKS area lies
{
    grep -aobP '\x05\x37\xbe\x77' "$image" | head -1 | cut -d: -f1
}
luks_at()
{
    echo $((0x$(peek $(($(luks_pointer) + 8)) 8)))
}
good_with()
{
    good_image
    poke "$1" "$2"
}
luks_with()
{
    good_image
    poke $(($(luks_at) + $1)) "$2"
}
# qemu-img measures how fast it can stretch keys, and gives up where the machine is too busy for that.
qemu_luks_with()
{
    local _
    for _ in $(seq 60); do
        qemu-img create -q -f qcow2 --object secret,id=s,file="$key" "$@" \
            -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 "$image" 1M 2>"$dir/out" && return
        grep -q 'accurate CPU usage' "$dir/out" || break
        sleep 0.2
    done
    cat "$dir/out"
    exit 1
}
qemu_luks()
{
    qemu_luks_with
}
qemu_write() # qemu-io command on the decrypted disk
{
    qemu-io --object secret,id=s,file="$key" --image-opts driver=qcow2,file.filename="$image",encrypt.key-secret=s \
        -c "$1" >"$dir/out" 2>&1 || { cat "$dir/out"; exit 1; }
}

new
"$NVKEEP" create "$dir/good" --key file="$key" --iter-time 1 2>"$dir/err" >"$dir/out" || { cat "$dir/err"; exit 1; }
name='the good image'
good_image
for c in verify-key check; do
    "$NVKEEP" $c "$image" --key file="$key" >"$dir/out" 2>"$dir/err" || complain "$c refuses it"
done
new

# Not an image at all.
bad 'no such file' USAGE 'no such file'
mkdir "$image"
bad 'a directory' USAGE 'directory'
mkfifo "$image"
bad 'a FIFO' USAGE 'fifo|regular file'
ln -s /dev/null "$image"
bad 'a device that is no disk' USAGE 'regular file|block device'
ln -s nowhere "$image"
bad 'a link to nothing' USAGE 'no such file'
ln -s image "$image"
bad 'a link to itself' USAGE 'symbolic link'
: >"$image"
bad 'an empty file' STATE_FOREIGN 'empty|no qcow2 header'
echo 'hello' >"$image"
bad 'a text file' STATE_FOREIGN 'no qcow2 header'
head -c 1048576 /dev/urandom >"$image"
bad 'noise' STATE_FOREIGN 'no qcow2 header'
head -c 3000000 /dev/zero >"$image"
bad 'zeroes' STATE_FOREIGN 'no qcow2 header'
printf '\002\001\000\012\000\000\000\000\005\152' >"$image"
bad 'state of swtpm' STATE_FOREIGN 'no qcow2 header was found: this is a state file of swtpm'
qemu-img create -q -f vmdk "$image" 1M
bad 'a VMDK image' STATE_FOREIGN 'no qcow2 header'
qemu-img create -q -f qcow "$image" 1M
bad 'a qcow image of version 1' UNSUPPORTED 'version 1'
head -c 4194304 /dev/zero >"$image"
cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 "$image" "$key"
bad 'raw LUKS, and perhaps a qcow2 inside' STATE_FOREIGN 'LUKS'
qemu-img create -q -f qcow2 "$image" 4M
bad 'a qcow2 image without encryption' KEY_UNEXPECTED 'not encrypted'
qemu-img create -q -f qcow2 "$image" 4M
bad 'a qcow2 image without encryption, and no key' UNSUPPORTED 'not encrypted' no-key
qemu-img create -q -f qcow2 "$case/raw" 4M
qemu-img create -q -f raw "$case/luks" 4M
cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 "$case/luks" "$key"
qemu-img convert -q -f raw -O qcow2 "$case/luks" "$image"
rm "$case/raw" "$case/luks"
bad 'LUKS inside a plain qcow2' KEY_UNEXPECTED 'not encrypted'
qemu-img create -q -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s --object secret,id=s,file="$key" "$image" 1M
bad 'the old AES encryption of qcow2' UNSUPPORTED 'qemu-img convert'

# Cut off.
size=$(stat -c %s "$dir/good")
for n in 3 71 103 200 512 4096 65536 200000 $((size / 2)) $((size - 65536)); do
    head -c "$n" "$dir/good" >"$image"
    class=STATE_CORRUPT
    [ "$n" -ge 4 ] || class=STATE_FOREIGN
    bad "cut off after $n bytes" $class '.'
done

# Key matters.
good_image
bad 'no key' KEY_MISSING 'no key' no-key
printf 'another key' >"$dir/wrong"
good_image
bad 'a wrong key' KEY_WRONG 'key' --key file="$dir/wrong"
: >"$dir/empty"
good_image
bad 'an empty key file' KEY_MISSING 'empty' --key file="$dir/empty"
head -c 1048576 /dev/zero | tr '\0' 'k' >"$dir/long"
good_image
bad 'a key of a megabyte' USAGE '65536|too long|longer' --key file="$dir/long"
good_image
bad 'a key file that does not exist' USAGE 'no such file' --key file="$dir/nothing"
good_image
bad 'a key descriptor that is not open' USAGE 'descriptor' --key fd=77
head -c 32 /dev/urandom >"$dir/noise"
printf '\0' >>"$dir/noise"
good_image
bad 'a key that is noise with a NUL' KEY_WRONG 'key' --key file="$dir/noise"

# The clear-text header, field by field.
good_with 4 00000004
bad 'version 4' UNSUPPORTED 'version 4'
good_with 4 00000000
bad 'version 0' STATE_FOREIGN 'no qcow2 header'
good_with 20 00000000
bad 'clusters of one byte' STATE_CORRUPT 'cluster'
good_with 20 0000003f
bad 'clusters of 2^63 bytes' STATE_CORRUPT 'cluster'
good_with 24 ffffffffffffffff
bad 'a disk of 2^64 bytes' 'STATE_CORRUPT' 'size|L1'
good_with 24 0000000000000000
bad 'a disk of no bytes' STATE_CORRUPT 'no sectors'
good_with 32 00000003
bad 'crypt method 3' UNSUPPORTED 'method 3'
good_with 36 ffffffff
bad 'an L1 table of 32 GiB' STATE_CORRUPT 'L1'
good_with 36 00000000
bad 'no L1 table' STATE_CORRUPT 'L1'
good_with 40 0000000000000000
bad 'the L1 table in the header' STATE_CORRUPT '.'
good_with 40 0000000000010001
bad 'an L1 table that is not aligned' STATE_CORRUPT 'L1 table'
good_with 40 0fffffffffff0000
bad 'the L1 table beyond the end' STATE_CORRUPT '.'
good_image
poke 48 "$(peek 40 8)"
bad 'the refcount table over the L1 table' STATE_CORRUPT '.'
good_with 48 0000000000000000
bad 'the refcount table in the header' STATE_CORRUPT '.'
good_with 56 ffffffff
bad 'a refcount table without end' STATE_CORRUPT 'refcount'
good_with 56 00000000
bad 'no refcount table' STATE_CORRUPT 'refcount'
good_with 60 ffffffff
bad 'four thousand million snapshots' STATE_CORRUPT 'snapshot'
good_with 96 0000003f
bad 'refcounts of 2^63 bits' STATE_CORRUPT 'refcount'
good_with 100 00000010
bad 'a header of 16 bytes' STATE_CORRUPT 'header'
good_with 100 7fffffff
bad 'a header of 2 GiB' STATE_CORRUPT 'header'
good_with 72 0000000000000020
bad 'an unknown feature' UNSUPPORTED 'feature'
good_with 72 8000000000000000
bad 'another unknown feature' UNSUPPORTED 'feature'
good_with 72 0000000000000008
bad 'a compression type that was is missing although announced' UNSUPPORTED 'compression'
good_with 72 0000000000000010
bad 'extended L2 entries' UNSUPPORTED 'extended L2'
# These may still be read; only what writes refuses them.
for bits in 1:dirty 2:corrupt; do
    name="marked ${bits#*:}"
    good_with 79 0${bits%:*}
    refused UNSUPPORTED "${bits#*:}" "$NVKEEP" serve "$image" --key file="$key" --ctrl type=unixio,path="$case/s"
    new
done

# The pointer to the LUKS area. Without it stock qemu-img crashes.
good_with 100 00000068
bad 'no pointer to the LUKS area (stock qemu-img info crashes)' STATE_CORRUPT 'LUKS|encrypt'
good_image
poke $(($(luks_pointer) + 4)) fffffff8
bad 'a header extension that wraps around' STATE_CORRUPT 'extension'
good_image
poke $(($(luks_pointer) + 4)) 00000008
bad 'a pointer to the LUKS area that is too short' STATE_CORRUPT 'extension|encrypt'
good_image
poke $(($(luks_pointer) + 8)) 0000000000000000
bad 'the LUKS area in the header' STATE_CORRUPT 'LUKS|encrypt'
good_image
poke $(($(luks_pointer) + 8)) 00fffffffff00000
bad 'the LUKS area beyond the end' STATE_CORRUPT 'LUKS|encrypt'
good_image
poke $(($(luks_pointer) + 8)) "$(printf %016x $(($(luks_at) + 1)))"
bad 'a LUKS area that is not aligned' STATE_CORRUPT 'LUKS|encrypt'
good_image
poke $(($(luks_pointer) + 8)) "$(peek 40 8)"
bad 'the LUKS area over the L1 table' STATE_CORRUPT '.'
good_image
poke $(($(luks_pointer) + 16)) 7fffffffffffffff
bad 'a LUKS area without end' STATE_CORRUPT 'LUKS|encrypt'

# Tables that point at themselves, at each other, nowhere.
good_image
poke "0x$(peek 40 8)" "8$(peek 40 8 | cut -c2-)"
bad 'an L1 table that is its own L2 table' STATE_CORRUPT '.'
good_image
poke "0x$(peek 40 8)" 8000000000000001
bad 'reserved bits in the L1 table' STATE_CORRUPT '.'
good_image
poke "0x$(peek 40 8)" 80fffffffff00000
bad 'an L2 table beyond the end' STATE_CORRUPT '.'
good_image
l2=$((0x$(peek "0x$(peek 40 8)" 8) & 0x00fffffffffffe00))
poke $((l2 + 8)) "$(peek $l2 8)"
bad 'two clusters of the disk in one place' STATE_CORRUPT '.'
good_image
poke $l2 "8$(printf %015x $l2)"
bad 'an L2 table that is its own data' STATE_CORRUPT '.'
good_image
poke $l2 8000000000000000
bad 'the first cluster of the disk is nowhere' STATE_CORRUPT 'never written'
good_image
poke $l2 c000000000010000
bad 'a compressed cluster' 'UNSUPPORTED' 'compressed'
good_image
poke "0x$(peek 48 8)" 0000000000000000
bad 'no refcounts' STATE_CORRUPT 'refcount'
good_image
poke "0x$(peek 48 8)" "$(peek 48 8)"
bad 'a refcount table that is its own block' STATE_CORRUPT '.'

# The LUKS header.
luks_with 0 00
bad 'no LUKS header' STATE_CORRUPT 'LUKS'
luks_with 6 0002
bad 'LUKS version 2' UNSUPPORTED 'LUKS2'
luks_with 8 726f743133
bad 'a cipher nobody knows' UNSUPPORTED 'rot13'
luks_with 8 1b5b33316d
bad 'a cipher that writes to the terminal' STATE_CORRUPT 'x1b'
luks_with 40 6e6f6e65
bad 'a cipher mode nobody knows' UNSUPPORTED 'mode'
luks_with 72 6d643000
bad 'a hash nobody knows' UNSUPPORTED 'hash|md0'
luks_with 108 ffffffff
bad 'a volume key of 4 GiB' STATE_CORRUPT 'key'
luks_with 164 ffffffff
bad 'twenty minutes of iterations for the digest' UNSUPPORTED 'iterations'
luks_with 212 ffffffff
bad 'twenty minutes of iterations for the slot' UNSUPPORTED 'iterations'
luks_with 212 00000000
bad 'no iterations' STATE_CORRUPT 'iterations'
luks_with 248 ffffffff
bad 'key material beyond the end' STATE_CORRUPT 'slot'
luks_with 248 00000000
bad 'key material in the LUKS header' STATE_CORRUPT 'slot'
luks_with 252 ffffffff
bad 'four thousand million stripes' STATE_CORRUPT 'stripes'
luks_with 208 0000dead
bad 'no key slot left' STATE_CORRUPT 'slot'
luks_with 208 12345678
bad 'a key slot that is neither used nor free' STATE_CORRUPT 'slot'

# What is inside.
qemu_luks
bad 'an encrypted image that was never written' STATE_EMPTY 'nvkeep create'
qemu_luks
qemu_write 'write -P 0x41 0 1M'
bad 'an encrypted image of somebody else' STATE_FOREIGN 'not.*nvkeep'
good_image
qemu_write 'write -P 0x55 100 16'
bad 'one damaged block in the reference sector' STATE_CORRUPT 'reference sector'
good_image
qemu_write 'write -P 0x55 4k 1020k'
bad 'a reference sector and noise' STATE_CORRUPT '.'
good_image
qemu_write 'write -P 0 4k 1020k'
bad 'a reference sector and zeroes' STATE_CORRUPT '.'

# Files that an image names are never opened, whatever becomes of the image. [S4.3, S4.4]
never_opened()
{
    local c
    echo 'a secret of the host' >"$case/victim"
    bad_image=$image
    for c in serve verify-key check info; do
        set -- "$NVKEEP" $c "$bad_image"
        [ $c = info ] || set -- "$@" --key file="$key"
        [ $c = serve ] && set -- "$@" --ctrl type=unixio,path="$case/s"
        strace -f -o "$dir/trace" -e trace=%file "$@" >"$dir/out" 2>"$dir/err" </dev/null
        grep -q "$image" "$dir/trace" || complain "$c: strace did not see the image being opened"
        grep -n victim "$dir/trace" && complain "$c: touched the file that the image names"
    done
}
qemu_backed()
{
    echo 'a secret of the host' >"$case/victim"
    qemu_luks_with -b "$case/victim" -F raw
}
name='a backing file'
qemu_backed
never_opened
bad 'a backing file' UNSUPPORTED 'backing file'
name='a backing file in a good image'
good_image
printf '%s' "$case/victim" | dd of="$image" bs=1 seek=512 conv=notrunc status=none
poke 8 0000000000000200
poke 16 "$(printf %08x ${#case})"
never_opened
bad 'a backing file in a good image' UNSUPPORTED 'backing file'
printf image >"$case/name"
good_image
dd if="$case/name" of="$image" bs=1 seek=512 conv=notrunc status=none
poke 8 0000000000000200
poke 16 00000005
bad 'an image that backs itself' UNSUPPORTED 'backing file'
name='an external data file'
good_with 72 0000000000000004
never_opened
bad 'an external data file' UNSUPPORTED 'data file'
name='an external data file of qemu-img'
qemu-img create -q -f qcow2 -o data_file="$case/victim" "$image" 1M
never_opened
bad 'an external data file of qemu-img' UNSUPPORTED 'data file'

# The system says no.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    name='a file that may not be read'
    good_image
    chmod 000 "$image"
    chmod 755 "$case"
    cp "$NVKEEP" "$dir/nvkeep"
    chmod 644 "$key"
    as_nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
    # shellcheck disable=SC2086 # words
    for c in verify-key check info; do
        refused STORAGE_ERROR 'permission denied' $as_nobody "$dir/nvkeep" $c "$image" --key file="$key"
    done
    new
fi

name='held by another program'
good_image
mkfifo "$dir/hold"
qemu-io --object secret,id=s,file="$key" --image-opts driver=qcow2,file.filename="$image",encrypt.key-secret=s \
    <"$dir/hold" >"$dir/held" 2>&1 &
holder=$!
exec 9>"$dir/hold"
echo 'read 0 512' >&9
for _ in $(seq 100); do
    grep -q 'read 512' "$dir/held" && break
    sleep 0.05
done
refused LOCKED 'use|lock|held' "$NVKEEP" serve "$image" --key file="$key" --ctrl type=unixio,path="$case/s"
exec 9>&-
wait "$holder"
holder=
new

# Where the sockets go.
long=$(printf 'x%.0s' $(seq 200))
name='a socket path that is too long'
good_image
refused USAGE 'too long|107|longer' "$NVKEEP" serve "$image" --key file="$key" --ctrl type=unixio,path="$case/$long"
name='a socket in a directory that does not exist'
refused USAGE 'no such file' "$NVKEEP" serve "$image" --key file="$key" --ctrl type=unixio,path="$case/none/s"
name='a socket path that is a file'
echo precious >"$case/s"
refused USAGE 'not a socket|exists|file' "$NVKEEP" serve "$image" --key file="$key" --ctrl type=unixio,path="$case/s"
rm "$case/s"
name='a socket somebody listens on'
cp "$dir/good" "$case/other"
"$NVKEEP" serve "$case/other" --key file="$key" --ctrl type=unixio,path="$case/s" >"$dir/other.log" 2>&1 &
holder=$!
for _ in $(seq 100); do
    [ -S "$case/s" ] && break
    sleep 0.05
done
refused LOCKED 'in use|listens' "$NVKEEP" serve "$image" --key file="$key" --ctrl type=unixio,path="$case/s"
kill -0 "$holder" || complain 'the daemon that listened is gone'
kill "$holder"
wait "$holder"
holder=
new

# create: nothing appears.
create()
{
    name=$1
    shift
    refused "$1" "$2" "$NVKEEP" create "$image" "${@:3}"
    [ -z "${KEEP:-}" ] && new
}
good_image
create 'an image over an image' USAGE 'exists' --key file="$key" --iter-time 1
mkdir "$image"
create 'an image over a directory' USAGE 'exists' --key file="$key" --iter-time 1
ln -s nowhere "$image"
create 'an image over a link to nothing' USAGE 'exists' --key file="$key" --iter-time 1
create 'an image with an empty key' KEY_MISSING 'empty' --key file="$dir/empty" --iter-time 1
printf 'a\0b' >"$dir/nul"
create 'an image with a NUL in its key' USAGE 'NUL' --key file="$dir/nul" --iter-time 1
printf 'a\377b' >"$dir/latin"
create 'an image with a key that is no UTF-8' USAGE 'UTF-8' --key file="$dir/latin" --iter-time 1
create 'an image with a key of a megabyte' USAGE '65536|too long|longer' --key file="$dir/long" --iter-time 1
create 'an image that is too small' USAGE 'size|small' --key file="$key" --iter-time 1 --size 64K
create 'an image without a key' KEY_MISSING 'needs a key' --iter-time 1
name='an image in a directory that does not exist'
refused USAGE 'no such file' "$NVKEEP" create "$case/none/image" --key file="$key" --iter-time 1
name='a name that would write to the terminal'
refused USAGE 'x1b' "$NVKEEP" verify-key "$case/$(printf '\033[31mred\nnvkeep: OK: ')" --key file="$key"

# A full disk: a file system of its own where that is possible, else a limit on the size of files.
name='create on a full disk'
if [ "$(id -u)" = 0 ] && mkdir "$dir/small" && mount -t tmpfs -o size=1m none "$dir/small" 2>/dev/null; then
    trap '[ -z "${holder:-}" ] || kill "$holder" 2>/dev/null; umount "$dir/small"; rm -rf "$dir"' EXIT
    refused STORAGE_ERROR 'no space' "$NVKEEP" create "$dir/small/image" --key file="$key" --iter-time 1
    [ -z "$(ls -A "$dir/small")" ] || complain 'left something behind'
    # Nor may a generated key be left of an image that was not made.
    refused STORAGE_ERROR 'no space' "$NVKEEP" create "$dir/small/image" --new-key "$dir/new-key"
    [ ! -e "$dir/new-key" ] || complain 'left the key of no image behind'
fi
name='create beyond the limit on file sizes'
refused STORAGE_ERROR 'too large|no space' sh -c 'ulimit -f 1000; trap "" XFSZ; exec "$@"' sh \
    "$NVKEEP" create "$image" --key file="$key" --iter-time 1

echo "$n_cases bad images, $n_refusals refusals; slowest $slowest ms, largest $fattest kB"
[ $n_cases -ge 80 ] || { echo "only $n_cases cases were tried"; exit 1; }
exit $failed
