#!/usr/bin/env bash
# nvkeep ctl: what it shows, its exit codes, and a prepared hand-over between two daemons. [S1.21]
set -u
: "${NVKEEP:?names the program}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-ctl.XXXXXX") || exit 1
daemons=()
clean_up()
{
    local p
    for p in "${daemons[@]}"; do kill "$p" 2>/dev/null; done
    wait 2>/dev/null
    rm -rf "$dir"
}
trap clean_up EXIT
cd "$dir" || exit 1
failed=0

fail()
{
    echo "$*"
    sed 's/^/    /' err log.* 2>/dev/null
    failed=1
}

# expect CODE TEXT WORDS...: ctl ends with CODE and says TEXT on one of its outputs.
expect()
{
    local code=$1 text=$2 got
    shift 2
    timeout 30 "$NVKEEP" ctl "$@" >out 2>err
    got=$?
    [ $got -eq "$code" ] || fail "ctl $*: exit code $got and not $code: $(cat out err)"
    [ -z "$text" ] || cat out err | grep -qF -- "$text" || fail "ctl $*: no \"$text\" in: $(cat out err)"
}

# start NAME WORDS...: a daemon with the admin socket NAME.a
start()
{
    local name=$1 i
    shift
    "$NVKEEP" serve i --ctrl type=unixio,path="$name.c" --admin type=unixio,path="$name.a" \
        --log file="log.$name,level=5" "$@" 2>>err &
    daemons+=($!)
    for i in $(seq 500); do
        [ -S "$name.a" ] && return
        sleep 0.01
    done
    fail "$name.a does not appear"
}

phase()
{
    "$NVKEEP" ctl "$1.a" query-status | sed -n 's/^phase: //p'
}

printf 'correct horse' >k
printf 'correct house' >wrong
printf 'correct horse\n' >line
"$NVKEEP" create i --key file=k --iter-time 1 >/dev/null 2>&1 || fail 'create'

# --- words ---
expect 2 'cannot reach a daemon at nothing.a' nothing.a query-status
expect 2 'missing: COMMAND' some.a
expect 2 'did you mean "query-status"?' some.a query-statu
expect 2 'unknown command "qmp_capabilities"' some.a qmp_capabilities
expect 2 'quit: unexpected "now"' some.a quit now=1
expect 2 'prepare-incoming: missing: token=TOKEN' some.a prepare-incoming
expect 2 'token= is given twice' some.a commit-outgoing token=a token=b
expect 2 'takes no --key' some.a quit --key file=k
expect 2 'takes no --key' some.a events --key file=k
expect 2 '--follow belongs to events' some.a quit --follow
expect 10 "name the key's source" some.a add-key
expect 2 'only serve' some.a add-key --key admin
expect 2 'one argument too many' some.a 1 2 3 4 5 6 7 8 9

# --- one daemon, its key, its end ---
start one --key admin
[ "$(phase one)" = waiting-for-key ] || fail "phase: $(phase one)"
timeout 30 "$NVKEEP" ctl one.a events --follow >events 2>&1 &
watcher=$!
timeout 30 "$NVKEEP" ctl one.a events --follow --json >events.json 2>&1 &
sleep 0.3
expect 11 'opens none' one.a add-key --key file=wrong
expect 11 'opens none' one.a add-key --key file=line
expect 10 'is empty' one.a add-key --key file=/dev/null
[ ! -e one.c ] || fail 'a socket for emulators before the key'
expect 0 '' one.a add-key --key pwdfile=line
[ ! -s out ] || fail "add-key shows: $(cat out)"
[ -S one.c ] || fail 'no socket after the key'
expect 2 'no key is awaited' one.a add-key --key file=k
[ "$(phase one)" = idle ] || fail "phase: $(phase one)"
expect 0 '"phase": "idle"' one.a query-status --json
python3 -c 'import json; o = json.load(open("out"))
assert o["result"] == "OK" and o["exit"] == 0 and o["return"]["generation"] == 1, o' ||
    fail 'the JSON of query-status'
