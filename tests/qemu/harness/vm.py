"""A machine with a TPM: a store, its daemon, QEMU with the micro-guest, and what connects them."""

import fcntl
import os
import socket

from .console import Console
from .process import Failure, Process, Timeout, run, wait_until
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

    def start_daemon(self, wait=True, **how):
        self.daemon = self.test.started(self.store.serve(**how))
        if wait:
            self.daemon.wait_bound()
        return self.daemon

    def start_qemu(self, extra=(), hello=True):
        self.n_starts += 1
        self.qemu = self.test.started(Qemu(f"qemu-{self.name}-{self.n_starts}", self.test.folder,
                                           self.daemon.ctrl, self.device, self.machine,
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
        """Both at once, as when the host loses power; nobody says goodbye to anybody."""
        for process in (self.daemon, self.qemu) if daemon_first else (self.qemu, self.daemon):
            process.kill()
        self.daemon.wait()
        self.qemu.wait()

    def power_off(self, timeout=30):
        """The guest switches itself off; QEMU and the daemon end by themselves. Exit codes."""
        self.console.send("poweroff")
        return self.wait_ended(timeout)

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
        self.start_daemon(**how)
        self.start_qemu(["-incoming", "defer"])
        self.enable("events")
        self.uri = f"unix:{self.test.folder}/{self.name}-{self.n_starts}.migration"
        self.qmp.command("migrate-incoming", uri=self.uri)
        return self

    def enable(self, *capabilities, state=True):
        self.qmp.command("migrate-set-capabilities",
                         capabilities=[{"capability": c, "state": state} for c in capabilities])

    def status(self):
        return self.qmp.command("query-status")["status"]

    def migrate(self, to, timeout=60, return_path=True):
        """To a machine that is incoming(). What the source says in the end: "completed" or
        "failed". On success the destination runs and goes on where the guest was."""
        self.enable("events")
        for vm in (self, to):
            vm.enable("return-path", state=return_path)
        self.qmp.command("migrate", uri=to.uri)

        def ended():
            status = self.qmp.command("query-migrate").get("status")
            return status if status in ("completed", "failed", "cancelled") else None
        status = wait_until("end of the migration", ended, timeout)
        if status == "completed":
            to.qmp.wait("RESUME", timeout=timeout)
            to.console.adopt(self.console)
            to.found = self.found
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
