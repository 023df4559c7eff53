#!/usr/bin/env bash
# What the daemon asks of the kernel between reading a TPM command and answering it, from strace, with
# tpm2-tools as the client: a changed NV index costs exactly one pwrite64 and one fdatasync, and
# neither an open nor a rename; PCR_Extend and GetRandom touch no file at all. [S3.14]
#
# The trace speaks for itself: what was read from the data channel is the command, byte by byte.
set -u
for tool in strace tpm2_nvwrite swtpm_ioctl; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
strace -o /dev/null true 2>/dev/null || { echo "strace may not trace here (ptrace)"; exit 77; }
ldconfig -p | grep -q libtss2-tcti-swtpm || { echo "libtss2-tcti-swtpm is missing"; exit 77; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-strace.XXXXXX") || exit 1
tracer=
clean_up()
{
    [ -z "$tracer" ] || kill -KILL "$tracer" 2>/dev/null
    rm -rf "$dir"
}
trap clean_up EXIT

# One line per TPM command: its code, its response code, and the calls in between, in their order.
# Calls on the image are written "pwrite64@image", on other files "@file", on sockets bare.
commands()
{
    awk -v image="$2" '
    function emit(text,    name, args, fd, what) {
        if (text !~ /^[a-z0-9_]+\(/) return
        name = text; sub(/\(.*/, "", name)
        args = substr(text, length(name) + 2)
        fd = args
        if (!sub(/^[0-9]+</, "", fd)) fd = ""
        what = ""
        if (fd != "") {
            if (index(fd, image ">") == 1 || index(fd, image ",") == 1) what = "@image"
            else if (fd !~ /^(socket|UNIX|TCP|pipe|anon_inode)/) what = "@file"
        }
        if (name ~ /^(read|recv|recvfrom|recvmsg|readv)$/ && what == "" &&
            match(args, /"\\x80\\x0[12](\\x[0-9a-f][0-9a-f])+/)) {
            bytes = substr(args, RSTART + 1, RLENGTH - 1); gsub(/\\x/, "", bytes)
            if (length(bytes) >= 20) {
                code = substr(bytes, 13, 8); calls = ""
                return
            }
        }
        if (name ~ /^(write|send|sendto|sendmsg|writev)$/ && what == "" && code != "" &&
            match(args, /"\\x80\\x0[12](\\x[0-9a-f][0-9a-f])+/)) {
            bytes = substr(args, RSTART + 1, RLENGTH - 1); gsub(/\\x/, "", bytes)
            print code, substr(bytes, 13, 8) calls
            code = ""
            return
        }
        if (name == "mmap" && args !~ /MAP_ANONYMOUS/) what = "@file"
        if (code != "") calls = calls " " name what
    }
    {
        pid = $1; text = $0; sub(/^[0-9]+ +/, "", text)
        if (sub(/ <unfinished \.\.\.>$/, "", text)) {
            pending[pid] = text
            # A call that does not come back before the answer counts where it began, if it writes.
            next
        }
        if (text ~ /^<\.\.\. [a-z0-9_]+ resumed>/) {
            sub(/^<\.\.\. [a-z0-9_]+ resumed>/, "", text)
            text = pending[pid] text
            delete pending[pid]
        }
        emit(text)
    }' "$1"
}

# The parser first proves itself on a trace whose answer is known.
cat >"$dir/known" <<'END'
7 read(8<socket:[1]>, "\x80\x02\x00\x00\x00\x3b\x00\x00\x01\x37\x01\x80", 4096) = 59
7 futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1
7 poll([{fd=8<socket:[1]>, events=POLLIN}], 1, -1 <unfinished ...>
8 pwrite64(3</x/image>, "\x80\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"..., 512, 4096 <unfinished ...>
7 <... poll resumed>) = 1
8 <... pwrite64 resumed>) = 512
8 fdatasync(3</x/image>) = 0
8 openat(AT_FDCWD</>, "/x/other", O_RDWR) = 9</x/other>
8 write(9</x/other>, "\x80\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 12) = 12
7 write(8<socket:[1]>, "\x80\x02\x00\x00\x00\x13\x00\x00\x00\x00\x00\x00", 19) = 19
7 fsync(3</x/image>) = 0
7 recvmsg(8<socket:[1]>, {msg_name=NULL, msg_iov=[{iov_base="\x80\x01\x00\x00\x00\x0c\x00\x00\x01\x7b\x00\x08", iov_len=4096}]}, 0) = 12
7 write(8<socket:[1]>, "\x80\x01\x00\x00\x00\x14\x00\x00\x01\x01\x00\x08", 20) = 20
END
cat >"$dir/known.want" <<'END'
00000137 00000000 futex poll pwrite64@image fdatasync@image openat write@file
0000017b 00000101
END
if ! commands "$dir/known" /x/image | diff "$dir/known.want" -; then
    echo "the parser of this test is wrong"
    exit 1
fi

umask 077
printf 'a key for a test' >"$dir/key"
"$NVKEEP" create "$dir/image" --key file="$dir/key" --tpm2 --iter-time 1 >"$dir/out" 2>&1 ||
    { cat "$dir/out"; exit 1; }
strace -f -y -x -s 48 -o "$dir/trace" "$NVKEEP" serve "$dir/image" --key file="$dir/key" \
    --server type=unixio,path="$dir/s" --ctrl type=unixio,path="$dir/s.ctrl" \
    --flags not-need-init,startup-clear >"$dir/log" 2>&1 &
tracer=$!
for _ in $(seq 200); do
    [ -S "$dir/s" ] && [ -S "$dir/s.ctrl" ] && break
    sleep 0.05
done

export TPM2TOOLS_TCTI=swtpm:path=$dir/s
index=0x01800020
run()
{
    timeout 60 "$@" >"$dir/out" 2>&1 && return
    echo "failed: $*"
    cat "$dir/out" "$dir/log"
    exit 1
}
head -c 64 /dev/urandom >"$dir/first"
head -c 64 /dev/urandom >"$dir/second"
run tpm2_nvdefine -C o -s 64 -a 'ownerread|ownerwrite|no_da' $index
run tpm2_nvwrite -C o -i "$dir/first" $index
run tpm2_nvwrite -C o -i "$dir/second" $index
run tpm2_nvwrite -C o -i "$dir/second" $index
run tpm2_nvread -C o -s 64 -o "$dir/read" $index
run tpm2_pcrextend 16:sha256=0000000000000000000000000000000000000000000000000000000000000001
run tpm2_getrandom --hex 16
cmp -s "$dir/read" "$dir/second" || { echo "what was read is not what was written"; exit 1; }
run swtpm_ioctl --unix "$dir/s.ctrl" -s
wait "$tracer"
tracer=

commands "$dir/trace" "$dir/image" >"$dir/seen"
failed=0
# code, how often the tools send it, name, and what the calls on files may be (all others are free).
check()
{
    local n=0 code=$1 name=$2 calls want
    shift 2
    grep "^$code " "$dir/seen" >"$dir/these"
    if [ "$(wc -l <"$dir/these")" -ne $# ]; then
        echo "$name: sent $(wc -l <"$dir/these") times, expected $#"
        failed=1
    fi
    while read -r _ rc calls; do
        want=${1:-none}
        shift
        n=$((n + 1))
        calls=" $calls "
        files=$(tr ' ' '\n' <<<"$calls" | grep -E '@|^(open|openat|openat2|creat|rename|renameat|renameat2|link|linkat|symlinkat|unlink|unlinkat|ftruncate|fallocate|msync|sync|syncfs)$' | paste -sd' ')
        printf '%-12s %d: rc %s, calls:%s\n' "$name" $n "$rc" "$calls"
        [ "$want" = none ] && want=
        if [ "$rc" != 00000000 ] || [ "$files" != "$want" ]; then
            echo "    wanted: ${want:-no call on any file}; found: ${files:-none}"
            failed=1
        fi
    done <"$dir/these"
}
one='pwrite64@image fdatasync@image newfstatat@image' # the last: has the file still a name?
check 0000012a NV_Define "$one"
check 00000137 NV_Write "$one" "$one" none
check 0000014e NV_Read none
check 00000182 PCR_Extend none
check 0000017b GetRandom none
[ $failed -eq 0 ] || exit 1
echo "one write and one flush per changed state; none where nothing changed"
