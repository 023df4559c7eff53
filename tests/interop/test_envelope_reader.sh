#!/bin/bash
# Sealed envelopes are read by others: a reader in Python, made from src/doc/format.md alone, opens
# those of the fuzz target's corpus and makes the text's test vector; openssl finds the DER that the
# module promises. S2.14
set -u
source_tree=${NVKEEP_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
reader=$source_tree/tests/interop/envelope_reader.py
corpus=$source_tree/tests/fuzz/corpus/envelope
command -v python3 >/dev/null || { echo "python3 is missing"; exit 77; }
failed=0

fail()
{
    echo "FAILED: $*"
    failed=1
}

# The keys of tests/crypto/known_key.h and envelope_helpers.h, and their contents.
image=$(python3 -c 'print(bytes(range(64)).hex())')
migration=$(python3 -c 'print(bytes(range(0x80, 0xa0)).hex())')
content=$(python3 -c 'print(bytes(i * 7 % 256 for i in range(300)).hex())')

opened=0
while read -r name use key bytes; do
    found=$(python3 -B "$reader" "$corpus/$name" "$image" "$migration" 2>&1)
    case $found in
    *"\"use\": $use, \"key\": $key, "*"\"content\": \"${content:0:$((2 * bytes))}\""*) opened=$((opened + 1)) ;;
    *) fail "$name: $found" ;;
    esac
done <<'LIST'
state_image_key         1 1 300
state_migration_key     1 2 300
offer_image_key         2 1 20
offer_migration_key     2 2 20
ready_image_key         3 1 0
ready_migration_key     3 2 0
widest_numbers          1 1 200
one_byte                1 1 1
LIST
echo "$opened envelopes were opened by the second reader"
[ "$opened" = 8 ] || fail "wanted 8"
while read -r name why; do
    found=$(python3 -B "$reader" "$corpus/$name" "$image" "$migration" 2>&1)
    case $found in
    *"Damage: $why") ;;
    *) fail "$name: wanted \"$why\", found $found" ;;
    esac
done <<'LIST'
other_image_key         another key
other_migration_key     another key
newer_version           version, use or key
LIST

# The vector, made from the text, is the one in the text.
while read -r line; do
    grep -q "^    $line\$" "$source_tree/src/doc/format.md" || fail "not in format.md: $line"
done < <(python3 -B "$reader" --vector)

if command -v openssl >/dev/null; then
    tree=$(openssl asn1parse -inform DER -in "$corpus/state_image_key" |
        sed -E 's/.*(d=[0-9]).*(prim|cons): *([A-Z ]*[A-Z]).*/\1 \3/' | tr '\n' ',')
    i='d=2 INTEGER,' o='d=2 OCTET STRING,' a='d=2 OBJECT,'
    wanted="d=0 SEQUENCE,d=1 SEQUENCE,$i$i$i$o$o$a$o$o$o$a$i$i$i$o$i$i${i}d=1 OCTET STRING,"
    [ "$tree" = "$wanted" ] || fail "openssl found $tree"
    openssl asn1parse -inform DER -in "$corpus/state_image_key" | grep -qi 'aes-256-gcm' ||
        fail "openssl does not know the cipher"
else
    echo "openssl is missing: the form was not compared"
fi
exit $failed
