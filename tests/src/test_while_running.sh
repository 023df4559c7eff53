#!/usr/bin/env bash
# A TPM is in use, its index written all the time: every command on its image either works or is
# refused by class, and the TPM notices nothing. What the guest stores is found in clear nowhere.
# [S0.18, S1.10, S1.11, S1.23, S3.9, S3.25, S4.12]
set -u
for tool in tpm2_nvwrite swtpm_ioctl qemu-img; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
ldconfig -p | grep -q libtss2-tcti-swtpm || { echo "libtss2-tcti-swtpm is missing"; exit 77; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-beside.XXXXXX") || exit 1
daemon=
writer=
clean_up()
{
    [ -z "$writer" ] || kill "$writer" 2>/dev/null
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

umask 077
image=$dir/image
printf 'a key for a test' >"$dir/key"
"$NVKEEP" create "$image" --key file="$dir/key" --iter-time 1 >"$dir/out" 2>&1 || { cat "$dir/out"; exit 1; }
"$NVKEEP" serve "$image" --key file="$dir/key" --server type=unixio,path="$dir/s" \
    --ctrl type=unixio,path="$dir/s.ctrl" --flags not-need-init,startup-clear \
    --log file="$dir/log",level=5 >"$dir/stdout" 2>"$dir/stderr" &
daemon=$!
for _ in $(seq 200); do
    [ -S "$dir/s" ] && [ -S "$dir/s.ctrl" ] && break
    sleep 0.05
done
export TPM2TOOLS_TCTI=swtpm:path=$dir/s
index=0x01800021
tpm2_nvdefine -C o -s 32 -a 'ownerread|ownerwrite|no_da' $index >"$dir/out" 2>"$dir/err" || complain 'nvdefine failed'

# The guest, so to say. Its marker is put together here, so that no script contains it.
: >"$dir/rounds"
marker=$(printf '%s%s' 'Marker-that-must' '-stay-a-secret-!')
while :; do
    printf '%s' "$marker" | tpm2_nvwrite -C o -i - $index >/dev/null 2>>"$dir/writer" || echo failed >>"$dir/writer"
    head -c 32 /dev/urandom | tpm2_nvwrite -C o -i - $index >/dev/null 2>>"$dir/writer" || echo failed >>"$dir/writer"
    echo round >>"$dir/rounds"
done &
writer=$!

# class wanted, then the command
try()
{
    local want=$1
    shift
    timeout 20 "$@" >"$dir/out" 2>"$dir/err" </dev/null
    [ $? -eq "$want" ] || complain "exit code is not $want: $*"
}
rounds()
{
    wc -l <"$dir/rounds"
}
n=0
while [ "$(rounds)" -lt 40 ] && [ $n -lt 200 ]; do
    try 0 "$NVKEEP" info "$image"
    try 0 "$NVKEEP" info "$image" --key file="$dir/key"
    try 0 "$NVKEEP" verify-key "$image" --key file="$dir/key"
    try 0 "$NVKEEP" check "$image" --key file="$dir/key"
    n=$((n + 1))
done
echo "$n times info, verify-key and check beside $(rounds) rounds of writing"
[ ! -s "$dir/writer" ] || { cat "$dir/writer"; complain 'the guest noticed something'; }
printf 'another' >"$dir/wrong"
try 11 "$NVKEEP" verify-key "$image" --key file="$dir/wrong"
try 10 "$NVKEEP" verify-key "$image"
try 31 "$NVKEEP" serve "$image" --key file="$dir/key" --ctrl type=unixio,path="$dir/second"
ln "$image" "$dir/same"
try 31 "$NVKEEP" serve "$dir/same" --key file="$dir/key" --ctrl type=unixio,path="$dir/second"
rm "$dir/same"
[ ! -e "$dir/second" ] || complain 'the second daemon left a socket'
try 2 "$NVKEEP" create "$image" --key file="$dir/key" --iter-time 1
try 1 qemu-img snapshot -c nothing "$image"

# The guest is switched off and on: nobody asks for a key again. [S1.11]
try 0 swtpm_ioctl --unix "$dir/s.ctrl" --stop
try 0 swtpm_ioctl --unix "$dir/s.ctrl" -i
kill "$writer"
wait "$writer" 2>/dev/null
writer=
try 0 swtpm_ioctl --unix "$dir/s.ctrl" --stop
try 0 swtpm_ioctl --unix "$dir/s.ctrl" -i
try 0 tpm2_startup -c
printf '%s' "$marker" >"$dir/in"
try 0 tpm2_nvwrite -C o -i "$dir/in" $index
rm "$dir/in"
try 0 tpm2_nvread -C o -s 32 -o "$dir/read" $index
[ "$(cat "$dir/read")" = "$marker" ] || complain 'what was read is not what was written'
rm "$dir/read"
try 0 swtpm_ioctl --unix "$dir/s.ctrl" -s
wait "$daemon" || complain "the daemon ended with $?"
daemon=
try 0 "$NVKEEP" check "$image" --key file="$dir/key"

# Only commands that met the TPM while it was switched off may have failed.
[ "$(rounds)" -ge 20 ] || complain "only $(rounds) rounds were written"
grep -rlaF -- "${marker:0:16}" "$dir" && complain 'the marker was found in clear'
grep -rlaF -- "${marker:16}" "$dir" && complain 'the end of the marker was found in clear'
[ -s "$dir/stderr" ] && { cat "$dir/stderr"; complain 'something on stderr'; }
exit $failed
