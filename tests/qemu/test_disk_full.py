"""The disk below the image fills up while the guest runs, and is emptied again. The write that found no
room says so and had no effect, what the guest has loaded still works, and the same command succeeds
as soon as there is room: nothing is restarted [S1.12]. Beside it stock swtpm, whose TPM is dead from then on.

An image that nvkeep made has room for every commit from the start, on storage that keeps its promises.
Thin and copy-on-write storage does not: there every write may need new room. For the same effect
on a small tmpfs, the unused part of the image's log is a hole here.
"""

import contextlib
import os
import sys

from harness.case import Skip, main
from harness.continuity import COUNTER, INDEX, Continuity
from harness.process import run
from harness.store import SwtpmStore
from harness.tpm import PCR_DEBUG, RC_FAILURE, RC_NV_UNAVAILABLE, TpmError, extended

SMALL = "6M"
# Of an image as nvkeep makes it: two areas for checkpoints, the log, the end.
LOG_BYTES, CHECKPOINT_BYTES, LEFT_BYTES = 728 * 512, 656 * 512, 64 << 10
MOST_WRITES = 2000  # until there is no room: a page takes some records


@contextlib.contextmanager
def small_disk(test, size=SMALL):
    """A folder in which there is not much room."""
    path = test.path("small")
    os.mkdir(path)
    done = run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", path])
    if done.rc:
        raise Skip(f"a small file system could not be mounted: {done.err.strip()}")
    try:
        yield path
    finally:
        test.end()
        run(["umount", path])


def fill(folder):
    """Not one page is left, for none of the processors: each counts a few for itself. The name of what has
    to go again."""
    name = os.path.join(folder, "full")
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
    all_of_them = os.sched_getaffinity(0)
    try:
        for cpu in sorted(all_of_them) * 2:
            os.sched_setaffinity(0, {cpu})
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, bytes(4096))
    finally:
        os.sched_setaffinity(0, all_of_them)
        os.close(fd)
    return name


def punch(test, image, at, n):
    done = run(["fallocate", "--punch-hole", "--offset", at, "--length", n, image])
    test.equal(done.rc, 0, f"the hole: {done}")


def with_a_hole(test, store, folder):
    """The store's image in that folder. At its end is the log; nothing is in it yet, and noise or a hole is
    the same to whoever reads it. The beginning of the log stays: the guest can write for a while."""
    image = os.path.join(folder, "image.qcow2")
    test.equal(run(["cp", store.image, image]).rc, 0, "the copy")
    punch(test, image, os.stat(image).st_size - LOG_BYTES + LEFT_BYTES, LOG_BYTES - LEFT_BYTES)
    store.image = image


def without_the_other_checkpoint(test, image):
    """What the daemon would fall back on: where the first checkpoint was, which is not the last one any
    more. Its content is of the past."""
    punch(test, image, os.stat(image).st_size - LOG_BYTES - 2 * CHECKPOINT_BYTES, CHECKPOINT_BYTES)


def write_until_full(tpm):
    """How many increments were acknowledged before one was refused, and how that was."""
    for n in range(MOST_WRITES):
        try:
            tpm.nv_increment(COUNTER)
        except TpmError as e:
            return n, e.rc
    return MOST_WRITES, 0


def loaded_objects_work(test, c, tpm):
    """Without a change to what is stored."""
    test.equal(tpm.name(c.key), c.name, "the loaded key")
    test.check(tpm.context_save(c.key), "the loaded key cannot be saved")
    test.equal(tpm.policy_digest(c.session), c.digest, "the session")
    tpm.pcr_extend(PCR_DEBUG, b"\3" * 32)
    c.pcr = extended(c.pcr, b"\3" * 32)
    test.equal(tpm.pcr_read(PCR_DEBUG), c.pcr, "PCR")
    test.equal(tpm.nv_counter(COUNTER), c.count, "the counter")


