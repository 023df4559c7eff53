#!/usr/bin/env bash
# Layout is clang-format's (Debian 12's version 14, which is what .clang-format was written for).
. "$(dirname "$0")/lint.sh"
format=$(command -v clang-format-14 || command -v clang-format) || { echo "clang-format is missing"; exit 77; }
"$format" --version | grep -q 'version 14\.' || { echo "clang-format 14 is missing; $("$format" --version) lays out differently"; exit 77; }

rule()
{
    [ "$1" = "$source_tree" ] || cp "$source_tree/.clang-format" "$1/"
    (cd "$1" && all_c_files . | xargs -r "$format" --dry-run 2>&1) |
        sed -nE 's/^([^ ]*:[0-9]+):[0-9]+: .*/\1: not as clang-format lays it out/p' | sort -u
}

bad 'src/x.c:1: not as clang-format' src/x.c <<<'int f( int a ){return a;}'
bad 'not as clang-format' tests/bench/x.h <<<'struct  x { int a; };'
good src/x.c <<'END'
int f(int a)
{
    return a;
}
END
judge
