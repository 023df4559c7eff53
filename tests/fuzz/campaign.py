#!/usr/bin/env python3
"""Fuzzing in turns: the targets of tests/fuzz under libFuzzer and AFL++, the class that has had
least first, what one engine finds given to the other.

    campaign.py --hours 2 --jobs 2       everything, in turns of --seconds, into --work
    campaign.py --once --seconds 900     each target once under each engine
    campaign.py --hand-in                what the work folder has, into the repository: inputs that
                                         add coverage to tests/fuzz/corpus, hours to hours.tsv
    campaign.py --table                  what hours.tsv says by class; --targets: by target;
                                         --least HOURS: fails where a class has had less

Targets are found by their names; a new or changed one is built at its next turn. Something that was
broken is said at once and kept in WORK/findings; the rest goes on. Exit code 1: there was something.
"""

import argparse
import csv
import datetime
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

import engines

HOURS = os.path.join(engines.ROOT, "tests/fuzz/hours.tsv")
TURN_FIELDS = ["when", "class", "target", "engine", "cpu_s", "executions", "edges", "features",
               "findings"]
HOURS_FIELDS = ["class", "target", "engine", "cpu_s", "executions", "edges", "findings"]
CLASSES = ("image", "qcow2", "luks", "refsector", "records", "blobs", "control", "data", "admin")
# By the begin of a target's name; the first that fits. A target may say otherwise in its own first
# lines: " * Class: NAME".
CLASS_OF = (("qcow_open", "image"), ("image", "image"), ("qcow", "qcow2"), ("luks", "luks"),
            ("ref", "refsector"), ("record", "records"), ("delta", "records"),
            ("store", "records"), ("blob", "blobs"), ("envelope", "blobs"), ("token", "blobs"),
            ("ctrl", "control"), ("session", "control"), ("handover", "control"),
            ("data", "data"), ("tpm", "data"), ("admin", "admin"), ("json", "admin"))
# What of a target's corpus is kept in the repository, at most.
KEPT_FILES, KEPT_BYTES = 200, 300 << 10
BUILD_AGAIN_S, TRY_AGAIN_S = 900, 120
BACK_MOST = 10  # commits


def class_of(source):
    """The class of a target."""
    with open(source, encoding="utf-8") as f:
        said = re.search(r"^ \* Class: (\w+)", f.read(2000), re.M)
    name = target_of(source)
    return said[1] if said else next((c for p, c in CLASS_OF if name.startswith(p)), "image")


def target_of(source):
    """fuzz_NAME.c -> NAME"""
    return os.path.basename(source)[len("fuzz_"):-len(".c")]


def targets(source=engines.ROOT):
    """{target: class}"""
    found = sorted(glob.glob(os.path.join(source, "tests/fuzz/fuzz_*.c")))
    return {target_of(path): class_of(path) for path in found}


# --- the ledger ---


def read_tsv(path):
    """Lines of a table; none where it is not there."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="ascii", newline="") as f:
        return list(csv.DictReader(f, delimiter="\t"))


def add_up(hours, turns):
    """{(class, target, engine): summed line}. Edges are those of the newest turn."""
    total = {}
    for line in hours + turns:
        key = (line["class"], line["target"], line["engine"])
        t = total.setdefault(key, {"cpu_s": 0.0, "executions": 0, "edges": 0, "findings": 0})
        t["cpu_s"] += float(line["cpu_s"])
        t["executions"] += int(line["executions"])
        t["findings"] += int(line["findings"])
        t["edges"] = int(line["edges"]) or t["edges"]
    return total


def print_table(total):
    """What was done, by class; the edges are libFuzzer's."""
    print(f"{'class':<10} {'targets':>7} {'CPU hours':>9} {'executions':>14} {'per CPU s':>9} "
          f"{'edges':>7} {'findings':>8}")
    classes = list(CLASSES) + sorted({k[0] for k in total} - set(CLASSES))
    sums = [0.0, 0, 0]
    for name in classes:
        mine = {k: t for k, t in total.items() if k[0] == name}
        cpu = sum(t["cpu_s"] for t in mine.values())
        runs = sum(t["executions"] for t in mine.values())
        found = sum(t["findings"] for t in mine.values())
        edges = sum(t["edges"] for k, t in mine.items() if k[2] == "libfuzzer")
        print(f"{name:<10} {len({k[1] for k in mine}):>7} {cpu / 3600:>9.2f} {runs:>14,} "
              f"{runs / cpu if cpu else 0:>9,.0f} {edges:>7,} {found:>8}")
        sums = [sums[0] + cpu, sums[1] + runs, sums[2] + found]
    print(f"{'all':<10} {'':>7} {sums[0] / 3600:>9.2f} {sums[1]:>14,} "
          f"{sums[1] / sums[0] if sums[0] else 0:>9,.0f} {'':>7} {sums[2]:>8}")


