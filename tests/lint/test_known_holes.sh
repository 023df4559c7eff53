#!/usr/bin/env bash
# tests/known-holes.md says which holes others had and which test of ours shows that we do not have
# them. Every row names one, and every test it names exists.
. "$(dirname "$0")/lint.sh"

test_names()
{
    (cd "$1/tests" 2>/dev/null || exit
        grep -rhoE --include='*.c' '\b[a-z][a-z0-9_]+\(void \*\*[a-z_]+\)' . | sed 's/(.*//'
        find . \( -name 'test_*.sh' -o -name 'test_*.c' -o -name 'fuzz_*.c' -o -path './mustfail/*.c' \) |
            sed 's,^\./,,; s,\.c$,,; s,\.sh$,,') | LC_ALL=C sort -u
}

# shellcheck disable=SC2016 # backquotes of the table
rule()
{
    local table=tests/known-holes.md nr row names name
    [ -f "$1/$table" ] || { echo "$table:1: is missing"; return; }
    test_names "$1" >"$lint_tmp/names"
    # | id | what happened | our test |
    grep -nE '^\|' "$1/$table" | grep -vE '^[0-9]+:\|(---| id )' | while IFS=: read -r nr row; do
        names=$(cut -d'|' -f4 <<<"$row" | grep -oE '`[^`]+`' | tr -d '`')
        [ -n "$names" ] || echo "$table:$nr: names no test"
        for name in $names; do
            grep -qxF "$name" "$lint_tmp/names" || echo "$table:$nr: there is no test $name"
        done
    done
}

tree=$lint_tmp/tree
mkdir -p "$tree/tests/src"
echo 'static void wrong_key_is_refused(void **state)' >"$tree/tests/src/test_x.c"
# expect TEXT [ROW]
expect()
{
    local found
    printf '| id | what | our test |\n|---|---|---|\n%s\n' "${2-}" >"$tree/tests/known-holes.md"
    found=$(rule "$tree")
    proofs=$((proofs + 1))
    case $found in
    '') [ -z "$1" ] && return ;;
    *"$1"*) [ -n "$1" ] && return ;;
    esac
    echo "$lint_name: expected \"$1\", got: $found"
    proofs_failed=1
}
# shellcheck disable=SC2016 # backquotes of the table
{
    expect '' '| 1 | x | `wrong_key_is_refused` `src/test_x` |'
    expect ':3: names no test' '| 1 | x `wrong_key_is_refused` | because |'
    expect ':3: there is no test no_such_test' '| 1 | x | `src/test_x` `no_such_test` |'
}
judge
