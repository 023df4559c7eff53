#!/usr/bin/env bash
# Every start takes one way: cold, as a target on storage that is shared or copied, taking back, and in
# the library. A store is opened by one function of one file; whoever wants one goes through it. [S3.21]
. "$(dirname "$0")/lint.sh"

# The call, and the one file that makes it; its own definition apart.
ways='
store_open    backend/image.c  backend/store.c
qcow_attach   backend/image.c  backend/qcow_disk.c
qcow_arm      backend/image.c  backend/qcow_disk.c
qcow_recover  backend/image.c  backend/qcow_recover.c
'

rule()
{
    local call only home f lines
    while read -r call only home; do
        [ -n "$call" ] || continue
        for f in $(product_files "$1"); do
            case $f in
            "$home" | *.h) continue ;;
            esac
            lines=$(code_only "$1/$f" | grep -E "(^|[^A-Za-z0-9_])${call}[[:space:]]*\(" | cut -d: -f1)
            [ -n "$lines" ] || continue
            [ "$f" = "$only" ] || echo "$f:${lines%%$'\n'*}: $call() is called in $only alone"
            case $call in
            store_open | qcow_arm)
                [ "$(wc -l <<<"$lines")" = 1 ] || echo "$f: $call() is called in more than one place"
                ;;
            esac
        done
    done <<<"$ways"
}

bad 'store_open() is called in backend/image.c alone' src/x.c <<<'if (store_open(&d, &s, e) < 0)'
bad 'qcow_attach() is called' migration/x.c <<<'return qcow_attach(&v, ret, e);'
bad 'in more than one place' backend/image.c <<<'
store_open(&a, &s, e);
store_open(&b, &s, e);'
good backend/image.c <<<'return store_open(&disk, ret, e);'
good src/x.c <<<'/* store_open(&d) */ image_claim(i, &s, e);'
judge
