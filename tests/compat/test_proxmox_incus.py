"""The command lines by which Proxmox VE and Incus run swtpm and swtpm_setup, word for word but for the
paths, with ours first in PATH and a real machine behind them: made, started, stopped, started again."""

import os
import shutil
import signal
import subprocess
import sys

from test_machines import COUNTER, ours_first  # sets the way to the harness
from harness.case import main
from harness.process import Failure, run, wait_until
from harness.vm import Vm

CERTIFIED_BY = """create_certs_tool={localca}
create_certs_tool_config={conf}
create_certs_tool_options=/etc/swtpm-localca.options
"""


class Started:
    """A daemon that a manager has started; what a machine of the harness wants to know of it."""

    def __init__(self, name, ctrl, log, pid, process=None):
        self.name, self.ctrl, self.log_path, self._pid = name, ctrl, log, pid
        self.process = process

    @property
    def pid(self):
        return self._pid

    def alive(self):
        """Ours (QEMU's end) as much as somebody else's child."""
        if self.process:
            return self.process.poll() is None
        try:
            with open(f"/proc/{self._pid}/stat", encoding="ascii") as f:
                return f.read().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False

    def wait(self, timeout=30):
        wait_until("end of the daemon", lambda: not self.alive(), timeout)
        return self.process.returncode if self.process else 0

    def end(self):
        if self.alive():
            os.kill(self._pid, signal.SIGKILL)

    def out(self):
        return ""

    def err(self):
        return ""

    def log(self):
        with open(self.log_path, encoding="utf-8") as f:
            return f.read()


class Manager:
    """How a manager starts a daemon is its own affair; the machine is the harness's."""

    family = "2.0"
    kind = "swtpm"

    def __init__(self, test, start):
        ours_first()
        self.test, self._start = test, start

    def serve(self, **how):
        del how
        return self._start()


class Machine(Vm):
    def start_daemon(self, wait=True, **how):
        self.daemon = self.test.started(self.store.serve(**how))
        return self.daemon


def machine(test, start):
    return Machine(test, Manager(test, start), "vm", "tpm-crb")


def counts_through_restarts(test, vm, starts=3):
    vm.power_on()
    vm.tpm.nv_define_counter(COUNTER)
    vm.tpm.nv_increment(COUNTER)
    wanted = vm.tpm.nv_counter(COUNTER)
    for _ in range(starts - 1):
        vm.power_off()
        vm.power_on()
        vm.tpm.nv_increment(COUNTER)
        wanted += 1
        test.equal(vm.tpm.nv_counter(COUNTER), wanted, "the counter after a restart")
    vm.power_off()
    return wanted


def setup_configuration(case):
    """What /etc/swtpm_setup.conf is on such a host, with a CA of the test's own."""
    localca = shutil.which("swtpm_localca")
    if not localca:
        return None
    ca = case.path("ca")
    os.mkdir(ca)
    with open(case.path("localca.conf"), "w", encoding="ascii") as f:
        f.write(f"statedir = {ca}\nsigningkey = {ca}/signkey.pem\n"
                f"issuercert = {ca}/issuercert.pem\ncertserial = {ca}/certserial\n")
    with open(case.path("setup.conf"), "w", encoding="ascii") as f:
        f.write(CERTIFIED_BY.format(localca=localca, conf=case.path("localca.conf")))
    return case.path("setup.conf")


def proxmox_setup(test, state, config):
    """On every start, and therefore with --not-overwrite."""
    argv = ["swtpm_setup", "--tpmstate", f"file://{state}", "--createek", "--create-ek-cert",
            "--create-platform-cert", "--lock-nvram", "--config", config, "--runas", "0",
            "--not-overwrite", "--tpm2", "--ecc"]
    done = run(argv, timeout=120)
    test.equal(done.rc, 0, f"swtpm_setup: {done}")


