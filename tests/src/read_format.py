#!/usr/bin/env python3
"""A second reader of the format, made from nvkeep-format(7) alone.

usage: read_format.py IMAGE DISK KEY

IMAGE: the qcow2 file; DISK: its decrypted content, raw; KEY: the LUKS volume key, binary. Both come
from stock tools. Prints what the store holds as JSON, with the SHA-256 of each blob; --blob N FILE
writes one. Ends with 1 and a sentence where the page is not obeyed.
"""
import hashlib
import hmac
import json
import struct
import sys

SECTOR, PART = 512, 400
DEVICES = {"2.23.133.1.0": "TPM 1.2", "2.23.133.1.2": "TPM 2.0"}


class Wrong(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Wrong(text)


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def hkdf(salt, key, info, n):
    prk, out, block = mac(salt, key), b"", b""
    while len(out) < n:
        block = mac(prk, block + info + bytes([len(out) // 32 + 1]))
        out += block
    return out[:n]


# ---- DER: just what the body needs ----

def der(data, tag):
    """One value of that tag: its content, and what is behind it."""
    need(len(data) >= 2 and data[0] == tag, f"DER: wanted tag {tag:#x}")
    n, at = data[1], 2
    if n & 0x80:
        k = n & 0x7F
        n, at = int.from_bytes(data[2:2 + k], "big"), 2 + k
    need(at + n <= len(data), "DER: a value is cut off")
    return data[at:at + n], data[at + n:]


def integer(data):
    value, rest = der(data, 0x02)
    return int.from_bytes(value, "big", signed=True), rest


def oid(data):
    value, rest = der(data, 0x06)
    arcs, arc = [], 0
    for b in value:
        arc = arc << 7 | b & 0x7F
        if not b & 0x80:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, [first, arcs[0] - 40 * first] + arcs[1:])), rest


def body_of(data):
    body, rest = der(data, 0x30)
    need(rest == b"", "DER: something behind the body")
    version, body = integer(body)
    need(version == 1, "body: not version 1")
    facts = {}
    facts["instance"], body = der(body, 0x04)
    facts["device"], body = oid(body)
    facts["cipher"], body = oid(body)
    facts["mac"], body = oid(body)
    facts["digest"], body = der(body, 0x04)
    layout, rest = der(body, 0x30)
    need(rest == b"", "DER: something behind the layout")
    for name in ("a", "b", "checkpoint", "log", "log_sectors"):
        facts[name], layout = integer(layout)
        need(facts[name] > 0 and facts[name] % 8 == 0, f"layout: {name} is {facts[name]}")
    need(layout == b"", "DER: something in the layout is left")
    return facts


# ---- the header, in the clear ----

def header(image):
    with open(image, "rb") as f:
        h = f.read(4096)
    need(h[:4] == b"QFI\xfb" and struct.unpack(">I", h[4:8])[0] == 3, "not qcow2 version 3")
    cluster_bits, = struct.unpack(">I", h[20:24])
    crypt, = struct.unpack(">I", h[32:36])
    at, luks_at, uuid = struct.unpack(">I", h[100:104])[0], None, None
    while True:
        kind, n = struct.unpack(">II", h[at:at + 8])
        data = h[at + 8:at + 8 + n]
        if kind == 0:
            break
        if kind == 0x0537BE77:
            luks_at, = struct.unpack(">Q", data[:8])
        if kind == 0x6E766B70:
            version, flags = struct.unpack(">II", data[:8])
            need(n == 24 and version == 1 and flags == 0, "extension nvkp")
            uuid = data[8:24]
        at += 8 + (n + 7) // 8 * 8
    need(uuid and luks_at, "an extension is missing")
    with open(image, "rb") as f:
        f.seek(luks_at)
        luks = f.read(592)

    def text(off, n):
        return luks[off:off + n].split(b"\0")[0] + b"\0"
    key_bytes, = struct.unpack(">I", luks[108:112])
    digest = hashlib.sha256(b"nvkeep header 1\0" + struct.pack(">III", cluster_bits, crypt, key_bytes)
                            + text(168, 40) + text(8, 32) + text(40, 32) + text(72, 32)).digest()
    return uuid, digest


# ---- records ----

class Area:
    def __init__(self, key, number, data):
        self.key, self.number, self.data = key, number, data

    def sector(self, i):
        """The sector as a dictionary, or None where its MAC is wrong."""
        s = self.data[i * SECTOR:(i + 1) * SECTOR]
        if len(s) < SECTOR or not hmac.compare_digest(
                s[480:], mac(self.key, b"nvkeep-S" + struct.pack(">BI", self.number, i) + s[:480])):
            return None
        need(s[:4] == b"nvkH" and s[464:468] == b"nvkT" and s[4:16] == s[468:480], "marks differ")
        generation, index, count = struct.unpack(">QHH", s[4:16])
        epoch, n, kind = struct.unpack(">QIB", s[16:29])
        need(s[29:32] == b"\0\0\0" and count == (n + PART - 1) // PART, "a sector contradicts itself")
        return {"generation": generation, "index": index, "count": count, "epoch": epoch, "bytes": n,
                "kind": kind, "mac": s[32:64], "part": s[64:464]}

    def record(self, at, before):
        """The whole record at a sector, chained to the MAC before it, or None."""
        first = self.sector(at)
        if not first or first["index"] != 0:
            return None
        payload = b""
        for i in range(first["count"]):
            s = self.sector(at + i)
            if not s or any(s[k] != first[k] for k in ("generation", "count", "epoch", "bytes", "kind", "mac")) \
                    or s["index"] != i:
                return None
            payload += s["part"]
        need(not payload[first["bytes"]:].strip(b"\0"), "padding is not zero")
        first["payload"] = payload = payload[:first["bytes"]]
        wanted = mac(self.key, b"nvkeep-R" + (before if first["kind"] == 2 else bytes(32)) + struct.pack(
            ">QQBI", first["epoch"], first["generation"], first["kind"], first["bytes"]) + payload)
        return first if hmac.compare_digest(wanted, first["mac"]) else None


def whole_state(p):
    state, n, at, last = {}, p[0], 1, 0
    for _ in range(n):
        kind, length = struct.unpack(">BI", p[at:at + 5])
        need(last < kind <= 3 and at + 5 + length <= len(p), "a whole state is malformed")
        state[kind] = p[at + 5:at + 5 + length]
        at, last = at + 5 + length, kind
    need(at == len(p), "a whole state has something behind it")
    return state


def changed(state, p):
    state, n, at, last = dict(state), p[0], 1, 0
    need(1 <= n <= 3, "a change changes nothing")
    for _ in range(n):
        kind, present = p[at], p[at + 1]
        need(last < kind <= 3 and present <= 1, "a change is malformed")
        at, last = at + 2, kind
        old = state.pop(kind, b"")
        if not present:
            continue
        length, ops = struct.unpack(">IH", p[at:at + 6])
        at, new = at + 6, b""
        for _ in range(ops):
            if p[at] == 1:
                offset, m = struct.unpack(">II", p[at + 1:at + 9])
                need(m and offset + m <= len(old), "a copy from nowhere")
                new, at = new + old[offset:offset + m], at + 9
            else:
                need(p[at] == 2, "an unknown op")
                m, = struct.unpack(">I", p[at + 1:at + 5])
                need(m and at + 5 + m <= len(p), "a literal is cut off")
                new, at = new + p[at + 5:at + 5 + m], at + 5 + m
        need(len(new) == length, "the ops do not add up")
        state[kind] = new
    need(at == len(p), "a change has something behind it")
    return state


def main(image, disk_file, key_file, blob=None, to=None):
    with open(disk_file, "rb") as f:
        disk = f.read()
    with open(key_file, "rb") as f:
        volume_key = f.read()
    uuid, digest = header(image)

    r = disk[:SECTOR]
    salt = r[16:48]
    need(r[:8] == b"nvkeepRS" and r[464:480] == b"nvkeepRS-the-end", "reference sector: magic")
    need(hmac.compare_digest(r[480:], mac(hkdf(salt, volume_key, b"nvkeep reference sector 1", 32), r[:480])),
         "reference sector: HMAC")
    version, length = struct.unpack(">HH", r[8:12])
    need(version == 1 and r[12:16] == bytes(4) and not r[64 + length:448].strip(b"\0"), "reference sector: fields")
    need(r[48:64] == hkdf(salt, volume_key, b"nvkeep key id 1", 16), "reference sector: key id")
    need(r[448:464] == hashlib.sha256(r[:448]).digest()[:16], "reference sector: checksum")
    facts = body_of(r[64:64 + length])
    need(facts["instance"] == uuid, "instance of header and reference sector differ")
    need(facts["digest"] == digest, "headerDigest")
    need(facts["device"] in DEVICES and facts["mac"] == "1.2.840.113549.2.9"
         and facts["cipher"] == "1.3.111.2.1619.0.1.2", "object identifiers")

    key = hkdf(salt, volume_key, b"nvkeep record store 1", 32)

    def area(number, at, n):
        need((at + n) * SECTOR <= len(disk), "an area ends behind the disk")
        return Area(key, number, disk[at * SECTOR:(at + n) * SECTOR])
    areas = [area(0, facts["a"], facts["checkpoint"]), area(1, facts["b"], facts["checkpoint"]),
             area(2, facts["log"], facts["log_sectors"])]
    whole = [x for x in (areas[0].record(0, b""), areas[1].record(0, b"")) if x and x["kind"] == 1]
    need(whole, "no checkpoint is whole")
    newest = max(whole, key=lambda x: x["generation"])
    state, at, n = whole_state(newest["payload"]), 0, 0
    while True:
        x = areas[2].record(at, newest["mac"])
        if not x or x["kind"] != 2 or x["generation"] != newest["generation"] + 1 or x["epoch"] < newest["epoch"]:
            break
        state = changed(state, x["payload"])
        newest, at, n = x, at + x["count"], n + 1
    if blob:
        with open(to, "wb") as f:
            f.write(state[int(blob)])
    print(json.dumps({"instance": uuid.hex(), "device": DEVICES[facts["device"]],
                      "generation": newest["generation"], "epoch": newest["epoch"], "log_records": n,
                      "log_sectors_used": at, "log_sectors": facts["log_sectors"],
                      "state_bytes": sum(len(v) for v in state.values()),
                      "blobs": {k: hashlib.sha256(v).hexdigest() for k, v in state.items()}}))


if __name__ == "__main__":
    try:
        arguments = [a for a in sys.argv[1:] if a != "--blob"]
        main(*arguments)
    except Wrong as e:
        sys.exit(f"not as nvkeep-format(7) says: {e}")
