#!/usr/bin/env bash
# build/compat/swtpm_setup: its exit codes and words, and what it must not touch: what a daemon
# holds, what the key does not open, what is not ours. (What the TPM holds: interop/test_setup.sh,
# test_manufacture.c.) [S0.2, S0.11, S0.13, S4.6]
set -u
setup=${NVKEEP_BUILD:?}/compat/swtpm_setup
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
mkdir tmp
export HOME=$dir XDG_CONFIG_HOME=$dir/config TMPDIR=$dir/tmp
ASAN_OPTIONS=${ASAN_OPTIONS:-}
umask 022
n=0
n_failed=0

fail()
{
    echo "FAIL: $*"
    cat out err 2>/dev/null
    n_failed=$((n_failed + 1))
}
# expect CODE TEXT ARGUMENTS...: the exit code, and what is in its one line on standard error. A
# helper that hangs is ended, and has failed.
expect()
{
    local code=$1 text=$2
    shift 2
    n=$((n + 1))
    timeout 20 "$setup" "$@" >out 2>err
    local got=$?
    [ "$got" = "$code" ] || fail "exit code $got and not $code: $*"
    [ -z "$text" ] || grep -q -- "$text" out err || fail "does not say \"$text\": $*"
    [ "$code" = 0 ] || [ "$(wc -l <err)" = 1 ] || fail "not one line: $*"
}
sum()
{
    sha256sum "$@" 2>&1 | sha256sum
    stat -c '%n %i %Y %s %a' "$@" 2>&1
}
# untouched FILES... -- CODE TEXT ARGUMENTS...
untouched()
{
    local files=()
    while [ "$1" != -- ]; do
        files+=("$1")
        shift
    done
    shift
    local before
    before=$(sum "${files[@]}"; ls -A "$(dirname "${files[0]}")")
    expect "$@"
    [ "$before" = "$(sum "${files[@]}"; ls -A "$(dirname "${files[0]}")")" ] || fail "changed: ${files[*]}: $*"
}

printf 'a passphrase' >pass
printf 'another' >wrong
mkdir d e p f old key

# --- words and exit codes ---
expect 1 '--tpm-state must be provided' --tpm2
expect 1 'Make sure it exists and is a directory' --tpm2 --tpm-state nowhere
expect 1 'Unsupported RSA key size 1024' --tpm2 --tpm-state d --rsa-keysize 1024
expect 1 'Unsupported cipher des' --tpm2 --tpm-state d --cipher des
expect 1 '--create-spk requires --tpm2' --tpm-state d --create-spk
expect 1 '--ecc requires --tpm2' --tpm-state d --ecc
expect 1 '--reconfigure requires --tpm2' --tpm-state d --reconfigure
expect 1 'Taking ownership is not supported for TPM 2' --tpm2 --tpm-state d --take-ownership
expect 1 "User 'nobody-at-all' does not exist" --tpm2 --tpm-state d --runas nobody-at-all
expect 1 'cannot read config file /nowhere' --tpm2 --tpm-state d --config /nowhere
expect 1 'nowhere' --tpm2 --tpm-state d --pwdfile nowhere
expect 1 'a path has no comma' --tpm2 --tpm-state "file://$dir/a,b"
expect 1 'No PCR banks could be allocated' --tpm2 --tpm-state d --pcr-banks md5
expect 1 'names no create_certs_tool' --tpm2 --tpm-state d --create-ek-cert --config /dev/null
expect 1 'nothing\|no TPM state that could be reconfigured' --tpm2 --tpm-state d --reconfigure --pcr-banks sha1
[ -z "$(ls -A d)" ] || fail "refused calls left something: $(ls -A d)"
"$setup" --bogus >out 2>err
[ $? = 1 ] || fail "an unknown option is not refused"
expect 0 '"type": "swtpm_setup"' --print-capabilities
expect 0 'Usage' --help