def print_targets(total):
    """The same, by target and engine."""
    print(f"{'target':<14} {'engine':<10} {'CPU hours':>9} {'executions':>14} {'edges':>7} "
          f"{'findings':>8}")
    for key, t in sorted(total.items(), key=lambda kt: kt[0][1:]):
        print(f"{key[1]:<14} {key[2]:<10} {t['cpu_s'] / 3600:>9.2f} {t['executions']:>14,} "
              f"{t['edges']:>7,} {t['findings']:>8}")


def check_hours(total, least):
    """1: some class has had less."""
    spent = {c: sum(t["cpu_s"] for k, t in total.items() if k[0] == c) / 3600 for c in CLASSES}
    short = [f"{c} ({h:.2f})" for c, h in spent.items() if h < least]
    print(f"classes with less than {least:g} CPU hours: {', '.join(short) or 'none'}")
    return 1 if short else 0


class Work:
    """The work folder."""

    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        self.ledger = os.path.join(self.folder, "ledger.tsv")
        self.mark = os.path.join(self.folder, "handed_in")
        for name in ("log", "findings", "slow", "corpus"):
            os.makedirs(os.path.join(self.folder, name), exist_ok=True)

    def note(self, line):
        """Appends a turn."""
        fresh = not os.path.exists(self.ledger)
        with open(self.ledger, "a", encoding="ascii", newline="") as f:
            w = csv.DictWriter(f, TURN_FIELDS, delimiter="\t", lineterminator="\n")
            if fresh:
                w.writeheader()
            w.writerow(line)

    def new_turns(self):
        """Turns that hours.tsv does not know yet, and how many there are in all."""
        known = 0
        if os.path.exists(self.mark):
            with open(self.mark, encoding="ascii") as f:
                known = int(f.read())
        turns = read_tsv(self.ledger)
        return turns[known:], len(turns)

    def total(self):
        """Everything up to now."""
        return add_up(read_tsv(HOURS), self.new_turns()[0])


# --- turns ---