def disk_fills_up_and_is_emptied(test, device):
    test.only_nvkeep("swtpm has a test of its own")
    store = test.store()
    whole = store.image
    with small_disk(test) as folder:
        with_a_hole(test, store, folder)
        vm = test.vm(device, store=store)
        vm.power_on()
        c = Continuity(test, vm)
        daemon = vm.daemon.pid
        without_the_other_checkpoint(test, store.image)
        filler = fill(folder)
        n_before, rc = write_until_full(vm.tpm)
        c.count += n_before
        test.equal(rc, RC_NV_UNAVAILABLE, "what the guest is told when the disk is full")
        loaded_objects_work(test, c, vm.tpm)
        for _ in range(20):
            again = test.raises(TpmError, "the disk is still full", vm.tpm.nv_increment, COUNTER)
            test.equal(again.rc, RC_NV_UNAVAILABLE, "what it is told again")
        write = test.raises(TpmError, "a larger write", vm.tpm.nv_write, INDEX, b"sixteen others..")
        test.equal(write.rc, RC_NV_UNAVAILABLE, "what it is told for a larger write")
        c.holds(vm.tpm)
        os.unlink(filler)
        vm.tpm.nv_increment(COUNTER)  # the same command
        c.count += 1
        c.holds(vm.tpm)
        test.equal((vm.status(), vm.daemon.pid, vm.daemon.alive()), ("running", daemon, True),
                   "machine and daemon")
        test.contains(vm.daemon.log(), "STORAGE_ERROR", "the daemon's log")
        test.contains(vm.daemon.log(), "No space left on device", "the daemon's log")
        vm.cut_power()
        vm.power_on()
        c.survives_power_cut(vm.tpm, c.count)
        test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon")
        test.equal(run(["cp", store.image, whole]).rc, 0, "the copy back")
        store.image = whole
    print(f"         {n_before} writes found room, 22 were refused; no restart, nothing lost")


def the_disk_fills_up_and_is_emptied_with_tis(test):
    disk_fills_up_and_is_emptied(test, "tpm-tis")


def the_disk_fills_up_and_is_emptied_with_crb(test):
    disk_fills_up_and_is_emptied(test, "tpm-crb")


def an_image_without_holes_does_not_need_room(test):
    """As nvkeep makes it: a full disk is not even noticed."""
    test.only_nvkeep("swtpm has a test of its own")
    store = test.store()
    whole = store.image
    with small_disk(test) as folder:
        store.image = os.path.join(folder, "image.qcow2")
        test.equal(run(["cp", "--sparse=never", whole, store.image]).rc, 0, "the copy")
        vm = test.vm("tpm-crb", store=store)
        vm.power_on()
        c = Continuity(test, vm)
        fill(folder)
        for _ in range(200):
            vm.tpm.nv_increment(COUNTER)
        c.count += 200
        c.holds(vm.tpm)
        vm.cut_power()
        vm.power_on()
        c.survives_power_cut(vm.tpm, c.count)
        test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon")
        test.equal(run(["cp", store.image, whole]).rc, 0, "the copy back")
        store.image = whole


def stock_swtpm_is_dead_after_a_full_disk(test):
    """For comparison: the same guest, the same full disk."""
    if run(["sh", "-c", "command -v swtpm"]).rc:
        raise Skip("swtpm is missing")
    with small_disk(test) as folder:
        store = SwtpmStore(test.folder, "stock")
        store.image = os.path.join(folder, "stock.state")
        store.create()
        vm = test.vm("tpm-tis", store=store)
        vm.power_on()
        c = Continuity(test, vm)
        filler = fill(folder)
        rc = test.raises(TpmError, "the disk is full", vm.tpm.nv_increment, COUNTER).rc
        os.unlink(filler)
        after = test.raises(TpmError, "with room again", vm.tpm.nv_increment, COUNTER).rc
        key = test.raises(TpmError, "the loaded key", vm.tpm.name, c.key).rc
        test.equal((after, key), (RC_FAILURE, RC_FAILURE), "what swtpm's TPM says from then on")
        print(f"         swtpm: told {rc:#x}; with room again the TPM answers {after:#x} to everything, "
              f"the loaded key {key:#x}")


if __name__ == "__main__":
    sys.exit(main())
