# Sourced by the scripts of this folder; not a test by itself. Stock tools on one side, ours on the
# other, a table with one line per case, and a failed case fails the script.

set -u
source_tree=${NVKEEP_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
build=${NVKEEP_BUILD:-$source_tree/build}
dump=$build/bin/tool_qcow_dump
make_image=$build/bin/tool_qcow_make
n_pass=0
n_fail=0

needs()
{
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || { echo "$tool is missing"; exit 77; }
    done
}
needs qemu-img qemu-io cmp dd "$dump" "$make_image"

work=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-interop.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
printf 'the right passphrase' >key
printf 'another passphrase' >key2
printf 'the right passphras' >key.wrong
log=$work/log
: >"$log"

# Without it, each image costs seconds instead of milliseconds.
quick=
if ${CC:-cc} -shared -fPIC -o quick.so "$source_tree/tests/interop/quick_clock.c" 2>>"$log"; then
    quick=$work/quick.so
fi

# run COMMAND...: what it prints goes to the log, its exit code to the caller.
run()
{
    printf '$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1
}

secrets=(--object "secret,id=s0,file=key" --object "secret,id=s1,file=key2")
# The options that name an encrypted image to stock tools; $2: which secret (s0).
spec()
{
    echo "driver=qcow2,file.filename=$1,encrypt.key-secret=${2:-s0}"
}
luks_options=encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10

# As run. Where it measures how fast it can stretch keys it may find its clock too coarse, and give up.
patiently()
{
    local _
    for _ in $(seq 30); do
        run "$@" && return
        tail -1 "$log" | grep -q 'accurate CPU usage' || return 1
        sleep 0.1
    done
    return 1
}
# qemu_create IMAGE SIZE OPTIONS
qemu_create()
{
    LD_PRELOAD=$quick patiently qemu-img create -q "${secrets[@]}" -f qcow2 \
        -o "$luks_options${3:+,$3}" "$1" "$2"
}
# qemu_io IMAGE COMMAND...
qemu_io()
{
    local image=$1 args=() c
    shift
    for c in "$@"; do args+=(-c "$c"); done
    printf '$ qemu-io %s %s\n' "$image" "$*" >>"$log"
    qemu-io "${secrets[@]}" --image-opts "$(spec "$image")" "${args[@]}" >io.out 2>&1
    local rc=$?
    cat io.out >>"$log"
    [ $rc -eq 0 ] && ! grep -qiE 'failed|error|pattern verification' io.out
}
qemu_raw()
{
    run qemu-img convert "${secrets[@]}" --image-opts "$(spec "$1" "${3:-s0}")" -O raw "$2"
}
qemu_check()
{
    run qemu-img check "${secrets[@]}" --image-opts "$(spec "$1" "${2:-s0}")"
}
qemu_snapshot()
{
    run qemu-img snapshot "${@:2}" "${secrets[@]}" --image-opts "$(spec "$1")"
}
qemu_amend()
{
    LD_PRELOAD=$quick patiently qemu-img amend "${secrets[@]}" --image-opts "$(spec "$1" "${3:-s0}")" \
        -o "$2"
}

# Ours finds every reference counted exactly.
our_check()
{
    run "$dump" check "$1" || return
    tail -1 "$log" | grep -q 'leaks 0 corruptions 0'
}
# Ours reads what stock tools read, sector by sector, and both count references alike.
same_content()
{
    qemu_raw "$1" raw && run "$dump" compare "$1" key raw
}

# says CODE TEXT COMMAND...: fails with this exit code, and this text in its one line.
says()
{
    local code=$1 text=$2 rc
    shift 2
    printf '$ %s\n' "$*" >>"$log"
    "$@" >said 2>&1
    rc=$?
    cat said >>"$log"
    [ $rc -eq "$code" ] && grep -qF -- "$text" said && [ "$(wc -l <said)" -eq 1 ]
}

# row NAME COMMAND...: one line of the table.
row()
{
    local name=$1
    shift
    if "$@"; then
        n_pass=$((n_pass + 1))
        printf 'PASS  %s\n' "$name"
    else
        n_fail=$((n_fail + 1))
        printf 'FAIL  %s\n' "$name"
        tail -8 "$log" | sed 's/^/      | /'
    fi
}
judge()
{
    echo "$n_pass passed, $n_fail failed"
    [ $n_fail -eq 0 ] && [ $n_pass -gt 0 ]
    exit
}
