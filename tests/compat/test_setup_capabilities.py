"""Every capability that swtpm_setup in swtpm's place advertises is used: a string without a use here is a
failure, and so is a use of a string that is not advertised."""

import json
import os
import shutil
import sys

from sides import ours, tpm_command
from harness import tpm as t
from harness.case import Skip, main
from harness.process import run

EK_RSA, EK_RSA_3072 = 0x81010001, 0x8101001C
HEX_KEY = "0123456789abcdef" * 4


class Setup:
    """One call and the TPM that came of it."""

    def __init__(self, test):
        self.test, self.side = test, ours(test)
        self.tool = os.path.join(os.environ["NVKEEP_BUILD"], "compat", "swtpm_setup")

    def new_state(self):
        return self.side.new_state()

    def run(self, *argv, says="", state=None, **how):
        to = ["--tpm-state", state] if state else []
        done = run([self.tool, *to, *argv], cwd=self.side.folder, **how)
        self.test.equal(done.rc, 0, f"{argv}: {done}")
        self.test.contains(done.out + done.err, says, f"{argv}")
        return done

    def tpm(self, state, family="2.0", key=()):
        """A running one; what sends commands to it."""
        self.side.n += 1
        data = f"d{self.side.n}"
        self.daemon = self.side.start("socket", *(["--tpm2"] if family == "2.0" else []), "--tpmstate",
                                      f"dir={state}", "--server", f"type=unixio,path={data}", "--flags",
                                      "not-need-init,startup-clear", *key, ready=data)
        connection = self.side.connect(data)
        kind = t.Tpm2 if family == "2.0" else t.Tpm12
        return kind(lambda command: tpm_command(connection, command))

    def rsa_bits(self, state, handle):
        tpm = self.tpm(state)
        answer = tpm.run("ReadPublic", t.read_public_command(handle))
        self.daemon.end()
        answer.take(2 + 2 + 2 + 4)  # size, type, hash, attributes
        answer.sized()
        answer.take(2 + 2 + 2 + 2)  # AES, 128, CFB; no scheme
        return answer.u16()

    def pcr_banks(self, state):
        """The algorithms that have a PCR."""
        tpm = self.tpm(state)
        answer = tpm.run("GetCapability", t.command2(0x17A, params=t.u32(5) + t.u32(0) + t.u32(8)))
        answer.u8(), answer.u32()
        found = {answer.u16(): any(answer.take(answer.u8())) for _ in range(answer.u32())}
        self.daemon.end()
        return {alg for alg, active in found.items() if active}


def makes_a_tpm12(s):
    state = s.new_state()
    s.run("--createek", state=state, says="Successfully authored TPM state")
    pubek = s.tpm(state, "1.2").run("TPM_ReadPubek", t.command12(0x7C, bytes(20))).rest()
    s.test.check(len(pubek) > 256, "no endorsement key")
    s.daemon.end()


def makes_a_tpm20(s):
    state = s.new_state()
    s.run("--tpm2", "--createek", state=state, says="Successfully authored TPM state")
    s.test.equal(s.rsa_bits(state, EK_RSA), 2048, "bits of the endorsement key")


def takes_a_key_by_descriptor(option, content, key):
    def use(s):
        reader, writer = os.pipe()
        os.write(writer, content.encode())
        os.close(writer)
        state = s.new_state()
        s.run("--tpm2", option, str(reader), "--cipher", "aes-256-cbc", state=state, pass_fds=[reader])
        os.close(reader)
        s.test.equal(os.listdir(state), ["tpm2-00.qcow2"], "files")
        path = s.side.path("key")
        with open(path, "w", encoding="ascii") as f:
            f.write(content)
        s.tpm(state, key=["--key", key.format(path)]).get_random(4)
        s.daemon.end()
    return use


def makes_a_tpm12_without_root(s):
    if os.geteuid() != 0:
        return makes_a_tpm12(s)
    state = s.new_state()
    top = s.test.folder
    os.chmod(top, 0o755)
    os.chown(state, 65534, 65534)
    done = run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", s.tool, "--tpm-state",
                state, "--createek"], env={"HOME": state, "XDG_CONFIG_HOME": state, "TMPDIR": state})
    s.test.equal(done.rc, 0, f"as nobody: {done}")
    return s.test.equal(os.stat(os.path.join(state, "tpm-00.qcow2")).st_uid, 65534, "owner of the image")


