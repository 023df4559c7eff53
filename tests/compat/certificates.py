"""Certificates of TPMs: made by stock swtpm_cert and swtpm_localca and by ours, and read field by
field by a DER reader of our own."""

import os
import re
import shutil

from sides import Skip, run

WAIT = 180
OIDS = {"2.5.29.37": "extended key usage", "2.5.29.17": "subject alternative name",
        "2.5.29.19": "basic constraints", "2.5.29.9": "subject directory attributes",
        "2.5.29.35": "authority key identifier", "2.5.29.15": "key usage"}
TPM = ["--tpm-manufacturer", "id:00001014", "--tpm-model", "swtpm", "--tpm-version", "id:20191023"]
PLATFORM = ["--platform-manufacturer", "Us", "--platform-version", "2.1", "--platform-model", "M"]


def specification(family):
    return ["--tpm-spec-family", family, "--tpm-spec-level", "0" if family == "2.0" else "2",
            "--tpm-spec-revision", "164" if family == "2.0" else "116"]


# ---- DER ----


def element(data, at=0):
    """tag, content, where the next begins"""
    tag, n, at = data[at], data[at + 1], at + 2
    if n & 0x80:
        more = n & 0x7F
        n, at = int.from_bytes(data[at:at + more], "big"), at + more
    if at + n > len(data):
        raise ValueError("cut off")
    return tag, data[at:at + n], at + n


def elements(data):
    found, at = [], 0
    while at < len(data):
        tag, content, at = element(data, at)
        found.append((tag, content))
    return found


def oid(data):
    first = min(data[0] // 40, 2)
    arcs, value = [first, data[0] - 40 * first], 0
    for byte in data[1:]:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    return ".".join(map(str, arcs))


def name_of(data):
    """[(oid, kind of string, text)...] of a Name."""
    parts = []
    for tag, relative in elements(data):
        if tag != 0x31:
            raise ValueError("no RelativeDistinguishedName")
        for _, part in elements(relative):
            (_, kind), (string, text) = elements(part)
            parts.append((oid(kind), string, text.decode()))
    return parts


def subject_alt_name(data):
    _, names, _ = element(data)
    (tag, directory), = elements(names)
    _, name, _ = element(directory)
    return tag, name_of(name)


def fields(der):
    """What a certificate says, by the name of the field; validity as a length in days."""
    _, certificate, end = element(der)
    if end != len(der):
        raise ValueError("something stands behind the certificate")
    parts = elements(certificate)
    tbs = elements(parts[0][1])
    found = dict(zip(("version", "serial", "algorithm", "issuer", "validity", "subject", "key"), tbs))
    found["subject"] = name_of(found["subject"][1])
    found["issuer"] = name_of(found["issuer"][1])
    found["days"] = [len(t) if t.startswith(b"9999") else 0 for _, t in elements(found.pop("validity")[1])]
    found["outer algorithm"] = parts[1]
    extensions = elements(elements(tbs[7][1])[0][1])
    found["order of extensions"] = []
    for _, extension in extensions:
        inside = elements(extension)
        what = OIDS[oid(inside[0][1])]
        found["order of extensions"].append(what)
        found[what] = (len(inside) == 3, inside[-1][1])
    try:
        found["subject alternative name"] = (found["subject alternative name"][0],
                                             subject_alt_name(found["subject alternative name"][1]))
    except ValueError as e:
        found["subject alternative name"] = f"malformed: {e}"
    return found


def without_header(data):
    """A TPM 1.2's certificate in NV has a header: what it is, and how long."""
    if data[:2] != b"\x10\x01":
        return data
    if data[2] != 0 or data[5:7] != b"\x10\x02" or int.from_bytes(data[3:5], "big") != len(data) - 5:
        raise ValueError(f"a wrong header: {data[:7].hex()}")
    return data[7:]


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, text, mode=0o600):
    with open(path, "wb", opener=lambda p, f: os.open(p, f, mode)) as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    return path


# ---- programs ----


