"""Machines whose manager calls swtpm, with ours first in PATH; and between the two."""

import os
import shutil
import sys

from sides import ours
from test_two_daemons import free_port
from harness.case import Skip, main
from harness.continuity import COUNTER, Continuity
from harness.process import run
from harness.store import SwtpmStore



def ours_first():
    """What managers and the harness call swtpm is ours from here on."""
    here = os.path.join(os.environ["NVKEEP_BUILD"], "compat")
    os.environ["PATH"] = here + os.pathsep + os.environ["PATH"]


def stock_first():
    os.environ["PATH"] = "/usr/bin:/bin:" + os.environ["PATH"]


def machine(test, name, device="tpm-crb", family="2.0"):
    store = SwtpmStore(test.folder, name + "-tpm", family)
    store.create()
    return test.vm(device, family, name, store)


def counts_through_restarts(test, device, family):
    ours_first()
    vm = machine(test, "vm", device, family)
    vm.power_on()
    if family == "2.0":
        vm.tpm.nv_define_counter(COUNTER)
        vm.tpm.nv_increment(COUNTER)
        count = vm.tpm.nv_counter(COUNTER)
    image = os.path.join(vm.store.image, ("tpm2-00" if family == "2.0" else "tpm-00") + ".qcow2")
    test.check(os.path.exists(image), f"{image} is not there: that was not ours")
    test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon")
    vm.power_on()
    if family == "2.0":
        test.equal(vm.tpm.nv_counter(COUNTER), count, "the counter after a restart")
    test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon")


def a_tpm2_counts_through_restarts(test):
    counts_through_restarts(test, "tpm-crb", "2.0")


def a_tpm12_starts_and_starts_again(test):
    counts_through_restarts(test, "tpm-tis", "1.2")


def moves(test, to_ours):
    """A guest goes from one to the other, under a migration key or without."""
    if not shutil.which("swtpm", path="/usr/bin:/bin"):
        raise Skip("swtpm is missing")
    for key in (None, test.migration_key()):
        name = "k" if key else "p"
        (stock_first if to_ours else ours_first)()
        source = machine(test, name + "source")
        source.power_on(migration_key=key)
        source.tpm.nv_define_counter(COUNTER)
        source.tpm.nv_increment(COUNTER)
        count = source.tpm.nv_counter(COUNTER)
        (ours_first if to_ours else stock_first)()
        target = machine(test, name + "target")
        target.incoming(migration_key=key)
        source.migrate(target)
        test.equal(target.tpm.nv_counter(COUNTER), count, "the counter on the target")
        target.tpm.nv_increment(COUNTER)
        test.equal(target.tpm.nv_counter(COUNTER), count + 1, "the counter, incremented there")
        target.power_off()
        source.quit()


def a_guest_moves_from_swtpm_to_ours(test):
    moves(test, True)


def a_guest_moves_from_ours_to_swtpm(test):
    moves(test, False)


# ---- shared storage ----