def config(s):
    """With a CA of its own."""
    localca = shutil.which("swtpm_localca", path=os.path.dirname(s.tool) + ":/usr/bin:/bin")
    if not localca:
        raise Skip("swtpm_localca is missing")
    ca = s.new_state()
    files = {"localca": f"statedir = {ca}\nsigningkey = {ca}/k.pem\nissuercert = {ca}/c.pem\n"
                        f"certserial = {ca}/serial\n",
             "options": "--platform-manufacturer Us\n--platform-version 1\n--platform-model M\n",
             "setup": f"create_certs_tool = {localca}\ncreate_certs_tool_config = {ca}/localca\n"
                      f"create_certs_tool_options = {ca}/options\n"}
    for name, content in files.items():
        with open(os.path.join(ca, name), "w", encoding="ascii") as f:
            f.write(content)
    return os.path.join(ca, "setup")


def writes_the_certificates_of_its_keys(s):
    state, folder = s.new_state(), s.new_state()
    s.run("--tpm2", "--create-ek-cert", "--config", config(s), "--write-ek-cert-files", folder, state=state)
    names = os.listdir(folder)
    s.test.check(names, "no certificate")
    for name in names:
        done = run(["openssl", "x509", "-inform", "DER", "-in", os.path.join(folder, name), "-noout"])
        s.test.equal(done.rc, 0, f"{name}: {done}")


def makes_its_configuration(s):
    home = s.new_state()
    env = {"HOME": home, "XDG_CONFIG_HOME": home}
    how = "skip-if-exist" if os.geteuid() else "root,skip-if-exist"
    for _ in range(2):
        s.run("--create-config-files", how, env=env)
        s.test.contains(os.listdir(home), "swtpm_setup.conf", "files")


def changes_the_banks(s):
    state = s.new_state()
    s.run("--tpm2", "--pcr-banks", "sha256", state=state)
    s.test.equal(s.pcr_banks(state), {0x0B}, "banks as they were made")
    s.run("--tpm2", "--reconfigure", "--pcr-banks", "sha1,sha384", state=state)
    s.test.equal(s.pcr_banks(state), {0x04, 0x0C}, "banks afterwards")


def makes_an_ek_of(bits, handle):
    def use(s):
        state = s.new_state()
        s.run("--tpm2", "--createek", "--rsa-keysize", str(bits), state=state,
              says=f"Successfully created RSA {bits} EK")
        s.test.equal(s.rsa_bits(state, handle), bits, "bits of the endorsement key")
    return use


USES = {
    "tpm-1.2": makes_a_tpm12,
    "tpm-2.0": makes_a_tpm20,
    "cmdarg-keyfile-fd": takes_a_key_by_descriptor("--keyfile-fd", HEX_KEY,
                                                   "file={},mode=aes-256-cbc"),
    "cmdarg-pwdfile-fd": takes_a_key_by_descriptor("--pwdfile-fd", "a passphrase",
                                                   "pwdfile={},mode=aes-256-cbc"),
    "tpm12-not-need-root": makes_a_tpm12_without_root,
    "cmdarg-write-ek-cert-files": writes_the_certificates_of_its_keys,
    "cmdarg-create-config-files": makes_its_configuration,
    "cmdarg-reconfigure-pcr-banks": changes_the_banks,
    "tpm2-rsa-keysize-2048": makes_an_ek_of(2048, EK_RSA),
    "tpm2-rsa-keysize-3072": makes_an_ek_of(3072, EK_RSA_3072),
}


def every_capability_that_setup_advertises_works(test):
    s = Setup(test)
    said = [json.loads(run([s.tool, *family, "--print-capabilities"]).out) for family in ([], ["--tpm2"])]
    for answer in said:
        test.equal((answer["type"], sorted(answer["features"])), ("swtpm_setup", sorted(USES)),
                   "what is advertised and used")
    for name in said[0]["features"]:
        USES[name](s)
    print(f"         {len(USES)} capabilities")


if __name__ == "__main__":
    sys.exit(main())
