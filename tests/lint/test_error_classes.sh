#!/usr/bin/env bash
# Every result class is one that the product can give and a test provokes; a class nobody can meet is
# deleted. [S1.14, S1.24]
. "$(dirname "$0")/lint.sh"

rule()
{
    local class given tested
    for class in $(code_only "$1/src/base/err.h" | grep -oE '\bERR_[A-Z_]+' | sort -u); do
        case $class in
        ERR_NONE | ERR_N_KINDS) continue ;;
        esac
        given=$(for f in $(product_files "$1"); do
            case $f in src/base/*) ;; *) code_only "$1/$f" | grep -oE "\b$class\b" ;; esac
        done | head -1)
        tested=$(grep -rlE "\b$class\b|\b${class#ERR_}\b" "$1/tests" --include='*.c' --include='*.sh' 2>/dev/null |
            grep -v '/tests/lint/' | head -1)
        [ -n "$given" ] || echo "src/base/err.h:1: $class is given by nothing: delete it"
        [ -n "$tested" ] || echo "src/base/err.h:1: $class is provoked by no test"
    done
}

three()
{
    rm -rf "$lint_tmp/tree"
    mkdir -p "$lint_tmp/tree/src/base" "$lint_tmp/tree/crypto" "$lint_tmp/tree/tests/crypto"
    echo 'enum err_kind { ERR_NONE, ERR_USAGE, ERR_LOCKED, ERR_N_KINDS };' >"$lint_tmp/tree/src/base/err.h"
    echo "$1" >"$lint_tmp/tree/crypto/x.c"
    echo "$2" >"$lint_tmp/tree/tests/crypto/test_x.c"
    proofs=$((proofs + 1))
    case $(rule "$lint_tmp/tree") in
    *"$3"*) [ -n "$3" ] && return ;;
    esac
    [ -z "$3" ] && [ -z "$(rule "$lint_tmp/tree")" ] && return
    echo "$lint_name: proof failed: $1 / $2 / $3"
    proofs_failed=1
}
three 'err_set(e, ERR_USAGE, "x"); /* ERR_LOCKED */' 'ERR_USAGE ERR_LOCKED' 'ERR_LOCKED is given by nothing'
three 'err_set(e, ERR_USAGE, "x"); err_set(e, ERR_LOCKED, "x");' 'ERR_LOCKED' 'ERR_USAGE is provoked by no test'
three 'err_set(e, ERR_USAGE, "x"); err_set(e, ERR_LOCKED, "x");' 'ERR_LOCKED ERR_USAGE' ''
judge
