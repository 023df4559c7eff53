"""A second reader of nvkeep images, made from src/doc/format.md alone [S2.14].

    second_reader.py IMAGE PASSPHRASE-FILE      prints what the image holds, as JSON

Uses nothing but Python: its own AES, its own LUKS, its own qcow2. Slow, and in no hurry.
"""

import hashlib
import hmac
import json
import struct
import sys


class Damage(Exception):
    pass


# ---- AES-256, decryption and (for tweaks) encryption, and XTS ----

def make_tables():
    log, exp = [0] * 256, [0] * 512
    x = 1
    for i in range(255):
        exp[i] = exp[i + 255] = x
        log[x] = i
        x ^= x << 1 ^ (0x11B if x & 0x80 else 0)
        x &= 0xFF
    sbox = [0x63] * 256
    for a in range(1, 256):
        b = s = exp[255 - log[a]]
        for _ in range(4):
            b = (b << 1 | b >> 7) & 0xFF
            s ^= b
        sbox[a] = s ^ 0x63
    mul = lambda a, b: exp[log[a] + log[b]] if a and b else 0
    inverse = [0] * 256
    for i, s in enumerate(sbox):
        inverse[s] = i
    word = lambda a, column: int.from_bytes(bytes(mul(a, c) for c in column), "big")
    turn = lambda t: [[(w >> 8 * r | w << 32 - 8 * r) & 0xFFFFFFFF for w in t] for r in range(4)]
    enc = turn([word(sbox[a], (2, 1, 1, 3)) for a in range(256)])
    dec = turn([word(inverse[a], (14, 9, 13, 11)) for a in range(256)])
    unmix = turn([word(a, (14, 9, 13, 11)) for a in range(256)])
    return sbox, inverse, enc, dec, unmix


SBOX, INVERSE, ENC, DEC, UNMIX = make_tables()


def sub_word(w):
    return int.from_bytes(bytes(SBOX[b] for b in w.to_bytes(4, "big")), "big")


class Aes:
    def __init__(self, key):
        n = len(key) // 4
        w = list(struct.unpack(">%dI" % n, key))
        rcon = 1
        for i in range(n, 4 * (n + 7)):
            t = w[i - 1]
            if i % n == 0:
                t = sub_word((t << 8 | t >> 24) & 0xFFFFFFFF) ^ rcon << 24
                rcon = rcon << 1 ^ (0x11B if rcon & 0x80 else 0)
            elif n > 6 and i % n == 4:
                t = sub_word(t)
            w.append(w[i - n] ^ t)
        self.enc = [w[i:i + 4] for i in range(0, len(w), 4)]
        self.dec = [self.enc[-1]]
        for k in self.enc[-2:0:-1]:
            self.dec.append([UNMIX[0][x >> 24] ^ UNMIX[1][x >> 16 & 255] ^ UNMIX[2][x >> 8 & 255] ^
                             UNMIX[3][x & 255] for x in k])
        self.dec.append(self.enc[0])

    @staticmethod
    def run(block, keys, table, last, step):
        t0, t1, t2, t3 = table
        s = [a ^ b for a, b in zip(struct.unpack(">4I", block), keys[0])]
        for k in keys[1:-1]:
            s = [t0[s[i] >> 24] ^ t1[s[(i + step) & 3] >> 16 & 255] ^
                 t2[s[(i + 2) & 3] >> 8 & 255] ^ t3[s[(i - step) & 3] & 255] ^ k[i]
                 for i in range(4)]
        out = [(last[s[i] >> 24] << 24 | last[s[(i + step) & 3] >> 16 & 255] << 16 |
                last[s[(i + 2) & 3] >> 8 & 255] << 8 | last[s[(i - step) & 3] & 255]) ^ keys[-1][i]
               for i in range(4)]
        return struct.pack(">4I", *out)

    def encrypt(self, block):
        return self.run(block, self.enc, ENC, SBOX, 1)

    def decrypt(self, block):
        return self.run(block, self.dec, DEC, INVERSE, -1)


