"""What came of a cell of the matrix: the row of the table, and whether it is as it should be.

Whatever was wrong, afterwards: the guest runs where it should and nowhere else, its TPM goes on where it
was, the image is the same or at a later generation of the same owner, the right key opens it, our and
QEMU's tools find it sound; and where the source kept the guest, a second try moves it.

"good afterwards": TPM the guest's TPM goes on (NV: what was acknowledged is there after a cold start),
retry with everything right it moves, key the right one opens the image, check ours and qemu-img's.
"""

import migration_cells as cells
from harness.process import Failure, wait_until
from harness.tpm import response_code
from harness.vm import Vm


class Row:
    """One line of the table."""

    def __init__(self, cell):
        self.cell = cell
        self.outcome = "?"
        self.code = ""  # of the refusal: an exit code, a result on the control channel, a class
        self.refused_ms = None  # of the refusal, relative to the guest's stop; None: it never stopped
        self.pause_ms = None  # from the guest's stop to where it ran again
        self.image = ""
        self.checked = []  # what was found good afterwards
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
                f"{self.code:18} {when:16} {pause:8} {self.image:17} "
                f"{' '.join(self.checked):24} {self.n_migrations} {self.seconds:4.1f} s "
                f"{self.wrong}").rstrip()

    HEADING = (f"{'':6} {'storage/key/image/return path/hooks/kill':58} {'outcome':27} "
               f"{'refusal':18} {'against STOP':16} {'pause':8} {'image':17} {'good afterwards':24} migrations, time")


class Verdict:
    """Part of a Run."""

    def judge(self):
        row, c = self.row, self.cell
        self.times()
        try:
            if row.outcome == cells.COMPLETED:
                self.guest_is_at(self.target)
                row.checked.append("TPM")
            elif row.outcome in (cells.POWER_CUT, cells.DAEMON_LOST):
                self.starts_again()
                row.checked.append("NV")
            else:
                self.guest_is_at(self.source)
                row.checked.append("TPM")
                self.second_try()
                row.checked.append("retry")
        except Failure as e:
            row.wrong = str(e)
        if not row.wrong and row.outcome not in cells.expected(c):
            row.wrong = "wanted: " + ", ".join(sorted(cells.expected(c)))
        if (not row.wrong and row.outcome == cells.AT_START
                and row.code not in cells.expected_codes(c)):
            row.wrong = "wanted: " + ", ".join(sorted(cells.expected_codes(c)))
        self.image_is_good()

    def times(self):
        row = self.row
        stop = self.source.qmp.find("STOP")
        at, target = self.refused_at, self.target
        refusals = [p.refusal(self.since) for p in (self.source.proxy, target and target.proxy) if p]
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

    def runs_nowhere_else(self, vm):
        """Never two guests, whatever happened."""
        for other in (self.source, self.target):
            if other is vm or not other or not other.qemu or not other.qemu.alive():
                continue
            try:
                status = other.status()
            except Failure:  # it ends just now
                continue
            self.test.check(status != "running", f"the guest runs at the {other.name} as well")

    def guest_is_at(self, vm):
        """It runs, and its TPM goes on without a gap."""
        self.runs_nowhere_else(vm)
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
        if self.target:
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
        if self.target:
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
        owner = self.last or (self.target if row.outcome == cells.COMPLETED else self.source)
        try:
            if row.outcome != cells.COMPLETED and self.cell.kill == "none":
                # S3.18 S3.26: nothing is made or mended in what was refused.
                self.test.check(self.target.store.image == self.source.store.image
                                or self.target.store.bytes() == self.theirs,
                                "what was refused was written to")
            self.test.equal(owner.store.tool("verify-key").rc, 0, "verify-key with the right key")
            row.checked.append("key")
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
            row.checked.append("check")
        except Failure as e:
            row.wrong = str(e)
