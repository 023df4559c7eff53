#!/usr/bin/env bash
# What import and export refuse, by class, and that nothing is left behind or changed then; and the
# newest of swtpm's files that they take. [S0.5, S0.6, S0.10, S0.11, S0.12, S0.18]
set -u
for tool in swtpm swtpm_ioctl openssl xxd strace; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-import.XXXXXX") || exit 1
daemon=
# shellcheck disable=SC2317
clean_up()
{
    [ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null
    rm -rf "$dir"
}
trap clean_up EXIT
cd "$dir" || exit 1
umask 077
n=0

fail()
{
    echo "$*"
    cat out err 2>/dev/null
    exit 1
}

# start URI [OPTIONS]: a swtpm; stop: it ends.
start()
{
    local uri=$1
    shift
    rm -f c
    swtpm socket --tpm2 --tpmstate backend-uri="$uri" --ctrl type=unixio,path=c \
        --server type=unixio,path=d --flags not-need-init,startup-clear "$@" >swtpm.out 2>&1 &
    daemon=$!
    for _ in $(seq 500); do
        swtpm_ioctl --unix c -c >/dev/null 2>&1 && return
        kill -0 $daemon 2>/dev/null || break
        sleep 0.02
    done
    cat swtpm.out
    fail "swtpm does not start"
}
stop()
{
    swtpm_ioctl --unix c -s || fail "swtpm does not end"
    wait $daemon
    daemon=
}

facts()
{
    find source store encrypted image target lin -printf '%p %s %T@ %m\n' 2>/dev/null | sort
    find source store encrypted image target lin -type f -exec cat {} + 2>/dev/null | sha256sum
}

# refused EXIT TEXT ARGUMENTS...: with this exit code and these words; nothing changed, nothing new.
refused()
{
    local code=$1 text=$2 before names got
    shift 2
    n=$((n + 1))
    before=$(facts) names=$(ls -A)
    timeout 60 "$NVKEEP" "$@" >out 2>err </dev/null
    got=$?
    [ $got = "$code" ] || fail "$*: exit code $got and not $code"
    grep -qF -- "$text" err || fail "$*: not said: $text"
    [ "$before" = "$(facts)" ] || fail "$*: something was changed"
    [ "$names" = "$(ls -A)" ] || fail "$*: something was left behind"
}
done_right()
{
    n=$((n + 1))
    timeout 60 "$NVKEEP" "$@" >out 2>err </dev/null || fail "$*: exit code $?"
}
image=(image --key file=pass --iter-time 1)

: >out && : >err
printf 'correct horse' >pass
printf 'correct house' >other
mkdir source encrypted empty
# A swtpm that runs on it: both back ends, and its volatile state stored.
start "dir://$dir/source"
refused 31 'LOCKED: source: a swtpm is running' import source "${image[@]}"
swtpm_ioctl --unix c -v || fail "no volatile state"
stop
start "file://$dir/store"
refused 31 'LOCKED' import "file://$dir/store" "${image[@]}"
stop
start "dir://$dir/encrypted" --key pwdfile=pass,mode=aes-256-cbc
stop

# The keys of the source.
key=(--source-key 'pwdfile=pass,mode=aes-256-cbc')
refused 10 'KEY_MISSING: encrypted: the state is encrypted' import encrypted "${image[@]}"
refused 11 'KEY_WRONG' import encrypted "${image[@]}" --source-key pwdfile=other,mode=aes-256-cbc
refused 11 'of 256 bits, and the one given has 128' import encrypted "${image[@]}" --source-key pwdfile=pass
refused 12 'KEY_UNEXPECTED' import source "${image[@]}" "${key[@]}"
refused 2 '--source-key: "nonsense" is unknown' import encrypted "${image[@]}" --source-key nonsense=1
refused 2 '--source-key: remove' import encrypted "${image[@]}" --source-key pwdfile=pass,remove

# What is not there, is something else, or is damaged.
refused 2 'No such' import absent "${image[@]}"
refused 20 'STATE_EMPTY: empty: it holds no TPM' import empty "${image[@]}"
refused 20 'no TPM of that kind' import source "${image[@]}" --tpm12
refused 22 'a TPM 2.0, and a TPM 1.2 was asked for' import file://store "${image[@]}" --tpm12
refused 22 'STATE_FOREIGN: pass: it does not begin as' import file://pass "${image[@]}"
permall=tpm2-00.permall
# damaged FROM COMMAND...: a copy of FROM, and what COMMAND with its file as last argument makes of it.
damaged()
{
    rm -rf target
    cp -a "$1" target
    shift
    if [ -d target ]; then "$@" target/$permall; else "$@" target; fi
}
# patch OFFSET BYTES FILE
patch()
{
    # shellcheck disable=SC2059
    printf "$2" | dd of="$3" bs=1 seek="$1" conv=notrunc status=none
}
damaged source truncate -s -1
refused 21 'STATE_CORRUPT: target' import target "${image[@]}"
damaged source truncate -s 0
refused 21 'is empty (0 bytes)' import target "${image[@]}"
damaged source patch 18 '\377\377'
refused 21 'libtpms cannot read' import target "${image[@]}"
damaged source true
patch 300 x target/tpm2-00.volatilestate
refused 21 'STATE_CORRUPT' import target "${image[@]}"
damaged encrypted patch 200 x
refused 11 'or is damaged' import target "${image[@]}" "${key[@]}"
damaged encrypted patch 0 '\1\1'
refused 40 'format version 1' import target "${image[@]}" "${key[@]}"
damaged encrypted patch 0 '\3\3'
refused 40 'format version 3' import target "${image[@]}" "${key[@]}"
# A libtpms newer than ours wrote it, and says whether an older one can read it.
damaged source patch 16 '\0\4\253\66\107\43\0\4'
refused 40 'newer libtpms' import target "${image[@]}"
damaged source patch 16 '\0\4\253\66\107\43\0\1'
done_right import target newer --key file=pass --iter-time 1
rm -f newer
damaged store patch 0 x
refused 22 'STATE_FOREIGN' import target "${image[@]}"
damaged store patch 8 '\2'
refused 40 'a linear store of version 2' import target "${image[@]}"
damaged store truncate -s 1000
refused 21 'file 1 of the linear store' import target "${image[@]}"
rm -rf target

# The first format, in clear and encrypted with a digest inside: what swtpm starts from, too.
number()
{
    printf '\\x%02x' $(($1 >> 24 & 255)) $(($1 >> 16 & 255)) $(($1 >> 8 & 255)) $(($1 & 255))
}
# old FLAGS: the state in `content`, with the header of that format, in target.
old()
{
    rm -rf target
    mkdir target
    # shellcheck disable=SC2059
    { printf "\\1\\1\\0\\12\\0\\$1$(number $(($(stat -c %s content) + 10)))" && cat content; } >target/$permall
}
hex=000102030405060708090a0b0c0d0e0f
printf %s $hex >hex
tail -c +17 source/$permall >state
{ sha256sum state | cut -c-64 | xxd -r -p && cat state; } | openssl enc -aes-128-cbc -K $hex -iv 00000000000000000000000000000000 >content
old 1
refused 10 'KEY_MISSING' import target "${image[@]}"
refused 11 'KEY_WRONG' import target "${image[@]}" --source-key pwdfile=pass
same_as_source()
{
    done_right import target old --key file=pass --iter-time 1 "$@"
    done_right export old back --key file=pass --plaintext
    cmp source/$permall back/$permall || fail "another state came out than was in the first format"
    start "dir://$dir/target" ${1:+--key file=hex}
    stop
    rm -rf old back target
}
same_as_source --source-key file=hex
cp state content
old 0
refused 12 'KEY_UNEXPECTED' import target "${image[@]}" --source-key file=hex
same_as_source

# What works, and is then not replaced.
done_right import source "${image[@]}"
refused 2 'image exists' import source "${image[@]}"

# Out again: not without a key of the image, and in clear only when told so.
out=(export image target)
refused 2 'say --plaintext' "${out[@]}" --key file=pass
refused 11 'KEY_WRONG' "${out[@]}" --key file=other --plaintext
refused 10 'KEY_MISSING' "${out[@]}" --plaintext
refused 2 'exclude each other' "${out[@]}" --key file=pass --plaintext --target-key pwdfile=pass
refused 2 '--target-key: ' "${out[@]}" --key file=pass --target-key file=absent
refused 2 'source exists and is not empty' export image source --key file=pass --plaintext
refused 2 'store exists' export image file://store --key file=pass --plaintext
refused 2 'cannot make a directory' export image absent/target --key file=pass --plaintext
done_right "${out[@]}" --key file=pass --plaintext
for f in permall volatilestate; do
    cmp source/tpm2-00.$f target/tpm2-00.$f || fail "another $f came out than went in"
done
[ "$(stat -c %a target target/$permall)" = $'700\n600' ] || fail "modes of what was exported"
done_right export image empty --key file=pass --target-key pwdfile=pass
[ "$(od -An -tx1 -N6 empty/$permall)" = ' 02 01 00 0a 00 01' ] || fail "it is not encrypted"
# An empty directory that is there says who the state is for, and stays where it is given up.
mkdir -m 750 given
[ "$(id -u)" != 0 ] || chown nobody given
before=$(stat -c '%U %a' given)
"$NVKEEP" export image given --key file=pass --plaintext >/dev/full 2>err && fail "no failure"
[ "$before" = "$(stat -c '%U %a' given)" ] || fail "another directory"
[ -z "$(ls -A given)" ] || fail "left in the directory: $(ls -A given)"
done_right export image given --key file=pass --plaintext
[ "$before ${before% *} 600" = "$(stat -c '%U %a' given) $(stat -c '%U %a' given/$permall)" ] || fail "owner and modes of what was exported"

# What is in the directory is durable before the directory has its name, and that is then, too.
ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 strace -y -o trace -e trace=fsync,rename,renameat2 \
    "$NVKEEP" export image durable --key file=pass --plaintext >out 2>err || fail "no export under strace"
made=$(sed -n 's/^rename[^"]*"\([^"]*\)".*/\1/p' trace)
grep -B1 '^rename' trace | head -1 | grep -q "^fsync([0-9]*<.*/${made##*/}>) *= 0" || fail "not durable: $(cat trace)"
grep -A1 '^rename' trace | tail -1 | grep -q "^fsync([0-9]*<$dir>) *= 0" || fail "its name is not durable: $(cat trace)"

# A swtpm that comes while the state is read, where there was no lock that we could have held.
mkdir early
cp -p source/tpm2-00.* early/
rm -f early/.lock
ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 timeout 60 strace -o trace -P tpm2-00.permall -P .lock \
    -e trace=openat -e inject=openat:delay_enter=4000000:when=2 \
    "$NVKEEP" import early image2 --key file=pass --iter-time 1 >out 2>err &
daemon=$!
for _ in $(seq 2000); do
    grep -q '"\.lock"' trace 2>/dev/null && break
    sleep 0.02
done
: >early/.lock
wait $daemon
[ $? = 31 ] || fail "somebody came, and the state was taken: $(cat trace)"
daemon=
[ ! -e image2 ] || fail "somebody came, and there is an image"

# While it is served.
"$NVKEEP" serve image --key file=pass --ctrl type=unixio,path=s >serve.out 2>&1 &
daemon=$!
for _ in $(seq 500); do
    [ -S s ] && break
    sleep 0.02
done
refused 31 'LOCKED' export image file://lin --key file=pass --plaintext
kill -TERM $daemon
wait $daemon
daemon=
# A report that cannot be written is a failure: then nothing is there.
"$NVKEEP" export image lin --key file=pass --plaintext >/dev/full 2>err && fail "no failure"
[ ! -e lin ] || fail "left behind after the report could not be written"
"$NVKEEP" export image file://lin --key file=pass --plaintext >/dev/full 2>err && fail "no failure"
[ ! -e lin ] || fail "left behind after the report could not be written"
echo "$n calls: as they should be"