def proxmox_start(test, state, config, n_starts):
    proxmox_setup(test, state, config)
    n_starts.append(1)
    ctrl, pid = test.path("100.swtpm"), test.path("100.swtpm.pid")
    log = test.path("swtpm.log")
    argv = ["swtpm", "socket", "--tpmstate", f"backend-uri=file://{state},mode=0600", "--ctrl",
            f"type=unixio,path={ctrl},mode=0600", "--pid", f"file={pid}", "--terminate", "--daemon",
            "--log", f"file={log},level=1,prefix=[id={len(n_starts)}] ", "--tpm2"]
    done = run(argv, timeout=60)
    test.equal(done.rc, 0, f"swtpm: {done}")
    # It waits five seconds for this, and finds it at once.
    test.check(os.path.exists(pid) and os.path.exists(ctrl), "no pid file when the command returned")
    with open(pid, encoding="ascii") as f:
        return Started("proxmox", ctrl, log, int(f.read()))


def proxmox_keeps_a_machines_tpm(test, state_of):
    if os.geteuid() != 0:
        raise Failure("--runas 0 needs root")
    ours_first()
    config, n_starts = setup_configuration(test) or "/etc/swtpm_setup.conf", []
    state = state_of(test)
    vm = machine(test, lambda: proxmox_start(test, state, config, n_starts))
    counts_through_restarts(test, vm)
    test.check(not os.path.exists(test.path("100.swtpm.pid")), "the pid file is left behind")
    with open(state, "rb") as f:
        test.equal(f.read(4), b"QFI\xfb", "the state is a qcow2 image")
    with open(test.path("swtpm.log"), encoding="utf-8") as f:
        test.contains(f.read(), "[id=3] ", "the prefix in the log")


def proxmox_makes_starts_and_starts_again(test):
    proxmox_keeps_a_machines_tpm(test, lambda t: t.path("vm-100-disk-1.qcow2"))


def proxmox_fills_an_empty_volume(test):
    """It allocates the file first."""
    def empty(case):
        path = case.path("vm-100-disk-1.raw")
        with open(path, "wb"):
            pass
        return path
    proxmox_keeps_a_machines_tpm(test, empty)


def incus_start(case):
    """In the directory of the device, by a relative path; no setup, no --terminate."""
    folder = case.path("tpm.vtpm")
    os.makedirs(folder, 0o700, exist_ok=True)
    ctrl = os.path.join(folder, "swtpm-vtpm.sock")
    if os.path.exists(ctrl):
        os.unlink(ctrl)
    log = case.path("incus.log")
    with open(log, "ab") as out:
        process = subprocess.Popen(["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--ctrl",
                                    "type=unixio,path=swtpm-vtpm.sock"], cwd=folder, stdout=out,
                                   stdin=subprocess.DEVNULL, stderr=out)
    # Two seconds is all that Incus waits; a machine five times slower is not what is tested here.
    wait_until("the socket", lambda: os.path.exists(ctrl), 10)
    return Started("incus", ctrl, log, process.pid, process)


def incus_starts_stops_and_starts_again(test):
    vm = machine(test, lambda: incus_start(test))
    counts_through_restarts(test, vm)
    test.equal(vm.daemon.process.returncode, 0, "exit code of the daemon")
    test.equal(sorted(os.listdir(test.path("tpm.vtpm"))), ["tpm2-00.key", "tpm2-00.qcow2"],
               "what is left in the device's directory")


def incus_ends_a_daemon_whose_machine_was_killed(test):
    """By SIGTERM through its pid file, and starts it anew; the daemon has lived on."""
    vm = machine(test, lambda: incus_start(test))
    vm.power_on()
    vm.tpm.nv_define_counter(COUNTER)
    vm.tpm.nv_increment(COUNTER)
    wanted = vm.tpm.nv_counter(COUNTER)
    vm.qemu.kill()
    vm.qemu.wait()
    if vm.daemon.alive():
        os.kill(vm.daemon.pid, signal.SIGTERM)
    test.equal(vm.daemon.wait(), 0, "exit code of the daemon")
    vm.power_on()
    test.equal(vm.tpm.nv_counter(COUNTER), wanted, "the counter")
    vm.power_off()


if __name__ == "__main__":
    sys.exit(main())
