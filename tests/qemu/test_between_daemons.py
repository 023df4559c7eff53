"""A machine moves from a host with stock swtpm to one with nvkeep, and back; and what stock swtpm does
where nvkeep refuses, measured in the same run."""

import os
import shutil
import subprocess
import sys

from harness.case import Skip, main
from harness.continuity import COUNTER, INDEX, Continuity
from harness.process import Failure, run
from harness.store import STORAGE_ERROR, SwtpmStore


def swtpm_store(test, name):
    if not shutil.which("swtpm"):
        raise Skip("swtpm is missing")
    store = SwtpmStore(test.folder, name)
    store.create()
    return store


def there_and_back(test, device, key, return_path):
    how = {"migration_key": key, "seal": "off"}
    hosts = [test.vm(device, name="old", store=swtpm_store(test, "old")),
             test.vm(device, name="ours", store=test.store("ours", incoming=True)),
             test.vm(device, name="new", store=swtpm_store(test, "new"))]
    hosts[0].power_on(**how)
    seen = Continuity(test, hosts[0])
    for here, there in zip(hosts, hosts[1:]):
        there.incoming(**how)
        seen.start(here)
        test.equal(here.migrate(there, return_path=return_path), "completed",
                   f"migration from {here.name} to {there.name}")
        seen.runs_on(there)
        seen.stop(there)
        seen.holds(there.tpm)
        here.quit()
    # What came to us was ours: the image starts cold with what it had then, the last one goes on.
    seen.holds(hosts[2].tpm)
    there = hosts[1]
    there.power_on(**how)
    test.equal(there.tpm.nv_read(INDEX, 16), b"sixteen bytes...", "the index in our image")


def from_swtpm_to_nvkeep_and_back_over_tis(test):
    test.only_nvkeep("it takes both")
    there_and_back(test, "tpm-tis", None, True)


def from_swtpm_to_nvkeep_and_back_over_crb(test):
    test.only_nvkeep("it takes both")
    there_and_back(test, "tpm-crb", None, False)


def from_swtpm_to_nvkeep_and_back_under_a_migration_key(test):
    test.only_nvkeep("it takes both")
    there_and_back(test, "tpm-tis", test.migration_key(), True)


def clear_state_is_refused_where_there_is_a_migration_key(test):
    """S3.22: stock swtpm takes it without a word."""
    test.only_nvkeep("it takes both")
    source = test.vm(name="source", store=swtpm_store(test, "source"))
    source.power_on()
    seen = Continuity(test, source)
    target = test.vm(name="target", store=test.store("target", incoming=True))
    target.incoming(migration_key=test.migration_key())
    test.equal(source.migrate(target), "failed", "migration of clear state to a host with a key")
    source.qmp.wait("RESUME")
    seen.holds(source.tpm)


# The same faults, with stock swtpm and with ours: rows of one table.

class Row:
    def __init__(self, test, fault, kind):
        self.test, self.fault, self.kind = test, fault, kind
        self.keys = [None, None]
        self.said = ""
        self.at_start = False

    def store(self, name, incoming=False):
        if self.kind == "swtpm":
            return swtpm_store(self.test, name)
        return self.test.store(name, incoming=incoming)

    def run(self, path):
        tag = f"{self.kind}-{self.fault.__name__}-{path}"
        self.tag = tag
        source = self.test.vm(name=tag + "-source", store=self.store(tag + "-source"))
        target = self.test.vm(name=tag + "-target", store=self.store(tag + "-target", True))
        target.proxied = True
        self.fault(self, target)
        how = {} if all(self.keys) else {"seal": "off"}  # what has no common key cannot be sealed
        source.power_on(migration_key=self.keys[0], **how)
        seen = Continuity(self.test, source)
        try:
            target.incoming(migration_key=self.keys[1])
        except Failure:
            self.outcome = "refused at start, the guest was never stopped"
            self.code = f"exit code {target.daemon.wait()}"
            self.test.check(source.qmp.find("STOP") is None, "the guest was stopped")
            seen.holds(source.tpm)
            source.quit()
            return
        source.begin_migration(target, path == "on")
        status = source.end_of_migration()
        self.test.wait_until("an end of the destination",
                             lambda: target.qmp.find("RESUME") or not target.qemu.alive())
        refusal = target.proxy.refusal()
        self.code = refusal and f"{refusal.name} {refusal.result:#x}"
        if status == "completed" and target.qmp.find("RESUME"):
            target.take_guest(source)
            self.arrived(source, target, seen)
        elif status == "completed":
            self.outcome = "NOBODY RUNS: the source says completed; cont brings it back"
            source.go_on()
            seen.holds(source.tpm)
        else:
            source.qmp.wait("RESUME")
            seen.holds(source.tpm)
            self.outcome = "refused behind the stop, the source resumed by itself"
        for vm in (source, target):
            vm.qemu.end()
            vm.daemon.end()
        if self.outcome == "completed" and self.kind == "nvkeep":
            self.test.sound(target.store)

    def arrived(self, source, target, seen):
        """It says that it went well. Did it? A power cut will tell."""
        source.quit()
        self.outcome = "completed"
        target.cut_power()
        try:
            target.power_on(migration_key=self.keys[1])
            count = target.tpm.nv_counter(COUNTER)
            self.test.equal(count, seen.count, "counter")
        except Failure:
            self.outcome = "TPM LOST: completed, and gone at the next start"


