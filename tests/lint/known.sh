# Sourced by the lints whose findings may be known. A file of known findings consists of blocks apart
# by empty lines; each begins with its reason, lines that start with "#", and goes on with what it
# excuses, one finding on a line.

# unexplained FILE: prints each entry that has no reason.
unexplained()
{
    awk -v file="$(basename "$1")" '
        /^[[:space:]]*$/ { reason = 0; next }
        /^#[[:space:]]*[^[:space:]]/ { reason = 1; next }
        !reason { print file ":" NR ": without a reason: " $0 }' "$1"
}

# The test of the test: an entry without a reason is found, one with a reason is not.
prove_unexplained()
{
    proofs=$((proofs + 2))
    printf '# why\na\nb\n\nc\n' >"$lint_tmp/known"
    [ "$(unexplained "$lint_tmp/known")" = 'known:5: without a reason: c' ] || {
        echo "$lint_name: an entry without a reason was not found"
        proofs_failed=1
    }
    printf '#\nc\n' >"$lint_tmp/known"
    [ -n "$(unexplained "$lint_tmp/known")" ] || {
        echo "$lint_name: an empty reason passed for one"
        proofs_failed=1
    }
}
