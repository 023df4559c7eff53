#!/usr/bin/env bash
# An include points down or sideways, never up: src/base < crypto < backend < migration < src. Our
# own headers are named with their folder, in quotes; a test's header is never included by the product.
. "$(dirname "$0")/lint.sh"

rule()
{
    local f
    for f in $(product_files "$1"); do
        uncommented "$1/$f" | awk -v file="$f" '
        function rank(path) {
            if (path ~ /^src\/base\//) return 0
            if (path ~ /^crypto\//) return 1
            if (path ~ /^backend\//) return 2
            if (path ~ /^migration\//) return 3
            if (path ~ /^src\//) return 4
            return -1
        }
        /^[0-9]+:[ \t]*#[ \t]*include[ \t]/ {
            nr = $0; sub(/:.*/, "", nr)
            if (match($0, /"[^"]*"/)) {
                name = substr($0, RSTART + 1, RLENGTH - 2)
                if (name !~ /\//)
                    print file ":" nr ": \"" name "\" is named without its folder"
                else if (name ~ /\.\.\//)
                    print file ":" nr ": \"" name "\" climbs out of its folder"
                else if (rank(name) < 0)
                    print file ":" nr ": \"" name "\" is in no layer of the product"
                else if (rank(name) > rank(file))
                    print file ":" nr ": \"" name "\" points up"
            } else if (match($0, /<[^>]*>/)) {
                name = substr($0, RSTART + 1, RLENGTH - 2)
                if (rank(name) >= 0 || name ~ /^tests\//)
                    print file ":" nr ": <" name "> is ours and belongs in quotes"
            } else
                print file ":" nr ": an include that cannot be read"
        }'
    done
}

bad '"crypto/prim.h" points up' src/base/x.c <<<'#include "crypto/prim.h"'
bad '"backend/blk.h" points up' crypto/x.h <<<'#  include "backend/blk.h"'
bad '"migration/x.h" points up' backend/x.c <<<'#include "migration/x.h"'
bad '"src/serve/log.h" points up' migration/x.c <<<'#include "src/serve/log.h"'
bad '"src/serve/log.h" points up' backend/x.c <<<'#include	"src/serve/log.h"'
bad 'without its folder' crypto/x.c <<<'#include "prim.h"'
bad 'climbs out' crypto/x.c <<<'#include "../crypto/prim.h"'
bad 'in no layer' src/x.c <<<'#include "support/mem_disk.h"'
bad 'belongs in quotes' src/x.c <<<'#include <src/serve/log.h>'
bad 'cannot be read' src/x.c <<<'#include HEADER'
good src/x.c <<<'#include "migration/x.h"'
good backend/x.c <<<'#include "src/base/err.h"'
good crypto/x.c <<<'#include "crypto/prim.h"'
good crypto/x.c <<<'/* #include "src/serve/log.h" */'
good src/x.c <<<'#include <stdint.h>'
judge
