"""A machine with a TPM: a store, its daemon, QEMU with the micro-guest, and what connects them."""

import fcntl
import os
import signal
import socket

from .admin import Admin
from .console import Console
from .process import Failure, Process, Timeout, run, wait_until
from .proxy import ControlProxy
from .qmp import Qmp
from .tpm import Tpm12, Tpm2

# Not a multiple of 256 KiB on purpose: for multiples of it QEMU before 9.0 goes a fast way through its
# dirty bitmap, which forgets TCG's TLB, and now and then a page of a running guest is sent stale.
MEMORY_KB = 16 * 1024 + 8
F_SETPIPE_SZ = 1031  # fcntl has no name for it before Python 3.10
LINE_BYTES = 1 << 20


class Qemu(Process):
    """QEMU. The monitor is an inherited socket, the guest's line is its standard input and output:
    nothing that is said is lost, and both end when it ends."""

    def __init__(self, name, folder, ctrl, device, machine="q35", options=(), kernel=None,
                 memory_kb=MEMORY_KB):
        monitor, theirs_monitor = socket.socketpair()
        line_in, writer = os.pipe()
        reader, line_out = os.pipe()
        fcntl.fcntl(line_out, F_SETPIPE_SZ, LINE_BYTES)
        kernel = kernel or os.path.join(os.environ["NVKEEP_BUILD"], "bin", "guest.elf")
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-machine", machine, "-nodefaults",
                "-no-user-config", "-m", f"{memory_kb}K", "-display", "none", "-kernel", kernel,
                "-chardev", "stdio,id=line,signal=off", "-serial", "chardev:line",
                "-chardev", f"socket,id=mon,fd={theirs_monitor.fileno()}",
                "-mon", "chardev=mon,mode=control"]
        if ctrl:
            argv += ["-chardev", f"socket,id=chrtpm,path={ctrl}",
                     "-tpmdev", "emulator,id=tpm0,chardev=chrtpm",
                     "-device", f"{device},tpmdev=tpm0"]
        try:
            super().__init__(name, argv + list(options), folder, stdin=line_in, stdout=line_out,
                             pass_fds=(theirs_monitor.fileno(),))
        finally:
            os.close(line_in)
            os.close(line_out)
            theirs_monitor.close()
        self.console = Console(reader, writer)
        self.qmp = Qmp(monitor)

    def end(self):
        super().end()
        self.qmp.close()
        self.console.close()

    def refused(self, timeout=30):
        """QEMU must not start: its exit code and what it says."""
        rc = self.wait(timeout)
        if rc == 0:
            raise Failure("QEMU ended without an error")
        return rc, self.err()


