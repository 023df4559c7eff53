"""A real file system on a disk that remembers: a loop device over a file that qemu-storage-daemon serves
through FUSE, with its blklogwrites driver in between. Every write with its bytes, and every flush,
stands in the log (the format of the kernel's dm-log-writes) in the order in which it was done.
"""

import ctypes
import errno
import fcntl
import os
import signal
import struct
import subprocess
import time

SECTOR, PAGE = 512, 4096
LOG_MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8

LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 4

libc = ctypes.CDLL(None, use_errno=True)


class Missing(Exception):
    """What this machine does not have or does not allow; the text says what."""


def attach_loop(path):
    """A loop device that goes away with its last user: (descriptor that holds it, its path)."""
    backing = os.open(path, os.O_RDWR)
    try:
        return configure_loop(path, backing)
    except OSError as e:  # no node for that device, no right to use it
        raise Missing(f"a loop device: {e}") from e
    finally:
        os.close(backing)


def configure_loop(path, backing):
    control = os.open("/dev/loop-control", os.O_RDWR)
    try:
        for _ in range(50):
            name = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            device = os.open(name, os.O_RDWR)
            info = struct.pack("<5Q4I64s64s32s2Q", 0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR,
                               path.encode()[-63:], b"", b"", 0, 0)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE,
                            struct.pack("<II", backing, SECTOR) + info + bytes(64))
                return device, name
            except OSError as e:  # somebody was faster
                os.close(device)
                if e.errno != errno.EBUSY:
                    raise
        raise Missing("a free loop device")
    finally:
        os.close(control)


def mount(path, at, kind):
    """The file system in the file `path`. OSError: it is what does not come back."""
    device, name = attach_loop(path)
    options = b"nouuid" if kind == "xfs" else b""
    try:
        if libc.mount(name.encode(), at.encode(), kind.encode(), 0, options):
            e = ctypes.get_errno()
            if e in (errno.ENODEV, errno.EPERM, errno.EACCES):
                raise Missing(f"{kind} in this kernel, or the right to mount it: {os.strerror(e)}")
            raise OSError(e, os.strerror(e), name)
    finally:
        os.close(device)


def unmount(at, lazy=False):
    for _ in range(100):
        if libc.umount2(at.encode(), 2 if lazy else 0) == 0:
            return
        if ctypes.get_errno() != errno.EBUSY:
            break
        time.sleep(0.05)  # a daemon that was killed is not quite gone
    e = ctypes.get_errno()
    raise OSError(e, os.strerror(e), at)


