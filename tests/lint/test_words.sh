#!/usr/bin/env bash
# The tree says nothing about the machine it was written on, fetches nothing from a package registry
# of some language, and speaks about the product, not about who works on it or how.
. "$(dirname "$0")/lint.sh"

# Written in pieces, so that this file does not blame itself.
e=
machine="/wo${e}rk/|/fa${e}rm/|/tmp/b${e}-|/tmp/bash${e}_jobs|/ho${e}me/[a-z]|/ro${e}ot/|/Use${e}rs/[A-Z]"
hosts="py${e}pi\\.org|pythonho${e}sted\\.org|crates\\.${e}io|npm${e}js\\.(org|com)|proxy\\.${e}golang|ruby${e}gems\\.org|maven\\.${e}org|jfr${e}og\\.|ghc${e}r\\.io|docker\\.${e}io"
people="\\b(A${e}I|LL${e}M|chat${e}bot|Clau${e}de|Anthro${e}pic|Op${e}enA${e}I|GP${e}T-?[0-9]*|Copi${e}lot|assis${e}tants?|co-auth${e}ored-by|pro${e}mpt engineering|suba${e}gents?|ag${e}ents?)\\b|(^|[^-_a-z])(this|my|our|the) help${e}er (wrote|session|run)|\\biss${e}ue #?[0-9]|#[0-9]+ iss${e}ue|\\bgenera${e}ted (by|with) an? (model|machine)"
# Words that promise that something is unfinished.
unfinished="\\b(TO${e}DO|FIX${e}ME|X${e}XX|HA${e}CK|WI${e}P)\\b"

# path  why a hit there is right
allowed='
'

rule()
{
    local f
    tree_files "$1" | while read -r f; do
        [ -f "$1/$f" ] || continue
        case $f in
        tests/fuzz/corpus/* | .git/*) continue ;;
        esac
        grep -q "^$f " <<<"$allowed" && continue
        grep -nIE "$machine" "$1/$f" | sed "s,^\([0-9]*\):.*,$f:\1: a path of one machine,"
        grep -nIE "$hosts" "$1/$f" | sed "s,^\([0-9]*\):.*,$f:\1: a package registry,"
        grep -nIE "$people" "$1/$f" | sed "s,^\([0-9]*\):.*,$f:\1: about the work instead of the product,"
        grep -nIE "$unfinished" "$1/$f" | sed "s,^\([0-9]*\):.*,$f:\1: unfinished,"
    done
}

bad 'a path of one machine' src/x.c <<<"/* see /wo${e}rk/notes */"
bad 'a path of one machine' tests/src/x.sh <<<"cd /ho${e}me/joe"
bad 'a package registry' .ci/x <<<"pip install -i https://py${e}pi.org/simple x"
bad 'about the work' README.md <<<"Written by an A${e}I."
bad 'about the work' src/x.c <<<"/* as iss${e}ue 3 wants */"
bad 'unfinished' crypto/x.c <<<"/* TO${e}DO: wipe it */"
bad 'x.md:2:' src/doc/x.md <<<"
FIX${e}ME"
good src/x.c <<<'/* /tmp and /var/tmp are fine; so are TPM sessions */'
good src/man/nvkeep.1.scd <<<'See https://www.qemu.org and RFC 8018.'
judge
