"""Runs one cell of migration_cells.py: the guest, the destination, the migration, and what is killed."""

import signal
import time

import migration_cells as cells
from harness.admin import prepare
from harness.continuity import Continuity
from harness.process import Failure, Timeout, wait_until
from harness.proxy import Gone
from harness.qmp import QmpError
from migration_target import Target
from migration_verdict import Row, Verdict

HANG_S = 0.3
QEMU_WAITS_S = 5


class Run(Target, Verdict):
    def __init__(self, test, cell):
        self.test, self.cell = test, cell
        self.row = Row(cell)
        self.source = self.target = None
        self.keys = self.migration_keys()
        self.hung = None  # the daemon that stands still
        self.since = 0  # when the migration began
        self.refused_at = None
        self.last = None  # where the guest is in the end, if a second try moved it

    def migration_keys(self):
        """(the source's, the destination's)"""
        if self.cell.storage != "separate":
            return None, None
        right = self.test.migration_key()
        other = self.test.migration_key("other.key", "f" * 64)
        return right, {"migration-wrong": other, "migration-missing": None}.get(self.cell.key, right)

    # What there is before.

    def prepare_guest(self):
        self.source = self.test.vm(self.cell.device, name="source")
        self.source.proxied = True
        if self.cell.storage == "separate" and self.cell.image == "older":
            self.guest_comes_from_there()
        else:
            self.source.power_on(admin=True, migration_key=self.keys[0])
            self.seen = Continuity(self.test, self.source)
        if self.cell.image == "older":
            self.older = self.source.store.bytes()
            for _ in range(3):
                self.tick()

    def guest_comes_from_there(self):
        """The destination's image holds this TPM already, as it was when it left."""
        before = self.test.vm(self.cell.device, name="before")
        before.power_on(migration_key=self.keys[0])
        self.seen = Continuity(self.test, before)
        store = self.test.store("new", incoming=True)
        self.source.store = store
        self.source.incoming(admin=True, migration_key=self.keys[0])
        self.migrate(before, self.source)
        before.quit()
        self.before = before.store
        self.tick()

    def tick(self):
        self.source.console.start_loop(self.seen.commands, 1)
        self.seen.follow(self.source.console.loop_answers())

    def migrate(self, source, target):
        self.row.n_migrations += 1
        self.test.equal(source.migrate(target), "completed", "a migration with everything right")
        self.seen.holds(target.tpm)

    # The migration.

    def go(self):
        began = time.monotonic()
        self.prepare_guest()
        if self.cell.image == "flipped" and self.cell.storage != "separate":
            self.find_record()
        self.mark = self.source.store.info()["inside"]
        if self.cell.storage == "file":
            self.save_and_restore()
        elif self.start_target():
            self.seen.start(self.source)
            self.move()
        self.judge()
        self.row.seconds = time.monotonic() - began
        return self.row

    def move(self):
        c = self.cell
        copied = c.storage == "copied"
        if c.hooks == "prepared" and not copied and not self.hand_over_prepared():
            return
        if c.when == "active":
            self.source.qmp.command("migrate-set-parameters", max_bandwidth=4 << 20)
        self.place_kill()
        self.since = time.monotonic()
        self.row.n_migrations += 1
        pause = copied or c.when == "pre-switchover"
        try:
            self.source.begin_migration(self.target, c.path == "on", pause)
        except Failure:
            if c.when != "before" or not c.who.endswith("qemu"):
                raise
            if c.who == "source-qemu":
                self.source_died()
            else:
                self.row.outcome = cells.NEVER_STOPPED
            return
        if c.when == "active":
            self.source.qmp.wait("MIGRATION", status="active")
            self.kill()
        if pause and not self.switch_over():
            return
        self.look_at_the_end()

    def switch_over(self):
        """The guest is stopped, and everything else is still possible."""
        def paused():
            status = self.source.migration_status()
            return status if status in ("pre-switchover", "failed", "completed") else None
        if self.cell.who == "source-qemu" and self.cell.when == "active":
            return True
        if wait_until("pre-switchover", paused) != "pre-switchover":
            return True
        if self.cell.storage == "copied":
            self.copy_arrives()
            if self.cell.hooks == "prepared" and not self.hand_over_prepared():
                self.source.qmp.command("migrate_cancel")
                self.source.end_of_migration()
                return False
        if self.cell.when == "pre-switchover":
            self.kill()
            if self.cell.who == "source-qemu":
                return True
        self.source.qmp.command("migrate-continue", state="pre-switchover")
        return True

    def hand_over_prepared(self):
        try:
            prepare(self.source.admin, self.target.admin)
            return True
        except QmpError as e:
            self.row.outcome = cells.AT_PREPARE
            self.row.code = e.error_class
            self.refused_at = time.monotonic()
            return False

    # Killing.

    def victim(self):
        vm = self.source if self.cell.who.startswith("source") else self.target
        return vm.daemon if self.cell.who.endswith("daemon") else vm.qemu

    def place_kill(self):
        c = self.cell
        source, target = self.source.proxy, self.target.proxy
        if c.when == "before":
            self.kill()
        elif c.hangs:
            hooks = {"get1": (source, "GET_STATEBLOB", 1), "get3": (source, "GET_STATEBLOB", 3),
                     "set1": (target, "SET_STATEBLOB", 1), "init": (target, "INIT", None)}
            proxy, name, blob = hooks[c.when]
            # A hang at the start is one behind what the daemon did: it holds the claim.
            proxy.on("answered" if c.when == "init" else "asked", name, blob, self.hang)
        elif c.when in ("get1", "get3"):
            when = "told" if c.who == "source-qemu" else "answered"
            if c.who == "source-daemon" and c.when == "get3":
                when = "told"  # before that it has given nothing away
            source.on(when, "GET_STATEBLOB", int(c.when[3]), self.kill)
        elif c.when in ("set1", "set2"):
            target.on("answered", "SET_STATEBLOB", int(c.when[3]), self.kill)
        elif c.when == "init":
            target.on("answered", "INIT", None, self.kill)

    def kill(self):
        victim = self.victim()
        victim.kill()
        victim.wait()
        if self.cell.when == "init" and victim is self.target.daemon:
            raise Gone("before it could answer")

    def hang(self):
        """The daemon stands still. What it has answered already is not told before management has
        given up on it."""
        self.hung = self.victim()
        self.hung.signal(signal.SIGSTOP)
        if self.cell.who == "source-daemon":
            time.sleep(HANG_S)
            self.hung.signal(signal.SIGCONT)
            return
        if self.cell.when == "init":
            wait_until("an end of the destination", lambda: not self.target.qemu.alive())

    # What has come of it.

    def look_at_the_end(self):
        c, source = self.cell, self.source
        if c.who == "source-qemu":
            self.source_died()
            return
        if c.hangs and c.who == "target-daemon":
            self.give_up()
            return
        status = source.end_of_migration()
        if status == "completed" and self.target_took_it():
            self.row.outcome = cells.COMPLETED
            return
        if status == "completed":
            self.by_cont()
            return
        if source.qmp.find("STOP"):
            source.qmp.wait("RESUME")
            self.row.outcome = cells.ITSELF
        else:
            self.row.outcome = cells.NEVER_STOPPED
        if c.who == "source-daemon":
            self.row.outcome = cells.DAEMON_LOST

    def target_took_it(self):
        qmp = self.target.qmp
        wait_until("an end of the destination",
                   lambda: qmp.closed or qmp.find("RESUME") or not self.target.qemu.alive())
        if not qmp.find("RESUME"):
            return False
        self.target.take_guest(self.source)
        return True

    def by_cont(self):
        """S3.23"""
        self.source.go_on()
        self.source.qmp.wait("RESUME")
        self.row.outcome = cells.CONT

    def give_up(self):
        """Management waits a little for a destination that hangs, and ends it."""
        message = {"set1": ("SET_STATEBLOB", 1), "init": ("INIT", None)}[self.cell.when]
        wait_until("the hang", lambda: self.hung and self.target.proxy.find(*message))
        time.sleep(HANG_S)
        try:
            if self.source.migration_status(QEMU_WAITS_S) == "completed":
                self.end_target()
                self.by_cont()
                return
            # The source first, so that it asks for its storage while the other one still has it.
            self.source.qmp.command("migrate_cancel", timeout=QEMU_WAITS_S)
            self.source.qmp.wait("RESUME")
            self.row.outcome = cells.CANCELLED
        except Timeout:
            # Now and then QEMU's main loop waits until somebody reads the rest of its stream.
            self.row.outcome = cells.ITSELF
        self.end_target()
        self.source.end_of_migration()
        self.source.qmp.wait("RESUME")

    def end_target(self):
        for process in filter(None, (self.target.qemu, self.target.daemon)):
            process.kill()
            process.wait()

    def source_died(self):
        self.source.qemu.wait()
        self.source.daemon.wait()
        if self.cell.when != "before" and self.target_took_it():
            self.row.outcome = cells.COMPLETED
        else:
            self.row.outcome = cells.POWER_CUT

    # The VM in a file.

    def save_and_restore(self):
        path = self.test.path("vm.state")
        self.seen.start(self.source)
        self.source.enable("events")
        self.row.n_migrations += 1
        self.source.qmp.command("migrate", uri=f"exec:cat >{path}")
        self.test.equal(self.source.end_of_migration(), "completed", "saving")
        if self.start_restored(path) and self.target_took_it():
            self.row.outcome = cells.COMPLETED
            return
        if self.row.outcome == cells.AT_START:
            self.source.go_on()
        else:
            self.by_cont()

    def start_restored(self, path):
        if not self.start_target():
            return False
        self.place_kill()
        self.since = time.monotonic()
        self.target.listen(f"exec:cat {path}")
        return True


def run_cell(test, cell):
    """A row; never raises for what the cell does."""
    run = Run(test, cell)
    try:
        return run.go()
    except Exception as e:  # the others are wanted all the same
        run.row.wrong = f"{type(e).__name__}: {e}"
        return run.row
