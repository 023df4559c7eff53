"""What a disk may hold after power fails in an epoch, just before the flush that would end it.

The unit is a sector of a write that changed it. Any of them may have arrived and any not. A sector of
which no version arrived holds what was there before (stale), zeroes or noise; or one alone is noise, the
one that was being written. Per epoch: nothing and everything; every prefix of the sectors (so every
prefix of the writes, and each write torn after every 512th and every 4096th byte); each write, page and
sector missing alone; all subsets of sectors, of pages and of writes while they are few; random subsets.
"""

import hashlib
import random

from block_disk import PAGE, SECTOR

STALE, ZERO, NOISE, ONE = "stale", "zero", "noise", "one sector of noise"
ZEROES = bytes(SECTOR)
FEW = 7  # up to so many, every subset is tried
RANDOM_SUBSETS = 24


def noise(sector):
    """Always the same for a sector."""
    return random.Random(sector).randbytes(SECTOR)


class Contents:
    """A disk as {page: bytes}; pages that are not there are zero."""

    def __init__(self, pages):
        self.pages = dict(pages)

    def sector(self, n):
        page = self.pages.get(n * SECTOR // PAGE)
        at = n * SECTOR % PAGE
        return page[at:at + SECTOR] if page else ZEROES

    def put(self, sectors):
        """{sector: bytes}; the pages as they were, to put_back()."""
        before = {}
        for n, data in sectors.items():
            number, at = n * SECTOR // PAGE, n * SECTOR % PAGE
            page = self.pages.get(number)
            before.setdefault(number, page)
            page = page or bytes(PAGE)
            self.pages[number] = page[:at] + data + page[at + SECTOR:]
        return before

    def put_back(self, before):
        for number, page in before.items():
            if page is None:
                del self.pages[number]
            else:
                self.pages[number] = page


class Unit:
    def __init__(self, write, sector, data):
        self.write, self.sector, self.data = write, sector, data


def units_of(epoch, contents):
    """In the order in which they were written, without those that changed nothing."""
    units, now = [], {}
    for i, write in enumerate(epoch.writes):
        for j in range(len(write.data) // SECTOR):
            sector = write.sector + j
            data = write.data[j * SECTOR:(j + 1) * SECTOR]
            if now.get(sector, contents.sector(sector)) != data:
                now[sector] = data
                units.append(Unit(i, sector, data))
    return units


def page_of(unit):
    return unit.sector * SECTOR // PAGE


def recipes(units, chance):
    """Functions of (place, unit) that tell whether it arrived."""
    def subset_of(key, chosen):
        return lambda i, u: key(i, u) in chosen

    def all_but(key, one):
        return lambda i, u: key(i, u) != one

    groupings = (lambda i, u: i, lambda i, u: u.write, lambda i, u: page_of(u),
                 lambda i, u: u.sector)
    made = [subset_of(groupings[0], range(cut)) for cut in range(1, len(units))]
    for key in groupings:
        groups = sorted({key(i, u) for i, u in enumerate(units)})
        if len(groups) <= FEW:
            made += [subset_of(key, {g for j, g in enumerate(groups) if bits >> j & 1})
                     for bits in range(1 << len(groups))]
        made += [all_but(key, one) for one in groups]
        for _ in range(RANDOM_SUBSETS if len(groups) > FEW else 0):
            likely = chance.random()
            made.append(subset_of(key, {g for g in groups if chance.random() < likely}))
    return made


def state(units, arrived, lost, atomic):
    """{sector: bytes} of what differs from before the epoch."""
    sectors = {u.sector: u.data for i, u in enumerate(units) if arrived(i, u)}
    if lost == STALE:
        return sectors
    for u in units:
        if u.sector not in sectors and u.sector not in atomic:
            sectors[u.sector] = ZEROES if lost == ZERO else noise(u.sector)
            if lost == ONE:
                break
    return sectors


def states(epoch, contents, atomic, most, seed):
    """At most `most` different ones, each with whether every sector is as it was at some moment: all there
    are, or a choice. First nothing arrived; that everything did is also the first state of the next
    epoch, where more must be found."""
    units = units_of(epoch, contents)
    chance = random.Random(seed)
    tries = [(recipe, lost) for recipe in recipes(units, chance)
             for lost in (STALE, ZERO, NOISE, ONE)]
    chance.shuffle(tries)
    tries.insert(0, (lambda i, u: False, STALE))
    seen = set()
    for arrived, lost in tries:
        if len(seen) >= most:
            return
        s = state(units, arrived, lost, atomic)
        key = hashlib.blake2b(b"".join(n.to_bytes(8, "big") + s[n] for n in sorted(s)),
                              digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            yield s, lost == STALE


def settle(epoch, contents):
    """The flush was done."""
    contents.put({write.sector + j: write.data[j * SECTOR:(j + 1) * SECTOR]
                  for write in epoch.writes for j in range(len(write.data) // SECTOR)})
