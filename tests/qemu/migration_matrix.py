"""The migration matrix: every cell with real QEMU, and a table.

    python3 migration_matrix.py [--long] [--part I/N] [--only TEXT] [--out FILE]

Without --long the selection that ./check takes. --part 2/5: the second fifth; the table is appended to,
so that the parts make a whole. Ends with 1 if a cell is not as it should be.
"""

import argparse
import os
import shutil
import sys
import tempfile
import traceback

import migration_cells
from harness.case import Case
from harness.process import Failure
from migration_run import run_cell
from migration_verdict import Row


def run_cells(cells, say=print, keep=False):
    """Rows; a row that failed is followed by what its programs said."""
    rows = []
    for cell in cells:
        folder = tempfile.mkdtemp(prefix="nvk-", dir=os.environ.get("TMPDIR", "/tmp"))
        case = Case("nvkeep", folder)
        try:
            row = run_cell(case, cell)
            say(row.text())
            if not row.ok:
                say(case.describe())
            rows.append(row)
        finally:
            case.end()
            if keep:
                say(f"       kept: {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
    return rows


def summary(rows):
    failed = [r for r in rows if not r.ok]
    lines = [f"{len(rows)} cells, {sum(r.n_migrations for r in rows)} migrations, "
             f"{len(failed)} not as they should be, {sum(r.seconds for r in rows):.0f} s"]
    for outcome in migration_cells.OUTCOMES:
        n = sum(r.outcome == outcome for r in rows)
        if n:
            lines.append(f"    {n:4} {outcome}")
    refused = [r for r in rows if r.code and r.cell.kill == "none"]
    early = [r for r in refused if r.refused_ms is None]
    # Where storage is copied, all there is to be known is known only once the guest is stopped.
    copied = [r for r in refused if r not in early and r.cell.storage == "copied"]
    late = sorted({f"{r.cell.storage}/{r.cell.key}/{r.cell.image} {r.cell.hooks}" for r in refused
                   if r not in early and r not in copied})
    lines.append(f"    of {len(refused)} refusals {len(early)} before the guest was stopped, "
                 f"{len(copied)} where the copy is complete only then, and "
                 f"{len(refused) - len(early) - len(copied)}: {', '.join(late) or 'none'}")
    return lines


def check_storage(test, storage):
    """For a test function: its cells, all in the long form, as they should be."""
    test.only_nvkeep("the cells are about our images")
    chosen = migration_cells.all_cells()[0] if test.long else migration_cells.selection()
    print(Row.HEADING)
    rows = run_cells([c for c in chosen if c.storage == storage])
    print("\n".join(summary(rows)))
    path = os.path.join(os.environ["NVKEEP_BUILD"], f"migration-matrix-{storage}.txt")
    save(rows, path, "w")
    print(f"table: {path}")
    failed = [r for r in rows if not r.ok]
    if failed:
        raise Failure(f"{len(failed)} of {len(rows)} cells are not as they should be, the first: "
                      f"{failed[0].cell}: {failed[0].outcome} {failed[0].wrong}")
    test.check(rows, "there are no cells")


def save(rows, path, mode="a"):
    with open(path, mode, encoding="utf-8") as f:
        if f.tell() == 0:
            f.write(Row.HEADING + "\n")
        for row in rows:
            f.write(row.text() + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--long", action="store_true",
                        default=os.environ.get("NVKEEP_LONG", "") not in ("", "0"))
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--only", default="")
    parser.add_argument("--out")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    source = os.path.dirname(os.path.dirname(here))
    os.environ.setdefault("NVKEEP_BUILD", os.path.join(source, "build"))
    os.environ.setdefault("NVKEEP", os.path.join(os.environ["NVKEEP_BUILD"], "bin", "nvkeep"))
    cells, left_out = migration_cells.all_cells()
    if not options.long:
        cells = migration_cells.selection()
    i, n = (int(v) for v in options.part.split("/"))
    cells = [c for c in cells if options.only in c.name][i - 1::n]
    if options.list:
        print("\n".join(c.name for c in cells))
        return 0
    print(Row.HEADING)
    try:
        rows = run_cells(cells, lambda text: print(text, flush=True), options.keep)
    except Exception:
        traceback.print_exc()
        return 1
    save(rows, options.out or os.path.join(os.environ["NVKEEP_BUILD"], "migration-matrix.txt"))
    print("\n".join(summary(rows)))
    if options.only:
        left_out = {}
    print(f"left out: {sum(left_out.values())} combinations")
    for reason, n_left in sorted(left_out.items(), key=lambda kv: -kv[1]):
        print(f"    {n_left:6} {reason}")
    return 0 if rows and all(r.ok for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
