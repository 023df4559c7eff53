"""Certificates, and the authority that signs them: as stock swtpm_cert and swtpm_localca make them,
accepted by OpenSSL and GnuTLS, and for the keys that are in the TPM."""

import concurrent.futures
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time

from certificates import (Key, Maker, PLATFORM, TPM, WAIT, fields, makers, needs, openssl, ours, read,
                          specification, verified, without_header, write)
from sides import Skip, run
from harness.case import main

# Where a certificate of ours says something else than stock 0.7.1's for the same inputs. Each row is
# used: one that nothing needs fails, and so does a difference without one. (which, field, why)
DIFFERENCES = [
    ("*", "order of extensions", "a certificate's extensions have no order"),
    ("1.2 platform", "subject alternative name",
     "stock puts two lists of names where one name belongs: no reader takes it"),
    ("--pubkey P-384", "key usage",
     "an ECC key agrees on keys; stock says so only where it is given as numbers"),
]


def authority(test, maker, ca="ca"):
    """One authority for both sides, so that what it says is the same."""
    os.makedirs(maker.path(ca), exist_ok=True)
    for name in os.listdir(test.path("authority")):
        shutil.copy(os.path.join(test.path("authority"), name), maker.path(ca))


def make_authority(test, ours):
    ours.certified("ek", Key(test, "2048").ek)
    shutil.move(ours.path("ca"), test.path("authority"))


def kinds(keys):
    """what it is called, key, arguments of swtpm_cert"""
    for family in ("2.0", "1.2"):
        for kind in ("ek", "platform"):
            for key in keys if family == "2.0" else [keys[0]]:
                more = ["--tpm2"] if family == "2.0" else []
                yield (f"{family} {kind} {key.kind}", key.arguments + more + ["--type", kind, "--days",
                       "-1", "--subject", "CN=vm:1", "--serial", "7"], family)
    rsa, ecc = keys[0], keys[2]
    plain = ["--tpm2", "--subject", "C=US,ST=NY,L=NewYork"]
    yield "2.0 ek signs", rsa.arguments + plain + ["--allow-signing", "--serial", "128"], "2.0"
    yield "2.0 ek signs and decrypts", (rsa.arguments + plain + ["--allow-signing", "--decryption",
                                        "--serial", "2147483648"]), "2.0"
    yield "2.0 ek ECC signs", ecc.arguments + plain + ["--allow-signing", "--decryption"], "2.0"
    yield "2.0 ek, 30 days", rsa.arguments + plain + ["--days", "30"], "2.0"
    yield "2.0 ek, exponent", rsa.arguments + plain + ["--exponent", "65539"], "2.0"
    yield "2.0 ek, no subject", rsa.arguments + ["--tpm2"], "2.0"
    yield "2.0 ek --pubkey 2048", ["--pubkey", rsa.public] + plain, "2.0"
    yield "2.0 ek --pubkey P-384", ["--pubkey", ecc.public] + plain, "2.0"


# Command lines: what stock 0.7.1 answers otherwise, and why ours does not. (command line, why)
REFUSED_ONLY_HERE = [
    ("--modulus 12", "a number that is no modulus makes a certificate for nobody"),
    ("--ecc-x 12 --ecc-y 13", "a point that is not on the curve, likewise"),
    ("--serial -1", "a serial number is positive [RFC 5280 4.1.2.2]"),
    ("--days abc", "stock makes a certificate that ended when it began"),
    ("--days 99999999999", "likewise"),
    ("--tpm-spec-level abc", "stock takes it for 0"),
    ("--exponent 4", "no exponent of an RSA key is even"),
    ("--signkey other", "a certificate that its issuer did not sign"),
]
TAKEN_ONLY_HERE = [("--parentkey-password x", "stock spells its own option --parentkey-passord")]


def matches(row, what):
    return row[0] == "*" or row[0] in what


def certificates_say_what_stock_ones_say(test):
    stock, mine = makers(test)
    make_authority(test, mine)
    keys = [Key(test, kind) for kind in ("2048", "3072", "P-384", "P-256", "P-521")]
    authority(test, stock)
    authority(test, mine)
    n, used = 0, set()
    for what, arguments, family in kinds(keys):
        said = []
        for side in (stock, mine):
            done = side.run("swtpm_cert", *arguments, *TPM, *PLATFORM, *specification(family),
                            "--signkey", side.path("ca/signkey.pem"), "--issuercert",
                            side.path("ca/issuercert.pem"), "--out-cert", side.path("cert"))
            test.equal(done.rc, 0, f"{side.name}: {what}: {done.err}")
            said.append(fields(read(side.path("cert"))))
        test.equal(sorted(said[0]), sorted(said[1]), f"{what}: fields")
        for field in said[0]:
            n += 1
            if said[0][field] == said[1][field]:
                continue
            row = [r for r in DIFFERENCES if matches(r, what) and r[1] == field]
            test.check(row, f"{what}, {field}: stock {said[0][field]}, ours {said[1][field]}")
            used.add(row[0][:2])
    test.equal(sorted(used), sorted(r[:2] for r in DIFFERENCES), "rows of differences that are used")
    test.check(said[0]["key"] != fields(read(certificate_of(test, mine, keys[1])))["key"],
               "another key was not told")
    print(f"{n} fields compared, {len(used)} kinds of differences, all with a reason")


