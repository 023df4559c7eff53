#!/usr/bin/env bash
# nvkeep key: what it takes and refuses, what it says, and that one that was interrupted is finished by
# giving it again. [S0.3, S0.7]
set -u
: "${NVKEEP:?names the program}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-key.XXXXXX") || exit 1
trap '[ -z "${daemon:-}" ] || kill "$daemon"; wait; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failed=0
n=0

# expect CODE TEXT WORDS...: nvkeep key ends with CODE and says TEXT on one of its outputs.
expect()
{
    local code=$1 text=$2 got
    shift 2
    n=$((n + 1))
    timeout 60 "$NVKEEP" key "$@" </dev/null >out 2>err
    got=$?
    [ $got -eq "$code" ] || { echo "key $*: exit code $got and not $code: $(cat out err)"; failed=1; }
    [ -z "$text" ] || cat out err | grep -qF -- "$text" ||
        { echo "key $*: no \"$text\" in: $(cat out err)"; failed=1; }
}
# refused CODE TEXT WORDS...: the same, and the image is as it was.
refused()
{
    cp i before
    expect "$@"
    cmp -s i before || { echo "key ${*:3}: the image has changed"; failed=1; }
}
opens()
{
    "$NVKEEP" verify-key i --key "file=$1" >/dev/null 2>&1
}

for k in one two three; do printf 'key number %s' $k >$k; done
printf 'a\0b' >nul
"$NVKEEP" create i --key file=one --iter-time 1 >/dev/null 2>&1 || exit 1
fast=(--iter-time 1)

# --- words ---
expect 2 'missing: ACTION, IMAGE'
expect 2 'missing: IMAGE' list
refused 2 'did you mean "rotate"?' rotat i
refused 2 'wanted list, add, remove or rotate' frobnicate i
refused 2 'one argument too many' list i j
refused 2 '--slot does not belong to key list' list i --slot 1
refused 2 '--old-key does not belong to key rotate' rotate i --old-key file=one
refused 2 '--new-key does not belong to key remove' remove i --new-key x
refused 2 'exclude each other' add i --next-key file=two --new-key x
refused 2 'missing: --slot N or --old-key' remove i --key file=one
refused 2 '--slot' add i --key file=one --next-key file=two --slot 8
refused 2 'only serve' add i --key file=one --next-key admin
expect 2 'nothing' list nothing
refused 10 'no key was given' add i --next-key file=two
refused 10 'the key to be added' add i --key file=one
refused 10 'is empty' add i --key file=one --next-key file=/dev/null
refused 2 'NUL' add i --key file=one --next-key file=nul
refused 11 'opens none' add i --key file=two --next-key file=three "${fast[@]}"
refused 11 'opens none' list i --key file=two
refused 11 'opens none' remove i --key file=one --old-key file=two
refused 2 'the new key is the old one' rotate i --key file=one --next-key file=one "${fast[@]}"
refused 2 'the last key of the image' remove i --key file=one --slot 0
refused 2 'the last key of the image' remove i --key file=one --old-key file=one
refused 2 'slot 0 holds a key' add i --key file=one --next-key file=two --slot 0 "${fast[@]}"
refused 2 'exists' add i --key file=one --new-key two
refused 2 'slot 0 holds a key' add i --key file=one --new-key made --slot 0
[ ! -e made ] || { echo 'a key file for a key that was refused'; failed=1; }

# --- what it does ---
expect 0 'slot 0: in use' list i
expect 0 '7 of 8 slots are free' list i
expect 0 'this key opens it' list i --key file=one
expect 0 'the new key is in slot 1' add i --key file=one --next-key file=two "${fast[@]}"
refused 0 'in slot 1 already' add i --key file=one --next-key file=two "${fast[@]}"
refused 2 'in slot 1 already' add i --key file=one --next-key file=two --slot 5 "${fast[@]}"
refused 2 'give one that stays' remove i --key file=one --slot 0
expect 0 'removed: slot 0' remove i --key file=two --slot 0
opens one && { echo 'a key that was removed opens the image'; failed=1; }
refused 0 'nothing was left' remove i --key file=two --slot 0
refused 11 'opens none' remove i --key file=two --old-key file=one
expect 0 'the new key is in slot 0' rotate i --key file=two --new-key made
opens made && ! opens two || { echo 'rotated, and the wrong key opens'; failed=1; }
[ "$(stat -c %a made)" = 600 ] || { echo 'the mode of the new key'; failed=1; }
refused 0 'nothing was left' rotate i --key file=two --next-key file=made
for s in 1 2 3 4 5 6 7; do
    printf 'filler %s' $s >f$s
    expect 0 "in slot $s" add i --key file=made --next-key "file=f$s" --slot $s "${fast[@]}"
