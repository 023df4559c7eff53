"""A libvirtd of its own, in session mode, as an unprivileged user: only its PATH says whose swtpm it
finds. Needs no bus and no init, and nothing configured that has to do with a TPM."""

import glob
import os
import shutil
import signal
import subprocess

from sides import Running
from harness.case import Skip
from harness.console import Console
from harness.process import Failure, run, wait_until
from harness.tpm import Tpm12, Tpm2, get_capability_command

NOBODY = 65534
COUNTER = 0x01500002
UUID = "11111111-2222-3333-4444-555555555555"
SECRET = "99999999-2222-3333-4444-555555555555"
PATIENCE = 120
DOMAIN = """<domain type='qemu'><name>vm</name><uuid>{uuid}</uuid>
<memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel></os>
<features><acpi/></features>
<devices><emulator>{qemu}</emulator>
<serial type='pipe'><source path='{folder}/line'/></serial>
<tpm model='{model}'>{backend}</tpm>
{disk}<memballoon model='none'/></devices></domain>
"""
DISK = """<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>
<target dev='vda' bus='virtio'/></disk>
"""
ENCRYPTION = f"<encryption secret='{SECRET}'/>"
BANKS = "<active_pcr_banks><sha256/></active_pcr_banks>"


def emulator(more="", version="2.0", keep=False):
    keep = " persistent_state='yes'" if keep else ""
    return f"<backend type='emulator' version='{version}'{keep}>{more}</backend>"


def external(path):
    return f"<backend type='external'><source type='unix' mode='connect' path='{path}'/></backend>"


def programs(whose):
    """What PATH begins with."""
    return os.path.join(os.environ["NVKEEP_BUILD"], "compat") if whose == "ours" else None


