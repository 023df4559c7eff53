#!/usr/bin/env bash
# Stock swtpm_ioctl against nvkeep and against Debian's swtpm: the same calls in the same order, off
# and on, and every exit code and output compared. What differs is listed here with its reason, and
# only that may.
set -u
for tool in swtpm swtpm_ioctl; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-ioctl.XXXXXX") || exit 1
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

# what nvkeep says              what swtpm says                 why
allowed='
ptm configuration flags: 0x1    ptm configuration flags: 0x0    our state is always encrypted; swtpm runs without a key here
ptm capability is 0x1ffff       ptm capability is 0xffff        the storage can be locked again, as with newer versions of swtpm
ptm capability is 0x17fdf       ptm capability is 0x7fff        the same; a TPM 1.2 cannot be cancelled, which is said at once
'

wait_for()
{
    for _ in $(seq 200); do
        [ -S "$1" ] && return
        sleep 0.05
    done
    echo "$1 does not appear"
    exit 1
}

start_nvkeep()
{
    "$NVKEEP" serve image --key file=key --ctrl type=unixio,path=nvkeep.ctrl --migration-seal off \
        --log file=nvkeep.log,level=5 &
    daemon=$!
    wait_for nvkeep.ctrl
}
start_swtpm()
{
    swtpm socket ${1:+"$1"} --tpmstate dir=state --ctrl type=unixio,path=swtpm.ctrl --log file=swtpm.log &
    daemon=$!
    wait_for swtpm.ctrl
}

# One call: what it was, its exit code, both outputs. Sizes of blobs differ with the TPM's age.
call()
{
    local out rc
    out=$(timeout 20 swtpm_ioctl --unix "$who.ctrl" "$@" 2>&1)
    rc=$?
    printf '%s: %d %s\n' "$*" $rc "$out"
}

save()
{
    call --save "$1" "$who.$1.$2" | sed "s/$who\.//"
    if [ -s "$who.$1.$2" ]; then echo "    saved something"; else echo "    saved nothing"; fi
}
load()
{
    call --load "$1" "$who.$1.$2" | sed "s/$who\.//"
}

# Off.
off()
{
    call -e
    call -r 3
    call -v
    call -C
    call -h abc
    call -l 3
    call -g
    call -b 4096
    call --save permanent "$who.off" | sed "s/$who\.//"
    rm -f "$who.off"
    call --stop
}

on()
{
    call -i
    call -c
    for locality in 0 1 2 3 4; do call -l $locality; done
    call -l 0
    call -e
    call -h abcdefgh
    head -c 10000 /dev/zero | call -h -
    call -e
    for locality in 0 1 2 3 4; do call -r $locality; done
    call -e
    call -v
    call -C
    call -b 4096
    call -g
    for what in 1 2 4 7; do call --info $what; done
    call -i
    save permanent 1
    save volatile 1
    save savestate 1
    load permanent 1
}

travel()
{
    call --stop
    call --stop
    load permanent 1
    load volatile 1
    call -i
    save permanent 2
    save volatile 2
    # Not a state: refused by both, with results of their own.
    call --stop
    head -c 3000 /dev/urandom >"$who.permanent.3"
    load permanent 3 | sed 's/0x[0-9a-f]*/a result/'
    load permanent 1
    call -i
    call -s
}

everything()
{
    off
    on
    travel
}

failed=0
compare()
{
    local family=$1 swtpm_option=$2
    rm -rf image state ./*.permanent.* ./*.volatile.* ./*.savestate.*
    mkdir state
    printf 'a key for a test' >key
    "$NVKEEP" create image --key file=key "$family" --iter-time 1 >out 2>&1 || { cat out; exit 1; }
    who=nvkeep
    start_nvkeep
    everything >nvkeep.said
    wait "$daemon"
    ours=$?
    daemon=
    who=swtpm
    start_swtpm "$swtpm_option"
    everything >swtpm.said
    wait "$daemon"
    theirs=$?
    daemon=
    if [ $ours -ne $theirs ]; then
        echo "$family: nvkeep ended with $ours, swtpm with $theirs"
        failed=1
    fi
    # Each difference has to be one of those above.
    paste -d '\t' nvkeep.said swtpm.said | while IFS=$'\t' read -r a b; do
        [ "$a" = "$b" ] && continue
        reason=$(awk -v a="${a#*: [0-9] }" -v b="${b#*: [0-9] }" -F '    +' \
            '$1 == a && $2 == b { print $3 }' <<<"$allowed")
        if [ -n "$reason" ]; then
            echo "$family: allowed: \"$a\" and not \"$b\": $reason"
        else
            echo "$family: DIFFERENT: \"$a\" and not \"$b\""
        fi
    done >differences
    cat differences
    ! grep -q DIFFERENT differences || failed=1
    echo "$family: $(wc -l <nvkeep.said) answers compared, $(wc -l <differences) differ"
    [ "$(wc -l <nvkeep.said)" -eq "$(wc -l <swtpm.said)" ] || { echo "not as many lines"; failed=1; }
}

compare --tpm2 --tpm2
compare --tpm12 ''
exit $failed
