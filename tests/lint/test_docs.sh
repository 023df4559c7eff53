#!/usr/bin/env bash
# No trap features: what the program accepts is supported and documented, and no text tells the
# reader when not to use it. [S0.14] And each report says what it is, and stands in the list.
. "$(dirname "$0")/lint.sh"

traps='do not use (this|it) (when|if|with|while|unless)|(should|must) not be used (when|if|with|while|in production)|not recommended|ill-advised|at your own risk|use with (care|caution)|(is|are|still) experimental|may (or may not|not always) work|known not to work|unsupported but|(can|may|might|will) (corrupt|destroy|lose) your|make sure (that )?(no|nobody|nothing) (else )?(is )?(using|running|writing)'

rule()
{
    local f
    tree_files "$1" | while read -r f; do
        case $f in
        README.md | src/man/* | src/doc/* | src/packaging/* | src/*.c | src/*.h) ;;
        *) continue ;;
        esac
        # A sentence may be broken over lines: join paragraphs before looking.
        tr '\n' ' ' <"$1/$f" | tr -s ' ' | grep -oiE ".{0,30}($traps).{0,30}" |
            while IFS= read -r hit; do echo "$f:1: a trap: $hit"; done
    done
    for f in $(cd "$1" && ls tests/reports/*.sh 2>/dev/null); do
        sed -n 2p "$1/$f" | grep -qE '^# [A-Z].{10}' || echo "$f:2: it does not say what this report is"
        grep -q "^| \`$(basename "$f" .sh)\`" "$1/tests/reports/README.md" 2>/dev/null ||
            echo "$f:1: not in the list of tests/reports/README.md"
    done
}

bad 'a trap' README.md <<<'Do not use this when the guest is running.'
bad 'a trap' src/man/nvkeep.1.scd <<<'This option is
experimental.'
bad 'a trap' src/options.c <<<'{"--fast", "faster; use with care"},'
bad 'a trap' src/doc/x.md <<<'It should not be used while a snapshot exists.'
bad 'a trap' README.md <<<'Make sure nobody is using the image.'
bad 'does not say what' tests/reports/x.sh <<<'#!/bin/sh'
bad 'not in the list' tests/reports/x.sh <<<'#!/bin/sh
# What is reported here'
good README.md <<<'While a daemon serves the image, this is refused (LOCKED).'
good src/x.c <<<'/* reads without the claim; works while another process writes */'

# The help of the program itself, once it is built.
if [ -x "${NVKEEP:-}" ]; then
    mkdir -p "$lint_tmp/help/src/doc"
    for c in "" create serve info verify-key check recover import export key ctl; do
        # shellcheck disable=SC2086 # an empty word is left out on purpose
        "$NVKEEP" $c --help >"$lint_tmp/help/src/doc/help-$c.md" 2>&1
    done
    found=$(rule "$lint_tmp/help")
    [ -z "$found" ] || { echo "$found"; exit 1; }
fi
judge