def another_migration_key(row, _target):
    row.keys = [row.test.migration_key(), row.test.migration_key("other.key", "f" * 64)]


def no_migration_key(row, _target):
    row.keys = [row.test.migration_key(), None]


def a_key_only_at_the_destination(row, _target):
    row.keys = [None, row.test.migration_key()]


def another_image_key(row, target):
    """For swtpm: the destination's state key is not the one its state was written with, which it does
    not find out as it never reads what is there."""
    store = target.store
    if row.kind == "nvkeep":
        row.test._stores.remove(store)  # its key file will not open it
    if row.kind == "swtpm":
        vm = row.test.vm(name=row.tag + "-first", store=store.view(row.tag + "-first"))
        vm.power_on()
        vm.tpm.nv_define(INDEX, 8)
        vm.quit()
    store.write_key(b"some other key than that of the state")


def missing_state(row, target):
    store = target.store
    if store.kind == "swtpm":
        shutil.rmtree(store.image)
    else:
        os.unlink(store.image)
        row.test._stores.remove(store)


def full_disk(row, target):
    """Of a size of its own, and filled up. Nothing else may be full with it."""
    store = target.store
    folder = row.test.path(row.tag + "-full")
    os.mkdir(folder)
    if row.kind == "swtpm":
        size = 64
    else:
        row.test._stores.remove(store)  # the file system is gone before that is looked at
        size = os.path.getsize(store.image) // 1024 + 16
    mounted = run(["mount", "-t", "tmpfs", "-o", f"size={size}k,mode=0700", "none", folder])
    if mounted.rc:
        raise Skip(f"a small file system cannot be mounted: {mounted.err.strip()}")
    row.test.started(Mounted(folder))
    if row.kind == "swtpm":
        shutil.rmtree(store.image)
        store.image = os.path.join(folder, "state")
        os.mkdir(store.image)
    else:
        moved = os.path.join(folder, "image")
        shutil.copyfile(store.image, moved)
        store.image = moved
    try:
        with open(os.path.join(folder, "filler"), "wb", buffering=0) as f:
            while True:
                f.write(bytes(4096))
    except OSError:
        pass


class Mounted:
    """Ended like a process."""

    def __init__(self, folder):
        self.folder = folder

    def end(self):
        subprocess.run(["umount", "-l", self.folder], check=False)


FAULTS = (another_migration_key, no_migration_key, a_key_only_at_the_destination, another_image_key,
          missing_state, full_disk)


def rows_of(test, kind):
    """{(fault, return path): outcome}, and lines for the table"""
    outcomes, lines = {}, []
    for fault in FAULTS:
        for path in ("on", "off"):
            row = Row(test, fault, kind)
            row.run(path)
            outcomes[fault.__name__, path] = row.outcome
            line = (f"{kind:7} {fault.__name__.replace('_', ' '):32} {path:4} {row.outcome:62} "
                    f"{row.code or ''}")
            print("         " + line)
            lines.append(line.rstrip())
    return outcomes, lines


def the_same_faults_with_stock_swtpm_and_with_ours(test):
    """S3.6 S3.26: wrong and missing keys, missing state, a full disk. Ours never loses a TPM, and what
    can be known at the start is refused there."""
    test.only_nvkeep("it takes both")
    theirs, lines = rows_of(test, "swtpm")
    lines.append("swtpm   shared storage, whatever the fault          0.7.1 keeps its lock: it cannot "
                 "migrate there at all")
    print("         " + lines[-1])
    ours, our_lines = rows_of(test, "nvkeep")
    with open(os.path.join(os.environ["NVKEEP_BUILD"], "migration-matrix-swtpm.txt"), "w",
              encoding="utf-8") as f:
        f.write("\n".join(lines + our_lines) + "\n")
    for cell, outcome in ours.items():
        test.check("LOST" not in outcome, f"{cell}: {outcome}")
        if cell[0] in ("another_image_key", "missing_state"):
            test.contains(outcome, "refused at start", f"{cell}")
    test.check(any("LOST" in outcome for outcome in theirs.values()),
               f"stock swtpm lost nothing: the table shows nothing (class {STORAGE_ERROR})")


if __name__ == "__main__":
    sys.exit(main())
