#!/usr/bin/env bash
# What is installed is enough for an emulator's author: header, shared and static library,
# pkg-config file; and nothing but nvkeep_* is exported.
set -u
: "${NVKEEP_SOURCE:?}" "${NVKEEP_BUILD:?}"
for tool in pkg-config nm; do
    command -v $tool >/dev/null || { echo "missing: $tool"; exit 77; }
done
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
bad=0
fail()
{
    echo "FAILED: $*"
    bad=1
}

cmake --install "$NVKEEP_BUILD" --prefix "$tmp/usr" >"$tmp/log" 2>&1 || { cat "$tmp/log"; exit 1; }
pc=$(find "$tmp/usr" -name nvkeep.pc)
lib=$(dirname "$(find "$tmp/usr" -name libnvkeep.a)")
[ -n "$pc" ] && [ -e "$lib/libnvkeep.so.0" ] && [ -e "$lib/libnvkeep.so" ] || { ls -R "$tmp/usr"; exit 1; }
# The prefix was given at install time; pkg-config is told of it as for any relocated package.
pkg() { PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --define-variable=prefix="$tmp/usr" \
    --define-variable=libdir="$lib" --define-variable=includedir="$tmp/usr/include" "$@" nvkeep; }

# A library that was built with sanitizers needs them in its user, too.
sanitize=$(sed -n 's/^NVKEEP_SANITIZE:[A-Z]*=//p' "$NVKEEP_BUILD/CMakeCache.txt")
flags=(-std=c11 -Wall -Wextra -Werror -pedantic)
[ -z "$sanitize" ] || flags+=("-fsanitize=$sanitize")
cc=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$NVKEEP_BUILD/CMakeCache.txt")

use()
{
    mkdir -p "$tmp/$1.d"
    env "LD_LIBRARY_PATH=$lib" "$tmp/$1" "$tmp/$1.d" || fail "the user of the $1 library"
}
# shellcheck disable=SC2046 # words are wanted
if "$cc" "${flags[@]}" $(pkg --cflags) "$NVKEEP_SOURCE/tests/src/library_user.c" -o "$tmp/shared" $(pkg --libs); then
    use shared
else
    fail "compiling against the shared library"
fi
# shellcheck disable=SC2046
if "$cc" "${flags[@]}" $(pkg --cflags) "$NVKEEP_SOURCE/tests/src/library_user.c" -o "$tmp/static" \
    "$lib/libnvkeep.a" $(pkg --static --libs-only-l | tr ' ' '\n' | grep -v '^-lnvkeep$'); then
    use static
else
    fail "compiling against the static library"
fi
command -v readelf >/dev/null && {
    readelf -d "$tmp/shared" | grep -q 'NEEDED.*libnvkeep\.so\.0\]' || fail "soname is not libnvkeep.so.0"
    readelf -d "$lib/libnvkeep.so.0" | grep 'NEEDED' | grep -E 'tpms|crypto|ssl|jansson|seccomp' && fail "the library needs too much"
}

declared=$(grep -oE '\bnvkeep_[a-z_]+\(' "$tmp/usr/include/nvkeep.h" | tr -d '(' | sort -u)
exported=$(nm -D --defined-only "$lib/libnvkeep.so" | awk '$2 == "T" { sub("@.*", "", $3); print $3 }' | sort)
[ "$(nm -D --defined-only "$lib/libnvkeep.so" | grep -vc -e ' T nvkeep_' -e ' A NVKEEP_0')" = 0 ] || fail "the shared library exports more"
[ "$declared" = "$exported" ] || { diff <(echo "$declared") <(echo "$exported"); fail "header and exports differ"; }
if [ -z "$sanitize" ]; then
    [ "$(nm -g --defined-only "$lib/libnvkeep.a" | awk 'NF == 3 { print $3 }' | sort)" = "$exported" ] || fail "the static library exports something else"
fi

# The header is C++, too, where there is a compiler for it.
for cxx in g++ clang++; do
    command -v $cxx >/dev/null || continue
    echo '#include <nvkeep.h>' | $cxx -x c++ -Wall -Wextra -Werror -pedantic -I"$tmp/usr/include" -fsyntax-only - || fail "the header in C++"
    break
done
[ $bad = 0 ] && echo "libnvkeep: installed, linked both ways, $(echo "$exported" | wc -l) functions"
exit $bad
