"""libvirt in session mode, as an unprivileged user: only PATH says whose swtpm it finds. Each list runs
with ours and with Debian's beside it."""

import os
import shutil
import subprocess
import sys

from sides import Running
from harness.case import Skip, main
from harness.console import Console
from harness.process import Failure, run, wait_until
from harness.tpm import Tpm2


NOBODY = 65534
COUNTER = 0x01500002
SECRET = "99999999-2222-3333-4444-555555555555"
DOMAIN = """<domain type='qemu'><name>vm</name><uuid>11111111-2222-3333-4444-555555555555</uuid>
<memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{folder}/guest.elf</kernel></os>
<features><acpi/></features>
<devices><emulator>{qemu}</emulator>
<serial type='pipe'><source path='{folder}/line'/></serial>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'>{more}</backend></tpm>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{folder}/disk.qcow2'/>
<target dev='vda' bus='virtio'/></disk>
<memballoon model='none'/></devices></domain>
"""
ENCRYPTION = f"<encryption secret='{SECRET}'/>"
BANKS = "<active_pcr_banks><sha256/></active_pcr_banks>"


class Host:
    """A libvirtd of its own."""

    def __init__(self, test, whose):
        for tool in ("libvirtd", "virsh", "swtpm_setup"):
            if not shutil.which(tool):
                raise Skip(f"{tool} is missing")
        if os.geteuid() != 0:
            raise Skip("changing the user needs root")
        self.test, self.whose = test, whose
        os.chmod(test.folder, 0o755)
        self.folder = test.path(whose)
        os.mkdir(self.folder)
        self.prepare()
        env = {"HOME": "h", "XDG_RUNTIME_DIR": "r", "XDG_CONFIG_HOME": "c", "XDG_CACHE_HOME": "k"}
        self.prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env",
                       "-i", *(f"{k}={self.folder}/{v}" for k, v in env.items()),
                       f"PATH={self.folder}/bin:/usr/bin:/usr/sbin:/bin"]
        self.daemon = subprocess.Popen([*self.prefix, "libvirtd"], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        test.started(Running(self.daemon))
        wait_until("libvirtd", lambda: self.virsh("version").rc == 0, 30, 0.1)

    def prepare(self):
        """What others may read and run, and where the user may write."""
        os.mkdir(self.path("bin"))
        compat = os.path.join(os.environ["NVKEEP_BUILD"], "compat")
        for name in os.listdir(compat) if self.whose == "ours" else ():
            shutil.copy(os.path.join(compat, name), self.path("bin"))
        shutil.copy(os.path.join(os.environ["NVKEEP_BUILD"], "bin", "guest.elf"), self.folder)
        run(["qemu-img", "create", "-q", "-f", "qcow2", self.path("disk.qcow2"), "1M"])
        for name in ("line.in", "line.out"):
            os.mkfifo(self.path(name))
        for name in ("h", "r", "c", "k"):
            os.mkdir(self.path(name), 0o700)
        for name in ("", "h", "r", "c", "k", "disk.qcow2", "line.in", "line.out"):
            os.chown(self.path(name), NOBODY, NOBODY)
        reader, writer = (os.open(self.path(n), os.O_RDWR) for n in ("line.out", "line.in"))
        self.console = Console(reader, writer)

    def path(self, name):
        return os.path.join(self.folder, name)

    def virsh(self, *argv):
        return run([*self.prefix, "virsh", "-q", "-c", "qemu:///session", *argv], timeout=60)

    def do(self, *argv):
        done = self.virsh(*argv)
        if done.rc != 0:
            raise Failure(f"{self.whose}: virsh {argv[0]}: {done}; {self.log()}")
        return done.out

    def log(self):
        try:
            with open(self.path("k/libvirt/qemu/log/vm-swtpm.log"), encoding="utf-8") as f:
                return f.read()[-1500:]
        except FileNotFoundError:
            return ""

    def define(self, more=""):
        xml = self.path("vm.xml")
        with open(xml, "w", encoding="ascii") as f:
            f.write(DOMAIN.format(folder=self.folder, qemu=shutil.which("qemu-system-x86_64"),
                                  more=more))
        self.do("define", xml)

    def give_secret(self, text=b"a secret of libvirt"):
        xml = self.path("secret.xml")
        with open(xml, "w", encoding="ascii") as f:
            f.write(f"<secret private='yes' ephemeral='no'><uuid>{SECRET}</uuid>"
                    "<usage type='vtpm'><name>vt</name></usage></secret>")
        with open(self.path("secret"), "wb") as f:
            f.write(text)
        self.do("secret-define", xml)
        self.do("secret-set-value", SECRET, "--file", self.path("secret"), "--plain")

    def start(self):
        self.console.skip()
        self.do("start", "vm")
        self.console.wait_ready(60)
        return self.tpm

    @property
    def tpm(self):
        return Tpm2(self.console.tpm)

    def state(self):
        return self.path("c/libvirt/qemu/swtpm/11111111-2222-3333-4444-555555555555/tpm2")


def counts(host):
    """A counter at 1 on a running machine."""
    host.tpm.nv_define_counter(COUNTER)
    host.tpm.nv_increment(COUNTER)
    return host.tpm.nv_counter(COUNTER)


def start_destroy_and_start(host):
    host.define()
    host.start()
    count = counts(host)
    host.do("destroy", "vm")
    host.test.equal(host.start().nv_counter(COUNTER), count, "the counter after a restart")
    return count


def save_and_restore(host, count):
    host.do("save", "vm", host.path("saved"))
    host.do("restore", host.path("saved"))
    host.test.equal(host.tpm.nv_counter(COUNTER), count, "the counter of the restored machine")
    host.tpm.nv_increment(COUNTER)
    host.do("managedsave", "vm")
    host.do("start", "vm")
    host.test.equal(host.tpm.nv_counter(COUNTER), count + 1, "the counter after managedsave")


def snapshot_and_revert(host, count):
    host.do("snapshot-create-as", "vm", "s1")
    host.tpm.nv_increment(COUNTER)
    host.do("snapshot-revert", "vm", "s1")
    host.test.equal(host.tpm.nv_counter(COUNTER), count, "the counter after the way back")
    host.tpm.nv_increment(COUNTER)
    host.do("destroy", "vm")
    host.test.equal(host.start().nv_counter(COUNTER), count + 1, "the counter after a restart")
    host.do("destroy", "vm")
    host.do("undefine", "vm", "--snapshots-metadata")


def encrypted_with_banks(host):
    host.give_secret()
    host.define(ENCRYPTION + BANKS)
    host.start()
    count = counts(host)
    host.do("destroy", "vm")
    host.test.equal(host.start().nv_counter(COUNTER), count, "the counter, encrypted")
    host.do("destroy", "vm")


def wrong_secret(host):
    """Without banks: with them, it is swtpm_setup that is given the secret."""
    host.define(ENCRYPTION)
    host.give_secret(b"another")
    done = host.virsh("start", "vm")
    host.test.check(done.rc != 0, "it started with a wrong secret")
    # Where nobody waits for orphans, libvirt takes a dead swtpm for one that is late, and says so.
    host.test.contains(host.log(), "KEY_WRONG", f"the log ({done.err.strip()})")
    host.test.check(done.seconds < 20, f"it took {done.seconds:.0f} s")


def libvirts_whole_list_works(test):
    """In its short form without Debian's swtpm beside it."""
    for whose in ("ours", "stock") if test.long else ("ours",):
        host = Host(test, whose)
        is_ours = whose == "ours"
        count = start_destroy_and_start(host)
        test.equal(os.path.exists(host.state() + "/tpm2-00.qcow2"), is_ours, "an image of ours")
        test.equal(os.path.exists(host.state() + "/tpm2-00.key"), is_ours, "its key")
        save_and_restore(host, count)
        snapshot_and_revert(host, count + 1)
        encrypted_with_banks(host)
        test.check(not os.path.exists(host.state() + "/tpm2-00.key"), "a key beside libvirt's")
        if is_ours:
            wrong_secret(host)
        print(f"         {whose}: done")


if __name__ == "__main__":
    sys.exit(main())
