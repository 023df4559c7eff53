"""The cells of the migration matrix: what is varied, which combinations mean something, and what must
come of each. migration_run.py runs one, migration_matrix.py all of them.

storage  shared    source and destination open one image
         separate  two images with keys of their own, and one migration key
         copied    the image is copied while the guest moves, and complete only at the switchover
         file      the VM is saved to a file, and restored from it on the same image
key      right, wrong, missing; late: brought to the waiting daemon by its admin socket;
         migration-wrong, migration-missing: the migration key (separate)
image    as the destination sees it: sound, empty, truncated, flipped (one bit of the newest record),
         older (an earlier generation), newer (a format of the future)
path     QEMU's return path: on, off
hooks    plain: management starts the migration and looks at what comes of it;
         prepared: it makes the prepared hand-over first
kill     who.what@when; see MOMENTS
"""

import itertools

STORAGES = ("shared", "separate", "copied", "file")
KEYS = ("right", "wrong", "missing", "late", "migration-wrong", "migration-missing")
IMAGES = ("sound", "empty", "truncated", "flipped", "older", "newer")
PATHS = ("on", "off")
HOOKS = ("plain", "prepared")
# of the destination's exchange with its daemon: set1 the permanent blob is answered, set2 the volatile
# one, init the start; of the source's: get1, get3 the first and the last blob. In each case before QEMU
# hears of it.
MOMENTS = ("before", "active", "pre-switchover", "get1", "get3", "set1", "set2", "init")
WHO = ("source-daemon", "source-qemu", "target-daemon", "target-qemu")
KILLS = ("none",) + tuple(f"{who}.{what}@{when}" for who, what, when in itertools.product(
    WHO, ("kill", "hang"), MOMENTS))

# What comes of a cell.
COMPLETED = "completed"
AT_START = "refused at start"  # the destination's daemon or QEMU does not start
AT_PREPARE = "refused at prepare"
ITSELF = "source resumed by itself"
CONT = "source resumed by cont"
CANCELLED = "source resumed by cancel"  # management gives up on a destination that hangs
NEVER_STOPPED = "source never stopped"
POWER_CUT = "as a power cut"  # the guest's own host died; its image has what was acknowledged
DAEMON_LOST = "source without its daemon"  # the guest runs on, its TPM does not answer
OUTCOMES = (COMPLETED, AT_START, AT_PREPARE, ITSELF, CONT, CANCELLED, NEVER_STOPPED, POWER_CUT,
            DAEMON_LOST)
BEFORE_SWITCHOVER = (AT_START, AT_PREPARE, NEVER_STOPPED)


class Cell:
    def __init__(self, storage, key, image, path, hooks, kill):
        self.storage, self.key, self.image = storage, key, image
        self.path, self.hooks, self.kill = path, hooks, kill
        self.device = "tpm-tis"

    @property
    def name(self):
        return "/".join((self.storage, self.key, self.image, self.path, self.hooks, self.kill))

    @property
    def who(self):
        return self.kill.split(".")[0]

    @property
    def when(self):
        return self.kill.rpartition("@")[2]

    @property
    def hangs(self):
        return ".hang@" in self.kill

    def __repr__(self):
        return self.name


def meaningless(c):
    """Why a combination is left out, or None."""
    n_faults = (c.key not in ("right", "late")) + (c.image != "sound") + (c.kill != "none")
    if n_faults > 2 or (n_faults == 2 and c.kill != "none"):
        return "more than one thing is wrong: the first decides"
    if n_faults == 2 and c.path == "off":
        return "refused before QEMU's return path matters"
    if n_faults == 2 and c.hooks == "prepared":
        return "refused before there is anything to prepare"
    if n_faults == 2 and c.key.startswith("migration"):
        return "the image is judged at start, the migration key has no part in it"
    if c.key.startswith("migration") and c.storage != "separate":
        return "no migration key is needed for one and the same image"
    if c.key == "late" and (c.image != "sound" or c.kill != "none"):
        return "a late key is right from then on"
    if c.storage == "file" and c.path == "on":
        return "a file has no return path"
    if c.storage == "file" and c.hooks == "prepared":
        return "there is no destination to prepare while the VM is saved"
    if c.hooks == "prepared" and c.kill != "none":
        return "killed all the same: plain shows it"
    return meaningless_kill(c)


