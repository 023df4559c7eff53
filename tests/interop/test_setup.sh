#!/usr/bin/env bash
# A TPM 2.0 made by stock swtpm_setup and one made by ours, with the same options: asked by
# tpm2-tools they have the same persistent keys (public areas, but for the key itself), the same NV
# indices (attributes, sizes, names), the same PCR banks. Certificates in NV are for the keys.
set -u
for tool in swtpm swtpm_setup swtpm_localca tpm2_getcap tpm2_readpublic tpm2_nvreadpublic openssl; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
ldconfig -p | grep -q libtss2-tcti-swtpm || { echo "libtss2-tcti-swtpm is missing"; exit 77; }
ours=${NVKEEP_BUILD:?}/compat/swtpm_setup
dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-setup.XXXXXX") || exit 1
daemon=
# shellcheck disable=SC2317
clean_up()
{
    [ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null
    rm -rf "$dir"
}
trap clean_up EXIT
cd "$dir" || exit 1
export HOME=$dir
n_compared=0
n_failed=0

fail()
{
    echo "FAIL: $1"
    n_failed=$((n_failed + 1))
}

# Each side has a CA of its own, so that serial numbers are the same.
configure()
{
    mkdir -p "$1" "$1.ca"
    printf 'create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n' \
        "$(command -v swtpm_localca)" "$dir/$1.localca" "$dir/options" >"$1.conf"
    printf 'statedir = %s\nsigningkey = %s/k.pem\nissuercert = %s/c.pem\ncertserial = %s/serial\n' \
        "$dir/$1.ca" "$dir/$1.ca" "$dir/$1.ca" "$dir/$1.ca" >"$1.localca"
    printf -- '--platform-manufacturer Us\n--platform-version 1\n--platform-model M\n' >options
}

stop()
{
    kill -TERM "$daemon"
    wait "$daemon"
    daemon=
}
await()
{
    local _
    for _ in $(seq 200); do
        [ -S s.ctrl ] && [ -S s ] && return
        sleep 0.05
    done
    echo "no daemon"
    cat log
    exit 1
}
start_stock()
{
    rm -f s s.ctrl
    swtpm socket --tpm2 --tpmstate dir=stock --server type=unixio,path=s --ctrl type=unixio,path=s.ctrl \
        --flags not-need-init,startup-clear --log file=log &
    daemon=$!
    await
}
start_ours()
{
    rm -f s s.ctrl
    "$NVKEEP" serve ours/tpm2-00.qcow2 --key file=ours/tpm2-00.key --server type=unixio,path=s \
        --ctrl type=unixio,path=s.ctrl --flags not-need-init,startup-clear --log file=log &
    daemon=$!
    await
}

# What a key is, without which key it is.
kind_of_key()
{
    tpm2_readpublic -c "$1" 2>&1 | sed -E '/^(name|qualified name|qualified-name|rsa|x|y):/d'
}
certificate_is_for()
{
    tpm2_readpublic -c "$2" -f pem -o key.pem >/dev/null 2>&1
    tpm2_nvread -C p "$1" -o cert.der >/dev/null 2>&1
    openssl x509 -inform der -in cert.der -noout -pubkey >cert.pem 2>/dev/null
    cmp -s <(openssl pkey -pubin -in key.pem -outform der) <(openssl pkey -pubin -in cert.pem -outform der) &&
        echo "certificate $1 is for $2"
}
describe()
{
    local handle index
    export TPM2TOOLS_TCTI=swtpm:path=$dir/s
    tpm2_getcap pcrs
    tpm2_getcap handles-persistent
    for handle in $(tpm2_getcap handles-persistent | sed 's/^- //'); do
        echo "key $handle"
        kind_of_key "$handle"
    done
    # Attributes and size are part of the name of an index.
    tpm2_nvreadpublic
    for index in $(tpm2_getcap handles-nv-index | sed 's/^- //'); do
        case $index in
        0x1C00002 | 0x1C08000) certificate_is_for "$index" 0x81010001 ;;
        0x1C0001C) certificate_is_for "$index" 0x8101001c ;;
        0x1C00016) certificate_is_for "$index" 0x81010016 ;;
        *) tpm2_nvread -C p "$index" | od -An -tx1 ;;
        esac
    done
}

compare()
{
    rm -rf stock/* ours/*
    swtpm_setup --tpm2 --tpm-state "$dir/stock" --config "$dir/stock.conf" --vmid vm:1 "$@" >stock.out 2>&1 ||
        fail "stock: $*: $(tail -3 stock.out)"
    "$ours" --tpm2 --tpm-state "$dir/ours" --config "$dir/ours.conf" --vmid vm:1 "$@" >ours.out 2>&1 ||
        fail "ours: $*: $(tail -3 ours.out)"
    start_stock
    describe >stock.txt 2>&1
    stop
    start_ours
    describe >ours.txt 2>&1
    stop
    n_compared=$((n_compared + $(wc -l <ours.txt)))
    grep -q sha256 ours.txt || fail "$*: nothing was asked: $(head -3 ours.txt)"
    diff stock.txt ours.txt >diff.txt || { fail "$*"; cat diff.txt; }
}

# One that is different is told.
prove()
{
    start_ours
    TPM2TOOLS_TCTI=swtpm:path=$dir/s tpm2_nvdefine -C o 0x1500001 -s 3 >/dev/null 2>&1
    describe >ours.txt 2>&1
    stop
    cmp -s stock.txt ours.txt && fail "another index was not told"
}

configure stock
configure ours
compare
compare --createek --create-ek-cert --create-platform-cert --create-spk --lock-nvram
[ "$(grep -c '^certificate .* is for ' ours.txt)" = 3 ] || fail "certificates for other keys"
prove
compare --createek --create-ek-cert --create-spk --ecc --rsa-keysize 3072 --pcr-banks sha1,sha384
compare --createek --allow-signing --lock-nvram --pcr-banks -
compare --create-platform-cert --allow-signing --decryption --rsa-keysize 3072

# Time, without a signer, which is the same program on both sides.
time_of()
{
    local began _
    began=$(date +%s%N)
    for _ in 1 2 3 4 5; do
        "$@" --createek --create-spk --lock-nvram --overwrite >/dev/null 2>&1 || fail "$*"
    done
    echo $((($(date +%s%N) - began) / 5000000))
}
a=$(time_of swtpm_setup --tpm2 --tpm-state "$dir/stock" --config "$dir/stock.conf")
b=$(time_of "$ours" --tpm2 --tpm-state "$dir/ours" --config "$dir/ours.conf")
echo "keys without certificates: stock $a ms, ours $b ms"
echo "test_setup.sh: $n_compared lines compared, $n_failed failed"
[ "$n_failed" = 0 ] && [ "$n_compared" -gt 100 ]
