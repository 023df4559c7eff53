#!/usr/bin/env bash
# tests/behaviours.md maps every behaviour to the tests that keep it, or says in writing why none does
# yet. This holds it to that: no behaviour is missing, every test it names exists, and an id that a
# test mentions is one that exists.
. "$(dirname "$0")/lint.sh"

# How many behaviours each family has.
families='S0 19
S1 24
S2 16
S3 26
S4 16'

# The names of the tests below a tree: functions of the programs, and scripts by their file.
test_names()
{
    (cd "$1/tests" 2>/dev/null || exit
        grep -rhoE --include='*.c' '\b[a-z][a-z0-9_]+\(void \*\*[a-z_]+\)' . | sed 's/(.*//'
        grep -rhoE --include='*.py' '^def [a-z0-9_]+\(test\):' . | sed 's/^def //; s/(.*//'
        find . -name 'test_*.sh' -o -name 'test_*.c' -o -name 'test_*.py' -path './crash/*' -o -name 'fuzz_*.c' -o -name '*.c' -path './mustfail/*' |
            sed 's,^\./,,; s,\.c$,,; s,\.sh$,,; s,\.py$,,') | sort -u
}

rule()
{
    local table=$1/tests/behaviours.md family count i id row names name
    [ -f "$table" ] || { echo "tests/behaviours.md:1: is missing"; return; }
    test_names "$1" >"$lint_tmp/names"
    while read -r family count; do
        for i in $(seq 1 "$count"); do
            id=$family.$i
            row=$(grep -nE "^\| *${id/./\\.} *\|" "$table")
            if [ -z "$row" ]; then
                echo "tests/behaviours.md:1: $id is missing"
                continue
            fi
            [ "$(wc -l <<<"$row")" -eq 1 ] || { echo "tests/behaviours.md:${row%%:*}: $id stands there twice"; continue; }
            # | id | behaviour | kept by |
            names=$(cut -d'|' -f4 <<<"$row" | grep -oE '`[^`]+`' | tr -d '`')
            if [ -z "$names" ]; then
                cut -d'|' -f4 <<<"$row" | grep -qE '^ *not yet: .{10,}' ||
                    echo "tests/behaviours.md:${row%%:*}: $id names no test and gives no reason (\"not yet: ...\")"
                continue
            fi
            for name in $names; do
                grep -qxF "$name" "$lint_tmp/names" ||
                    echo "tests/behaviours.md:${row%%:*}: $id is kept by \"$name\", which does not exist"
            done
        done
    done <<<"$families"
    # Ids in tests that no behaviour has.
    grep -rnoE --include='*.c' --include='*.sh' --include='*.py' --include='*.py' '\bS[0-4]\.[0-9]+' "$1/tests" 2>/dev/null | grep -v '/tests/lint/' |
        sed "s,^$1/,," | while IFS=: read -r f nr id; do
        count=$(sed -n "s/^${id%%.*} //p" <<<"$families")
        [ "${id##*.}" -ge 1 ] && [ "${id##*.}" -le "$count" ] || echo "$f:$nr: there is no behaviour $id"
    done
}

table()
{
    rm -rf "$lint_tmp/tree"
    mkdir -p "$lint_tmp/tree/tests/src"
    while read -r family count; do
        for i in $(seq 1 "$count"); do
            echo "| $family.$i | it does what it does | not yet: nothing is there yet |"
        done
    done <<<"$families" >"$lint_tmp/tree/tests/behaviours.md"
    echo 'static void wrong_key_is_refused(void **state)' >"$lint_tmp/tree/tests/src/test_x.c"
}
expect()
{
    local found
    found=$(rule "$lint_tmp/tree")
    proofs=$((proofs + 1))
    case ${1:+x}$found in
    '') return ;;
    x*"$1"*) [ -n "$1" ] && return ;;
    esac
    echo "$lint_name: expected \"$1\", got: $found"
    proofs_failed=1
}
table
expect ''
sed -i '/| S2.7 |/d' "$lint_tmp/tree/tests/behaviours.md"
expect 'S2.7 is missing'
table
sed -i 's/^| S1.3 .*/| S1.3 | x | |/' "$lint_tmp/tree/tests/behaviours.md"
expect 'S1.3 names no test'
table
sed -i 's/^| S1.3 .*/| S1.3 | x | `no_such_test` |/' "$lint_tmp/tree/tests/behaviours.md"
expect 'which does not exist'
table
sed -i 's,^| S1.3 .*,| S1.3 | x | `wrong_key_is_refused` `src/test_x` |,' "$lint_tmp/tree/tests/behaviours.md"
expect ''
echo '/* S4.17 */' >>"$lint_tmp/tree/tests/src/test_x.c"
expect 'there is no behaviour S4.17'
judge
