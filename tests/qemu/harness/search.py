"""The search for secrets: what is searched for, and the places where it must not be.

The secrets of an image are found out by the second reader (tests/interop), which was made from the
text of the format and has nothing of nvkeep in it.
"""

import base64
import hashlib
import os
import re
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../interop"))
from second_reader import Disk, Reference, Xts, hkdf  # noqa: E402  (a test's own reader)

PIECE = 16  # bytes of a key that are searched for by themselves


def forms(secret):
    """As it is, in hex and in base64, wherever in a longer text it begins."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret + bytes(-(before + len(secret)) % 3))
        # The digits that depend on neighbours are left out.
        found.add(text[(before * 8 + 5) // 6:(before + len(secret)) * 8 // 6])
    return found


class Secret:
    """One kind of secret: all its pieces in all forms, as one pattern."""

    def __init__(self, name, *values, whole=False):
        self.name = name
        self.values = values
        pieces = values if whole else [v[i:i + PIECE] for v in values
                                       for i in range(0, len(v) - PIECE + 1, PIECE)]
        self.needles = {f for p in pieces for f in forms(p)}

    def count(self, data):
        return sum(data.count(n) for n in self.needles)


def of_image(image, passphrase):
    """The secrets of LUKS and of the record store."""
    disk = Disk(image, passphrase)
    luks, area = disk.luks, disk.luks.area
    iterations, = struct.unpack(">I", area[212:216])
    material, stripes = struct.unpack(">II", area[248:256])
    slot = hashlib.pbkdf2_hmac("sha256", passphrase, area[216:248], iterations, luks.key_bytes)
    xts, n = Xts(slot), luks.key_bytes * stripes // 512
    # Parts of the split key from its first to its last sector: the rest is made and used like them.
    clear = [xts.decrypt_sector(i, area[(material + i) * 512:(material + i + 1) * 512])[-PIECE:]
             for i in (0, 1, 23, 24, n // 2, n - 1)]
    salt = disk.sector(0)[16:48]
    return [
        Secret("passphrase", passphrase, whole=True),
        Secret("slot key (PBKDF2)", slot),
        Secret("split key in clear", *clear),
        Secret("volume key", disk.key),
        Secret("record key", Reference(disk).record_key,
               hkdf(salt, disk.key, b"nvkeep reference sector 1", 32)),
    ]


# ---- places ----

class Mapping:
    def __init__(self, line):
        at, self.mode = line.split()[:2]
        self.first, self.end = (int(n, 16) for n in at.split("-"))
        self.name = " ".join(line.split()[5:])
        self.flags = set()


def mappings(pid):
    """Of a live process, with the flags that the kernel keeps."""
    found = []
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as f:
        for line in f:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                found.append(Mapping(line))
            elif line.startswith("VmFlags:"):
                found[-1].flags = set(line.split()[1:])
    return [m for m in found if "r" in m.mode and m.name not in ("[vvar]", "[vsyscall]")]


def memory(pid, wanted):
    """The content of all mappings that `wanted` takes, apart from each other."""
    content = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for m in filter(wanted, mappings(pid)):
            parts, at = [], m.first
            try:
                mem.seek(at)
                while at < m.end and (part := mem.read(min(m.end - at, 1 << 20))):
                    parts.append(part)
                    at += len(part)
            except OSError:  # of a file that is shorter than its mapping
                pass
            content.append(b"".join(parts))
    return b"\0".join(content)


def locked(m):
    return "lo" in m.flags


def unlocked(m):
    return not locked(m)


def dumped(m):
    """What a core dump would hold, whoever takes it: all that madvise() has not taken out."""
    return "dd" not in m.flags and "w" in m.mode


def every_process(name):
    """/proc/*/cmdline or /proc/*/environ; not of those who run the tests."""
    tests, content = set(), []
    pid = os.getpid()
    while pid > 1:
        tests.add(str(pid))
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            pid = int(f.read().rsplit(")", 1)[1].split()[1])
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as f:
                content.append(f.read() if pid not in tests else b"")
        except OSError:  # gone, or not ours to read
            pass
    return b"\0".join(content)


def status(pid, field):
    """A number of /proc/PID/status."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        return int(re.search(rf"^{field}:\s*(\d+)", f.read(), re.M).group(1))


def read(path):
    with open(path, "rb") as f:
        return f.read()


class Table:
    """place x secret. A cell is how often it was found; what is found must be allowed, with a reason,
    and a copy of each secret is planted in each place, or the search proves nothing."""

    def __init__(self, secrets):
        self.secrets = secrets
        self.rows, self.reasons, self.wrong = [], [], []

    def search(self, place, content, allowed=None, may_be_empty=False):
        """allowed: name of a secret -> why it may be there. Such a reason is wrong where nothing is
        found: then the table would lie. And so it would of a place where there was nothing to search."""
        allowed = allowed or {}
        cells = []
        if not may_be_empty and not content.strip(b"\0"):
            self.wrong.append(f"{place} is empty: nothing was searched")
        for secret in self.secrets:
            n, why = secret.count(content), allowed.get(secret.name)
            cells.append(n)
            if (n > 0) != (why is not None):
                self.wrong.append(f"{secret.name} in {place}: {n} times"
                                  f"{', and there should be some' if why else ''}")
            if n and why:
                self.reasons.append(f"{place}: {secret.name}: {why}")
            self._plant(place, secret, content)
        self.rows.append((place, len(content), cells))

    def _plant(self, place, secret, content):
        middle = len(content) // 2
        before, behind = content[max(0, middle - 4096):middle], content[middle:middle + 4096]
        for value in (secret.values[0], secret.values[-1].hex().encode()):
            if secret.count(before + value + behind) <= secret.count(before + behind):
                self.wrong.append(f"{secret.name} planted in {place} was not found")

    def show(self):
        print(f"         {'place':48} {'bytes':>10}  " + "  ".join(s.name for s in self.secrets))
        for place, n, cells in self.rows:
            print(f"         {place:48} {n:10}  " +
                  "  ".join(f"{c:>{len(s.name)}}" for c, s in zip(cells, self.secrets)))
        for reason in self.reasons:
            print(f"         found and known: {reason}")
        print(f"         {len(self.rows)} places, {sum(n for _, n, _ in self.rows)} bytes, "
              f"{len(self.secrets)} kinds of secrets, {len(self.reasons)} found and known, "
              f"{len(self.wrong)} wrong", flush=True)