class Vm:
    """Not running until power_on(). A machine that is to receive a migration is started with
    incoming(). Whatever is started is ended with the test."""

    def __init__(self, test, store, name, device="tpm-tis", machine="q35", disk=False, options=()):
        self.test = test
        self.store = store
        self.name = name
        self.device = device
        self.machine = machine
        self.options = list(options)
        self.daemon = None
        self.qemu = None
        self.proxied = False  # whether the next QEMU gets a proxy before its daemon
        self.proxy = None
        self._admin = None
        self.found = None
        self.n_starts = 0
        if disk:  # for savevm: VM states are kept in some qcow2 disk of the machine
            path = os.path.join(test.folder, name + "-disk.qcow2")
            made = run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"])
            if made.rc:
                raise Failure(f"qemu-img create: {made}")
            self.options += ["-blockdev", f"driver=qcow2,node-name=disk,"
                             f"file.driver=file,file.filename={path}"]

    @property
    def console(self):
        return self.qemu.console

    @property
    def qmp(self):
        return self.qemu.qmp

    @property
    def tpm(self):
        kind = Tpm12 if self.store.family == "1.2" else Tpm2
        return kind(self.console.tpm)

    @property
    def admin(self):
        """The admin socket of a daemon that was started with admin=True."""
        if self._admin is None:
            self._admin = Admin(self.daemon.ctrl + ".admin")
        return self._admin

    def start_daemon(self, wait=True, **how):
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        self.daemon = self.test.started(self.store.serve(**how))
        if wait:
            self.daemon.wait_bound()
        return self.daemon

    def start_qemu(self, extra=(), hello=True):
        self.n_starts += 1
        ctrl = self.daemon.ctrl
        if self.proxied:
            ctrl = os.path.join(self.test.folder, f"{self.name}-{self.n_starts}.proxy")
            self.proxy = ControlProxy(ctrl, self.daemon.ctrl)
        self.qemu = self.test.started(Qemu(f"qemu-{self.name}-{self.n_starts}", self.test.folder,
                                           ctrl, self.device, self.machine,
                                           self.options + list(extra)))
        if hello:
            try:
                self.qmp.hello()
            except Failure as e:
                raise Failure(f"{e}; {self.qemu.err().strip()}") from None
        return self.qemu

    def wait_ready(self, timeout=60):
        try:
            self.found = self.console.wait_ready(timeout)
        except Failure as e:
            raise Failure(f"{e}; QEMU: {self.qemu.err().strip()}") from None
        return self.found

    def power_on(self, **how):
        self.start_daemon(**how)
        self.start_qemu()
        return self.wait_ready()

    def cut_power(self, daemon_first=False):
        """Both at once, as when the host loses power; nobody says goodbye to anybody. A daemon that was
        still running when its emulator died would shut the TPM down in order: it stands still first."""
        self.daemon.signal(signal.SIGSTOP)
        for process in (self.daemon, self.qemu) if daemon_first else (self.qemu, self.daemon):
            process.kill()
        self.daemon.wait()
        self.qemu.wait()

    def power_off(self, timeout=30):
        """The guest switches itself off; QEMU and the daemon end by themselves. Exit codes."""
        self.console.send("poweroff")
        return self.wait_ended(timeout)

    def power_off_machine(self, timeout=30):
        """Where the daemon stays."""
        self.console.send("poweroff")
        return self.qemu.wait(timeout)

    def quit(self, timeout=30):
        self.qmp.send("quit")
        return self.wait_ended(timeout)

    def wait_ended(self, timeout=30):
        return self.qemu.wait(timeout), self.daemon.wait(timeout)

    def reset(self, by_guest=False):
        if by_guest:
            self.console.send("reset")
        else:
            self.qmp.command("system_reset")
        return self.wait_ready()

    def save(self, tag):
        self.qmp.hmp(f"savevm {tag}")

    def load(self, tag):
        self.console.skip()
        self.qmp.hmp(f"loadvm {tag}")

    def incoming(self, **how):
        """Daemon and QEMU as the destination of a migration, listening."""
        if self.store.kind == "nvkeep":
            how.setdefault("migration", "incoming")
        self.start_daemon(**how)
        self.defer()
        return self.listen()

    def defer(self):
        """QEMU as a destination for the daemon that runs, not listening yet."""
        self.start_qemu(["-incoming", "defer"])
        self.enable("events")

    def listen(self, uri=None):
        """uri: where the guest comes from, if it is a place of its own."""
        self.uri = uri or f"unix:{self.test.folder}/{self.name}-{self.n_starts}.migration"
        self.qmp.command("migrate-incoming", uri=self.uri)
        return self

    def enable(self, *capabilities, state=True):
        self.qmp.command("migrate-set-capabilities",
                         capabilities=[{"capability": c, "state": state} for c in capabilities])

    def status(self):
        return self.qmp.command("query-status")["status"]

    def begin_migration(self, to, return_path=True, pause=False, uri=None):
        """To a machine that is incoming(). pause: before the switchover, until
        "migrate-continue". uri: a way there of its own."""
        self.enable("events")
        for vm in (self, to):
            vm.enable("return-path", state=return_path)
        self.enable("pause-before-switchover", state=pause)
        self.qmp.command("migrate", uri=uri or to.uri)

    def migration_status(self, timeout=30):
        return self.qmp.command("query-migrate", timeout=timeout).get("status")

    def end_of_migration(self, timeout=60):
        """What the source says in the end: "completed", "failed" or "cancelled"."""
        def ended():
            status = self.migration_status()
            return status if status in ("completed", "failed", "cancelled") else None
        return wait_until("end of the migration", ended, timeout)

    def go_on(self):
        """`cont` where a migration ended: QEMU says "completed" a little before it allows that."""
        wait_until("end of finishing", lambda: self.status() not in ("finish-migrate", "running"))
        self.qmp.command("cont")

    def take_guest(self, source, timeout=60):
        """Behind a migration that succeeded: the destination runs and goes on where the guest was."""
        self.qmp.wait("RESUME", timeout=timeout)
        self.console.adopt(source.console)
        self.found = source.found

    def migrate(self, to, timeout=60, return_path=True, **how):
        """All of it. On success the guest is there."""
        self.begin_migration(to, return_path, **how)
        status = self.end_of_migration(timeout)
        if status == "completed":
            to.take_guest(self, timeout)
        return status

    def describe(self):
        """For the output of a test that failed."""
        text = ""
        for process in (self.daemon, self.qemu):
            if process is None:
                continue
            state = "running" if process.alive() else f"ended with {process.child.returncode}"
            text += f"--- {process.name}: {state}\n{process.err()}{process.out()}"
            if process is self.daemon:
                text += "".join("    " + line + "\n" for line in process.log().splitlines()[-40:])
            else:
                text += f"    the guest's line: {process.console.tail(8)}\n"
                text += "".join(f"    {event}\n" for event in process.qmp.events[-20:])
        return text


__all__ = ["Qemu", "Vm", "Timeout"]
