#!/usr/bin/env bash
# Snapshots made, applied and deleted by nvkeep and by qemu-img, in turns, on images of several
# geometries: both list the same, qemu-img check finds nothing after any of them, and a state that
# qemu-img has put back is told as such, and adopted when asked for. [S2.15, S3.8]
. "$(dirname "$0")/interop.sh"
nvkeep=${NVKEEP:-$build/bin/nvkeep}

new()
{
    rm -f image
    run "$nvkeep" create image --key file=key --iter-time 1 --cluster-size "$1"
}
nv()
{
    run "$nvkeep" "$@" --key file=key
}
clean()
{
    qemu_check image && nv check image && ! tail -3 "$log" | grep -q 'not used'
}
snap()
{
    nv snapshot "$1" image "$2" && clean
}
theirs()
{
    qemu_snapshot image "$@" && qemu_check image
}
# The exit code of opening, and that nothing was changed by it.
rolled_back()
{
    cp image before
    "$nvkeep" check image --key file=key >said 2>&1
    [ $? -eq 23 ] && grep -qF "(it is that of snapshot \"$1\")" said && grep -qF 'nvkeep adopt' said &&
        nv adopt image && cmp image before
}
generation()
{
    "$nvkeep" check image --key file=key --json | sed -n 's/.*"generation": \([0-9]*\),*$/\1/p'
}
names()
{
    qemu-img snapshot -l "${secrets[@]}" --image-opts "$(spec image)" | awk 'NR > 2 {print $1, $2}' >they
    "$nvkeep" snapshot list image | awk 'NR > 1 {print $1, $3}' >we
    cmp they we && [ "$(tr '\n' ' ' <we)" = "$1" ]
}

ours()
{
    new "$1" && snap create one && snap create two && names '1 one 2 two ' && snap delete one &&
        names '2 two ' && snap apply two && [ "$(generation)" -eq 2 ] && snap delete 2 && names ''
}
they_apply_ours()
{
    new "$1" && snap create one && theirs -a one && rolled_back one && nv adopt image --yes && clean &&
        [ "$(generation)" -gt 4294967296 ] && nv adopt image --yes && snap apply one &&
        theirs -d one && clean
}
we_open_theirs()
{
    new "$1" && theirs -c a && snap create b && theirs -a a && rolled_back a && nv adopt image --yes &&
        clean && snap apply a && theirs -c c && names '1 a 2 b 3 c ' && snap delete c && theirs -d b &&
        snap apply a && snap delete a && clean
}
# Nothing has happened since: that is no step back.
they_apply_at_once()
{
    new "$1" && theirs -c a && theirs -a a && theirs -c b && nv check image && snap delete a && snap delete b
}
many()
{
    local i
    new "$1" || return
    for i in $(seq 12); do nv snapshot create image "s$i" || return; done
    clean || return
    for i in 3 7 1 12 5; do theirs -d "s$i" || return; done
    for i in $(seq 20 28); do nv snapshot create image "s$i" || return; done
    clean && theirs -a s9 && rolled_back s9 && nv adopt image --yes && clean
}
# The image's features get names, and the extensions another order.
after_amend()
{
    new 64K && qemu_amend image encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time=10 &&
        snap create one && theirs -a one && rolled_back one && nv adopt image --yes && clean
}
refused()
{
    new 64K && snap create one && cp image before &&
        says 2 'there is a snapshot with that name' "$nvkeep" snapshot create image one --key file=key &&
        says 2 'there is no snapshot "two"' "$nvkeep" snapshot apply image two --key file=key &&
        says 2 'there is no snapshot "two"' "$nvkeep" snapshot delete image two --key file=key &&
        says 11 'opens none' "$nvkeep" snapshot delete image one --key file=key.wrong &&
        says 11 'opens none' "$nvkeep" snapshot create image two --key file=key2 &&
        says 2 'wanted list, create' "$nvkeep" snapshot remove image one --key file=key &&
        says 2 'missing: NAME' "$nvkeep" snapshot create image --key file=key &&
        cmp image before
}
read_only()
{
    new 64K && snap create one && snap create two || return
    cp image before && "$nvkeep" snapshot list image --json | grep -q '"two"' &&
        "$nvkeep" info image >/dev/null && nv verify-key image && cmp image before
}

for size in 64K 512 4K 2M; do
    row "ours, clusters of $size" ours "$size"
    row "qemu-img applies ours, clusters of $size" they_apply_ours "$size"
    row "we open theirs, clusters of $size" we_open_theirs "$size"
    row "qemu-img applies at once, clusters of $size" they_apply_at_once "$size"
done
row 'many, clusters of 64K' many 64K
row 'after qemu-img amend' after_amend
row 'what is refused changes nothing' refused
row 'looking changes nothing' read_only
judge
