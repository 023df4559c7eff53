#!/usr/bin/env python3
"""Packs an image for the corpora of fuzz_qcow_open and fuzz_qcow_header.

    pack_image.py IMAGE CORPUS_OPEN/NAME CORPUS_HEADER/NAME

What is not zero goes in, but for the key material of the LUKS area and the data: both are noise to
whoever opens an image without its key.
"""
import struct
import sys

MASK = 0x00FFFFFFFFFFFE00


def wanted(image):
    """The parts of the image that are looked at, as (offset, length)."""
    bits, = struct.unpack_from(">I", image, 20)
    cluster = 1 << bits
    l1_size, l1, reftable, n_reftable, n_snapshots, snapshots = struct.unpack_from(
        ">IQQIIQ", image, 36)
    parts = [(0, 4096), (l1, 8 * l1_size), (reftable, n_reftable * cluster)]
    version, = struct.unpack_from(">I", image, 4)
    at = struct.unpack_from(">I", image, 100)[0] if version == 3 else 72
    while at + 8 <= cluster:
        kind, n = struct.unpack_from(">II", image, at)
        if kind == 0:
            break
        if kind == 0x0537BE77:
            parts.append((struct.unpack_from(">Q", image, at + 8)[0], 592))
        if kind == 0x23852875:
            parts.append((struct.unpack_from(">Q", image, at + 24)[0], 2 * cluster))
        at += 8 + (n + 7) // 8 * 8
    l1s = [(l1, l1_size)]
    at = snapshots
    for _ in range(n_snapshots):
        at = (at + 7) // 8 * 8
        place, size, id_bytes, name_bytes = struct.unpack_from(">QIHH", image, at)
        extra, = struct.unpack_from(">I", image, at + 36)
        n = 40 + id_bytes + name_bytes + extra
        parts += [(at, n), (place, 8 * size)]
        l1s.append((place, size))
        at += n
    for place, size in l1s:
        for i in range(size):
            l2 = struct.unpack_from(">Q", image, place + 8 * i)[0] & MASK
            if l2:
                parts.append((l2, cluster))
    for i in range(n_reftable * cluster // 8):
        block, = struct.unpack_from(">Q", image, reftable + 8 * i)
        if block:
            parts.append((block, cluster))
    return sorted(set(parts))


def runs(data, gap=12):
    """The pieces of data that are not zero, with short gaps left in."""
    at, end = 0, len(data)
    while at < end:
        while at < end and data[at] == 0:
            at += 1
        if at == end:
            return
        stop = data.find(bytes(gap), at)
        stop = end if stop < 0 else stop
        yield at, data[at:stop]
        at = stop


def main():
    image = open(sys.argv[1], "rb").read()
    out = struct.pack(">Q", len(image))
    for place, n in wanted(image):
        for at, piece in runs(image[place:place + n]):
            for i in range(0, len(piece), 65535):
                part = piece[i:i + 65535]
                out += struct.pack(">IH", place + at + i, len(part)) + part
    open(sys.argv[2], "wb").write(out)
    open(sys.argv[3], "wb").write(struct.pack(">Q", len(image)) + image[:512])


main()
