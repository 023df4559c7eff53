"""Power loss below real daemons on a real file system: nvkeep serve and stock swtpm, one harness, one table.

    python3 block_power.py [--long] [--states N] [ROW...]

A daemon keeps a TPM's state on ext4 (its defaults: data=ordered, journal with checksums) or XFS, on a
disk that remembers every write and every flush (block_disk.py), and is sent TPM commands. For each
command the place in that log is noted at which it was begun, and at which its answer was there. Then,
for each flush, disks are made as they may be when power fails just before it (block_states.py); each is
mounted, so that the file system replays its journal, the daemon is started on what is there, the TPM
powered on and all of it read. What was acknowledged by then must be found, or the one change under way.

    acked      how many changes were acknowledged (the making of a TPM, a start, commands)
    flushes    how many there were: so many moments at which power fails
    states     how many disks; opened: how many different contents the daemon was started on
    old, new   as it should be: what was acknowledged last, or the change under way
    half-made  nothing was acknowledged yet, and what is there does not open
    lost       nothing there, it does not open, the daemon does not serve, or another TPM was made
    mixed      a state that never was
    ack-lost   an older state: something that was acknowledged is gone
    stuck      the next commit fails, or is not there at the next start
    unsound    nvkeep check, or (for every fourth content) qemu-img check, finds damage
    no fs      the file system itself does not mount: its own verdict, but a row with many is not judged

Limits. The log has one order of writes, that of the one run that was recorded, and the loop device does
one request after the other; within an epoch order does not matter, as any subset is tried. A flush is
taken at its word. A sector that was cut off reads as noise or zeroes, not as an error; but those of
XFS's own log are old or new: XFS looks for the end of its log by a number in each sector, and where
noise stands in the first one of a record it forgets even what it had made durable before. Counts differ
a little from run to run: keys are random, and so is the moment of a journal's commit. Files with the
same bytes are opened once: a daemon that cares for anything else of them (times, holes) would not be
noticed. What is recorded begins with an empty folder that is durable. Not among these are file systems
without flushes (mounted with nobarrier) or without nameless files (there `nvkeep create` takes another
way), and ext4 with data=writeback.

That these checks find anything is shown by subjects that must fail, each in its way: writers without
syncs, writers in place, and nvkeep with flushes that do nothing ("no sync": the daemon's; "no dirs":
those of the directory when the image is made).

All of it happens in mount and process namespaces of its own: whatever ends this program, the kernel
kills its daemons, unmounts its disks and lets its loop devices go.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(SOURCE, "tests", "qemu"))

from block_disk import Missing, Recording, libc, read_log  # noqa: E402
from block_judge import Bench, Diary, Tally  # noqa: E402
from block_states import Contents, settle, states  # noqa: E402
from block_subject import ANYTHING, SOUND, Nvkeep, Swtpm, Writer  # noqa: E402

SKIPPED = 77
PR_SET_CHILD_SUBREAPER = 36
N_PARALLEL = 4  # most of the time is spent waiting for mounts
UNJUDGED_ONE_IN = 20  # states of a row that may be "no fs" at most
INSIDE = "NVKEEP_BLOCK_POWER_FOLDER"
TOOLS = ("cc", "setpriv", "unshare", "qemu-storage-daemon", "qemu-img", "mkfs.ext4", "mkfs.xfs", "swtpm")


class Row:
    """short, long: how many rounds of all commands, and how many states of the disk."""

    def __init__(self, name, kind, subject, short, long, **how):
        self.name, self.kind, self.subject, self.how = name, kind, subject, how
        self.rounds, self.states = zip(short, long)


ROWS = (
    Row("nvkeep", "ext4", Nvkeep, (10, 300), (40, 12000)),
    Row("nvkeep", "xfs", Nvkeep, (1, 80), (10, 4000)),
    Row("nvkeep, no sync", "ext4", Nvkeep, (1, 30), (4, 300), broken="serve"),
    Row("nvkeep, no dirs", "ext4", Nvkeep, (1, 50), (4, 300), broken="create"),
    Row("swtpm dir", "ext4", Swtpm, (1, 60), (10, 600)),
    Row("swtpm dir", "xfs", Swtpm, (1, 40), (10, 600)),
    Row("swtpm dir, key", "ext4", Swtpm, (1, 40), (10, 600), keyed=True),
    Row("swtpm file", "ext4", Swtpm, (1, 150), (10, 1200), how="file"),
    Row("swtpm file", "xfs", Swtpm, (1, 80), (10, 600), how="file"),
    Row("swtpm file, key", "ext4", Swtpm, (1, 150), (10, 1200), how="file", keyed=True),
    Row("writer durable", "ext4", Writer, (1, 80), (4, 500)),
    Row("writer durable", "xfs", Writer, (1, 40), (4, 300)),
    Row("writer lazy", "ext4", Writer, (1, 20), (4, 300), how="lazy"),
    Row("writer in place", "ext4", Writer, (1, 60), (4, 300), how="in place"),
    Row("writer emptied", "ext4", Writer, (1, 40), (4, 300), how="emptied"),
)


def missing():
    """Why this cannot be done here, or ""."""
    for tool in TOOLS:
        if not shutil.which(tool):
            return tool
    for device in ("/dev/loop-control", "/dev/fuse"):
        if not os.access(device, os.R_OK | os.W_OK):
            return f"{device} (and the right to use it)"
    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False,
                          stderr=subprocess.PIPE)
    return f"namespaces: {done.stderr.decode()}" if done.returncode else ""


def record(row, folder, rounds):
    """The subject, and its recording with its diary, already over."""
    subject = row.subject(row.name, folder, rounds, **row.how)
    recording = Recording(folder, row.kind)
    recording.start()
    try:
        state = os.path.join(recording.root, "state")
        os.mkdir(state, 0o700)
        for path in (state, recording.root):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        diary = Diary(recording)
        subject.work(state, diary)
        end = recording.position()
    finally:
        recording.stop()
    return subject, recording, diary, end


def try_states(number, folder, subject, recording, diary, end, most):
    """Every N_PARALLEL-th epoch, from `number` on, each with its share of `most` states and with what
    those before it left over."""
    tally, contents = Tally(), Contents(recording.first)
    bench = Bench(folder, recording, subject)
    subject.tools = folder
    epochs = read_log(recording.log, end)
    ours = [i for i, e in enumerate(epochs)
            if e.end >= diary.first and (len(epochs) - 1 - i) % N_PARALLEL == number]
    n_ours = len(ours)
    for i, epoch in enumerate(epochs):
        if ours and i == ours[0]:
            ours.pop(0)
            share = most * (n_ours - len(ours)) // n_ours - tally.states
            for sectors, whole in states(epoch, contents, recording.atomic, share, i):
                before = contents.put(sectors)
                bench.try_state(contents, whole, epoch.end, diary, tally)
                contents.put_back(before)
        settle(epoch, contents)
    return tally, set(bench.outcomes), len(epochs)


HEAD = ("subject", "fs", "acked", "flushes", "states", "opened", "old", "new", "half-made", "lost",
        "mixed", "ack-lost", "stuck", "unsound", "no fs")
WIDTHS = (17, 5, 6, 8, 7, 7, 6, 6, 10, 6, 6, 9, 6, 8, 6)


def line(values):
    print("".join(f"{v:<{w}}" if i < 2 else f"{v:>{w}}"
                  for i, (v, w) in enumerate(zip(values, WIDTHS))), flush=True)


def run_row(row, folder, long, most):
    """What is wrong with its verdict, or "". Missing: it cannot be run here."""
    subject, recording, diary, end = record(row, folder, row.rounds[long])
    most = most or row.states[long]
    with multiprocessing.get_context("fork").Pool(N_PARALLEL) as pool:
        try:
            parts = pool.starmap(try_states, [
                (k, os.path.join(folder, f"part{k}"), subject, recording, diary, end,
                 most // N_PARALLEL) for k in range(N_PARALLEL)])
        except Missing as e:
            return f"{row.name} on {row.kind}: missing now, not when it was recorded: {e}"
    tally = Tally()
    for part, _, _ in parts:
        tally.join(part)
    opened = set().union(*[o for _, o, _ in parts])
    line((row.name, row.kind, len(diary.changes) - 1, parts[0][2], tally.states, len(opened),
          *[tally.counts[k] for k in HEAD[6:]]))
    explain(tally)
    return verdict(f"{row.name} on {row.kind}", subject.wanted, tally)


def explain(tally):
    if not tally.bad(tally.counts):
        return
    for (kind, why), n in tally.reasons.most_common(4):
        print(f"    {kind} {n}: {why}")
    whole = ", ".join(f"{kind} {n}" for kind, n in tally.bad(tally.whole).items())
    print(f"    where no sector held zeroes or noise: {whole or 'none of these'}, of "
          f"{tally.whole_states} states", flush=True)


def verdict(name, wanted, tally):
    bad = tally.bad(tally.counts)
    if tally.counts["no fs"] * UNJUDGED_ONE_IN > tally.states:
        return f"{name}: {tally.counts['no fs']} of {tally.states} file systems do not mount; {bad}"
    if wanted == SOUND and bad:
        return f"{name}: {bad}"
    if wanted == SOUND and tally.counts["old"] == 0:
        return f"{name}: nothing was tried"
    if wanted not in (SOUND, ANYTHING) and wanted not in bad:
        return f"{name}: must be {wanted} now and then: these checks find nothing"
    return ""


def inside(folder, options):
    """In the namespaces, with a tmpfs of our own for everything."""
    if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"mode=700"):
        print("missing: the right to mount")
        return SKIPPED
    n_rows = n_wrong = n_missing = 0
    began = time.monotonic()
    line(HEAD)
    for i, row in enumerate(ROWS):
        if options.rows and not {row.name, row.name.split()[0]} & set(options.rows):
            continue
        at = os.path.join(folder, str(i))
        os.mkdir(at)
        n_rows += 1
        try:
            wrong = run_row(row, at, options.long, options.states)
            if wrong:
                n_wrong += 1
                print(f"FAILED: {wrong}", flush=True)
        except Missing as e:
            n_missing += 1
            print(f"missing: {row.name} on {row.kind}: {e}", flush=True)
        shutil.rmtree(at)
    print(f"power loss on a real file system: {n_rows} rows, {n_wrong} not as they should be, "
          f"{n_missing} missing, {time.monotonic() - began:.0f} s")
    return summary(n_rows, n_wrong, n_missing)


def summary(n_rows, n_wrong, n_missing):
    """What is wrong is wrong, whatever else is missing here."""
    if n_wrong or not n_rows:
        return 1
    return SKIPPED if n_missing else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a row's name or its first word")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--states", type=int, metavar="N", help="so many for each row")
    options = parser.parse_args()
    os.environ.setdefault("NVKEEP", os.path.join(SOURCE, "build", "bin", "nvkeep"))
    if INSIDE in os.environ:
        return inside(os.environ[INSIDE], options)
    why = missing()
    if why:
        print(f"missing: {why}")
        return SKIPPED
    return watch(tempfile.mkdtemp(prefix="nvk-power-"))


def watch(folder):
    """All of it happens in a child; when we end, for whatever reason, so does everything it made. The
    folder goes only when all have ended: without it the kernel would leave what is mounted there in a
    circle, the file system on the loop device, the loop device's file below the file system."""
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child",
            "--mount-proc", "--propagation", "private", sys.executable, "-B",
            os.path.abspath(__file__), *sys.argv[1:]]
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1):
        raise OSError("prctl")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    child = subprocess.Popen(argv, env={**os.environ, INSIDE: folder}, stdin=subprocess.DEVNULL,
                             start_new_session=True)
    try:
        return child.wait()
    finally:
        child.kill()
        child.wait()
        try:
            while True:
                os.wait()
        except ChildProcessError:
            os.rmdir(folder)


if __name__ == "__main__":
    sys.exit(main())