def nonzero_pages(path):
    """{number: bytes} of a sparse file."""
    pages = {}
    with open(path, "rb") as f:
        size, at = os.path.getsize(path), 0
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError as e:
                if e.errno == errno.ENXIO:
                    break
                raise
            end = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            for offset in range(at // PAGE * PAGE, end, PAGE):
                page = os.pread(f.fileno(), PAGE, offset)
                if page.count(0) != PAGE:
                    pages[offset // PAGE] = page
            at = end
    return pages


def xfs_log(first_page):
    """The sectors of an XFS's own log."""
    block_bytes, = struct.unpack_from(">I", first_page, 4)
    start, = struct.unpack_from(">Q", first_page, 48)
    group_blocks, = struct.unpack_from(">I", first_page, 84)
    n_blocks, = struct.unpack_from(">I", first_page, 96)
    shift = first_page[124]
    block = (start >> shift) * group_blocks + (start & (1 << shift) - 1)
    return range(block * block_bytes // SECTOR, (block + n_blocks) * block_bytes // SECTOR)


class Write:
    def __init__(self, sector, data):
        self.sector, self.data = sector, data


class Epoch:
    """What was written between two flushes. `end`: how much of the log is done when the second one is
    about to be, that is when most may be lost."""

    def __init__(self, writes, end):
        self.writes, self.end = writes, end


def read_log(path, limit):
    """The epochs of the first `limit` entries. The last one is of writes that no flush followed."""
    epochs, writes = [], []
    with open(path, "rb") as f:
        magic, version, n, sector_bytes = struct.unpack("<QQQI", f.read(28))
        if magic != LOG_MAGIC or version != 1 or sector_bytes != SECTOR or n < limit:
            raise ValueError(f"{path}: not the log that was recorded")
        at = SECTOR
        for i in range(limit):
            f.seek(at)
            sector, n_sectors, flags, _ = struct.unpack("<4Q", f.read(32))
            at += SECTOR
            if flags & ~FLUSH:
                raise ValueError(f"{path}: entry {i} has flags {flags:#x}")
            if flags & FLUSH:
                epochs.append(Epoch(writes, i))
                writes = []
            if n_sectors:
                f.seek(at)
                writes.append(Write(sector, f.read(n_sectors * SECTOR)))
                at += n_sectors * SECTOR
    return epochs + [Epoch(writes, limit)]


class Recording:
    """A file system of the given kind, mounted at `root` while it is recorded. `atomic`: the sectors of
    which it must be able to rely on being old or new, never anything else."""

    def __init__(self, folder, kind):
        self.folder, self.kind = folder, kind
        self.root = os.path.join(folder, "root")
        self.disk = os.path.join(folder, "disk")
        self.log = os.path.join(folder, "log")
        self.size = (300 if kind == "xfs" else 32) << 20  # smaller ones mkfs.xfs refuses
        self.daemon = None
        os.makedirs(self.root)
        with open(self.disk, "wb") as f:
            f.truncate(self.size)
        quiet = ["-q", "-K"] if kind == "xfs" else ["-q", "-E", "nodiscard"]
        subprocess.run([f"mkfs.{kind}", *quiet, self.disk], check=True)
        self.first = nonzero_pages(self.disk)
        self.atomic = xfs_log(self.first[0]) if kind == "xfs" else range(0)

    def start(self):
        served = os.path.join(self.folder, "served")
        for path, size in ((served, 0), (self.log, 4 << 30)):
            with open(path, "wb") as f:
                f.truncate(size)
        with open(os.path.join(self.folder, "storage.err"), "wb") as err:
            self.daemon = subprocess.Popen(
                ["qemu-storage-daemon",
                 "--blockdev", f"driver=file,node-name=disk,filename={self.disk},locking=off",
                 "--blockdev", f"driver=file,node-name=log,filename={self.log},locking=off",
                 "--blockdev", "driver=blklogwrites,node-name=both,file=disk,log=log,"
                               f"log-sector-size={SECTOR},log-super-update-interval=1",
                 "--export", f"type=fuse,id=out,node-name=both,mountpoint={served},writable=on"],
                stdin=subprocess.DEVNULL, stderr=err)
        try:
            self._wait_until_served(served, err.name)
            mount(served, self.root, self.kind)
        except BaseException:
            self._end()
            raise

    def _wait_until_served(self, served, errors):
        end = time.monotonic() + 60
        while os.path.getsize(served) != self.size:
            if time.monotonic() > end:
                raise TimeoutError("qemu-storage-daemon exports nothing")
            if self.daemon.poll() is not None:
                with open(errors, encoding="utf-8", errors="replace") as f:
                    raise Missing(f"qemu-storage-daemon with blklogwrites and a FUSE export: {f.read()}")
            time.sleep(0.01)

    def position(self):
        """How many entries the log has: what was answered before now was answered at or before it."""
        with open(self.log, "rb", buffering=0) as f:
            return struct.unpack("<16xQ", f.read(24))[0]

    def stop(self):
        """The recording is over; what unmounting writes is not part of it."""
        if not self.daemon:
            return
        try:
            unmount(self.root)
        except OSError:
            unmount(self.root, lazy=True)
        self._end()

    def _end(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait()
        self.daemon = None