# --- a TPM, with a key file made for it ---
expect 0 'Successfully authored TPM state' --tpm2 --tpm-state d --createek --tpm /nowhere --swtpm_ioctl /nowhere
[ "$(stat -c %a d/tpm2-00.key d/tpm2-00.qcow2 | sort -u)" = 600 ] || fail "modes of image and key"
"$NVKEEP" verify-key d/tpm2-00.qcow2 --key file=d/tpm2-00.key >out 2>err || fail "the key file opens nothing"
untouched d/* -- 1 "Found existing TPM state 'permall'" --tpm2 --tpm-state d
untouched d/* -- 0 'Not overwriting existing state file' --tpm2 --tpm-state dir://d --not-overwrite
expect 0 'Successfully activated PCR banks sha1,sha384 among' --tpm2 --tpm-state d --reconfigure --pcr-banks sha1,sha384
before=$(sum d/*)
expect 0 'Successfully created RSA 2048 EK' --tpm2 --tpm-state d --createek --overwrite --not-overwrite
[ "$before" != "$(sum d/*)" ] || fail "nothing was made anew"
expect 0 'Successfully authored' --tpm-state d --createek
cp d/tpm-00.qcow2 f/other && cp d/tpm-00.key f/other.key
untouched f/* -- 1 'is for a TPM 1.2' --tpm2 --tpm-state "file://$dir/f/other" --not-overwrite
untouched f/* -- 1 'is for a TPM 1.2' --tpm2 --tpm-state "file://$dir/f/other" --overwrite
rm f/other f/other.key
[ "$(find d -name 'tpm-00.*' | wc -l)" = 2 ] || fail "the TPM 1.2 is not beside the other"

# --- a log is neither the image nor what opens it ---
for log in tpm2-00.key tpm2-00.qcow2; do
    untouched d/* -- 1 'is the state or its key' --tpm2 --tpm-state d --not-overwrite --logfile d/$log
done
expect 1 'is the state or its key' --tpm2 --tpm-state "file://$dir/f/new" --logfile f/../f/new.key
expect 1 'is the state or its key' --tpm2 --tpm-state f --keyfile pass --logfile ./pass
[ "$(ls -A f)$(cat pass)" = 'a passphrase' ] || fail "a log where a key belongs"
for log in "--log file=d/tpm2-00.key,truncate" "--pid file=d/./tpm2-00.key" "--log file=f/tpm2-00.key"; do
    state=${log#*file=} && state=${state%%/*}
    before=$(sum d/*)
    # shellcheck disable=SC2086
    timeout 20 "${setup%_setup}" socket --tpm2 --tpmstate "dir=$state" --ctrl type=unixio,path=lg.s $log >out 2>err && fail "served: $log"
    grep -q 'are the same file' err || fail "does not say why: $log"
    [ "$before" = "$(sum d/*)" ] || fail "changed: $log"
    [ -z "$(ls -A f)" ] || fail "made: $log"
    n=$((n + 1))
done
# An image that waits for a migration is no TPM. Without its key nothing is said about what is in it.
"$NVKEEP" create --incoming f/tpm2-00.qcow2 --key file=pass >out 2>err || fail "no empty image"
expect 1 'holds no TPM' --tpm2 --tpm-state f --pwdfile pass --not-overwrite
timeout 20 "${setup%_setup}" socket --tpm2 --tpmstate dir=f --print-states >out 2>err && fail "states without a key"
[ ! -s out ] || fail "states that nobody can know"
grep -q 'no key was given' err || fail "does not say that there is no key"
rm f/tpm2-00.qcow2
[ "$(id -u)" != 0 ] || expect 1 "User '4294967296' does not exist" --tpm2 --tpm-state f --runas 4294967296
[ -z "$(ls -A f)" ] || fail "made as somebody else"

# --- a passphrase: wrong, missing, of another kind ---
expect 0 '' --tpm2 --tpm-state p --pwdfile pass --logfile log
grep -q 'Successfully authored' log || fail "nothing in the log file"
expect 1 'existing TPM state' --tpm2 --tpm-state p --pwdfile pass --logfile log
grep -q 'Found existing TPM state' log || fail "the reason is not in the log file"
[ -e p/tpm2-00.key ] && fail "a key file beside a passphrase"
# The policy of the daemon binds this tool, too.
echo 'require-key = yes' >policy
export NVKEEP_SWTPM_CONF=$dir/policy
untouched d/* -- 1 'require-key' --tpm2 --tpm-state d --overwrite
untouched d/* -- 1 'require-key' --tpm2 --tpm-state d --not-overwrite
expect 1 'require-key' --tpm2 --tpm-state f
expect 0 'Not overwriting' --tpm2 --tpm-state p --pwdfile pass --not-overwrite
echo 'iter-time = 0' >policy
untouched d/* -- 1 'policy: line 1' --tpm2 --tpm-state d --overwrite
unset NVKEEP_SWTPM_CONF
[ -z "$(ls -A f)" ] || fail "a key that the policy forbids: $(ls -A f)"
for more in --overwrite --not-overwrite '--reconfigure --pcr-banks sha1'; do
    # shellcheck disable=SC2086
    untouched p/* -- 1 'passphrase\|key' --tpm2 --tpm-state p --pwdfile wrong $more
    # shellcheck disable=SC2086
    untouched p/* -- 1 'no key was given' --tpm2 --tpm-state p $more
done
exec 7<pass
expect 0 'Not overwriting' --tpm2 --tpm-state p --pwdfile-fd 7 --not-overwrite
exec 7<&-
# Another TPM is another image: what a migration brings back for the old one is not for it.
instance()
{
    "$NVKEEP" info --json p/tpm2-00.qcow2 | grep -o '"instance": *"[^"]*"'
}
chmod 640 p/tpm2-00.qcow2
[ "$(id -u)" = 0 ] && chown nobody:nogroup p/tpm2-00.qcow2
before=$(instance)
rights=$(stat -c '%u %g %a' p/tpm2-00.qcow2)
exec 7< <(cat pass)
expect 0 'Successfully authored' --tpm2 --tpm-state p --pwdfile-fd 7 --overwrite
exec 7<&-
[ "$before" != "$(instance)" ] || fail "the image is still the old one"
[ "$(stat -c '%u %g %a' p/tpm2-00.qcow2)" = "$rights" ] || fail "owner or mode are lost"
before=$(instance)
expect 0 'Successfully authored' --tpm2 --tpm-state p --pwdfile pass --reconfigure --pcr-banks sha384
[ "$before" = "$(instance)" ] || fail "reconfigured, and another image"
[ "$(ls -A p)" = tpm2-00.qcow2 ] || fail "something is left: $(ls -A p)"
expect 1 'descriptor 7' --tpm2 --tpm-state p --pwdfile-fd 7 --overwrite
mkfifo fifo
exec 8<>fifo # nobody ever writes, and it has no end
untouched p/* -- 1 'did not come within' --tpm2 --tpm-state p --pwdfile-fd 8 --reconfigure --pcr-banks sha1
for more in '--logfile fifo' '--config fifo'; do
    # shellcheck disable=SC2086
    expect 1 'wanted a file' --tpm2 --tpm-state f $more
done
exec 8<&-
# Nor is it kept waiting by one that nobody has opened.
expect 1 'Error opening file fifo' --tpm2 --tpm-state f --logfile fifo
expect 1 'fifo: wanted a file' --tpm2 --tpm-state f --config fifo
NVKEEP_SWTPM_CONF=fifo expect 1 'fifo: wanted a file' --tpm2 --tpm-state f
mkfifo f/tpm2-00.key
expect 1 'f/tpm2-00.key is no key' --tpm2 --tpm-state f
rm f/tpm2-00.key
mkdir -p config
mkfifo config/swtpm_setup.conf
expect 0 'Not overwriting' --tpm2 --tpm-state d --not-overwrite
rm -r config
[ -z "$(ls -A f)" ] || fail "refused, and something was made: $(ls -A f)"
# What nobody can be told is not done.
"$setup" --tpm2 --tpm-state f >/dev/full 2>err && fail "standard output is full, and all is well"
grep -q 'standard output' err || fail "nothing is said about a full standard output"
[ -z "$(ls -A f)" ] || fail "nobody was told that it was made: $(ls -A f)"
for more in '--tpm2 --tpm-state d --not-overwrite' --print-capabilities --version; do
    # shellcheck disable=SC2086
    "$setup" $more >/dev/full 2>err && fail "standard output is full, and all is well: $more"
    grep -q 'standard output' err || fail "nothing is said about a full standard output: $more"
done
echo 0xAB23456789abcdef0123456789abcdef >hex
expect 0 'Successfully authored' --tpm2 --tpm-state key --keyfile hex
printf 'ab23456789abcdef0123456789abcdef' >digits
"$NVKEEP" verify-key key/tpm2-00.qcow2 --key file=digits >out 2>err || fail "the digits do not open it"
expect 1 'key' --tpm2 --tpm-state key --keyfile hex --cipher aes-256-cbc --overwrite

# --- what is not ours ---
printf 'QFI\xfb of somebody else, and long enough to be looked into' >f/other.qcow2
untouched f/other.qcow2 -- 1 'qcow2\|not' --tpm2 --tpm-state "file://$dir/f/other.qcow2" --overwrite --pwdfile pass
untouched f/other.qcow2 -- 1 '' --tpm2 --tpm-state "file://$dir/f/other.qcow2" --not-overwrite --pwdfile pass
rm f/other.qcow2
head -c 4096 /dev/zero >f/zeroes
untouched f/zeroes -- 1 'left alone' --tpm2 --tpm-state "file://$dir/f/zeroes" --overwrite
printf 'a state' >old/tpm2-00.permall
for more in --overwrite --not-overwrite '' cut; do
    # Nor one that a loss of power has cut off.
    [ "$more" = cut ] && more= && : >old/tpm2-00.permall
    # shellcheck disable=SC2086
    untouched old/tpm2-00.permall -- 1 'nvkeep import' --tpm2 --tpm-state old $more
done
printf 'nilmptws and more' >f/linear
untouched f/linear -- 1 'nvkeep import' --tpm2 --tpm-state "file://$dir/f/linear" --overwrite
# An empty file gives its place, and its mode.
(umask 027; : >f/empty)
expect 0 'Successfully authored' --tpm2 --tpm-state "file://$dir/f/empty" --pwdfile pass
[ "$(stat -c %a f/empty)" = 640 ] || fail "the mode of the empty file is lost"
"$NVKEEP" verify-key f/empty --key file=pass >out 2>err || fail "nothing was made in its place"

# --- what a daemon holds: is left to it, where nothing is to be made, as before a migration ---
"$NVKEEP" serve p/tpm2-00.qcow2 --key file=pass --server type=unixio,path="$dir/s" \
    --ctrl type=unixio,path="$dir/s.ctrl" --log file=slog,level=5 &
daemon=$!
for _ in $(seq 200); do
    grep -q ' ready$' slog 2>/dev/null && break
    sleep 0.05
done
untouched p/* -- 0 'Not overwriting .* in use' --tpm2 --tpm-state p --pwdfile pass --overwrite
untouched p/* -- 1 'passphrase\|key' --tpm2 --tpm-state p --pwdfile wrong --overwrite
untouched p/* -- 1 'is for a TPM 2.0' --tpm-state "file://$dir/p/tpm2-00.qcow2" --pwdfile pass --overwrite
for more in --createek --create-spk --lock-nvram '--pcr-banks sha1' --create-platform-cert '--write-ek-cert-files f'; do
    # shellcheck disable=SC2086
    untouched p/* -- 1 'another process is using' --tpm2 --tpm-state p --pwdfile pass --overwrite $more
done
untouched p/* -- 1 'somebody\|holds\|process\|use' --tpm2 --tpm-state p --pwdfile pass --reconfigure --pcr-banks sha1
untouched p/* -- 0 'Not overwriting' --tpm2 --tpm-state p --pwdfile pass --not-overwrite
kill -TERM "$daemon"
wait "$daemon" || fail "the daemon did not end well"
daemon=

# --- configuration files ---
words=
[ "$(id -u)" = 0 ] && words=,root
expect 0 'Writing .*/config/swtpm-localca.options' --create-config-files "${words#,}"
expect 1 'already exists. Refusing to overwrite' --create-config-files "${words#,}"
untouched config/* -- 0 '' --create-config-files "skip-if-exist$words"
expect 0 'Writing' --create-config-files "overwrite$words"
[ "$(id -u)" = 0 ] && expect 1 "Requiring the 'root' flag" --create-config-files

# --- a signer of one's own; one that fails or lies changes nothing ---
mkdir c w
cat >signer <<'EOF'
#!/bin/sh
[ "$1 $3" = "--type --ek" ] || exit 3
[ ! -w calls ] || echo "$@" >>calls
while [ "$1" != --dir ]; do shift; done
case "$(cat mode)" in
good)
    umask >umask
    [ ! -e /proc/$$/fd/9 ] || : >fds
    printf 'a certificate' >"$2/ek.cert"
    printf 'a certificate' >"$2/platform.cert"
    ;;
who)
    echo "$(id -u) $(id -g) $(id -G)" >n/who
    printf 'a certificate' >"$2/ek.cert"
    ;;
sleeps)
    echo $$ >asleep
    exec sleep 60
    ;;
large) head -c 5000 /dev/zero >"$2/ek.cert" ;;
none) : ;;
deep) mkdir -p "$2/a/b"; printf 'a certificate' >"$2/a/b/c"; exit 1 ;;
fails) printf 'a certificate' >"$2/ek.cert"; exit 1 ;;
esac
EOF
chmod +x signer
printf 'create_certs_tool = %s/signer # comment\ncreate_certs_tool_config = C\ncreate_certs_tool_options=O\nactive_pcr_banks = sha512\n' "$dir" >conf
for how in none fails large deep; do
    echo $how >mode
    expect 1 'certificate' --tpm2 --tpm-state c --create-ek-cert --config conf --write-ek-cert-files w
    [ -z "$(find c w -type f)" ] || fail "$how: something is left: $(find c w -type f)"
done
echo good >mode
: >calls
expect 0 'Successfully activated PCR banks sha512 among' --tpm2 --tpm-state c --create-ek-cert --create-platform-cert \
    --config conf --write-ek-cert-files w --vmid 'a vm'
[ "$(cat w/ek-rsa2048.crt w/ek-secp384r1.crt)" = 'a certificatea certificate' ] || fail "certificate files"
[ "$(wc -l <calls)" = 3 ] || fail "calls of the signer"
grep -q -- '--vmid a vm --tpm-spec-family 2.0 --tpm-spec-level .* --tpm-manufacturer id:.* --tpm2 --configfile C --optsfile O$' calls ||
    fail "the signer's command line: $(cut -c 1-60 calls)"
# Certificates that have no place, and the TPM stays. [S1.12, S1.13]
mkdir x x/ek-rsa2048.crt y y.dir
mkfifo y/ek-rsa2048.crt
echo theirs >y.dir/theirs && ln y.dir/theirs y.dir/ek-rsa2048.crt
for w in x y; do
    untouched c/* -- 1 'ek-rsa2048.crt: it is there, and is no regular file' --tpm2 --tpm-state c --create-ek-cert --config conf --write-ek-cert-files $w --overwrite
done
expect 0 'Successfully authored' --tpm2 --tpm-state c --create-ek-cert --config conf --write-ek-cert-files y.dir --overwrite
[ "$(cat y.dir/theirs y.dir/ek-rsa2048.crt)" = 'theirs
a certificate' ] || fail "written through a link"
[ "$(find y.dir -type f | wc -l)" = 3 ] || fail "left in y.dir: $(ls -A y.dir)"
expect 0 'Successfully took ownership' --tpm-state c --take-ownership --create-ek-cert --config conf --lock-nvram

# What it is given: the caller's umask, none of its files, nobody's groups but the user's, and two
# minutes; and it ends with us.
exec 9<pass
ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 strace -o trace -e trace=poll "$setup" --tpm2 --tpm-state c --create-ek-cert \
    --config conf --overwrite >out 2>err || fail "no TPM under strace"
exec 9<&-
grep -q 'events=POLLIN}\], 1, 120000)' trace || fail "the signer has no limit of time: $(cat trace)"
[ "$(cat umask)" = 0022 ] || fail "the signer's umask is $(cat umask)"
[ ! -e fds ] || fail "the signer has a file of the caller's"
if [ "$(id -u)" = 0 ]; then
    mkdir n
    chmod 755 . && chmod 1777 tmp && chown nobody n
    echo who >mode
    expect 0 'Successfully authored' --tpm2 --tpm-state n --create-ek-cert --config conf --runas nobody
    [ "$(cat n/who)" = "$(id -u nobody) $(id -g nobody) $(id -G nobody)" ] || fail "--runas nobody: $(cat n/who)"
    [ "$(stat -c %u:%g n/tpm2-00.qcow2)" = "$(id -u nobody):$(id -g nobody)" ] || fail "--runas nobody: the image"
fi
echo sleeps >mode
"$setup" --tpm2 --tpm-state c --create-ek-cert --config conf --overwrite >out 2>err &
for _ in $(seq 400); do
    [ -s asleep ] && break
    sleep 0.05
done
kill -TERM $!
wait $!
for _ in $(seq 400); do
    kill -0 "$(cat asleep)" 2>/dev/null || break
    sleep 0.05
done
kill -KILL "$(cat asleep)" 2>/dev/null && fail "the signer goes on without us"
rm -rf tmp/*
echo good >mode

# --- a TPM that is reconfigured is switched off ---
swtpm=$NVKEEP_BUILD/compat/swtpm
states()
{
    "$swtpm" socket --tpm2 --tpmstate dir=d --print-states
}
"$swtpm" socket --tpm2 --tpmstate dir=d --ctrl type=unixio,path=v &
daemon=$!
for _ in $(seq 400); do
    [ -S v ] && break
    sleep 0.05
done
"$swtpm"_ioctl --unix v -i && "$swtpm"_ioctl --unix v -v && "$swtpm"_ioctl --unix v -s || fail "no volatile state"
wait "$daemon" || fail "the daemon did not end well"
daemon=
states | grep -q volatile || fail "no volatile state: $(states)"
expect 0 'Successfully activated' --tpm2 --tpm-state d --reconfigure --pcr-banks sha256
states | grep -q volatile && fail "the volatile state of another configuration is left"

# --- what is in place is durable: behind the last change of a name its directory is written ---
for more in '' --overwrite; do
    # shellcheck disable=SC2086
    ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 strace -y -o trace -e trace=write,pwrite64,fsync,linkat,link,rename,renameat2 \
        "$setup" --tpm2 --tpm-state e $more >out 2>err || fail "no TPM under strace"
    # A key file is 44 bytes, and durable before there is an image that needs it.
    [ -n "$more" ] || [ "$(grep -A1 ', 44\(, 0\)\?) *= 44' trace | sed 's/^[a-z0-9]*(\(.*>\).*/\1/' | uniq | wc -l)" = 1 ] ||
        fail "the key file is not durable: $(cat trace)"
    sed -i '/^p\?write\|^+++/d' trace
    tail -1 trace | grep -q "^fsync([0-9]*<$dir/e>) *= 0" || fail "not durable $more: $(cat trace)"
