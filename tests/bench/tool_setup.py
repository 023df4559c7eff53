"""What it costs to make a TPM with its EKs and both certificates, against stock swtpm_setup, one after
the other in one run; each with its own swtpm_localca and an authority that was made before.

    python3 tool_setup.py [--rounds N]

TPM 2.0     --create-ek-cert --create-platform-cert --create-spk --lock-nvram: RSA 2048, P-384, 3 certificates
TPM 1.2     --create-ek-cert --create-platform-cert --lock-nvram
certificate one call of swtpm_localca (EK, RSA 2048)
encrypted   TPM 2.0 as above with --pwdfile; ours encrypts in every case

Also the processor's time of ours, which others on the machine do not change. (Stock's daemon makes
the keys, and nobody waits for it: what it takes cannot be told.)

An RSA key of a TPM takes as long as finding primes does: the median of many rounds is what counts.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
MODULUS = "c" * 511 + "d"
ATTRIBUTES = ["--tpm-spec-family", "2.0", "--tpm-spec-level", "0", "--tpm-spec-revision", "164",
              "--tpm-manufacturer", "id:00001014", "--tpm-model", "swtpm", "--tpm-version", "id:20191023"]


class Side:
    def __init__(self, name, tools, folder):
        self.name, self.tools, self.folder = name, tools, os.path.join(folder, name)
        os.makedirs(self.path("state"))
        ca = self.path("ca")
        self.write("localca.conf", f"statedir = {ca}\nsigningkey = {ca}/key.pem\n"
                   f"issuercert = {ca}/cert.pem\ncertserial = {ca}/serial\n")
        self.write("options", "--platform-manufacturer Us --platform-version 1 --platform-model M\n")
        self.write("setup.conf", f"create_certs_tool = {tools}/swtpm_localca\ncreate_certs_tool_config = "
                   f"{self.path('localca.conf')}\ncreate_certs_tool_options = {self.path('options')}\n")
        self.write("passphrase", "a passphrase")
        self.run(*self.certificate())

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="ascii") as f:
            f.write(text)

    def run(self, tool, *argv):
        began, cpu = time.monotonic(), os.times()
        done = subprocess.run([os.path.join(self.tools, tool), *argv], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              env={**os.environ, "PATH": f"{self.tools}:/usr/bin:/bin"})
        took, now = 1000 * (time.monotonic() - began), os.times()
        spent = 1000 * (now.children_user + now.children_system - cpu.children_user - cpu.children_system)
        if done.returncode != 0:
            raise SystemExit(f"{self.name}: {tool} {argv}: {done.stdout.decode(errors='replace')}")
        return took, spent

    def setup(self, *more):
        shutil.rmtree(self.path("state"))
        os.mkdir(self.path("state"))
        return self.run("swtpm_setup", "--tpm-state", self.path("state"), "--config",
                        self.path("setup.conf"), "--create-ek-cert", "--create-platform-cert", "--lock-nvram",
                        "--vmid", "vm:1", "--overwrite", *more)

    def certificate(self):
        return ("swtpm_localca", "--type", "ek", "--ek", MODULUS, "--dir", self.folder, "--tpm2", *ATTRIBUTES,
                "--configfile", self.path("localca.conf"), "--optsfile", self.path("options"))

    def measure(self, what):
        if what == "TPM 2.0":
            return self.setup("--tpm2", "--create-spk")
        if what == "encrypted":
            return self.setup("--tpm2", "--create-spk", "--pwdfile", self.path("passphrase"))
        if what == "TPM 1.2":
            return self.setup()
        return self.run(*self.certificate())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    build = os.environ.get("NVKEEP_BUILD", os.path.join(SOURCE, "build"))
    folder = tempfile.mkdtemp(prefix="nvk-setup-")
    try:
        sides = [Side("stock", "/usr/bin", folder), Side("ours", os.path.join(build, "compat"), folder)]
        print(f"{'ms, median of ' + str(rounds):20}{'stock':>9}{'ours':>9}{'stock/ours':>12}"
              f"{'stock p90':>11}{'ours p90':>10}{'ours CPU':>10}")
        for what in ("TPM 2.0", "encrypted", "TPM 1.2", "certificate"):
            took = {side.name: [] for side in sides}
            for i in range(rounds):
                for side in sides if i % 2 else reversed(sides):
                    took[side.name].append(side.measure(what))
            median = {n: statistics.median(t for t, _ in v) for n, v in took.items()}
            cpu = {n: statistics.median(c for _, c in v) for n, v in took.items()}
            high = {n: sorted(t for t, _ in v)[int(0.9 * (rounds - 1))] for n, v in took.items()}
            print(f"{what:20}{median['stock']:9.1f}{median['ours']:9.1f}"
                  f"{median['stock'] / median['ours']:12.1f}{high['stock']:11.1f}{high['ours']:10.1f}"
                  f"{cpu['ours']:10.1f}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
