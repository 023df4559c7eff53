"""libvirt's whole list, ours and stock side by side: only PATH says whose swtpm libvirtd finds.

    python3 libvirt_table.py             both sides, one table
    python3 libvirt_table.py ours        one
"""

import sys
import time

import libvirt_external
import libvirt_moves
import libvirt_rows
from libvirt_host import Host
from libvirt_moves import Pair
from libvirt_rows import KEPT
from harness.case import Case, main

# What a row is to say, where that is not KEPT; and of stock, where it is not the same as of ours.
WANTED = {
    "undefine, define, start": "a new TPM, counter -1",
    "internal snapshot of a machine that is off, revert": "TPM at its newest state, counter +1",
    "encrypted, with PCR banks: start": "banks sha256",
}
NOT_THERE = "-"
STOCK = {
    "migration, shared state": "refused by libvirt, " + KEPT,
    "external: start, destroy, start": libvirt_external.GONE,
    "external: and back, to the same process": libvirt_external.GONE,
}
WHY = (
    "a machine that is off has no QEMU to save its TPM: libvirt leaves it out of such a snapshot",
    "swtpm 0.7.1 cannot let its lock go, and libvirt 9.0 asks for that on shared storage",
    "swtpm ends with the emulator: for `external` somebody has to start it again each time",
)


def one_host(test, whose):
    host = Host(test, whose, whose + "-one")
    for chain in (libvirt_rows.life, libvirt_rows.saving, libvirt_rows.snapshots):
        yield from chain(host)


def secrets_and_tpm12(test, whose):
    host = Host(test, whose, whose + "-secret")
    for chain in (libvirt_rows.encryption, libvirt_rows.tpm12):
        yield from chain(host)


def moves(test, whose):
    pair = Pair(test, whose, name=whose + "-move")
    for chain in libvirt_moves.CHAINS:
        yield from chain(pair)


def moves_on_shared_storage(test, whose):
    pair = Pair(test, whose, shared=True, name=whose + "-shared")
    yield from libvirt_moves.shared(pair)


def external(test, whose):
    pair = Pair(test, whose, name=whose + "-external")
    yield from libvirt_external.one_process(pair.here)
    yield from libvirt_external.migration(pair)
    if whose == "ours":
        yield from libvirt_external.migration_shared(pair)


GROUPS = (one_host, secrets_and_tpm12, moves, moves_on_shared_storage, external)


def wanted(whose, row):
    ours = WANTED.get(row, KEPT)
    return STOCK.get(row, ours) if whose == "stock" else ours


def rows_of(test, whose, group):
    """All of a group: {row: outcome}; printed as they come. Stock's may be fewer, ours not."""
    found, began = {}, time.monotonic()
    for row, outcome in group(test, whose):
        test.check(row not in found, f"two rows are called {row!r}")
        found[row] = outcome
        print(f"         {time.monotonic() - began:5.1f} s  {whose:5}  {row}: {outcome}", flush=True)
        test.equal(outcome, wanted(whose, row), f"{whose}: {row}")
    test.check(found, f"{whose}: no rows")
    return found


def show(sides):
    """{whose: {row: outcome}}"""
    names = list(sides)
    rows = list(dict.fromkeys(row for side in sides.values() for row in side))
    wide = max(len(row) for row in rows)
    print(f"{'row':{wide}}  " + "  ".join(f"{name:38}" for name in names))
    for row in rows:
        print(f"{row:{wide}}  " + "  ".join(f"{sides[n].get(row, NOT_THERE):38}" for n in names))
    for why in WHY:
        print("note: " + why)
    print(f"{len(rows)} rows, " + ", ".join(
        f"{n}: {sum(o == KEPT for o in sides[n].values())} of {len(sides[n])} kept" for n in names))


def report(test):
    sides = {}
    for whose in test.whose:
        sides[whose] = {}
        for group in GROUPS:
            sides[whose].update(rows_of(test, whose, group))
            test.end()
    show(sides)


if __name__ == "__main__":
    chosen = [a for a in sys.argv[1:] if a in ("ours", "stock")] or ["ours", "stock"]
    Case.whose = chosen
    sys.argv[1:] = [a for a in sys.argv[1:] if a not in ("ours", "stock")]
    sys.exit(main())
