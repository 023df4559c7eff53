#!/usr/bin/env bash
# tpm2-tools as they come, through their swtpm TCTI: over unix sockets (P and P.ctrl) and over TCP (N
# and N+1). What one run stores, the next one finds.
set -u
for tool in tpm2_getrandom tpm2_nvwrite tpm2_createprimary tpm2_quote; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
ldconfig -p | grep -q libtss2-tcti-swtpm || { echo "libtss2-tcti-swtpm is missing"; exit 77; }
dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-tools.XXXXXX") || exit 1
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
run()
{
    n=$((n + 1))
    timeout 60 "$@" >out 2>err && return
    echo "failed: $*"
    cat out err log
    exit 1
}
same()
{
    [ "$1" = "$2" ] && return
    echo "$3: \"$1\" and not \"$2\""
    exit 1
}

start()
{
    "$NVKEEP" serve image --key file=key "$@" --flags not-need-init,startup-clear --log file=log,level=5 &
    daemon=$!
    for _ in $(seq 200); do
        grep -q ' ready$' log 2>/dev/null && return
        grep -q 'Address already in use' log 2>/dev/null && return 1
        sleep 0.05
    done
    echo "the daemon does not become ready"
    cat log
    exit 1
}
stop()
{
    kill -TERM "$daemon"
    wait "$daemon"
    same $? 0 "exit code of the daemon"
    daemon=
    rm -f log
}

printf 'a key for a test' >key
"$NVKEEP" create image --key file=key --tpm2 --iter-time 1 >out 2>&1 || { cat out; exit 1; }

start --server type=unixio,path="$dir/s" --ctrl type=unixio,path="$dir/s.ctrl"
export TPM2TOOLS_TCTI=swtpm:path=$dir/s
run tpm2_getrandom --hex 16
same "$(wc -c <out)" 32 "random digits"
run tpm2_selftest
run tpm2_nvdefine 0x1500001 -C o -s 16 -a 'ownerread|ownerwrite|authread|authwrite'
printf 'kept in an image' >data
run tpm2_nvwrite 0x1500001 -C o -i data
run tpm2_pcrextend 16:sha256=0000000000000000000000000000000000000000000000000000000000000001
# There is no resource manager in between: what a tool loads stays loaded.
run tpm2_createprimary -C o -G ecc -c primary.ctx
run tpm2_flushcontext -t
run tpm2_create -C primary.ctx -G ecc:ecdsa -u key.pub -r key.priv
run tpm2_flushcontext -t
run tpm2_load -C primary.ctx -u key.pub -r key.priv -c key.ctx
run tpm2_flushcontext -t
run tpm2_quote -c key.ctx -l sha256:16 -q 0011 -m quote -s signature
run tpm2_flushcontext -t
run tpm2_readpublic -c key.ctx -f pem -o key.pem
run tpm2_checkquote -u key.pem -m quote -s signature -q 0011
run tpm2_flushcontext -t
run tpm2_evictcontrol -C o -c primary.ctx 0x81000001
run tpm2_readpublic -c 0x81000001 -n before
stop

# Two neighbouring ports, from below those the kernel gives away by itself; somebody may still have one.
for attempt in $(seq 20); do
    port=$((20000 + (($$ * 2 + attempt * 514) % 12000)))
    start --server type=tcp,port="$port" --ctrl type=tcp,port=$((port + 1)) && break
    wait "$daemon"
    same $? 31 "exit code of a start with a port that is taken"
    rm -f log
done
grep -q ' ready$' log || { cat log; exit 1; }
export TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=$port
run tpm2_nvread 0x1500001 -C o -s 16
same "$(cat out)" "$(cat data)" "NV"
run tpm2_readpublic -c 0x81000001 -n after
cmp before after || exit 1
run tpm2_pcrread sha256:16
grep -q '0x0\{64\}$' out || { echo "PCR 16 is not zero after a restart"; cat out; exit 1; }
run tpm2_getcap properties-variable
grep -q 'inLockout: *0' out || { cat out; exit 1; }
stop
echo "$n commands of tpm2-tools, over unix sockets and over TCP"