def command_lines_are_refused_alike(test):
    stock, mine = makers(test)
    make_authority(test, mine)
    authority(test, stock)
    authority(test, mine)
    key, ecc = Key(test, "2048"), Key(test, "P-256")
    shutil.copy(key.private, stock.path("other"))
    shutil.copy(key.private, mine.path("other"))
    makes = " ".join([*TPM, *specification("2.0"), "--tpm2"])
    rsa = f"{makes} {' '.join(key.arguments)} "
    lines = [rsa, f"{makes} {' '.join(ecc.arguments[:4])}", f"{rsa} --pubkey {key.public}", f"{rsa} --pem",
             f"{rsa} --type EK", f"{rsa} --type Platform {' '.join(PLATFORM)}", f"{rsa} --add-header",
             f"{rsa} -pem", f"{rsa} --tpm-man x", f"{rsa} --subject CN=x", f"{rsa} extra",
             f"{rsa} --serial 4294967296", f"{rsa} --serial 0", f"{rsa} --serial abc",
             f"{rsa} --serial 99999999999999999999", f"{rsa} --serial -1", f"{rsa} --days -1",
             f"{rsa} --days abc", f"{rsa} --days 99999999999", f"{rsa} --exponent 0", f"{rsa} --exponent 4",
             f"{rsa} --exponent 0x10001", f"{rsa} --exponent 4294967296", f"{rsa} --type foo",
             f"{rsa} --type platform", f"{rsa} --subject bad", f"{rsa} --subject CN=a,foo", f"{rsa} --bogus",
             f"{rsa} --tpm-spec-level -1", f"{rsa} --tpm-spec-level abc", f"{rsa} --tpm-spec-level 0x10",
             f"{rsa} --ecc-x 12", f"{rsa} --ecc-x 12 --ecc-y 13", f"{rsa} --signkey /nonexistent",
             f"{rsa} --issuercert /nonexistent", f"{rsa} --issuercert options", f"{rsa} --signkey options",
             f"{rsa} --signkey other", f"{rsa} --out-cert /nonexistent/x", f"{rsa} --signkey-password x",
             f"{rsa} --parentkey-password x", f"{rsa} --parentkey-pwd x", f"{rsa} --signkey-pwd fd:99",
             f"{makes}", f"{makes} --modulus 123", f"{makes} --modulus 12xx", f"{makes} --modulus 12",
             f"{makes} --ecc-x 12", f"{makes} --ecc-x 12 --ecc-y 13", f"{makes} --pubkey /nonexistent",
             f"{makes} --pubkey options", f"{makes} --ecc-x 12 --ecc-y 13 --ecc-curveid foo",
             " ".join(key.arguments), f"{' '.join(key.arguments + TPM)}", "--version", "--help",
             "--print-capabilities", f"{rsa} --version"]
    used = set()
    for line in lines:
        said = []
        for side in (stock, mine):
            remove(side.path("c"))
            done = side.run("swtpm_cert", "--signkey", side.path("ca/signkey.pem"), "--issuercert",
                            side.path("ca/issuercert.pem"), "--out-cert", "c", *line.split())
            made = os.path.exists(side.path("c"))
            said.append((done.rc, made))
            test.check(done.rc == 0 or (done.err and not made), f"{side.name}: {line}: nothing said")
        rows = [r for r in REFUSED_ONLY_HERE + TAKEN_ONLY_HERE
                if line.endswith(r[0]) and len(line) - len(r[0]) in (len(makes) + 1, len(rsa) + 1)]
        if said[0] == said[1]:
            test.check(not rows or said[0][0] == 1, f"{line}: no difference")
            continue
        test.check(rows, f"{line}: stock {said[0]}, ours {said[1]}")
        test.equal(said[1][0], 0 if rows[0] in TAKEN_ONLY_HERE else 1, line)
        used.add(rows[0])
    test.equal(len(used), len(REFUSED_ONLY_HERE + TAKEN_ONLY_HERE), f"rows that are used: {used}")
    print(f"{len(lines)} command lines, {len(used)} kinds of differences, all with a reason")


def certificate_of(test, maker, key):
    maker.certified("ek", key.ek)
    return maker.path("ek.cert")


def every_kind_is_accepted_by_openssl_and_gnutls(test):
    needs("certtool", "openssl")
    mine, stranger = ours(test), ours(test, "stranger")
    keys = [Key(test, kind) for kind in ("2048", "3072", "P-384")]
    n = 0
    for family in ("2.0", "1.2"):
        for kind in ("ek", "platform"):
            for key in keys if family == "2.0" else keys[:1]:
                der = mine.certified(kind, key.ek, family=family)
                by_openssl, by_gnutls, words = verified(test, mine, der, sha1=family == "1.2")
                test.check(by_openssl and by_gnutls, f"{family} {kind} {key.kind}: {words}")
                pem = openssl(test, "x509", "-inform", "der", "-in", write(mine.path("c"), der),
                              "-noout", "-pubkey")
                test.equal(pem, read(key.public).decode(), "public key")
                n += 1
    # One that another authority signed, and one with a bit flipped, are not.
    stranger.certified("ek", keys[0].ek)
    for wrong in (without_header(read(stranger.path("ek.cert"))), der[:-1] + bytes([der[-1] ^ 1])):
        by_openssl, by_gnutls, _ = verified(test, mine, wrong, sha1=True)
        test.check(not by_openssl and not by_gnutls, "a wrong one was accepted")
    print(f"{n} certificates accepted by both, 2 wrong ones by neither")


