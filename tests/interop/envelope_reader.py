"""A second reader of sealed envelopes, made from src/doc/format.md alone [S2.14].

    envelope_reader.py FILE IMAGE-KEY MIGRATION-KEY     prints what is in it, as JSON
    envelope_reader.py --vector                         the test vector of format.md, made anew

Keys are in hexadecimal. Uses nothing but Python and the AES of second_reader.py.
"""

import hmac
import json
import sys

from second_reader import Aes

OIDS = {"2.16.840.1.101.3.4.1.46": "aes256-GCM", "2.23.133.1.0": "TPM 1.2",
        "2.23.133.1.2": "TPM 2.0"}
FIELDS = ["version", "use", "key", "keyId", "salt", "algorithm", "set", "image", "lineage",
          "device", "generation", "epoch", "clock", "mac", "library", "kinds", "kind"]
SIZES = {"keyId": 16, "salt": 32, "set": 16, "image": 16, "lineage": 16, "mac": 32}
USES, KEYS = {1: "state", 2: "offer", 3: "ready"}, {1: "image", 2: "migration"}


class Damage(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Damage(what)


# ---- DER ----

def take(data, tag):
    need(len(data) >= 2 and data[0] == tag, "a tag that is not %#x" % tag)
    n, at = data[1], 2
    if n & 0x80:
        at = 2 + (n & 0x7F)
        n = int.from_bytes(data[2:at], "big")
    need(data[:at] == head(tag, n) and at + n <= len(data), "a length")
    return data[at:at + n], data[at + n:]


def head(tag, n):
    if n < 0x80:
        return bytes([tag, n])
    size = n.to_bytes((n.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size


def integer(v):
    body = v.to_bytes(v.bit_length() // 8 + 1, "big")
    return head(2, len(body)) + body


def oid(text):
    first, second, *rest = map(int, text.split("."))
    body = b""
    for v in [40 * first + second] + rest:
        part = [v & 0x7F]
        while v > 0x7F:
            v >>= 7
            part.insert(0, 0x80 | v & 0x7F)
        body += bytes(part)
    return head(6, len(body)) + body


# ---- HKDF and GCM ----

def hkdf(salt, key, label, n):
    key, t, out = hmac.digest(salt, key, "sha256"), b"", b""
    while len(out) < n:
        t = hmac.digest(key, t + label + bytes([len(out) // 32 + 1]), "sha256")
        out += t
    return out[:n]


def multiplied(x, y):
    z = 0
    for i in range(127, -1, -1):
        if x >> i & 1:
            z ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return z


def gcm(key, data, cipher):
    """Decrypts or encrypts: the stream, and the tag over what is ciphertext on either side."""
    aes, nonce = Aes(key), bytes(12)
    stream = b"".join(aes.encrypt(nonce + (2 + i).to_bytes(4, "big"))
                      for i in range((len(cipher) + 15) // 16))

    def tag(c):
        h, y = int.from_bytes(aes.encrypt(bytes(16)), "big"), 0
        padded = lambda b: b + bytes(-len(b) % 16)
        text = padded(data) + padded(c) + (8 * len(data)).to_bytes(8, "big") + \
            (8 * len(c)).to_bytes(8, "big")
        for i in range(0, len(text), 16):
            y = multiplied(y ^ int.from_bytes(text[i:i + 16], "big"), h)
        first = aes.encrypt(nonce + (1).to_bytes(4, "big"))
        return bytes(a ^ b for a, b in zip(y.to_bytes(16, "big"), first))

    return bytes(a ^ b for a, b in zip(cipher, stream)), tag


def label(h, what):
    return ("nvkeep envelope 1 %s key %s" % (KEYS[h["key"]], what)).encode()


# ---- the envelope ----

def encode_header(h):
    out = b""
    for name in FIELDS:
        v = h[name]
        if name in ("algorithm", "device"):
            out += oid(v)
        else:
            out += head(4, len(v)) + v if name in SIZES else integer(v)
    return head(0x30, len(out)) + out


def decode_header(data):
    h = {}
    for name in FIELDS:
        if name in ("algorithm", "device"):
            body, rest = take(data, 6)
            known = [text for text in OIDS if oid(text) == head(6, len(body)) + body]
            need(known, "%s is unknown" % name)
            h[name] = known[0]
        elif name in SIZES:
            h[name], rest = take(data, 4)
            need(len(h[name]) == SIZES[name], "the length of %s" % name)
        else:
            body, rest = take(data, 2)
            h[name] = int.from_bytes(body, "big")
            need(integer(h[name]) == head(2, len(body)) + body, "the number %s" % name)
        data = rest
    need(not data, "bytes behind the header")
    return h


def open_envelope(data, keys):
    body, rest = take(data, 0x30)
    need(not rest, "bytes behind the envelope")
    header, behind = take(body, 0x30)
    content, rest = take(behind, 4)
    need(not rest and len(content) >= 16, "the content")
    h = decode_header(header)
    need(h["version"] == 1 and h["use"] in USES and h["key"] in KEYS, "version, use or key")
    key = keys[h["key"]]
    need(hkdf(h["salt"], key, label(h, "id"), 16) == h["keyId"], "another key")
    content, found = content[:-16], content[-16:]
    plain, tag = gcm(hkdf(h["salt"], key, label(h, USES[h["use"]]), 32),
                     body[:len(body) - len(behind)], content)
    need(tag(content) == found, "the tag")
    return h, plain


def seal_envelope(h, key, plain):
    h = dict(h, version=1, algorithm="2.16.840.1.101.3.4.1.46",
             keyId=hkdf(h["salt"], key, label(h, "id"), 16))
    header = encode_header(h)
    cipher, tag = gcm(hkdf(h["salt"], key, label(h, USES[h["use"]]), 32), header, plain)
    body = header + head(4, len(cipher) + 16) + cipher + tag(cipher)
    return head(0x30, len(body)) + body


def vector():
    run = lambda first, n: bytes(range(first, first + n))
    return seal_envelope({
        "use": 1, "key": 1, "salt": run(0x40, 32), "set": run(0x10, 16), "image": run(0x20, 16),
        "lineage": run(0x30, 16), "device": "2.23.133.1.2", "generation": 0x1234567890,
        "epoch": 7, "clock": 0x987654, "mac": run(0xA0, 32), "library": 0x000902, "kinds": 3, "kind": 1},
        run(0, 64), b"0123456789abcdef")


def main():
    if sys.argv[1] == "--vector":
        text = vector().hex()
        print("\n".join(text[i:i + 64] for i in range(0, len(text), 64)))
        return
    with open(sys.argv[1], "rb") as f:
        h, plain = open_envelope(f.read(), {1: bytes.fromhex(sys.argv[2]),
                                            2: bytes.fromhex(sys.argv[3])})
    shown = {k: v.hex() if isinstance(v, bytes) else v for k, v in h.items()}
    print(json.dumps(dict(shown, content=plain.hex())))


if __name__ == "__main__":
    main()