class Campaign:
    """Who is at work on what."""

    def __init__(self, work, options):
        self.work = work
        self.options = options
        self.lock = threading.Lock()
        self.building = threading.Lock()
        self.busy = {}    # target: class
        self.built = {}   # (target, engine): when
        self.broken = {}  # (target, engine): of which source, and until when it is not tried again
        self.source = engines.ROOT
        self.n_findings = 0
        self.n_failed = 0  # turns that could not be
        self.end = time.time() + 3600 * options.hours
        self.engines = [e for e in options.engines.split(",") if e in engines.available()]
        self.todo = None  # --once: (target, engine) that are left
        if options.once:
            self.todo = [(t, e) for e in self.engines for t in targets() if self.wanted(t)]

    def wanted(self, target):
        """Was it asked for?"""
        return re.search(self.options.only, target) is not None

    def build(self, target, engine):
        """From the newest source that can be built: of what is committed, perhaps not the last."""
        work = self.work.folder
        for back in range(BACK_MOST if self.options.committed else 1):
            if self.options.committed:
                self.source = engines.committed_source(work, back)
            if engines.configure(work, self.source, engine) and \
                    engines.build(work, engine, target):
                return True
        return False

    def choose(self):
        """The target and engine that had least, of the class that had least; None: nothing left."""
        if self.todo is not None:
            return self.todo.pop(0) if self.todo else None
        total = self.work.total()
        known = targets(self.source)
        spent = lambda pick: sum(t["cpu_s"] for k, t in total.items() if pick(k)) + \
            self.options.seconds * sum(1 for t, c in self.busy.items() if pick((c, t, "")))
        free = [(t, e) for t in known for e in self.engines
                if t not in self.busy and self.wanted(t) and not self.is_broken(t, e)]
        if not free:
            return None
        return min(free, key=lambda te: (spent(lambda k: k[0] == known[te[0]]),
                                         spent(lambda k: k[1] == te[0]),
                                         spent(lambda k: k[1:] == te)))

    def stamp(self, target):
        """Of which source a target is, as far as it can be told quickly."""
        path = os.path.join(self.source, "tests/fuzz", f"fuzz_{target}.c")
        return os.path.getmtime(path) if os.path.exists(path) else 0

    def is_broken(self, target, engine):
        """Did it fail at once, or could not be built, a short while ago?"""
        stamp, until = self.broken.get((target, engine), (0, 0))
        return time.time() < until and stamp == self.stamp(target)

    def set_broken(self, target, engine, seconds):
        """Not again before that, unless its source changes."""
        self.n_failed += 1
        self.broken[target, engine] = (self.stamp(target), time.time() + seconds)

    def make(self, target, engine):
        """Builds what is out of date; False: there is nothing to run."""
        with self.building:
            stamp, when = self.built.get((target, engine), (0, 0))
            ready = os.path.exists(engines.binary(self.work.folder, engine, target))
            if ready and time.time() - when < BUILD_AGAIN_S and stamp == self.stamp(target):
                return True
            if self.build(target, engine):
                self.built[target, engine] = (self.stamp(target), time.time())
                return True
            print(f"*** fuzz_{target} cannot be built for {engine}", file=sys.stderr, flush=True)
            return ready

    def run(self, target, engine):
        """One turn, and its line in the ledger."""
        if not self.make(target, engine):
            self.set_broken(target, engine, TRY_AGAIN_S)
            return
        began = time.time()
        if engine == "afl":
            engines.minimise(self.work.folder, target)
        done = subprocess.run([sys.executable, "-B", engines.__file__, self.work.folder, target,
                               engine, str(self.options.seconds)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            self.set_broken(target, engine, BUILD_AGAIN_S)
            return
        line = json.loads(done.stdout)
        line.update({"when": int(began), "class": targets(self.source)[target], "target": target,
                     "engine": engine})
        with self.lock:
            self.work.note(line)
            self.n_findings += line["findings"]
            if line["findings"] and time.time() - began < self.options.seconds / 2 \
                    or line["executions"] == 0:
                self.set_broken(target, engine, BUILD_AGAIN_S)
        print(f"{target} {engine}: {line['cpu_s']} s, {line['executions']} executions, "
              f"{line['edges']} edges, {line['findings']} findings", flush=True)

    def worker(self):
        """Turn after turn."""
        while time.time() < self.end:
            with self.lock:
                chosen = self.choose()
                if chosen:
                    self.busy[chosen[0]] = targets(self.source).get(chosen[0], "image")
            if not chosen and self.todo is not None:
                return
            if not chosen:
                time.sleep(30)
                continue
            try:
                self.run(*chosen)
            finally:
                with self.lock:
                    self.busy.pop(chosen[0], None)

    def go(self):
        """All of it."""
        if not self.engines or not any(self.wanted(t) for t in targets()):
            print("nothing to fuzz: no target of that name, or neither clang nor afl-clang-fast is installed",
                  file=sys.stderr)
            return 1
        if self.options.committed:
            self.source = engines.committed_source(self.work.folder, 0)
        threads = [threading.Thread(target=self.worker) for _ in range(self.options.jobs)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        print_table(self.work.total())
        return 1 if self.n_findings or (self.options.once and self.n_failed) else 0


# --- handing in ---


def hand_in_corpus(work, target):
    """Adds to the repository's corpus the smallest inputs that add coverage, as long as they fit."""
    into = os.path.join(engines.ROOT, "tests/fuzz/corpus", target)
    os.makedirs(into, exist_ok=True)
    kept = engines.files(into)
    room_files = KEPT_FILES - len(kept)
    room_bytes = KEPT_BYTES - sum(os.path.getsize(p) for p in kept)
    n = 0
    with tempfile.TemporaryDirectory(dir=work.folder) as merged:
        for path in kept:
            engines.put(merged, path)
        before = set(engines.files(merged))
        engines.merge(work.folder, target, merged, engines.corpus(work.folder, target))
        added = [p for p in engines.files(merged) if p not in before]
        for path in sorted(added, key=os.path.getsize):
            size = os.path.getsize(path)
            if n == room_files or size > room_bytes:
                break
            engines.put(into, path)
            n += 1
            room_bytes -= size
    return n


def hand_in(work, options):
    """Corpora and hours, into the repository."""
    turns, n_turns = work.new_turns()
    total = add_up(read_tsv(HOURS), turns)
    for target in targets():
        if re.search(options.only, target) and \
                os.path.exists(engines.binary(work.folder, "libfuzzer", target)):
            print(f"{target}: {hand_in_corpus(work, target)} inputs added", flush=True)
    with open(HOURS, "w", encoding="ascii", newline="") as f:
        w = csv.writer(f, delimiter="\t", lineterminator="\n")
        w.writerow(HOURS_FIELDS)
        for key in sorted(total):
            t = total[key]
            w.writerow(list(key) + [round(t["cpu_s"]), t["executions"], t["edges"], t["findings"]])
    with open(work.mark, "w", encoding="ascii") as f:
        f.write(str(n_turns))
    print_table(total)
    return 0


def hours_until(clock):
    """From now to HH:MM."""
    now = datetime.datetime.now()
    then = datetime.datetime.combine(now.date(), datetime.time.fromisoformat(clock))
    return max(0.0, (then - now).total_seconds() / 3600)


def main():
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", default="build-fuzz", help="folder for everything (build-fuzz)")
    p.add_argument("--seconds", type=int, default=300, help="of a turn (300)")
    p.add_argument("--hours", type=float, default=1e6, help="in all")
    p.add_argument("--until", metavar="HH:MM", help="instead of --hours: by the clock")
    p.add_argument("--jobs", type=int, default=1, help="turns at the same time (1)")
    p.add_argument("--engines", default=",".join(engines.ENGINES), help="libfuzzer,afl")
    p.add_argument("--only", default="", metavar="REGEX", help="targets")
    p.add_argument("--committed", action="store_true", help="build what is committed, not the tree")
    p.add_argument("--once", action="store_true", help="one turn for each target and engine")
    p.add_argument("--hand-in", action="store_true")
    p.add_argument("--table", action="store_true")
    p.add_argument("--targets", action="store_true")
    p.add_argument("--least", type=float, metavar="HOURS")
    options = p.parse_args()
    if options.until:
        options.hours = hours_until(options.until)
    known = add_up(read_tsv(HOURS), [])
    if options.least is not None:
        return check_hours(known, options.least)
    if options.table or options.targets:
        (print_table if options.table else print_targets)(known)
        return 0
    work = Work(options.work)
    return hand_in(work, options) if options.hand_in else Campaign(work, options).go()


if __name__ == "__main__":
    sys.exit(main())