class Maker:
    """One of the two sides, with an authority of its own in a folder of its own."""

    def __init__(self, test, name, folder_of_tools):
        self.test, self.name = test, name
        self.tools = folder_of_tools
        self.folder = test.path(name)
        os.makedirs(self.folder, exist_ok=True)
        self.config = self.configure()
        self.options = write(self.path("options"), " ".join(PLATFORM) + "\n")

    def path(self, name):
        return os.path.join(self.folder, name)

    def configure(self, ca="ca", key="signkey.pem", more=""):
        ca = self.path(ca)
        key = key if ":" in key else f"{ca}/{key}"
        return write(self.path("localca.conf"),
                     f"statedir = {ca}\nsigningkey = {key}\nissuercert = {ca}/issuercert.pem\n"
                     f"certserial = {ca}/certserial\n{more}")

    def environment(self):
        return {**os.environ, "PATH": f"{self.tools}:/usr/bin:/bin"}

    def run(self, tool, *argv, env=None, **how):
        return run([os.path.join(self.tools, tool), *argv], timeout=WAIT, cwd=self.folder,
                   env={**self.environment(), **(env or {})}, **how)

    def localca(self, kind, key, *more, family="2.0", config=None, folder=None, **how):
        return self.run("swtpm_localca", "--type", kind, "--ek", key, "--dir", folder or self.folder,
                        *specification(family), *TPM, *(["--tpm2"] if family == "2.0" else []),
                        "--configfile", config or self.config, "--optsfile", self.options, *more, **how)

    def certified(self, kind, key, *more, **how):
        """The certificate, DER."""
        done = self.localca(kind, key, *more, **how)
        self.test.equal(done.rc, 0, f"{self.name}: {kind} {more}: {done.out}{done.err}")
        return without_header(read(os.path.join(how.get("folder") or self.folder, f"{kind}.cert")))

    def roots(self, ca="ca"):
        return self.path(f"{ca}/swtpm-localca-rootca-cert.pem"), self.path(f"{ca}/issuercert.pem")


def makers(test):
    needs("swtpm_cert", "swtpm_localca", "certtool", "openssl")
    return Maker(test, "stock", "/usr/bin"), ours(test)


def ours(test, name="ours"):
    return Maker(test, name, os.path.join(os.environ["NVKEEP_BUILD"], "compat"))


def needs(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise Skip(f"{tool} is missing")


def openssl(test, *argv, **how):
    done = run(["openssl", *argv], timeout=WAIT, **how)
    test.equal(done.rc, 0, f"openssl {' '.join(argv[:2])}: {done.err}")
    return done.out


class Key:
    """A key pair in files, and its public half as --ek wants it."""

    def __init__(self, test, kind):
        self.kind = kind
        self.private, self.public = test.path(kind + ".key"), test.path(kind + ".pub")
        how = (["RSA", "-pkeyopt", f"rsa_keygen_bits:{kind}"] if kind.isdigit()
               else ["EC", "-pkeyopt", f"ec_paramgen_curve:{kind}"])
        openssl(test, "genpkey", "-algorithm", *how, "-out", self.private)
        openssl(test, "pkey", "-in", self.private, "-pubout", "-out", self.public)
        text = openssl(test, "pkey", "-pubin", "-in", self.public, "-noout", "-text")
        digits = "".join(re.findall(r"^ {4}([0-9a-f:]+)$", text, re.M)).replace(":", "")
        if kind.isdigit():
            self.modulus = digits[2:]
            self.ek = self.modulus
            self.arguments = ["--modulus", self.modulus]
        else:
            half = (len(digits) - 2) // 2
            curve = {"P-256": "secp256r1", "P-384": "secp384r1", "P-521": "secp521r1"}[kind]
            x, y = digits[2:2 + half], digits[2 + half:]
            self.ek = f"x={x},y={y},id={curve}"
            self.arguments = ["--ecc-x", x, "--ecc-y", y, "--ecc-curveid", curve]


def verified(test, maker, der, ca="ca", sha1=False):
    """By OpenSSL and by GnuTLS, against the authority's root; each says yes or no."""
    path = maker.path("verify.der")
    pem = maker.path("verify.pem")
    write(path, der)
    openssl(test, "x509", "-inform", "der", "-in", path, "-out", pem)
    root, issuer = maker.roots(ca)
    strict = [] if sha1 else ["-x509_strict", "-auth_level", "2"]
    by_openssl = run(["openssl", "verify", *strict, "-purpose", "any", "-CAfile", root, "-untrusted",
                      issuer, pem], timeout=WAIT)
    chain = write(maker.path("chain.pem"), read(pem) + read(issuer))
    weak = ["--verify-allow-broken"] if sha1 else ["--verify-profile", "medium"]
    by_gnutls = run(["certtool", "--verify", *weak, "--load-ca-certificate", root, "--infile", chain],
                    timeout=WAIT)
    return by_openssl.rc == 0, by_gnutls.rc == 0, f"{by_openssl.err}{by_gnutls.out}"