def meaningless_kill(c):
    if c.kill == "none":
        return None
    from_source = c.who.startswith("source")
    if from_source and c.when in ("set1", "set2", "init"):
        return "what the source does then has no effect on the destination any more"
    if not from_source and c.when in ("get1", "get3") and c.storage != "shared":
        return "to the destination it is the same as at pre-switchover"
    if c.hangs and (c.when not in ("get1", "get3", "set1", "init") or c.who.endswith("qemu")):
        return "a hang matters where somebody waits for an answer"
    if c.hangs and not from_source and c.when in ("get1", "get3"):
        return "nobody waits for the destination then"
    if c.storage == "file" and c.when not in ("set1", "set2", "init"):
        return "while the VM is saved there is no destination, and the source's end is a power cut"
    if c.storage == "file" and c.hangs:
        return "nobody waits but the restoring QEMU, which management kills"
    return None


def expected(c):
    """The outcomes that are right. More than one where it is a race between two programs that are
    not ours."""
    if c.kill != "none":
        return expected_of_kill(c)
    late_storage = c.storage == "copied"  # nothing can be verified at start
    if c.key in ("missing", "migration-missing"):
        return {AT_START}
    if c.key == "wrong":
        return at_load(c) if late_storage else {AT_START}
    if c.key.startswith("migration"):
        return at_load(c)
    if c.image == "sound" or (c.image == "older" and c.storage == "separate"):
        return {COMPLETED}
    if late_storage or c.image == "older":
        return at_load(c)
    return {AT_START}


EXITS = {"missing": "exit 10", "migration-missing": "exit 10", "wrong": "exit 11",
         "empty": "exit 20", "truncated": "exit 21", "flipped": "exit 21", "newer": "exit 40"}


def expected_codes(c):
    """With which codes of their own a start is refused; S3.8. Of two faults either may be named."""
    codes = {EXITS[v] for v in (c.key, c.image) if v in EXITS}
    if c.key == "missing" and c.image == "empty" and c.storage != "copied":
        codes.add("exit 22")  # an empty file wants no key: that it is no image may be said first
    return codes


def at_load(c):
    if c.hooks == "prepared":
        return {AT_PREPARE}
    if c.storage == "file":
        return {CONT}
    # Without the return path it is a race whether the source hears of the end before it has written
    # its last byte.
    return {ITSELF} if c.path == "on" else {CONT, ITSELF}


def expected_of_kill(c):
    if c.who == "source-qemu":
        return {POWER_CUT, COMPLETED} if c.when == "get3" else {POWER_CUT}
    if c.who == "source-daemon":
        if c.hangs:
            return {COMPLETED}  # it goes on after a while
        return {COMPLETED} if c.when == "get3" else {DAEMON_LOST}
    if c.hangs:
        # By itself: QEMU was waiting for a reader of its stream, and the destination was ended.
        return {CANCELLED, ITSELF} if c.path == "on" else {CONT, CANCELLED, ITSELF}
    if c.who == "target-qemu" and c.when in ("before", "active"):
        return {NEVER_STOPPED} if c.when == "before" else {NEVER_STOPPED, ITSELF}
    return at_load(c)


def all_cells():
    """(cells, {reason: how many were left out})"""
    cells, left_out = [], {}
    for values in itertools.product(STORAGES, KEYS, IMAGES, PATHS, HOOKS, KILLS):
        cell = Cell(*values)
        reason = meaningless(cell)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            cell.device = ("tpm-tis", "tpm-crb")[len(cells) % 2]
            cells.append(cell)
    return cells, left_out


def selection():
    """What ./check takes: in every storage each key, image, hook and path at least once, and each kind
    and moment of a kill once, in one storage after the other."""
    cells, _ = all_cells()
    chosen, seen = [], set()

    def take(cell, values):
        if not values <= seen:
            seen.update(values)
            chosen.append(cell)
    for cell in cells:
        if cell.kill == "none":
            take(cell, {(cell.storage, v) for v in (cell.key, cell.image, cell.hooks,
                                                    "path " + cell.path)})
    for i, kill in enumerate(KILLS[1:]):
        having = [c for c in cells if c.kill == kill]
        if having:
            take(having[i * 7 % len(having)], {kill})
    return chosen
