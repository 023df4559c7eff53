#!/usr/bin/env bash
# build/compat/swtpm_setup and swtpm where a TPM is made: several at once, cut off at any moment, in
# somebody else's directory. Whatever happens, no key is taken from an image, nothing of anybody
# else's is touched, and the next start succeeds. [S0.13, S1.17]
set -u
setup=${NVKEEP_BUILD:?}/compat/swtpm_setup
dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-first.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
chmod 711 "$dir"
export HOME=$dir XDG_CONFIG_HOME=$dir/config
umask 022
long=
[ "${1:-}" = --long ] && long=1
n=0
n_failed=0
n_skipped=0

fail()
{
    echo "FAIL: $*"
    cat out err 2>/dev/null
    n_failed=$((n_failed + 1))
}
# opens IMAGE KEY
opens()
{
    n=$((n + 1))
    "$NVKEEP" verify-key "$1" --key file="$2" >out 2>err || fail "$2 does not open $1"
}
make()
{
    n=$((n + 1))
    timeout 60 "$setup" --tpm2 --tpm-state "$@" >out 2>err || fail "swtpm_setup --tpm-state $*"
}

# --- several at once: one key, and it is that of the image ---
rounds=8
[ -z "$long" ] || rounds=200
for i in $(seq $rounds); do
    mkdir d
    for _ in 1 2 3; do
        "$setup" --tpm2 --tpm-state d >/dev/null 2>&1 &
    done
    wait
    opens d/tpm2-00.qcow2 d/tpm2-00.key
    [ "$(find d -type f | wc -l)" = 2 ] || fail "round $i left: $(ls -A d)"
    rm -r d
done

# --- killed at each of its writes: what is left is in nobody's way ---
if strace -o /dev/null true 2>/dev/null; then
    for i in $(seq 14); do
        mkdir k
        { strace -f -o /dev/null -e trace=write,pwrite64,linkat \
            -e inject=write,pwrite64,linkat:signal=SIGKILL:when="$i" "$setup" --tpm2 --tpm-state k >out 2>err; } 2>/dev/null
        [ ! -e k/tpm2-00.key ] || [ -s k/tpm2-00.key ] || fail "killed at write $i: a key file without a key"
        [ -e k/tpm2-00.qcow2 ] || make k
        opens k/tpm2-00.qcow2 k/tpm2-00.key
        rm -r k
    done
else
    echo "strace may not trace here (ptrace), or is not there"
    n_skipped=$((n_skipped + 1))
fi

# --- --overwrite: whatever its neighbours are called ---
mkdir o
for name in vm vm.new vm.nvkeep-new vm.empty; do
    make "file://$dir/o/$name" --create-spk
done
before=$(cd o && sha256sum vm.* && ls -A)
make "file://$dir/o/vm" --overwrite --createek
[ "$before" = "$(cd o && sha256sum vm.* && ls -A)" ] || fail "--overwrite touched a neighbour, or left something: $(ls -A o)"

# --- root at work in a directory that is a user's ---
if [ "$(id -u)" = 0 ] && id nobody >/dev/null 2>&1; then
    group=$(id -gn nobody)
    mkdir u && make u
    chown "nobody:$group" u u/*
    echo secret >victim && chmod 600 victim
    ln -s "$dir/victim" u/tpm2-00.qcow2.new
    ln -s "$dir/victim" u/tpm2-00.qcow2.nvkeep-new
    make u --overwrite --createek
    [ "$(stat -c '%U %a' victim) $(cat victim)" = 'root 600 secret' ] || fail "root's file was given away"
    [ "$(stat -c '%U %a %F' u/tpm2-00.qcow2)" = 'nobody 600 regular file' ] || fail "owner, mode and kind of the new image"
    if command -v strace >/dev/null; then
        mkdir v && : >v/img && chown "nobody:$group" v v/img
        ASAN_OPTIONS=detect_leaks=0 strace -f -o trace -e trace=chown,lchown,chmod,fchownat,fchmodat \
            "$setup" --tpm2 --tpm-state "file://$dir/v/img" >out 2>err ||
            fail "an empty file was not replaced"
        ! grep -E '(ch(own|mod)|at)\(' trace || fail "owner and mode are given by name"
    fi
    # What cannot have its owner is refused, and there is no image then or later. [S1.17]
    mkdir w && : >w/img && chown nobody w && chown daemon w/img && chmod 666 w/img
    for _ in 1 2; do
        "$setup" --tpm2 --runas nobody --tpm-state "file://$dir/w/img" >out 2>err && fail "made in spite of the owner"
        grep -q 'owner' err || fail "does not say that it is the owner"
        [ "$(stat -c '%U %a %s' w/img)" = 'daemon 666 0' ] || fail "the empty file was touched"
        n=$((n + 1))
    done
    [ -z "$(find w -type f ! -name img ! -name img.key)" ] || fail "left: $(ls -A w)"
else
    echo "as root only: directories of another user"
    n_skipped=$((n_skipped + 1))
fi

echo "test_swtpm_first_start.sh: $n calls, $n_failed failed, $n_skipped parts skipped"
[ "$n_failed" = 0 ]