class Xts:
    def __init__(self, key):
        self.data, self.tweak = Aes(key[:len(key) // 2]), Aes(key[len(key) // 2:])

    def decrypt_sector(self, number, sector):
        t = int.from_bytes(self.tweak.encrypt(number.to_bytes(16, "little")), "little")
        out = []
        for i in range(0, len(sector), 16):
            mask = t.to_bytes(16, "little")
            block = bytes(a ^ b for a, b in zip(sector[i:i + 16], mask))
            out.append(bytes(a ^ b for a, b in zip(self.data.decrypt(block), mask)))
            t = t << 1 ^ (0x87 if t >> 127 else 0)
            t &= (1 << 128) - 1
        return b"".join(out)


# ---- LUKS 1 ----

def diffuse(block):
    out = b""
    for i in range(0, len(block), 32):
        part = block[i:i + 32]
        out += hashlib.sha256(struct.pack(">I", i // 32) + part).digest()[:len(part)]
    return out


class Luks:
    def __init__(self, area):
        if area[:8] != b"LUKS\xba\xbe\0\1":
            raise Damage("no LUKS header")
        text = lambda at, n: area[at:at + n].split(b"\0")[0]
        self.names = [text(8, 32), text(40, 32), text(72, 32)]
        if self.names != [b"aes", b"xts-plain64", b"sha256"]:
            raise Damage("a cipher that nvkeep does not write: %r" % self.names)
        self.key_bytes, = struct.unpack(">I", area[108:112])
        self.digest, self.salt = area[112:132], area[132:164]
        self.iterations, = struct.unpack(">I", area[164:168])
        self.uuid = text(168, 40)
        self.area = area

    def volume_key(self, passphrase):
        for slot in range(8):
            at = 208 + 48 * slot
            active, iterations = struct.unpack(">II", self.area[at:at + 8])
            material, stripes = struct.unpack(">II", self.area[at + 40:at + 48])
            if active != 0x00AC71F3:
                continue
            xts = Xts(hashlib.pbkdf2_hmac("sha256", passphrase, self.area[at + 8:at + 40],
                                          iterations, self.key_bytes))
            n = self.key_bytes * stripes
            cipher = self.area[material * 512:material * 512 + (n + 511) // 512 * 512]
            split = b"".join(xts.decrypt_sector(i // 512, cipher[i:i + 512])
                             for i in range(0, len(cipher), 512))[:n]
            key = bytes(self.key_bytes)
            for i in range(stripes):
                part = split[i * self.key_bytes:(i + 1) * self.key_bytes]
                key = bytes(a ^ b for a, b in zip(key, part))
                if i < stripes - 1:
                    key = diffuse(key)
            if hashlib.pbkdf2_hmac("sha256", key, self.salt, self.iterations, 20) == self.digest:
                return key
        raise Damage("no key slot opens")


# ---- qcow2 ----

class Disk:
    def __init__(self, image, passphrase):
        self.image = image
        (magic, version, backing, _, self.cluster_bits, self.size, self.crypt, n_l1,
         l1) = struct.unpack(">IIQIIQIIQ", image[:48])
        header_bytes, = struct.unpack(">I", image[100:104])
        if (magic, version, backing, self.crypt) != (0x514649FB, 3, 0, 2):
            raise Damage("not an encrypted qcow2 image of version 3")
        self.l1 = struct.unpack(">%dQ" % n_l1, image[l1:l1 + 8 * n_l1])
        self.instance = None
        at = header_bytes
        while True:
            kind, n = struct.unpack(">II", image[at:at + 8])
            body = image[at + 8:at + 8 + n]
            if kind == 0:
                break
            if kind == 0x0537BE77:
                start, length = struct.unpack(">QQ", body)
                self.luks = Luks(image[start:start + length])
            if kind == 0x6E766B70:
                v, flags = struct.unpack(">II", body[:8])
                if (n, v, flags) != (24, 1, 0):
                    raise Damage("an nvkeep extension of another version")
                self.instance = body[8:]
            at += 8 + (n + 7) // 8 * 8
        self.key = self.luks.volume_key(passphrase)
        self.xts = Xts(self.key)

    def sector(self, number):
        cluster, within = divmod(number * 512, 1 << self.cluster_bits)
        per_table = 1 << self.cluster_bits - 3
        table = self.l1[cluster // per_table] & 0x00FFFFFFFFFFFE00
        entry, = struct.unpack_from(">Q", self.image, table + 8 * (cluster % per_table))
        at = (entry & 0x00FFFFFFFFFFFE00) + within
        return self.xts.decrypt_sector(at // 512, self.image[at:at + 512])

    def sectors(self, first, n):
        return [self.sector(first + i) for i in range(n)]

    def header_digest(self):
        numbers = struct.pack(">III", self.cluster_bits, self.crypt, self.luks.key_bytes)
        names = b"".join(s + b"\0" for s in [self.luks.uuid] + self.luks.names)
        return hashlib.sha256(b"nvkeep header 1\0" + numbers + names).digest()


# ---- the reference sector ----

def hkdf(salt, key, label, n):
    prk = hmac.new(salt, key, hashlib.sha256).digest()
    out, block = b"", b""
    while len(out) < n:
        block = hmac.new(prk, block + label + bytes([len(out) // 32 + 1]), hashlib.sha256).digest()
        out += block
    return out[:n]


def der(body):
    """[(tag, content)] of the values that follow one another in body."""
    values = []
    while body:
        tag, n, at = body[0], body[1], 2
        if n & 0x80:
            at = 2 + (n & 0x7F)
            n = int.from_bytes(body[2:at], "big")
        values.append((tag, body[at:at + n]))
        body = body[at + n:]
    return values


class Reference:
    def __init__(self, disk):
        s = disk.sector(0)
        if s[:8] != b"nvkeepRS" or s[464:480] != b"nvkeepRS-the-end":
            raise Damage("no reference sector")
        salt = s[16:48]
        mac_key = hkdf(salt, disk.key, b"nvkeep reference sector 1", 32)
        if hmac.new(mac_key, s[:480], hashlib.sha256).digest() != s[480:]:
            raise Damage("the reference sector's MAC")
        version, n = struct.unpack(">HH", s[8:12])
        if (version, s[12:16]) != (1, bytes(4)) or any(s[64 + n:448]):
            raise Damage("the reference sector's fields")
        if hashlib.sha256(s[:448]).digest()[:16] != s[448:464]:
            raise Damage("the reference sector's checksum")
        if hkdf(salt, disk.key, b"nvkeep key id 1", 16) != s[48:64]:
            raise Damage("the reference sector's key id")
        (tag, sequence), = der(s[64:64 + n])
        fields = der(sequence)
        if tag != 0x30 or [t for t, _ in fields] != [2, 4, 6, 6, 6, 4, 0x30]:
            raise Damage("the reference sector's body")
        self.instance = fields[1][1]
        self.device = {bytes.fromhex("67810501 00".replace(" ", "")): "tpm12",
                       bytes.fromhex("6781050102"): "tpm20"}[fields[2][1]]
        if fields[5][1] != disk.header_digest():
            raise Damage("the header digest")
        numbers = [int.from_bytes(v, "big") for _, v in der(fields[6][1])]
        self.areas = [(numbers[0], numbers[2]), (numbers[1], numbers[2]), (numbers[3], numbers[4])]
        self.record_key = hkdf(salt, disk.key, b"nvkeep record store 1", 32)


# ---- the record store ----

class Sector:
    def __init__(self, key, area, position, raw):
        self.claims = []
        for at, magic in ((0, b"nvkH"), (464, b"nvkT")):
            generation, index, count = struct.unpack(">QHH", raw[at + 4:at + 16])
            if raw[at:at + 4] == magic and index < count:
                self.claims.append((generation, index, count))
        mac = hmac.new(key, b"nvkeep-S" + struct.pack(">BI", area, position) + raw[:480],
                       hashlib.sha256).digest()
        self.epoch, self.bytes, self.kind = struct.unpack(">QIB", raw[16:29])
        self.mac, self.part = raw[32:64], raw[64:464]
        self.valid = (len(self.claims) == 2 and self.claims[0] == self.claims[1] and
                      mac == raw[480:] and self.kind in (1, 2) and not any(raw[29:32]) and
                      self.claims[0][2] == (self.bytes + 399) // 400)
        if self.valid:
            self.generation, self.index, self.count = self.claims[0]

    def facts(self):
        return (self.generation, self.epoch, self.kind, self.bytes, self.mac)


class Origin:
    def __init__(self, raw):
        if len(raw) != 132:
            raise Damage("the origin's length")
        version, self.how, self.used, zero = raw[:4]
        self.lineage, self.set, self.image = raw[4:20], raw[20:36], raw[36:52]
        self.generation, self.epoch = struct.unpack(">QQ", raw[52:68])
        self.mac = raw[68:100]
        self.clock, self.at = struct.unpack(">QQ", raw[100:116])
        if version != 1 or self.how not in (1, 2) or self.used > 1 or zero or any(raw[116:]) or \
                self.how == 2 and not self.used or not self.clock or not self.at:
            raise Damage("the origin's fields")
        if not self.generation and (self.epoch or any(self.mac)):
            raise Damage("an origin without a generation")

    def facts(self):
        return {"how": self.how, "used": self.used, "lineage": self.lineage.hex(),
                "set": self.set.hex(), "image": self.image.hex(), "generation": self.generation,
                "epoch": self.epoch, "mac": self.mac.hex(), "clock": self.clock, "at": self.at}


class Store:
    def __init__(self, key, areas):
        self.key = key
        self.areas = [[Sector(key, a, i, raw) for i, raw in enumerate(sectors)]
                      for a, sectors in enumerate(areas)]
        self.blobs = {}
        self.find()
        self.judge()

    def record(self, area, position, before):
        """(first sector, payload, whether the record MAC is right) or None."""
        sectors = self.areas[area][position:]
        if not sectors or not sectors[0].valid or sectors[0].index != 0:
            return None
        first = sectors[0]
        sectors = sectors[:first.count]
        if len(sectors) < first.count:
            return None
        for i, s in enumerate(sectors):
            if not s.valid or s.index != i or s.facts() != first.facts():
                return None
        payload = b"".join(s.part for s in sectors)[:first.bytes]
        head = struct.pack(">QQBI", first.epoch, first.generation, first.kind, first.bytes)
        before = bytes(32) if first.kind == 1 else before
        mac = hmac.new(self.key, b"nvkeep-R" + before + head + payload, hashlib.sha256).digest()
        return first, payload, mac == first.mac

    def find(self):
        bases = [self.record(a, 0, bytes(32)) for a in (0, 1)]
        bases = [b for b in bases if b and b[2] and b[0].kind == 1]
        bases.sort(key=lambda b: b[0].generation)
        if not bases or (len(bases) == 2 and bases[0][0].generation == bases[1][0].generation):
            raise Damage("no checkpoint")
        last, payload, _ = bases[-1]
        self.take_full(payload)
        self.log_used = self.n_records = 0
        while True:
            found = self.record(2, self.log_used, last.mac)
            if not found or found[0].generation != last.generation + 1 or \
                    found[0].epoch < last.epoch:
                break
            if not found[2] or found[0].kind != 2:
                raise Damage("a record that does not chain")
            last = found[0]
            self.take_delta(found[1])
            self.log_used += last.count
            self.n_records += 1
        self.generation, self.epoch = last.generation, last.epoch

    def judge(self):
        self.torn = 0
        for a, sectors in enumerate(self.areas):
            for i, s in enumerate(sectors):
                ahead = max((c[0] for c in s.claims), default=0) - self.generation
                if ahead <= 0 or (not s.valid and ahead > 1 << 20):
                    continue
                if not s.valid:
                    raise Damage("sector %d of area %d" % (i, a))
                if s.epoch < self.epoch:
                    continue
                if ahead > 1 and not (ahead == 2 and a < 2 and s.epoch > self.epoch):
                    raise Damage("generation %d is missing" % (self.generation + 1))
                self.torn += 1

    def take_full(self, payload):
        at = 1
        for _ in range(payload[0]):
            kind, n = struct.unpack(">BI", payload[at:at + 5])
            self.blobs[kind] = payload[at + 5:at + 5 + n]
            at += 5 + n
        if at != len(payload):
            raise Damage("a full state's payload")

    def take_delta(self, payload):
        at = 1
        for _ in range(payload[0]):
            kind, present = payload[at], payload[at + 1]
            at += 2
            old = self.blobs.pop(kind, b"")
            if not present:
                continue
            length, n_ops = struct.unpack(">IH", payload[at:at + 6])
            at += 6
            new = b""
            for _ in range(n_ops):
                if payload[at] == 1:
                    start, n = struct.unpack(">II", payload[at + 1:at + 9])
                    new += old[start:start + n]
                    at += 9
                else:
                    n, = struct.unpack(">I", payload[at + 1:at + 5])
                    new += payload[at + 5:at + 5 + n]
                    at += 5 + n
            if len(new) != length:
                raise Damage("a delta's length")
            self.blobs[kind] = new
        if at != len(payload):
            raise Damage("a delta's payload")


def read(image, passphrase):
    disk = Disk(image, passphrase)
    reference = Reference(disk)
    if disk.instance != reference.instance:
        raise Damage("the extension's instance")
    store = Store(reference.record_key, [disk.sectors(*area) for area in reference.areas])
    origin = Origin(store.blobs[4]).facts() if 4 in store.blobs else None
    return {
        "origin": origin,
        "instance": reference.instance.hex(),
        "device": reference.device,
        "generation": store.generation,
        "epoch": store.epoch,
        "records": store.n_records,
        "log_used": store.log_used,
        "torn": store.torn,
        "blobs": {str(k): {"bytes": len(v), "sha256": hashlib.sha256(v).hexdigest()}
                  for k, v in sorted(store.blobs.items())},
    }


def main():
    image = open(sys.argv[1], "rb").read()
    passphrase = open(sys.argv[2], "rb").read()
    try:
        json.dump(read(image, passphrase), sys.stdout, sort_keys=True)
        print()
    except Damage as d:
        print("damage: %s" % d)
        sys.exit(21)


if __name__ == "__main__":
    main()
