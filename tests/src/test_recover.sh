#!/usr/bin/env bash
# A bit of a real TPM's state is flipped: every command says STATE_CORRUPT, and goes on saying it, until
# somebody asks for the way back. nvkeep recover explains, writes only when told to, makes a copy first,
# and the TPM is served again with the newest state that verifies.
set -u
for tool in tpm2_nvwrite swtpm_ioctl cmp; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
ldconfig -p | grep -q libtss2-tcti-swtpm || { echo "libtss2-tcti-swtpm is missing"; exit 77; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-recover.XXXXXX") || exit 1
daemon=
clean_up()
{
    [ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null
    rm -rf "$dir"
}
trap clean_up EXIT
failed=0
complain()
{
    echo "$1"
    cat "$dir/out" "$dir/err" 2>/dev/null
    failed=1
}

# exit code wanted, then the command
try()
{
    local want=$1 got
    shift
    timeout 20 "$@" >"$dir/out" 2>"$dir/err" </dev/null
    got=$?
    [ $got -eq "$want" ] || complain "exit code is $got, not $want: $*"
}
# text that the last command must have said
says()
{
    grep -qF -- "$1" "$dir/out" "$dir/err" || complain "it does not say: $1"
}

umask 077
image=$dir/image
key=$dir/key
index=0x01800021
export TPM2TOOLS_TCTI=swtpm:path=$dir/s
printf 'a key for a test' >"$key"

start()
{
    "$NVKEEP" serve "$image" --key file="$key" --server type=unixio,path="$dir/s" \
        --ctrl type=unixio,path="$dir/s.ctrl" --flags not-need-init,startup-clear \
        >"$dir/stdout" 2>"$dir/stderr" &
    daemon=$!
    for _ in $(seq 200); do
        [ -S "$dir/s" ] && [ -S "$dir/s.ctrl" ] && return
        sleep 0.05
    done
    cat "$dir/stderr"
    complain 'the daemon does not start'
}
stop()
{
    try 0 swtpm_ioctl --unix "$dir/s.ctrl" -s
    wait "$daemon" || complain "the daemon ended with $?"
    daemon=
    rm -f "$dir/s" "$dir/s.ctrl"
}
write_index()
{
    printf '%s' "$1" >"$dir/in"
    try 0 tpm2_nvwrite -C o -i "$dir/in" $index
}
number()
{
    sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" "$dir/out"
}
# Sectors of the image that differ from a copy of it.
changed_sectors()
{
    cmp -l "$1" "$image" | awk '{ s = int(($1 - 1) / 512); if (s != last || NR == 1) print s; last = s }'
}
flip_byte()
{
    local was
    was=$(od -An -tu1 -j "$1" -N 1 "$image")
    printf "\\x$(printf '%02x' $((was ^ 8)))" |
        dd of="$image" bs=1 seek="$1" conv=notrunc status=none
}

try 0 "$NVKEEP" create "$image" --key file="$key" --iter-time 1
start
try 0 tpm2_nvdefine -C o -s 8 -a 'ownerread|ownerwrite|no_da' $index
write_index old-word
try 0 "$NVKEEP" info "$image" --key file="$key" --json
kept=$(number generation)
cp "$image" "$dir/before"
write_index new-word
sector=$(changed_sectors "$dir/before" | head -n 1)
[ -n "$sector" ] || complain 'the write of an index changed nothing in the image'
# Another change behind it, so that what is damaged was certainly acknowledged.
write_index newerwor
try 0 "$NVKEEP" info "$image" --key file="$key" --json
newest=$(number generation)

# In use; nothing wrong; another key.
try 31 "$NVKEEP" recover "$image" --key file="$key"
says LOCKED
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null
daemon=
rm -f "$dir/s" "$dir/s.ctrl"
cp -p "$image" "$dir/before"
touch -r "$image" "$dir/time"
try 0 "$NVKEEP" recover "$image" --key file="$key"
says 'nothing to recover'
try 0 "$NVKEEP" recover "$image" --key file="$key" --yes --backup "$dir/none"
says 'nothing to recover'
[ ! -e "$dir/none" ] || complain 'a copy was made of an image that is sound'
printf 'another' >"$dir/wrong"
try 11 "$NVKEEP" recover "$image" --key file="$dir/wrong"
cmp -s "$image" "$dir/before" || complain 'a sound image was written'

flip_byte $((sector * 512 + 333))
cp -p "$image" "$dir/damaged"
touch -r "$image" "$dir/time"
serve="serve --ctrl type=unixio,path=$dir/never"
for command in check verify-key "$serve" "$serve"; do
    # shellcheck disable=SC2086 # words
    try 21 "$NVKEEP" $command "$image" --key file="$key"
    says STATE_CORRUPT
    says "the newest state that verifies is generation $kept; nvkeep recover"
done

# Explained, and nothing written.
try 0 "$NVKEEP" recover "$image" --key file="$key"
says 'damage:      STATE_CORRUPT: sector '
says "recoverable: generation $kept, owner epoch "
says "lost:        at most $((newest - kept)) generations, $((kept + 1)) to $newest"
says 'permanent '
says 'nothing was written'
try 0 "$NVKEEP" recover "$image" --key file="$key" --json
[ "$(number generation)" = "$kept" ] || complain 'JSON has another generation'
says '"damaged": true'
says '"recovered": false'
# Neither are these enough.
try 2 "$NVKEEP" recover "$image" --key file="$key" --yes
says '--no-backup'
try 2 "$NVKEEP" recover "$image" --key file="$key" --backup "$dir/copy"
try 2 "$NVKEEP" recover "$image" --key file="$key" --yes --no-backup --backup "$dir/copy"
echo precious >"$dir/there"
try 2 "$NVKEEP" recover "$image" --key file="$key" --yes --backup "$dir/there"
says 'exists already'
[ "$(cat "$dir/there")" = precious ] || complain 'an existing file was overwritten'
try 2 "$NVKEEP" recover "$image" --key file="$key" --yes --backup "$image"
try 2 "$NVKEEP" recover "$image" --key file="$key" --yes --backup "$dir/nowhere/copy"
[ ! -e "$dir/copy" ] || complain 'a copy was made by a call that was refused'
cmp -s "$image" "$dir/damaged" || complain 'the image was written without --yes'
[ ! "$image" -nt "$dir/time" ] || complain 'the time of the image changed'

try 0 "$NVKEEP" recover "$image" --key file="$key" --yes --backup "$dir/copy" --json
says '"recovered": true'
new=$(number new_generation)
[ "$new" -gt "$newest" ] || complain "recovered as generation $new, and $newest was there"
cmp -s "$dir/copy" "$dir/damaged" || complain 'the copy is not what the image was'
[ "$(stat -c %a "$dir/copy")" = 600 ] || complain 'the copy can be read by others'
try 0 "$NVKEEP" check "$image" --key file="$key" --json
[ "$(number generation)" = "$new" ] || complain 'another generation opens'
try 21 "$NVKEEP" check "$dir/copy" --key file="$key"

# The TPM is that of before, and goes on.
start
try 0 tpm2_nvread -C o -s 8 -o "$dir/read" $index
[ "$(cat "$dir/read")" = old-word ] || complain "the index holds $(cat "$dir/read")"
rm -f "$dir/read"
for word in word-1-- word-2-- word-3--; do
    write_index "$word"
done
stop
start
try 0 tpm2_nvread -C o -s 8 -o "$dir/read" $index
[ "$(cat "$dir/read")" = word-3-- ] || complain "after the next start the index holds $(cat "$dir/read")"
stop
try 0 "$NVKEEP" check "$image" --key file="$key"

# The copy, for whom that was one too many; and damage in the header is another matter.
try 0 "$NVKEEP" recover "$dir/copy" --key file="$key" --yes --no-backup
says 'recovered:   that state is generation'
try 0 "$NVKEEP" check "$dir/copy" --key file="$key"
printf 'QFI?' | dd of="$dir/copy" bs=1 conv=notrunc status=none
"$NVKEEP" recover "$dir/copy" --key file="$key" >"$dir/out" 2>"$dir/err" && complain 'recovered without a header'
exit $failed
