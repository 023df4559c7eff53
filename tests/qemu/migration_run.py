"""Runs one cell of migration_cells.py, and judges it.

Whatever is wrong, afterwards: the guest runs where it should, its TPM goes on where it was, the image
is the same or at a later generation of the same owner, the right key opens it, our and QEMU's tools
find it sound; and where the source kept the guest, a second try with everything right moves it.
"""

import signal
import time

import migration_cells as cells
from harness.admin import prepare
from harness.continuity import Continuity
from harness.process import Failure, Timeout, wait_until
from harness.proxy import Gone
from harness.qmp import QmpError
from harness.tpm import response_code
from harness.vm import Vm

HANG_S = 0.3
FORMAT_BIT = 72 + 2  # in qcow2's incompatible features: one that nobody has defined


class Row:
    """One line of the table."""

    def __init__(self, cell):
        self.cell = cell
        self.outcome = "?"
        self.code = ""  # of the refusal: an exit code, a result on the control channel, a class
        self.refused_ms = None  # of the refusal, relative to the guest's stop; None: it never stopped
        self.pause_ms = None  # from the guest's stop to where it ran again
        self.image = ""
        self.n_migrations = 0
        self.seconds = 0.0
        self.wrong = ""  # what was not as it should be

    @property
    def ok(self):
        return not self.wrong and self.outcome in cells.expected(self.cell)

    def text(self):
        when = ("" if not self.code else "before the stop" if self.refused_ms is None
                else f"{self.refused_ms:+.1f} ms")
        pause = "" if self.pause_ms is None else f"{self.pause_ms:.0f} ms"
        return (f"{'ok' if self.ok else 'FAILED':6} {self.cell.name:58} {self.outcome:27} "
                f"{self.code:18} {when:16} {pause:8} {self.image:22} {self.n_migrations} "
                f"{self.seconds:4.1f} s {self.wrong}").rstrip()

    HEADING = (f"{'':6} {'storage/key/image/return path/hooks/kill':58} {'outcome':27} "
               f"{'refusal':18} {'against STOP':16} {'pause':8} {'image':22} migrations, time")


