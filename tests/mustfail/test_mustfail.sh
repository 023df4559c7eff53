#!/usr/bin/env bash
# The tower, proved by what cannot be written: each .c file here is refused by the compiler, with the
# error its comment expects, and accepted with MUST_COMPILE defined, where one line says it right.
# So no file fails for a wrong reason (a missing header, a renamed function). [S0.9, S1.2]
set -u
here=$(cd "$(dirname "$0")" && pwd)
top=${NVKEEP_SOURCE:-$(cd "$here/../.." && pwd)}
log=$(mktemp "${TMPDIR:-/tmp}/nvkeep-mustfail.XXXXXX") || exit 1
trap 'rm -f "$log"' EXIT
failed=0
n=0

compile()
{
    # -O1 and an object, because unused results are only noticed on the way to one.
    LC_ALL=C "$@" -std=gnu11 -O1 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-unused-variable -Wno-return-type -D_GNU_SOURCE -I"$top" -c -o /dev/null "$file" >"$log" 2>&1
}

complain()
{
    echo "$(basename "$file") with $cc: $1"
    sed 's/^/    /' "$log"
    failed=1
}

compilers=
for cc in gcc clang; do
    command -v $cc >/dev/null && compilers="$compilers $cc"
done
[ -n "$compilers" ] || { echo "gcc and clang are missing"; exit 77; }

for file in "$here"/*.c; do
    expect=$(sed -n 's/^ \* expect: //p' "$file")
    [ -n "$expect" ] || { : >"$log"; complain "does not say which error it expects"; continue; }
    for cc in $compilers; do
        n=$((n + 1))
        if ! compile $cc -DMUST_COMPILE; then
            complain "the right way does not compile either"
        elif compile $cc; then
            complain "compiles, and must not"
        elif ! grep -qE "error: .*($expect)" "$log"; then
            complain "fails for another reason than: $expect"
        elif [ "$(sed -nE 's/^([^ ]+\.[ch]:[0-9]+):.*error: .*/\1/p' "$log" | sort -u | wc -l)" -ne 1 ]; then
            complain "fails at more than one place"
        fi
    done
done
[ $n -ge 40 ] || { echo "only $n files were found"; exit 1; }
[ $failed -eq 0 ] || exit 1
echo "$n refusals, each for its reason, and each right way accepted ($compilers )"
