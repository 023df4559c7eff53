#!/usr/bin/env bash
# Shell scripts: they parse, and shellcheck has nothing to say.
. "$(dirname "$0")/lint.sh"
command -v shellcheck >/dev/null || { echo "shellcheck is missing"; exit 77; }

rule()
{
    local f
    tree_files "$1" | while read -r f; do
        [ -f "$1/$f" ] || continue
        case $f in
        *.sh) ;;
        *) head -c 64 "$1/$f" | LC_ALL=C grep -aqE '^#!.*\b(ba)?sh\b' || continue ;;
        esac
        bash -n "$1/$f" 2>&1 | sed "s,^.*: line,$f: line,"
        # What crosses a `source` line is not its business: SC1091, SC2034, SC2154. Words with commas in an
        # array are how QEMU takes its options: SC2054.
        (cd "$1" && shellcheck -s bash -f gcc -S warning -e SC1091,SC2034,SC2154,SC2054 "$f")
    done
}

bad 'SC2046' x.sh <<<'#!/bin/bash
rm -rf $(ls)'
bad 'syntax error' run <<<'#!/usr/bin/env bash
if true; then'
good x.sh <<<'#!/bin/bash
rm -f "$1"'
good tests/bench/tool.c <<<'int x;'
judge
