"""What was acknowledged when, and what a disk must therefore hold after a power cut."""

import hashlib
import os
import re
from collections import Counter

from block_disk import PAGE, mount, unmount

class Change:
    def __init__(self, begun, acknowledged, state):
        self.begun, self.acknowledged, self.state = begun, acknowledged, state


UNKNOWN = object()  # a new TPM of which nobody has seen more than that it was made


class Diary:
    """Kept while a subject works. Now and then a neighbour on the same file system makes something
    durable: that is what brings what others have not synced to the disk at some moment, or half of it."""

    def __init__(self, recording):
        self.recording = recording
        self.first = recording.position()
        self.changes = [Change(0, 0, None)]
        self.begun = None
        self.n_begun = 0

    def position(self):
        return self.recording.position()

    def begin(self):
        self.n_begun += 1
        if self.n_begun % 4 == 0:
            path = os.path.join(self.recording.root, "neighbour")
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(fd, b"something else\n")
            os.fsync(fd)
            os.close(fd)
        self.begun = self.position()

    def acknowledged(self, state, at):
        self.changes.append(Change(self.begun, at, state))
        for change in self.changes:
            if change.state is UNKNOWN:
                change.state = state

    def acknowledged_of_new(self, at):
        self.changes.append(Change(self.begun, at, UNKNOWN))

    def judge(self, outcome, end, subject):
        """A verdict and a reason, for a cut when `end` entries of the log were done."""
        last = max(i for i, c in enumerate(self.changes) if c.acknowledged <= end)
        old = self.changes[last].state
        under_way = [c.state for c in self.changes[last + 1:] if c.begun <= end]
        found = outcome.state
        if found is None:
            if old is None and not outcome.why:
                return "old", ""
            return "half-made" if old is None else "lost", outcome.why or "there is nothing"
        if found == old:
            return "old", ""
        if found in under_way:
            return "new", ""
        if subject.another(found, [c.state for c in self.changes if c.state is not None]):
            return ("old", "") if old is None else ("lost", "another TPM, made silently")
        if found in [c.state for c in self.changes[:last]]:
            return "ack-lost", "an older state than was acknowledged"
        return "mixed", "a state that never was"


class Tally:
    """What was found, and why what is wrong is. `whole`: the part of it that was found where no sector
    held zeroes or noise."""

    def __init__(self):
        self.states = self.whole_states = 0
        self.counts = Counter()
        self.whole = Counter()
        self.reasons = Counter()

    def add(self, whole, kind, why=""):
        self.counts[kind] += 1
        self.whole[kind] += whole
        if why:
            self.reasons[kind, re.sub(r"/\S*/(state/)?", "", why.splitlines()[0])] += 1

    def join(self, other):
        self.states += other.states
        self.whole_states += other.whole_states
        self.whole += other.whole
        self.counts += other.counts
        self.reasons += other.reasons

    @staticmethod
    def bad(counts):
        return {k: n for k, n in counts.items() if n and k not in ("old", "new", "no fs")}


class Bench:
    """Puts a state on a disk, mounts it, which replays the file system's journal, and lets the subject
    find what is there. Equal files have equal outcomes, so each content is opened once."""

    def __init__(self, folder, recording, subject):
        self.disk = os.path.join(folder, "tried")
        self.root = os.path.join(folder, "back")
        self.kind, self.size, self.subject = recording.kind, recording.size, subject
        os.makedirs(self.root)
        self.outcomes = {}

    def write(self, contents):
        with open(self.disk, "wb", buffering=0) as f:
            f.truncate(self.size)
            for number, page in contents.pages.items():
                os.pwrite(f.fileno(), page, number * PAGE)

    @staticmethod
    def digest(folder):
        h = hashlib.blake2b(digest_size=16)
        for at, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                with open(os.path.join(at, name), "rb") as f:
                    data = f.read()
                h.update(f"{at}/{name}:{len(data)}:".encode() + data)
        return h.digest()

    def outcome(self, contents):
        """None: the file system itself does not come back."""
        self.write(contents)
        try:
            mount(self.disk, self.root, self.kind)
        except OSError:
            return None
        try:
            folder = os.path.join(self.root, "state")
            try:
                key = self.digest(folder)
            except OSError as e:  # a file or folder that the file system cannot read
                key = str(e)
            if key not in self.outcomes:
                deep = len(self.outcomes) % 4 == 0
                self.outcomes[key] = self.subject.find(folder, deep)
            return self.outcomes[key]
        finally:
            unmount(self.root)

    def try_state(self, contents, whole, end, diary, tally):
        tally.states += 1
        tally.whole_states += whole
        outcome = self.outcome(contents)
        if outcome is None:
            tally.add(whole, "no fs")
            return
        tally.add(whole, *diary.judge(outcome, end, self.subject))
        if outcome.stuck:
            tally.add(whole, "stuck", outcome.stuck)
        if outcome.unsound:
            tally.add(whole, "unsound", outcome.unsound)
