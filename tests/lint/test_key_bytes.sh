#!/usr/bin/env bash
# Key bytes are visible in crypto/ alone. [S1.20] And there is no third state beside "closed" and
# "open": no call that sets a key later, no flag that says one is needed. [S1.1, S1.2]
. "$(dirname "$0")/lint.sh"

rule()
{
    local f
    for f in $(product_files "$1"); do
        case $f in
        crypto/*) ;;
        *)
            code_only "$1/$f" | sed -nE "s,^([0-9]+):.*(volume_key_peek|luks_key_priv\.h|migration_key_peek|migration_key_priv\.h).*,$f:\1: \2 belongs to crypto/,p"
            ;;
        esac
        code_only "$1/$f" | grep -iE '\b[a-z0-9_]*(set_?(key|passphrase|password|secret)|needs?_?(key|passphrase)|(key|passphrase)_?(is_)?(needed|required|pending|later)|got_?key|without_?key|no_?key|is_?(un)?locked|(un)?locked_?state|try_?unlock_?later)\b' |
            grep -vE '\bno_keyslot\b' | sed -E "s,^([0-9]+):.*,$f:\1: a third state between closed and open: & ," |
            sed -E 's/[0-9]+: +/ /2'
    done
    # Headers that other people include must not promise key bytes either.
    for f in $(cd "$1" && ls src/nvkeep.h 2>/dev/null); do
        code_only "$1/$f" | sed -nE "s,^([0-9]+):.*struct (volume_key|mac_key|sector_cipher)\b.*,$f:\1: the library's header shows struct \2,p"
    done
}

# What the linker sees: both peeks are resolved inside crypto and asked for nowhere else.
symbols()
{
    local lib
    for lib in "$1"/lib/libnvk_*.a; do
        case $lib in
        */libnvk_crypto.a | */libnvk_support.a) continue ;; # the tests know their keys
        esac
        nm -u "$lib" 2>/dev/null | awk -v lib="$(basename "$lib")" '
            /\.o:$/ { object = $0 }
            $1 == "U" && $2 ~ /^(volume|migration)_key_peek$/ { print lib ": " object " asks for " $2 }'
    done
}

bad 'volume_key_peek belongs to crypto/' backend/x.c <<<'memcpy(k, volume_key_peek(key), 64);'
bad 'luks_key_priv.h belongs to crypto/' src/x.c <<<'#include "crypto/luks_key_priv.h"'
bad 'migration_key_peek belongs to crypto/' migration/x.c <<<'memcpy(k, migration_key_peek(key), 16);'
bad 'migration_key_priv.h belongs to crypto/' src/x.c <<<'#include "crypto/migration_key_priv.h"'
bad 'a third state' backend/x.h <<<'int qcow_set_key(struct qcow_image *img, struct volume_key *k);'
bad 'a third state' src/x.c <<<'if (s->needs_key)'
bad 'a third state' src/x.c <<<'enum { CLOSED, NEED_KEY, OPEN };'
bad 'a third state' migration/x.c <<<'if (!store_is_locked(s))'
bad 'shows struct volume_key' src/nvkeep.h <<<'struct volume_key *nvkeep_key(void);'
good crypto/x.c <<<'memcpy(k, volume_key_peek(key), 64);'
good backend/x.c <<<'/* volume_key_peek is not for us; nobody needs_key */ return err_set(e, ERR_KEY_MISSING, "no key");'

if [ -d "${NVKEEP_BUILD:-none}/lib" ]; then
    mkdir -p "$lint_tmp/b/lib"
    echo 'const void *volume_key_peek(const void *); const void *f(void); const void *f(void) { return volume_key_peek(0); }' |
        ${CC:-cc} -x c -c -o "$lint_tmp/x.o" - && ar rc "$lint_tmp/b/lib/libnvk_backend.a" "$lint_tmp/x.o"
    proofs=$((proofs + 1))
    case $(symbols "$lint_tmp/b") in
    *'asks for volume_key_peek'*) ;;
    *) echo "$lint_name: a planted object was not found"; proofs_failed=1 ;;
    esac
    found=$(symbols "$NVKEEP_BUILD")
    [ -z "$found" ] || { echo "$found"; exit 1; }
fi
judge