class Run:
    def __init__(self, test, cell):
        self.test, self.cell = test, cell
        self.row = Row(cell)
        self.keys = self.migration_keys()
        self.hung = None

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

    # The destination.

    def target_store(self):
        c = self.cell
        if c.storage == "separate" and c.image == "older":
            store = self.before.view("target")
        elif c.storage == "separate":
            store = self.test.store("target", incoming=True)
        elif c.storage == "copied":
            store = self.source.store.view("target")
            store.image = self.test.path("copy.qcow2")
            with open(store.image, "wb"):
                pass
            return store
        elif c.image == "sound":
            return self.source.store.view("target")
        else:
            store = self.source.store.copy_to(self.test.folder, "target")
        if c.image != "sound":
            if store in self.test._stores:
                self.test._stores.remove(store)  # damaged on purpose
            self.spoil(store.image)
        return store

    def spoil(self, path):
        """What the destination sees instead of a sound image. What is cut off is as a copy that has
        come half way."""
        with open(path, "rb") as f:
            data = bytearray(f.read())
        if self.cell.image == "empty":
            data = bytearray()
        elif self.cell.image == "truncated":
            data = data[:len(data) // 2]
        elif self.cell.image == "flipped":
            data[self.newest_record(data)] ^= 0x10
        elif self.cell.image == "newer":
            data[FORMAT_BIT] ^= 1
        elif self.cell.image == "older" and self.cell.storage != "separate":
            data = bytearray(self.older)
        with open(path, "r+b") as f:
            f.write(data)
            f.truncate(len(data))

    def newest_record(self, data):
        """A byte of it. A separate image has no records yet: of its first sector then."""
        if self.cell.storage == "separate":
            return len(data) - (1 << 20) + 200
        return self.record_at

    def find_record(self):
        before = self.source.store.bytes()
        self.tick()
        after = self.source.store.bytes()
        # The last command of a tick that writes is one record: somewhere in what has changed.
        self.record_at = next(i for i in range(len(after) - 1, 0, -1)
                              if i >= len(before) or before[i] != after[i])

    def start_target(self):
        """False: it was refused."""
        c = self.cell
        self.target = Vm(self.test, self.target_store(), "target", c.device)
        self.target.proxied = True
        self.test._vms.append(self.target)
        key = None
        if c.key == "wrong":
            wrong = self.test.path("wrong.key")
            self.target.store.write_key(b"not the key", wrong)
            key = "file=" + wrong
        elif c.key == "missing":
            key = ""
        elif c.key == "late":
            key = "admin"
        before = self.source.store.bytes()
        self.target.start_daemon(wait=False, key=key, admin=True, migration_key=self.keys[1],
                                 migration="incoming" + (",storage=copied" if c.storage == "copied"
                                                         else ""))
        daemon = self.target.daemon
        if c.key == "late":
            # S3.4 S3.12: while it waits there is nothing that QEMU could connect to.
            self.test.check(not daemon.bound(), "there is a control socket before the key")
            with open(self.target.store.key_file, "rb") as f:
                self.target.admin.add_key(f.read())
        wait_until("the daemon's verdict", lambda: daemon.bound() or not daemon.alive())
        if not daemon.bound():
            self.row.code = f"exit {daemon.wait()}"
            self.row.outcome = cells.AT_START
            self.test.check(self.source.store.bytes() == before, "a refusal changed the image")
            self.row.image = "same bytes"
            return False
        try:
            self.target.defer()
        except Failure:
            self.row.code = f"QEMU {self.target.qemu.wait()}"
            self.row.outcome = cells.AT_START
            return False
        if c.storage != "file":
            self.target.listen()
        return True

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

    def copy_arrives(self):
        data = self.source.store.bytes()
        if self.cell.image == "empty":
            return
        with open(self.target.store.image, "r+b") as f:
            f.write(data)
        if self.cell.image != "sound":
            self.spoil(self.target.store.image)

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
        self.source.qmp.command("cont")
        self.source.qmp.wait("RESUME")
        self.row.outcome = cells.CONT

    def give_up(self):
        """Management waits a little for a destination that hangs, and ends it."""
        message = {"set1": ("SET_STATEBLOB", 1), "init": ("INIT", None)}[self.cell.when]
        wait_until("the hang", lambda: self.hung and self.target.proxy.find(*message))
        time.sleep(HANG_S)
        status = self.source.migration_status()
        if status == "completed":
            self.end_target()
            self.by_cont()
            return
        # The source first, so that it asks for its storage while the other one still has it.
        self.source.qmp.command("migrate_cancel")
        self.test.equal(self.source.end_of_migration(), "cancelled", "the source's migration")
        self.source.qmp.wait("RESUME")
        self.end_target()
        self.row.outcome = cells.CANCELLED

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
        self.target = None
        if self.start_restored(path) and self.target_took_it():
            self.row.outcome = cells.COMPLETED
            return
        if self.row.outcome == cells.AT_START:
            self.source.qmp.command("cont")
        else:
            self.by_cont()

    def start_restored(self, path):
        if not self.start_target():
            return False
        self.place_kill()
        self.since = time.monotonic()
        self.target.listen(f"exec:cat {path}")
        return True

    # The verdict.

    def judge(self):
        row, c = self.row, self.cell
        self.times()
        try:
            if row.outcome == cells.COMPLETED:
                self.guest_is_at(self.target)
            elif row.outcome in (cells.POWER_CUT, cells.DAEMON_LOST):
                self.starts_again()
            else:
                self.guest_is_at(self.source)
                self.second_try()
        except (Failure, Timeout) as e:
            row.wrong = str(e)
        if not row.wrong and not row.ok:
            row.wrong = "wanted: " + ", ".join(sorted(cells.expected(c)))
        self.image_is_good()

    def times(self):
        row = self.row
        stop = self.source.qmp.find("STOP")
        at = getattr(self, "refused_at", None)
        target = getattr(self, "target", None)
        refusals = [p.refusal(getattr(self, "since", 0)) for p in (self.source.proxy,
                                                                   target and target.proxy) if p]
        refusal = next((r for r in refusals if r), None)
        if refusal and not row.code and row.outcome != cells.COMPLETED:
            result = "no answer" if refusal.result is None else f"{refusal.result:#x}"
            row.code = f"{refusal.name[:9]} {result}"
            at = refusal.answered or refusal.at
        if at and stop and row.code:
            row.refused_ms = (at - stop.at) * 1000
        where = target if row.outcome == cells.COMPLETED else self.source
        again = where.qmp.find("RESUME")
        if stop and again:
            row.pause_ms = (again.at - stop.at) * 1000

    def guest_is_at(self, vm):
        """It runs, and its TPM goes on without a gap."""
        if self.row.outcome == cells.AT_START and self.cell.storage != "file":
            self.seen.holds(vm.tpm)
            return
        self.test.equal(vm.status(), "running", "the guest")
        self.seen.runs_on(vm)
        self.seen.stop(vm)
        self.seen.holds(vm.tpm)

    def starts_again(self):
        """The host died: what was acknowledged is in the image."""
        least = self.seen.acknowledged(self.answers_of_the_dead())
        target = getattr(self, "target", None)
        if target:
            self.end_target()
        self.source.cut_power()
        self.source.power_on(migration_key=self.keys[0])
        self.seen.survives_power_cut(self.source.tpm, least)

    def answers_of_the_dead(self):
        if self.row.outcome == cells.DAEMON_LOST:
            answers = self.source.console.answers_so_far()
            return [a for a in answers if response_code(a[1]) == 0]
        wait_until("the end of the guest's line", lambda: self.source.console.closed, 5)
        return self.source.console.answers_so_far()

    def second_try(self):
        """Whatever it was, with everything right the guest moves."""
        if getattr(self, "target", None):
            self.end_target()
        store = (self.test.store("second", incoming=True) if self.cell.storage == "separate"
                 else self.source.store.view("second"))
        second = Vm(self.test, store, "second", self.cell.device)
        self.test._vms.append(second)
        second.incoming(migration_key=self.keys[0])
        self.source.enable("pause-before-switchover", state=False)
        self.migrate(self.source, second)
        self.last = second

    def image_is_good(self):
        """S3.6: of the TPM's owner, whoever that is now: opens with the right key, and is sound."""
        row = self.row
        if row.wrong:
            return
        owner = (getattr(self, "last", None)
                 or (self.target if row.outcome == cells.COMPLETED else self.source))
        try:
            self.test.equal(owner.store.tool("verify-key").rc, 0, "verify-key with the right key")
            inside = owner.store.info()["inside"]
            if not row.image and owner.store.image == self.source.store.image:
                self.test.equal(inside["instance"], self.mark["instance"], "instance of the image")
                self.test.check(inside["generation"] >= self.mark["generation"],
                                "the image went back to an earlier generation")
                row.image = f"+{inside['generation'] - self.mark['generation']} generations"
            elif not row.image:
                row.image = f"generation {inside['generation']}"
            self.test.end()
            self.test.sound(owner.store)
        except Failure as e:
            row.wrong = str(e)


def run_cell(test, cell):
    """A row; never raises for what the cell does."""
    run = Run(test, cell)
    try:
        return run.go()
    except Exception as e:  # the others are wanted all the same
        run.row.wrong = f"{type(e).__name__}: {e}"
        return run.row