class FileSource(SwtpmStore):
    """As libvirt has it for <source type='file'> and <encryption>: one file that both hosts see."""

    def place(self):
        return f"backend-uri=file://{self.image},lock"

    def create(self, passphrase=b"a secret of libvirt's", iter_ms=None, incoming=False):
        self.write_key(passphrase)

    def view(self, name):
        other = FileSource(self.folder, name, self.family)
        other.image, other.key_file = self.image, self.key_file
        return other

    def serve(self, migration=None, **how):
        how["options"] = ["--migration", "release-lock-outgoing" + (",incoming" if migration else "")]
        return super().serve(**how)

    def setup(self, *more):
        """What libvirt runs before a start, and before a migration comes."""
        with open(self.key_file, "rb") as key:
            return run(["swtpm_setup", "--tpm2", "--pwdfile-fd", key.fileno(), "--cipher", "aes-256-cbc",
                        "--tpm-state", f"file://{self.image}", "--logfile",
                        os.path.join(self.folder, "setup.log"), *more], pass_fds=(key.fileno(),))

    def start(self, test, name):
        """A machine that is started, and not one that comes."""
        done = self.setup("--createek", "--lock-nvram", "--not-overwrite")
        test.equal(done.rc, 0, f"swtpm_setup: {done}")
        vm = test.vm("tpm-crb", name=name, store=self.view(name))
        vm.power_on()
        return vm

    def expect(self, test, name):
        """A destination. Its swtpm_setup leaves alone what the source has."""
        before = self.identity()
        done = self.setup("--overwrite")
        test.equal(done.rc, 0, f"swtpm_setup --overwrite: {done}")
        test.equal(self.identity(), before, "the image")
        with open(os.path.join(self.folder, "setup.log"), encoding="utf-8") as f:
            test.contains(f.read(), "is left for a migration", "the log")
        vm = test.vm("tpm-crb", name=name, store=self.view(name))
        return vm.incoming(migration="incoming")

    def identity(self):
        with open(self.image, "rb") as f:
            st = os.fstat(f.fileno())
            return st.st_ino, st.st_mtime_ns, f.read()


def shared_storage(test, name="shared"):
    ours_first()
    store = FileSource(test.folder, name)
    store.create()
    source = store.start(test, "source")
    return store, source, Continuity(test, source)


def a_guest_moves_on_shared_storage_as_libvirt_moves_it(test):
    store, here, seen = shared_storage(test)
    for name in ("there", "back"):
        there = store.expect(test, name)
        test.equal(here.migrate(there), "completed", f"migration: {name}")
        here.quit()
        seen.holds(there.tpm)
        there.console.start_loop(seen.commands, 3)
        seen.follow(there.console.loop_answers())
        here = there
    here.power_off()
    last = store.start(test, "last")
    test.equal(last.tpm.nv_counter(COUNTER), seen.count, "the counter at the next start")


def a_migration_that_fails_on_shared_storage_leaves_the_machine_its_tpm(test):
    """S3.6 S3.17: with stock swtpm the next start finds another TPM."""
    store, source, seen = shared_storage(test)
    for dies in ("daemon", "qemu"):
        target = store.expect(test, "target-" + dies)
        source.begin_migration(target, pause=True)
        test.wait_until("the switchover", lambda: source.migration_status() == "pre-switchover")
        getattr(target, dies).kill()
        getattr(target, dies).wait()
        source.qmp.command("migrate-continue", state="pre-switchover")
        test.equal(source.end_of_migration(), "failed", f"migration without {dies}")
        test.wait_until("the guest to go on", lambda: source.status() == "running")
        seen.holds(source.tpm)
        source.console.start_loop(seen.commands, 3)
        seen.follow(source.console.loop_answers())
        for process in (target.qemu, target.daemon):
            process.end()
    source.power_off()
    source = store.start(test, "next")
    test.equal(source.tpm.nv_counter(COUNTER), seen.count, "the counter at the next start")


def tools_of_others_talk_to_it(test):
    """tpm2-tools over the control and data ports that its TCTI for swtpm uses."""
    if not shutil.which("tpm2_getrandom"):
        raise Skip("tpm2-tools is missing")
    side = ours(test)
    port = free_port()
    daemon = side.start("socket", "--tpm2", "--tpmstate", "dir=" + side.new_state(), "--server",
                        f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={port + 1}",
                        "--flags", "not-need-init,startup-clear", "--pid", "file=pid", ready="pid")
    for argv in (["tpm2_getrandom", "--hex", "16"], ["tpm2_pcrread", "sha256:0"],
                 ["tpm2_createprimary", "-c", side.path("primary.ctx")]):
        done = test.run([*argv, "-T", f"swtpm:host=127.0.0.1,port={port}"])
        test.equal(done.rc, 0, f"{argv[0]}: {done}")
    daemon.end()


if __name__ == "__main__":
    sys.exit(main())