expect 2 '"result": "USAGE"' one.a prepare-incoming token=x --json
expect 0 'name: prepare-outgoing' one.a query-commands
expect 0 'nvkeep.major: ' one.a query-version
expect 0 '' one.a quit
wait $watcher || fail 'events --follow did not end well'
for e in 'KEY_REFUSED class=KEY_WRONG' KEY_ACCEPTED 'SHUTDOWN reason=quit'; do
    grep -qF "$e" events || fail "no $e in: $(cat events)"
done
[ "$(grep -c KEY_ events)" -eq 3 ] || fail "three keys, and: $(cat events)"
wait "${daemons[@]}"
python3 -c 'import json
names = [json.loads(line)["event"] for line in open("events.json")]
assert names[:3] == ["KEY_REFUSED", "KEY_REFUSED", "KEY_ACCEPTED"] and names[-1] == "SHUTDOWN", names' ||
    fail "events as JSON: $(cat events.json)"

# --- an inherited socket, and its answers to one who asks much before it listens ---
daemons=()
python3 -c 'import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind("fd.a")
s.listen()
s.set_inheritable(True)
os.execv(sys.argv[1], ["nvkeep", "serve", "i", "--key", "file=k", "--ctrl", "type=unixio,path=fd.c",
    "--admin", "fd=%d" % s.fileno(), "--log", "file=log.fd"])' "$NVKEEP" &
daemons+=($!)
for _ in $(seq 500); do
    [ -S fd.a ] && break
    sleep 0.01
done
python3 -c 'import json, socket, threading
s = socket.socket(socket.AF_UNIX)
s.connect("fd.a")
s.settimeout(20)
ask = b"".join(json.dumps({"execute": "query-commands", "id": n}).encode() for n in range(2000))
threading.Thread(target=s.sendall, args=(b"{\"execute\": \"qmp_capabilities\"}" + ask,)).start()
lines = s.makefile()
assert "QMP" in json.loads(lines.readline())
assert json.loads(lines.readline()) == {"return": {}}
for n in range(2000):
    assert json.loads(lines.readline())["id"] == n, n' || fail 'two thousand commands at once'
expect 0 '' fd.a quit
wait "${daemons[@]}"

# --- a prepared hand-over, on shared storage ---
daemons=()
start from --key file=k --migration require-prepare=30
start to --key admin --migration incoming
expect 0 '' to.a add-key --key file=k
[ "$(phase to)" = away ] || fail "phase: $(phase to)"
# the emulator's CMD_INIT
python3 -c 'import socket
s = socket.socket(socket.AF_UNIX)
s.connect("from.c")
s.sendall(b"\0\0\0\x02\0\0\0\0")
assert s.recv(4) == b"\0\0\0\0"' || fail 'CMD_INIT'
[ "$(phase from)" = running ] || fail "phase: $(phase from)"
expect 2 'must be prepared first' from.a migrate-prepare
expect 0 '' to.a migrate-prepare
expect 0 '' from.a prepare-outgoing
offer=$(cat out)
expect 2 '' from.a prepare-incoming token="$offer"
expect 0 '' to.a prepare-incoming token="$offer"
ready=$(cat out)
expect 0 'armed: false' from.a query-status
expect 2 '' from.a commit-outgoing token=nonsense
expect 22 '' from.a commit-outgoing token="$offer"
expect 0 'armed: false' from.a query-status
expect 0 '' from.a commit-outgoing token="$ready"
expect 0 'armed: true' from.a query-status
expect 0 '' from.a migrate-prepare
expect 0 '' from.a migrate-abort
expect 0 'armed: false' from.a query-status
expect 0 '' to.a migrate-abort
expect 0 '' to.a quit
expect 0 '' from.a quit
wait "${daemons[@]}"

[ $failed -eq 0 ] && echo 'ctl: all as expected'
exit $failed
