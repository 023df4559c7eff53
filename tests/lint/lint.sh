# Sourced by the lints of this folder; not a test by itself.
#
# A lint defines `rule TREE`, which prints one line "path:line: what is wrong" per breach and nothing
# else. Before it is let loose on the real tree it has to prove itself: every kind of breach is
# planted in a tree of its own and must be found (bad), and its innocent neighbour must not (good).
# A lint that cannot fail is a defect.

set -u
source_tree=${NVKEEP_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
lint_name=$(basename "$0")
lint_tmp=$(mktemp -d "${TMPDIR:-/tmp}/nvkeep-lint.XXXXXX") || exit 1
trap 'rm -rf "$lint_tmp"' EXIT
proofs=0
proofs_failed=0

# The product, without its tests.
product_files()
{
    (cd "$1" && find src crypto backend migration -name '*.[ch]' 2>/dev/null | LC_ALL=C sort)
}

# All our C, tests included.
all_c_files()
{
    (cd "$1" && find src crypto backend migration tests -name '*.[ch]' 2>/dev/null | LC_ALL=C sort)
}

# Everything that is ours, text or not: what git knows, or what lies there in an unpacked archive.
tree_files()
{
    (cd "$1" && { git ls-files -co --exclude-standard 2>/dev/null ||
        find . -type f -not -path './build*' | sed 's,^\./,,'; } | LC_ALL=C sort -u)
}

# A C file without its comments, with the line numbers kept: "12:text".
uncommented()
{
    awk '
    {
        out = ""
        line = $0
        while (length(line)) {
            if (inside) {
                p = index(line, "*/")
                if (!p) { line = ""; break }
                line = substr(line, p + 2)
                inside = 0
                continue
            }
            if (match(line, /"([^"\\]|\\.)*"|\/\*|\/\//)) {
                tok = substr(line, RSTART, RLENGTH)
                out = out substr(line, 1, RSTART - 1)
                line = substr(line, RSTART + RLENGTH)
                if (tok == "/*") inside = 1
                else if (tok == "//") line = ""
                else out = out tok
            } else {
                out = out line
                line = ""
            }
        }
        print NR ": " out
    }' "$1"
}

# The same with the text inside string literals gone as well.
code_only()
{
    uncommented "$1" | sed -E '/^[0-9]+:[[:space:]]*#[[:space:]]*include/!s/"([^"\\]|\\.)*"/""/g'
}

plant()
{
    rm -rf "$lint_tmp/tree"
    mkdir -p "$lint_tmp/tree/$(dirname "$1")"
    cat >"$lint_tmp/tree/$1"
}

# bad 'text the report must contain' path <<... : the rule must find what is planted there.
bad()
{
    local found
    plant "$2"
    proofs=$((proofs + 1))
    found=$(rule "$lint_tmp/tree")
    case $found in
    *"$1"*) ;;
    *)
        echo "$lint_name: planted in $2 and not found: $1${found:+ (found instead: $found)}"
        proofs_failed=1
        ;;
    esac
}

# good path <<... : the rule must let it pass.
good()
{
    local found
    plant "$1"
    proofs=$((proofs + 1))
    found=$(rule "$lint_tmp/tree")
    if [ -n "$found" ]; then
        echo "$lint_name: innocent $1 was blamed: $found"
        proofs_failed=1
    fi
}

# The rule on the real tree; the exit status is the test's.
judge()
{
    local found
    [ $proofs -gt 0 ] || { echo "$lint_name: has not proved that it can fail"; exit 1; }
    found=$(rule "$source_tree")
    [ -z "$found" ] || printf '%s\n' "$found"
    [ -z "$found" ] && [ $proofs_failed -eq 0 ] || exit 1
    echo "$lint_name: nothing found; $proofs proofs that it would"
}