class Host:
    """preload: a library for libvirtd. other: a host whose guests may come here."""

    def __init__(self, test, whose, name=None, preload=None):
        for tool in ("libvirtd", "virsh", "swtpm_setup"):
            if not shutil.which(tool):
                raise Skip(f"{tool} is missing")
        if os.geteuid() != 0:
            raise Skip("changing the user needs root")
        self.test, self.whose = test, whose
        os.chmod(test.folder, 0o755)
        self.folder = test.path(name or whose)
        os.mkdir(self.folder)
        self._prepare()
        env = {"HOME": "h", "XDG_RUNTIME_DIR": "r", "XDG_CONFIG_HOME": "c", "XDG_CACHE_HOME": "k"}
        self.prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env",
                       "-i", *(f"{k}={self.folder}/{v}" for k, v in env.items()),
                       f"PATH={self.folder}/bin:/usr/bin:/usr/sbin:/bin"]
        preload = [f"LD_PRELOAD={preload}"] if preload else []
        self.daemon = subprocess.Popen([*self.prefix, *preload, "libvirtd"],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE)
        test.started(self)
        wait_until("libvirtd", lambda: self.virsh("version").rc == 0, PATIENCE, 0.1)

    def _prepare(self):
        """What others may read and run, and where the user may write."""
        os.mkdir(self.path("bin"))
        for program in glob.glob(programs(self.whose) + "/*") if programs(self.whose) else ():
            shutil.copy(program, self.path("bin"))
        self.kernel = self.test.path("guest.elf")
        shutil.copy(os.path.join(os.environ["NVKEEP_BUILD"], "bin", "guest.elf"), self.kernel)
        run(["qemu-img", "create", "-q", "-f", "qcow2", self.path("disk.qcow2"), "1M"])
        for name in ("line.in", "line.out"):
            os.mkfifo(self.path(name))
        for name in ("h", "r", "c", "c/libvirt", "k"):
            os.mkdir(self.path(name), 0o700)
        number = len(os.listdir(self.test.folder))
        with open(self.path("c/libvirt/libvirtd.conf"), "w", encoding="ascii") as f:
            f.write(f'host_uuid = "{number:08}-1111-2222-3333-444444444444"\n')
        with open(self.path("c/libvirt/qemu.conf"), "w", encoding="ascii") as f:
            f.write('stdio_handler = "file"\n')  # no virtlogd, which would stay for two minutes
        for name in ("", "h", "r", "c", "c/libvirt", "k", "disk.qcow2", "line.in", "line.out"):
            os.chown(self.path(name), NOBODY, NOBODY)
        reader, writer = (os.open(self.path(n), os.O_RDWR) for n in ("line.out", "line.in"))
        self.console = Console(reader, writer)

    def processes(self, word):
        """Of this host: whose command line has the word. libvirtd lets its children live on."""
        found = []
        for line in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(line, "rb") as f:
                    argv = f.read()
            except OSError:
                continue
            if word.encode() in argv and (self.folder + "/").encode() in argv:
                found.append(int(line.split("/")[2]))
        return found

    def kill(self, word):
        """Those that libvirtd has started for a machine: "qemu-system", "--tpmstate"."""
        pids = self.processes(word)
        if not pids:
            raise Failure(f"{self.folder}: no process with {word} to kill")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def end(self):
        Running(self.daemon).end()
        for pid in self.processes("qemu-system") + self.processes("--tpm"):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.console.closed = True

    def path(self, name):
        return os.path.join(self.folder, name)

    def uri(self):
        return f"qemu+unix:///session?socket={self.path('r/libvirt/libvirt-sock')}"

    def virsh(self, *argv, timeout=PATIENCE):
        """LIBVIRT_AUTOSTART: a virsh that comes too early would start a libvirtd of its own."""
        return run([*self.prefix, "LIBVIRT_AUTOSTART=0", "virsh", "-q", "-c", "qemu:///session", *argv],
                   timeout=timeout)

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

    def domain(self, backend, model="tpm-crb", disk=False):
        return DOMAIN.format(folder=self.folder, kernel=self.kernel, uuid=UUID, model=model,
                             qemu=shutil.which("qemu-system-x86_64"), backend=backend,
                             disk=DISK.format(self.path("disk.qcow2")) if disk else "")

    def xml(self, name, text):
        with open(self.path(name), "w", encoding="ascii") as f:
            f.write(text)
        return self.path(name)

    def define(self, backend=None, model="tpm-crb", disk=False):
        self.version = "1.2" if backend and "'1.2'" in backend else "2.0"
        text = self.domain(backend or emulator(), model, disk)
        self.do("define", self.xml("vm.xml", text))

    def undefine(self, *how):
        self.virsh("destroy", "vm")
        self.do("undefine", "vm", "--snapshots-metadata", "--managed-save", *how)

    def give_secret(self, text=b"a secret of libvirt"):
        xml = self.xml("secret.xml", f"<secret private='yes' ephemeral='no'><uuid>{SECRET}</uuid>"
                       "<usage type='vtpm'><name>vt</name></usage></secret>")
        with open(self.path("secret"), "wb") as f:
            f.write(text)
        self.do("secret-define", xml)
        self.do("secret-set-value", SECRET, "--file", self.path("secret"), "--plain")

    def start(self):
        self.console.skip()
        self.do("start", "vm")
        return self.ready()

    def ready(self):
        """A firmware that found the TPM too slow switches its hierarchies off until the next reset:
        on a machine that has much else to do."""
        self.console.wait_ready(PATIENCE)
        for _ in range(5):
            if self.version == "1.2" or self._owner_is_enabled():
                return self.tpm
            self.do("reset", "vm")
            self.console.wait_ready(PATIENCE)
        raise Failure("the firmware finds the TPM too slow, again and again")

    def _owner_is_enabled(self):
        r = self.tpm.run("GetCapability", get_capability_command(6, 0x201, 1))
        r.take(1 + 4 + 4 + 4)
        return r.u32() & 2 != 0

    @property
    def tpm(self):
        return (Tpm12 if self.version == "1.2" else Tpm2)(self.console.tpm)

    def state(self):
        """The folder of the TPM of this host's machine."""
        kind = "tpm1.2" if self.version == "1.2" else "tpm2"
        return self.path(f"c/libvirt/qemu/swtpm/{UUID}/{kind}")