done

# --- killed at any time: the TPM that was there, a new one, or (at first) none ---
kills=10
[ "${1:-}" = --long ] && kills=300
mkdir k
killed=0
for i in $(seq $kills); do
    "$setup" --tpm2 --tpm-state k --create-spk --ecc --overwrite >out 2>err &
    sleep "$(printf '0.%03d' $((i * 37 % 300)))"
    kill -KILL $! 2>/dev/null && killed=$((killed + 1))
    wait $! 2>/dev/null
    if [ -e k/tpm2-00.qcow2 ]; then
        "$NVKEEP" check k/tpm2-00.qcow2 --key file=k/tpm2-00.key >out 2>err || fail "killed: the image is not whole"
    fi
    [ -z "$(find k -type f ! -name 'tpm2-00.qcow2' ! -name 'tpm2-00.key' ! -name '.nvkeep-????????????')" ] || fail "killed: something is left: $(ls k)"
    n=$((n + 1))
done
[ "$killed" -gt 0 ] || fail "nothing was killed"
expect 0 'Successfully authored' --tpm2 --tpm-state k --create-spk --overwrite

[ -z "$(ls -A tmp)" ] || fail "directories of the signer are left"
echo "test_swtpm_setup.sh: $n calls, $killed of them killed, $n_failed failed"
[ "$n_failed" = 0 ]