done
refused 2 'all 8 key slots hold keys' add i --key file=made --next-key file=one "${fast[@]}"
refused 2 'all 8 key slots hold keys' rotate i --key file=made --next-key file=one "${fast[@]}"
expect 0 '' list i --key file=f6 --json
python3 -c 'import json; o = json.load(open("out"))
assert o["result"] == "OK" and o["free"] == 0, o
assert [s["slot"] for s in o["slots"] if s["opens"]] == [6], o' || failed=1
expect 0 '' remove i --key file=f6 --old-key file=made --json
python3 -c 'import json; o = json.load(open("out"))
assert o["removed"] == [0] and o["overwritten_late"] == 0, o' || failed=1
# The same key in two slots is removed from both.
cp f1 same
expect 0 '' remove i --key file=f6 --slot 5
for _ in $(seq 30); do # its benchmark sometimes gives up
    qemu-img amend -q --object secret,id=a,file=f6 --object secret,id=b,file=same --image-opts \
        driver=qcow2,file.filename=i,encrypt.key-secret=a \
        -o encrypt.state=active,encrypt.new-secret=b,encrypt.keyslot=5,encrypt.iter-time=1 2>/dev/null && break
    sleep 0.2
done
expect 0 'removed: slot 1, 5' remove i --key file=f6 --old-key file=same

# --- a recovery key ---
refused 2 'does not belong' rotate i --key file=f6 --recovery-key terminal
refused 2 'exclude each other' add i --key file=f6 --recovery-key terminal --new-key x
refused 2 'not open for writing' add i --key file=f6 --recovery-key fd=77
refused 2 'terminal or fd=N' add i --key file=f6 --recovery-key terminal,fd=3
expect 0 'the new key is in slot' add i --key file=f6 --recovery-key fd=7 7>written
grep -qE '^([a-z0-9]{5}-){7}[a-z0-9]{5}$' written || { echo "a recovery key: $(cat written)"; failed=1; }
tr 'a-z-' 'A-Z ' <written >typed
expect 0 'this key opens it' list i --key recovery=typed
head -c 47 written >exactly
opens exactly || { echo 'the recovery key as it was shown is no passphrase'; failed=1; }
sed 's/^\(.\)\(.\)/\2\1/; t; s/./q/' typed >swapped
cmp -s typed swapped || refused 2 'a mistake in it' list i --key recovery=swapped
echo qqqq >nonsense
refused 2 'wanted are 40' list i --key recovery=nonsense
expect 0 'removed' remove i --key file=f6 --old-key recovery=typed
refused 11 'opens none' list i --key recovery=typed

# --- in use ---
"$NVKEEP" serve i --key file=f6 --ctrl type=unixio,path=c --admin type=unixio,path=a --daemon --pid file=pid --log file=log || failed=1
daemon=$(cat pid)
refused 31 'nvkeep ctl SOCKET key-add' add i --key file=f6 --next-key file=one "${fast[@]}"
refused 31 'nvkeep ctl SOCKET key-rotate' rotate i --key file=f6 --next-key file=one "${fast[@]}"
refused 0 '' list i --key file=f6
"$NVKEEP" ctl a quit
for _ in $(seq 500); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.02; done
daemon=

# --- interrupted at any moment: the same again comes to the same end ---
cp i whole
reached=0
for ms in 000 002 005 010 015 020 030 040 050 070 100 150 200 250; do
    cp whole i
    "$NVKEEP" key rotate i --key file=f6 --next-key file=three --iter-time 20 >/dev/null 2>&1 &
    victim=$!
    sleep 0.$ms
    kill -KILL $victim 2>/dev/null && reached=$((reached + 1))
    wait $victim 2>/dev/null
    opens f6 || opens three || { echo "killed after $ms ms: no key opens the image"; failed=1; }
    expect 0 '' rotate i --key file=f6 --next-key file=three "${fast[@]}"
    opens three && ! opens f6 || { echo "killed after $ms ms, and again: the wrong key opens"; failed=1; }
    "$NVKEEP" check i --key file=three >out 2>&1 || { cat out; failed=1; }
done
[ $reached -gt 0 ] || { echo 'it was always faster than the kill'; failed=1; }

echo "key: $n commands, $reached killed; failed: $failed"
exit $failed