# ---- the TPM's own ----


def tpm2(test, socket, *argv, folder):
    return run(list(argv), timeout=60, cwd=folder,
               env={**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={socket}", "TPM2_PKCS11_STORE": folder})


def set_up(test, mine, state, *more):
    os.makedirs(mine.path(state), exist_ok=True)
    setup = write(mine.path("setup.conf"),
                  f"create_certs_tool = {mine.tools}/swtpm_localca\n"
                  f"create_certs_tool_config = {mine.config}\n"
                  f"create_certs_tool_options = {mine.options}\n")
    done = mine.run("swtpm_setup", "--tpm-state", mine.path(state), "--config", setup, "--vmid", "vm:1",
                    "--create-ek-cert", "--create-platform-cert", "--overwrite", "--write-ek-cert-files",
                    mine.path(state), *more)
    test.equal(done.rc, 0, f"swtpm_setup: {done.out}{done.err}")


def certificates_in_nv_are_those_of_the_files_and_for_the_keys_in_the_tpm(test):
    needs("tpm2_nvread", "tpm2_createek", "tpm2_getekcertificate", "openssl", "certtool")
    if "libtss2-tcti-swtpm" not in run(["ldconfig", "-p"]).out:
        raise Skip("libtss2-tcti-swtpm is missing")
    mine = ours(test)
    n = 0
    for size, nv in (("2048", "0x1c00002"), ("3072", "0x1c0001c")):
        set_up(test, mine, "state", "--tpm2", "--rsa-keysize", size, "--create-spk", "--lock-nvram")
        daemon = start_daemon(test, mine)
        def ask(*argv):
            done = tpm2(test, mine.path("tpm"), *argv, folder=mine.folder)
            test.equal(done.rc, 0, f"{argv}: {done.err}")
        for index, name, handle in ((nv, f"rsa{size}", {"2048": "0x81010001", "3072": "0x8101001c"}[size]),
                                    ("0x1c00016", "secp384r1", "0x81010016")):
            ask("tpm2_nvread", "-C", "p", index, "-o", mine.path("nv"))
            file = read(mine.path(f"state/ek-{name}.crt"))
            test.equal(read(mine.path("nv")), file, f"certificate of {name} in NV and in the file")
            by_openssl, by_gnutls, words = verified(test, mine, file)
            test.check(by_openssl and by_gnutls, f"{name}: {words}")
            ask("tpm2_readpublic", "-c", handle, "-f", "pem", "-o", mine.path("ek.pem"))
            n += same_key(test, mine, file, f"{name} at {handle}")
        ask("tpm2_nvread", "-C", "p", "0x1c08000", "-o", mine.path("nv"))
        ask("tpm2_readpublic", "-c", {"2048": "0x81010001", "3072": "0x8101001c"}[size], "-f", "pem",
            "-o", mine.path("ek.pem"))
        n += same_key(test, mine, read(mine.path("nv")), "platform")
        if size == "2048":
            # The key that its seed and the standard template give, and the certificate for it.
            ask("tpm2_createek", "-c", mine.path("ek.ctx"), "-G", "rsa", "-u", mine.path("ek.pem"), "-f",
                "pem")
            ask("tpm2_getekcertificate", "-X", "-o", mine.path("nv"), "-o", mine.path("ecc"))
            n += same_key(test, mine, read(mine.path("nv")), "tpm2_createek")
        daemon.end()
    print(f"{n} certificates for the keys in the TPM")


def certificates_in_the_nv_of_a_tpm12_have_one_header(test):
    """In swtpm's own form of the state, made by each side."""
    needs("certtool", "openssl", "swtpm_setup")
    mine = ours(test)
    set_up(test, mine, "state")
    state = mine.path("exported")
    done = run([os.environ["NVKEEP"], "export", mine.path("state/tpm-00.qcow2"), f"dir://{state}", "--key",
                f"file={mine.path('state/tpm-00.key')}", "--plaintext"])
    test.equal(done.rc, 0, done.err)
    stock = Maker(test, "stock", "/usr/bin")
    setup = write(stock.path("setup.conf"), "create_certs_tool = /usr/bin/swtpm_localca\n"
                  f"create_certs_tool_config = {stock.config}\ncreate_certs_tool_options = {stock.options}\n")
    done = stock.run("swtpm_setup", "--tpm-state", stock.folder, "--config", setup, "--create-ek-cert",
                     "--create-platform-cert", "--overwrite")
    test.equal(done.rc, 0, f"{done.out}{done.err}")
    for side, path in ((stock, stock.path("tpm-00.permall")), (mine, os.path.join(state, "tpm-00.permall"))):
        parts = read(path).split(b"\x10\x01\x00")[1:]
        test.equal(len(parts), 2, f"{side.name}: headers of certificates")
        for part in parts:
            n = int.from_bytes(part[:2], "big")
            der = without_header(b"\x10\x01\x00" + part[:n + 2])
            test.check(fields(der)["key"], "a certificate")
            if side is mine:
                test.check(all(verified(test, mine, der, sha1=True)[:2]), "not verified")


def same_key(test, mine, der, what):
    found = openssl(test, "x509", "-inform", "der", "-in", write(mine.path("c"), der), "-noout", "-pubkey")
    test.equal(openssl(test, "pkey", "-pubin", "-in", mine.path("ek.pem")).strip(), found.strip(), what)
    return 1


def start_daemon(test, mine):
    from sides import Running
    for name in ("tpm", "tpm.ctrl"):
        if os.path.exists(mine.path(name)):
            os.unlink(mine.path(name))
    process = subprocess.Popen(
        [os.path.join(mine.tools, "swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={mine.path('state')}",
         "--server", f"type=unixio,path={mine.path('tpm')}", "--ctrl",
         f"type=unixio,path={mine.path('tpm.ctrl')}", "--flags", "not-need-init,startup-clear"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    running = Running(process)
    test.started(running)
    test.wait_until("the daemon", lambda: os.path.exists(mine.path("tpm.ctrl")) and
                    os.path.exists(mine.path("tpm")), 60)
    return running


# ---- who signs ----


def a_pkcs11_token_signs(test):
    needs("softhsm2-util", "p11tool", "openssl", "certtool")
    mine = ours(test)
    key = Key(test, "2048")
    os.mkdir(mine.path("tokens"))
    conf = write(mine.path("softhsm2.conf"), f"directories.tokendir = {mine.path('tokens')}\n"
                 "objectstore.backend = file\nlog.level = ERROR\n")
    env = {"SOFTHSM2_CONF": conf}
    mine.certified("ek", key.ek)  # the authority; its key goes into the token and leaves the file
    for done in (mine_run(mine, env, "softhsm2-util", "--init-token", "--free", "--label", "ca", "--pin",
                          "1234", "--so-pin", "5678"),
                 mine_run(mine, env, "softhsm2-util", "--import", mine.path("ca/signkey.pem"), "--token",
                          "ca", "--label", "signkey", "--id", "01", "--pin", "1234")):
        test.equal(done.rc, 0, f"{done.out}{done.err}")
    os.unlink(mine.path("ca/signkey.pem"))
    uri = "pkcs11:token=ca;object=signkey;type=private"
    cases = [("PIN in the configuration", uri, "SWTPM_PKCS11_PIN = 1234\n", env, 0),
             ("as signingkey_password", uri, "signingkey_password = 1234\n", env, 0),
             ("; written as \\;", uri.replace(";", "\\;"), "SWTPM_PKCS11_PIN = 1234\n", env, 0),
             ("type=public, as the manual's example", uri.replace("private", "public"),
              "SWTPM_PKCS11_PIN = 1234\n", env, 0),
             ("module's environment in the configuration", uri,
              f"SWTPM_PKCS11_PIN = 1234\nenv:SOFTHSM2_CONF = {conf}\n", {}, 0),
             ("wrong PIN", uri, "SWTPM_PKCS11_PIN = 4321\n", env, 1),
             ("no such key", uri.replace("signkey", "other"), "SWTPM_PKCS11_PIN = 1234\n", env, 1),
             ("no such token", uri.replace("ca;", "cb;"), "SWTPM_PKCS11_PIN = 1234\n", env, 1)]
    for what, named, more, environment, rc in cases:
        config = mine.configure(key=named, more=more)
        remove(mine.path("ek.cert"))
        done = mine.localca("ek", key.ek, config=config, env=environment)
        test.equal(done.rc, rc, f"{what}: {done.out}{done.err}")
        test.equal(os.path.exists(mine.path("ek.cert")), rc == 0, f"{what}: a certificate")
        if rc == 0:
            by_openssl, by_gnutls, words = verified(test, mine, read(mine.path("ek.cert")))
            test.check(by_openssl and by_gnutls, f"{what}: {words}")
    # swtpm_cert is told the PIN by the environment.
    done = mine.run("swtpm_cert", *key.arguments, "--tpm2", *TPM, *specification("2.0"), "--signkey", uri,
                    "--issuercert", mine.path("ca/issuercert.pem"), "--out-cert", mine.path("c"),
                    env={**env, "SWTPM_PKCS11_PIN": "1234"})
    test.equal(done.rc, 0, done.err)
    test.check(all(verified(test, mine, read(mine.path("c")))[:2]), "swtpm_cert with a token")
    print(f"{len(cases) + 1} calls with a token")


def mine_run(mine, env, *argv):
    return run(list(argv), timeout=WAIT, cwd=mine.folder, env={**os.environ, **env})


def remove(path):
    if os.path.exists(path):
        os.unlink(path)


def a_program_signs(test):
    needs("openssl", "certtool")
    mine = ours(test)
    key, other = Key(test, "2048"), Key(test, "3072")
    mine.certified("ek", key.ek)
    hidden = mine.path("hidden.pem")
    os.rename(mine.path("ca/signkey.pem"), hidden)
    sign = "openssl pkeyutl -sign -pkeyopt digest:sha256 -inkey"
    cases = [("signs", f"case $1 in RSA-SHA256) exec {sign} {hidden};; esac; exit 9", 0, ""),
             ("signs with another key", f"exec {sign} {other.private}", 1,
              "does not belong to the issuer"),
             ("signs, and fails", f"{sign} {hidden}; exit 3", 1, "exit code 3"),
             ("leaves somebody behind", f"sleep 1000 >/dev/null 2>&1 & exec {sign} {hidden}", 0, ""),
             ("gets no descriptors", f"[ $(ls /proc/self/fd | wc -l) = 4 ] && exec {sign} {hidden}", 0, ""),
             ("says nothing", "exit 0", 1, "no signature"),
             ("says something else", "echo hello", 1, "does not belong"),
             ("says too much", "exec head -c 100000 /dev/zero", 1, "more than 4096 bytes"),
             ("is killed", "kill -9 $$", 1, "signal 9")]
    for what, script, rc, says in cases:
        program = write(mine.path("signer"), f"#!/bin/sh\n{script}\n", 0o700)
        remove(mine.path("ek.cert"))
        done = mine.localca("ek", key.ek, config=mine.configure(key=f"program:{program}"))
        test.equal(done.rc, rc, f"{what}: {done.out}{done.err}")
        test.contains(done.err, says, what)
        test.equal(os.path.exists(mine.path("ek.cert")), rc == 0, f"{what}: a certificate")
        if rc == 0:
            test.check(all(verified(test, mine, read(mine.path("ek.cert")))[:2]), f"{what}: not verified")
    done = mine.localca("ek", key.ek, config=mine.configure(key="program:/nonexistent"))
    test.equal(done.rc, 1, "no such program")
    an_ecc_key_signs(test, mine, key)
    print(f"{len(cases) + 2} signing programs")


def an_ecc_key_signs(test, mine, key):
    """Elsewhere; and for a TPM 1.2, whose certificates are signed with SHA-1."""
    ecc = Key(test, "P-384")
    openssl(test, "req", "-x509", "-new", "-key", ecc.private, "-subj", "/CN=swtpm-localca-rootca", "-days",
            "9", "-out", mine.path("ca/issuercert.pem"), "-addext", "keyUsage=critical,keyCertSign")
    shutil.copy(mine.path("ca/issuercert.pem"), mine.path("ca/swtpm-localca-rootca-cert.pem"))
    program = write(mine.path("signer"), "#!/bin/sh\nexec openssl pkeyutl -sign -inkey "
                    f"{ecc.private} -pkeyopt digest:$(echo ${{1#ECDSA-}} | tr A-Z a-z)\n", 0o700)
    config = mine.configure(key=f"program:{program}")
    for family in ("2.0", "1.2"):
        der = mine.certified("ek", key.ek, config=config, family=family)
        test.check(all(verified(test, mine, der, sha1=family == "1.2")[:2]), f"ECC, {family}: not verified")


def keys_and_certificates_that_do_not_fit_make_nothing(test):
    needs("openssl", "certtool")
    mine = ours(test)
    key = Key(test, "2048")
    good = mine.certified("ek", key.ek)
    ca = mine.path("ca")
    plain, locked = mine.path("ca/signkey.pem"), mine.path("locked.pem")
    openssl(test, "pkcs8", "-topk8", "-in", plain, "-out", locked, "-passout", "pass:secret")
    secret = write(mine.path("secret"), "secret")
    junk = write(mine.path("junk.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    empty = write(mine.path("empty.pem"), "")
    issuer = mine.path("ca/issuercert.pem")
    root = mine.path("ca/swtpm-localca-rootca-cert.pem")
    out = mine.path("out.cert")
    cases = [([plain], issuer, None, 0), ([locked, "--signkey-pwd", "pass:secret"], issuer, None, 0),
             ([locked, "--signkey-pwd", f"file:{secret}"], issuer, None, 0),
             ([locked, "--signkey-pwd", "env:PWD_OF_KEY"], issuer, None, 0),
             ([locked, "--signkey-password", "secret"], issuer, None, 0),
             ([locked, "--signkey-pwd", "wrong"], issuer, "Could not import signing key", 1),
             ([locked], issuer, "Could not import signing key", 1),
             ([locked, "--signkey-pwd", "file:/nonexistent"], issuer, "password file", 1),
             ([locked, "--signkey-pwd", "fd:99"], issuer, "password from file descriptor", 1),
             ([locked, "--signkey-pwd", "fd:x"], issuer, "Bad file descriptor", 1),
             ([locked, "--signkey-pwd", "env:NOT_SET_AT_ALL"], issuer, "environment variable", 1),
             ([plain], root, "does not belong to the issuer", 1),
             ([plain], junk, "Could not import issuer certificate", 1),
             ([plain], empty, "it is empty", 1), ([plain], "/nonexistent", "Could not read", 1),
             ([junk], issuer, "Could not import signing key", 1), ([empty], issuer, "it is empty", 1),
             (["/nonexistent"], issuer, "Could not read signing key", 1), ([ca], issuer, "Could not read", 1),
             (["tpmkey:uuid=1"], issuer, "not supported", 1)]
    for arguments, by, says, rc in cases:
        remove(out)
        done = mine.run("swtpm_cert", *key.arguments, "--tpm2", *TPM, *specification("2.0"), "--signkey",
                        *arguments, "--issuercert", by, "--out-cert", out, env={"PWD_OF_KEY": "secret"})
        test.equal(done.rc, rc, f"{arguments} {by}: {done.err}")
        test.equal(os.path.exists(out), rc == 0, f"{arguments} {by}: a certificate")
        test.contains(done.err, says or "", f"{arguments} {by}")
    # Where nothing can be written: nothing is left, and what was there stays.
    before = write(mine.path("ek.cert"), "before")
    for what, folder in (("no such folder", "/nonexistent"), ("a file", plain)):
        done = mine.localca("ek", key.ek, folder=folder)
        test.equal(done.rc, 1, f"{what}: {done.err}")
    os.symlink(before, mine.path("link"))
    done = mine.run("swtpm_cert", *key.arguments, "--tpm2", *TPM, *specification("2.0"), "--signkey", plain,
                    "--issuercert", issuer, "--out-cert", mine.path("link"))
    test.equal((done.rc, read(before)), (1, b"before"), "a symbolic link is not followed")
    test.check(good, "a certificate")
    print(f"{len(cases) + 3} calls with inputs that fit or do not")


# ---- the authority ----


def the_authority_is_private_and_whole(test):
    needs("openssl", "certtool")
    mine = ours(test)
    key = Key(test, "2048")
    old = os.umask(0)
    try:
        mine.certified("ek", key.ek)
    finally:
        os.umask(old)
    modes = {n: stat.S_IMODE(os.stat(mine.path(f"ca/{n}")).st_mode) for n in os.listdir(mine.path("ca"))}
    test.equal({n: oct(m) for n, m in modes.items() if "key" in n},
               {"signkey.pem": "0o600", "swtpm-localca-rootca-privkey.pem": "0o600"}, "modes of keys")
    test.equal(sorted(modes), [".lock.swtpm-localca", "certserial", "issuercert.pem", "signkey.pem",
                               "swtpm-localca-rootca-cert.pem", "swtpm-localca-rootca-privkey.pem"], "files")
    # Stopped on the way at each point: the next goes on, and makes nothing anew that was there.
    order = ["swtpm-localca-rootca-privkey.pem", "swtpm-localca-rootca-cert.pem", "signkey.pem",
             "issuercert.pem"]
    whole = {n: read(mine.path(f"ca/{n}")) for n in order}
    for n_there in range(1, 4):
        for name in order[n_there:]:
            remove(mine.path(f"ca/{name}"))
        der = mine.certified("ek", key.ek)
        for name in order[:n_there]:
            test.equal(read(mine.path(f"ca/{name}")), whole[name], f"{name} was made anew")
        test.check(all(verified(test, mine, der)[:2]), f"{n_there} files were there: not verified")
        whole = {n: read(mine.path(f"ca/{n}")) for n in order}
    # What does not belong together is refused and left as it is.
    for missing, there in (("signkey.pem", "issuercert.pem"),
                           ("swtpm-localca-rootca-cert.pem issuercert.pem", "signkey.pem"),
                           ("swtpm-localca-rootca-privkey.pem issuercert.pem signkey.pem",
                            "swtpm-localca-rootca-cert.pem")):
        for name in missing.split():
            remove(mine.path(f"ca/{name}"))
        done = mine.localca("ek", key.ek)
        test.equal(done.rc, 1, f"without {missing}: {done.err}")
        test.contains(done.err, there, f"without {missing}")
        for name, content in whole.items():
            if name in missing.split():
                test.check(not os.path.exists(mine.path(f"ca/{name}")), f"{name} was made")
                write(mine.path(f"ca/{name}"), content)
            test.equal(read(mine.path(f"ca/{name}")), content, name)
    print("an authority continued from 3 places, 3 that do not fit refused")


def passwords_protect_the_authority(test):
    needs("openssl", "certtool")
    mine = ours(test)
    key = Key(test, "2048")
    config = mine.configure(more="signingkey_password = of-the-key\n")
    der = mine.certified("ek", key.ek, config=config, env={"SWTPM_ROOTCA_PASSWORD": "of-the-root"})
    for name in ("signkey.pem", "swtpm-localca-rootca-privkey.pem"):
        test.contains(read(mine.path(f"ca/{name}")).decode(), "BEGIN ENCRYPTED PRIVATE KEY", name)
    test.check(all(verified(test, mine, der)[:2]), "not verified")
    openssl(test, "pkey", "-in", mine.path("ca/signkey.pem"), "-passin", "pass:of-the-key", "-noout")
    openssl(test, "pkey", "-in", mine.path("ca/swtpm-localca-rootca-privkey.pem"), "-passin",
            "pass:of-the-root", "-noout")
    done = mine.localca("ek", key.ek, config=mine.configure(more="signingkey_password = other\n"))
    test.equal(done.rc, 1, "another password")
    done = mine.localca("ek", key.ek, config=mine.configure())
    test.equal(done.rc, 1, "no password")


def together(calls):
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [f.result() for f in [pool.submit(c) for c in calls]]


def one_authority_is_made_by_many_at_once(test):
    needs("openssl", "certtool")
    mine = ours(test)
    key = Key(test, "2048")
    rounds, at_once = (50, 4) if test.long else (3, 4)
    for i in range(rounds):
        ca = f"ca{i}"
        config = mine.configure(ca=ca)
        shutil.copy(config, config + str(i))
        folders = [mine.path(f"{i}-{k}") for k in range(at_once)]
        for folder in folders:
            os.mkdir(folder)
        done = together([lambda f=f: mine.localca("ek", key.ek, config=config + str(i), folder=f)
                         for f in folders])
        for d in done:
            test.equal(d.rc, 0, f"round {i}: {d.out}{d.err}")
        test.equal(sum("Creating root CA" in d.out for d in done) >= 1, True, "nobody made it")
        serials = set()
        for folder in folders:
            der = read(os.path.join(folder, "ek.cert"))
            serials.add(fields(der)["serial"])
            test.check(all(verified(test, mine, der, ca)[:2]), f"round {i}: not verified")
        test.equal(len(serials), at_once, f"round {i}: different serial numbers")
        test.equal(len(os.listdir(mine.path(ca))), 6, f"round {i}: files {os.listdir(mine.path(ca))}")
    print(f"{rounds} authorities made by {at_once} processes at once each")


def somebody_who_is_killed_leaves_an_authority_that_is_whole(test):
    needs("openssl", "certtool")
    mine = ours(test)
    key = Key(test, "2048")
    killed = 0
    for i in range(40 if test.long else 6):
        config = mine.configure(ca=f"ca{i}")
        process = subprocess.Popen(
            [os.path.join(mine.tools, "swtpm_localca"), "--type", "ek", "--ek", key.ek, "--dir",
             mine.folder, *specification("2.0"), *TPM, "--tpm2", "--configfile", config, "--optsfile",
             mine.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # At another file each time, and somewhere behind it.
        wanted = ("swtpm-localca-rootca-privkey.pem", "swtpm-localca-rootca-cert.pem", "signkey.pem")[i % 3]
        while process.poll() is None and not os.path.exists(mine.path(f"ca{i}/{wanted}")):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        der = mine.certified("ek", key.ek, config=config)
        test.check(all(verified(test, mine, der, f"ca{i}")[:2]), f"killed at {wanted}: not verified")
    test.check(killed > 0, "nobody was killed")
    print(f"{killed} killed, each authority whole afterwards")


def serial_numbers_never_repeat_also_with_stock_beside(test):
    stock, mine = makers(test)
    key = Key(test, "2048")
    mine.certified("ek", key.ek)
    rounds = 20 if test.long else 4
    serials = [fields(read(mine.path("ek.cert")))["serial"]]
    for i in range(rounds):
        calls, folders = [], []
        for k in range(6):
            side = (mine, stock)[k % 2]
            folders.append(side.path(f"{i}-{k}"))
            os.mkdir(folders[-1])
            calls.append(lambda s=side, f=folders[-1]: s.localca("ek", key.ek, config=mine.config, folder=f))
        for d in together(calls):
            test.equal(d.rc, 0, f"{d.out}{d.err}")
        serials += [fields(read(os.path.join(f, "ek.cert")))["serial"] for f in folders]
    test.equal(len(set(serials)), len(serials), "serial numbers that differ")
    # With a newline behind it stock begins again at 1; so it does with what is no number.
    for text, serial in (("41\n", 42), ("127", 128), ("", None), ("x", None), ("-4", None),
                         ("9223372036854775807", None)):
        write(mine.path("ca/certserial"), text)
        done = mine.localca("ek", key.ek)
        test.equal(done.rc, 0 if serial else 1, f"{text!r}: {done.err}")
        if serial:
            found = fields(read(mine.path("ek.cert")))["serial"][1]
            test.equal(int.from_bytes(found, "big", signed=True), serial, "serial number")
        else:
            test.contains(done.err, "holds no serial number", text)
            test.equal(read(mine.path("ca/certserial")).decode(), text, "the file")
    print(f"{len(serials)} certificates by both sides at once, each with a number of its own")


# ---- the rest ----


def names_of_machines_stand_as_they_are(test):
    needs("openssl", "certtool")
    mine = ours(test)
    key = Key(test, "2048")
    names = ["vm:1", "a,b", "a+b=c;d", 'quote " and \\ and <x>', "#hash", " blank ", "Müller", "x" * 200,
             "name:6a5e0a4c-0b0e-4b55-8e0b-000000000000"]
    for name in names:
        found = fields(mine.certified("ek", key.ek, "--vmid", name))["subject"]
        test.equal([(o, t) for o, _, t in found], [("2.5.4.3", name)], "subject")
    for arguments in ([], ["--vmid", ""]):
        found = fields(mine.certified("ek", key.ek, *arguments))["subject"]
        test.equal([t for _, _, t in found], ["unknown"], "subject")
    write(mine.options, " ".join(PLATFORM) + "\n--subject C=US,O=Us\n\n")
    found = fields(mine.certified("ek", key.ek, "--vmid", "vm"))["subject"]
    test.equal([t for _, _, t in found], ["Us", "US"], "subject of the options file")


def assertions_are_made_where_they_are_asked_for(test):
    needs("openssl", "certtool")
    mine = ours(test)
    key = Key(test, "2048")
    plain = fields(mine.certified("ek", key.ek))["subject directory attributes"][1]
    write(mine.options, " ".join(PLATFORM) + "\n--tpm-assertions\n")
    der = mine.certified("ek", key.ek)
    full = fields(der)["subject directory attributes"][1]
    test.check(plain[2:] in full and len(full) > len(plain), "attributes")
    # { 2 23 133 2 18 } { SEQUENCE { TRUE, internal, platform manufacturer, platform manufacturer } }
    test.contains(full.hex(), "0605678105021231" "0e300c" "0101ff" "800100" "810101" "820101",
                  "assertions")
    test.check(all(verified(test, mine, der)[:2]), "not verified")


def configuration_files_lead_to_our_own_signer(test):
    needs("openssl", "certtool")
    mine = ours(test)
    home = mine.path("home")
    os.mkdir(home)
    env = {"HOME": home, "XDG_CONFIG_HOME": ""}
    done = mine.run("swtpm_setup", "--create-config-files", "root", env=env)
    test.equal(done.rc, 0, done.err)
    text = read(f"{home}/.config/swtpm_setup.conf").decode()
    test.contains(text, f"create_certs_tool = {mine.tools}/swtpm_localca\n", "swtpm_setup.conf")
    os.mkdir(mine.path("state"))
    done = mine.run("swtpm_setup", "--tpm2", "--tpm-state", mine.path("state"), "--create-ek-cert",
                    "--create-platform-cert", "--write-ek-cert-files", mine.path("state"), env=env)
    test.equal(done.rc, 0, f"{done.out}{done.err}")
    ca = f"{home}/.config/var/lib/swtpm-localca"
    shutil.copytree(ca, mine.path("ca"))
    test.check(all(verified(test, mine, read(mine.path("state/ek-rsa2048.crt")))[:2]), "not verified")


def without_any_configuration_there_is_an_authority_of_ones_own(test):
    """No /etc with swtpm's files, and none at home."""
    needs("openssl", "certtool", "unshare")
    mine = ours(test)
    home = mine.path("home")
    for name in ("home", "state", "varlib"):
        os.mkdir(mine.path(name))
    script = (f"mount -t tmpfs none /etc && mount --bind {mine.path('varlib')} /var/lib && "
              f"HOME={home} {mine.tools}/swtpm_setup --tpm2 --tpm-state {mine.path('state')} "
              f"--create-ek-cert --create-platform-cert --write-ek-cert-files {mine.path('state')}")
    apart = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-r", "-m"]
    if run([*apart, "true"]).rc != 0:
        raise Skip(f"{' '.join(apart)} does not work here")
    done = run([*apart, "sh", "-c", script], timeout=WAIT,
               env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": mine.folder})
    test.equal(done.rc, 0, f"{done.out}{done.err}")
    shutil.copytree(mine.path("varlib/swtpm-localca"), mine.path("ca"))  # root there
    test.check(all(verified(test, mine, read(mine.path("state/ek-secp384r1.crt")))[:2]), "not verified")


def info_shows_the_fingerprints_of_the_keys_that_are_certified(test):
    needs("openssl", "certtool")
    mine = ours(test)
    def shown(image, *key):
        done = run([os.environ["NVKEEP"], "info", mine.path(image), "--json", *key])
        test.equal(done.rc, 0, done.err)
        return json.loads(done.out)
    def fingerprint(name):
        der = without_header(read(mine.path(f"state/ek-{name}.crt")))
        write(mine.path("c"), der)
        openssl(test, "x509", "-inform", "der", "-in", mine.path("c"), "-noout", "-pubkey", "-out",
                mine.path("pub"))
        openssl(test, "pkey", "-pubin", "-in", mine.path("pub"), "-outform", "der", "-out", mine.path("spki"))
        return hashlib.sha256(read(mine.path("spki"))).hexdigest()
    for size, handle in (("2048", "0x81010001"), ("3072", "0x8101001c")):
        set_up(test, mine, "state", "--tpm2", "--rsa-keysize", size)
        key = ["--key", f"file={mine.path('state/tpm2-00.key')}"]
        before = read(mine.path("state/tpm2-00.qcow2"))
        eks = {e["algorithm"]: e for e in shown("state/tpm2-00.qcow2", *key)["inside"]["ek"]}
        test.equal({n: (e["sha256"], e["handle"]) for n, e in eks.items()},
                   {f"RSA {size}": (fingerprint(f"rsa{size}"), handle),
                    "ECC P-384": (fingerprint("secp384r1"), "0x81010016")}, "EKs")
        test.check("inside" not in shown("state/tpm2-00.qcow2"), "something is shown without the key")
        test.equal(read(mine.path("state/tpm2-00.qcow2")), before, "the image")
        words = run([os.environ["NVKEEP"], "info", mine.path("state/tpm2-00.qcow2"), *key]).out
        test.contains(words, f"RSA {size}, SHA-256 {eks[f'RSA {size}']['sha256']}, at {handle}", "text")
    # Of a TPM 1.2 until it has an owner; of a TPM 2.0 without EKs those that its seed gives.
    for more, shows in (([], 1), (["--take-ownership"], 0)):
        set_up(test, mine, "state", *more)
        eks = shown("state/tpm-00.qcow2", "--key", f"file={mine.path('state/tpm-00.key')}")["inside"]["ek"]
        test.equal(len(eks), shows, "EKs of a TPM 1.2")
    run([os.environ["NVKEEP"], "create", mine.path("new"), "--new-key", mine.path("new.key")])
    key = ["--key", f"file={mine.path('new.key')}"]
    first = shown("new", *key)["inside"]["ek"]
    test.equal([(e["algorithm"], "handle" in e) for e in first],
               [("RSA 2048", False), ("ECC P-384", False)], "EKs of a new TPM")
    test.equal(shown("new", *key)["inside"]["ek"], first, "EKs asked for again")


def gnutls_is_in_the_programs_that_sign_alone(test):
    build = os.environ["NVKEEP_BUILD"]
    programs = [os.path.join(build, "bin", "nvkeep")] + [
        os.path.join(build, "compat", n) for n in sorted(os.listdir(os.path.join(build, "compat")))]
    linked = [os.path.basename(p) for p in programs if "libgnutls" in run(["ldd", p]).out]
    test.equal(linked, ["swtpm_cert", "swtpm_localca"], "programs with GnuTLS")


if __name__ == "__main__":
    sys.exit(main())
