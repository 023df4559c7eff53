#!/usr/bin/env bash
# Every script that is a test is run by ctest: one that no CMakeLists.txt registers passes for ever.
. "$(dirname "$0")/lint.sh"
command -v jq >/dev/null || { echo "jq is missing"; exit 77; }

# The words of all commands of the build; of a planted tree, a file in their place.
commands()
{
    [ -f "$1/commands" ] && { cat "$1/commands"; return; }
    ctest --test-dir "$NVKEEP_BUILD" --show-only=json-v1 | jq -r '.tests[].command[]?'
}

rule()
{
    local f
    commands "$1" >"$lint_tmp/commands.now"
    tree_files "$1" | grep -E '^tests/[a-z]+/test_[a-z0-9_]+\.(sh|py)$' | while read -r f; do
        grep -qE -- "/$f\$" "$lint_tmp/commands.now" || echo "$f:1: no test of the build runs it"
    done
}

bad 'no test of the build runs it' tests/src/test_x.py </dev/null
bad 'no test of the build runs it' tests/compat/test_x.sh </dev/null
good tests/bench/tool_x.c </dev/null
judge
