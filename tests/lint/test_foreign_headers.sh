#!/usr/bin/env bash
# A foreign library is seen by one file of the product each: that file is where it can be replaced,
# and where its habits are known.
. "$(dirname "$0")/lint.sh"

# The library, the headers that belong to it, and the file that may see it.
libraries='
nettle      ^nettle/                    crypto/prim.c
libtasn1    ^libtasn1\.h$               crypto/der.c
libtpms     ^libtpms/                   backend/tpm.c
libnbd      ^libnbd\.h$                 backend/
libseccomp  ^(libseccomp/)?seccomp\.h$  src/
jansson     ^jansson                    src/
gnutls      ^gnutls/                    src/compat/cert_x509.c
openssl     ^openssl/                   nowhere
libgcrypt   ^gcrypt                     nowhere
libgmp      ^gmp                        nowhere
'

rule()
{
    local name pattern where seen
    while read -r name pattern where; do
        [ -n "$name" ] || continue
        seen=
        for f in $(product_files "$1"); do
            uncommented "$1/$f" | sed -nE 's/^[0-9]+:[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]([^>"]*)[>"].*/\1/p' |
                grep -qE "$pattern" || continue
            case $f in
            "$where" | "$where"[a-z]*) ;;
            *) echo "$f:1: sees $name, which belongs to $where" ;;
            esac
            [ -z "$seen" ] || echo "$f:1: sees $name, which $seen sees already"
            seen=$f
        done
    done <<<"$libraries"
}

two_files()
{
    local found
    rm -rf "$lint_tmp/tree"
    mkdir -p "$lint_tmp/tree/src"
    echo '#include <jansson.h>' >"$lint_tmp/tree/src/a.c"
    echo '#include <jansson.h>' >"$lint_tmp/tree/src/b.c"
    found=$(rule "$lint_tmp/tree")
    proofs=$((proofs + 1))
    case $found in
    *'which src/a.c sees already'*) ;;
    *) echo "$lint_name: two files with one library were not found"; proofs_failed=1 ;;
    esac
}

bad 'sees nettle' backend/x.c <<<'#include <nettle/aes.h>'
bad 'sees nettle' crypto/prim.h <<<'#include <nettle/aes.h>'
bad 'sees libtpms' src/x.c <<<'#include <libtpms/tpm_library.h>'
bad 'sees libtasn1' backend/x.c <<<'# include <libtasn1.h>'
bad 'sees libseccomp' backend/x.c <<<'#include <seccomp.h>'
bad 'sees openssl' crypto/prim.c <<<'#include <openssl/evp.h>'
two_files
good crypto/prim.c <<<'#include <nettle/aes.h>'
good backend/tpm.c <<<'#include <libtpms/tpm_library.h>'
good crypto/x.c <<<'/* #include <openssl/evp.h> */'
judge
