"""Commands that run and end. A scene knows its command line, what is there before it, and what must be
there when it says that it worked, or that it did not."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time

from . import judge
from .inject import Injected

LIMIT_S = 10
INDEX = 0x01500001


class Broken(Exception):
    """The scene cannot even be set."""


class Outcome:
    def __init__(self, code, out, err, hit, folder):
        self.code, self.out, self.err, self.hit, self.folder = code, out, err, hit, folder
        self.seconds = 0


class Scene:
    """One command. Its folder holds nothing but what the scene put there."""

    n_short = 12  # faults in the short form

    def __init__(self, tools, templates, base, name, *words, until_confined=False):
        self.tools, self.templates, self.name, self.words = tools, templates, name, words
        self.until_confined = until_confined
        self.folder = os.path.join(base, re.sub(r"\W+", "-", name))
        self.output = self.folder + ".output"
        os.mkdir(self.folder)
        self.needs = ("k",)
        self.clean = None  # how it ends without faults

    def put(self, name, data):
        path = os.path.join(self.folder, name)
        with open(path, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write(data)

    def setup(self):
        for name in self.needs:
            self.put(name, self.templates[name])
        self.before = judge.entries(self.folder)

    def teardown(self):
        pass

    def prepare(self):
        """As it was at setup; the same files, not new ones."""
        for name, now in judge.entries(self.folder).items():
            path = os.path.join(self.folder, name)
            if name not in self.before and os.path.isdir(path):
                shutil.rmtree(path)
            elif name not in self.before:
                os.unlink(path)
            elif now != self.before[name] and now[0][0] == "-":
                self.put(name, self.before[name][3])
                os.utime(path, ns=(self.before[name][2],) * 2)
        for name in self.before.keys() - set(os.listdir(self.folder)):
            self.put(name, self.before[name][3])
            os.utime(os.path.join(self.folder, name), ns=(self.before[name][2],) * 2)

    def start(self, control, log="-"):
        control.set(armed=0, arm_at_entry=1, until_confined=int(self.until_confined), has_ended=0)
        return Injected(self.tools, control, [self.tools.nvkeep, *self.words], self.folder,
                        self.output, log, preload=not self.tools.sanitized)

    def follow(self, run):
        """While it runs: its exit code, or None if it takes too long."""
        return run.wait_ended(LIMIT_S)

    def perform(self, control, fault=None, log="-"):
        """Once, with that fault. Returns an Outcome; code None: it hung."""
        self.prepare()
        control.clear()
        control.plan(fault)
        if log != "-":
            control.record()
        began = time.monotonic()
        run = self.start(control, log)
        try:
            code = self.follow(run)
            if code is not None and not run.wait_all(LIMIT_S):
                code = None
        finally:
            run.kill()
        hit = control.alloc_hit if fault and fault.call == "allocation" else control.hit
        outcome = Outcome(code, run.out(), run.err(), hit, self.folder)
        outcome.seconds = time.monotonic() - began
        return outcome

    def complaint(self, fault, outcome):
        """None, or what is wrong."""
        if outcome.code is None:
            return f"it hangs: {outcome.err}"
        if outcome.code == 0 and judge.must_fail(fault):
            return "exit code 0, and not all of it can be on the disk"
        if outcome.code == 0:
            return self.done(outcome)
        if judge.died_in_library(fault, outcome.hit, outcome.code):
            return self.refused(outcome)
        if judge.no_failure(fault, outcome.hit):
            return f"is no failure, but it failed: {outcome.err}"
        wrong = judge.complaint_about_words(fault, outcome.hit, outcome.code, outcome.err,
                                            self.clean.err)
        return wrong or self.refused(outcome)

    def done(self, outcome):
        """It says that it worked: everything is as without faults."""
        if outcome.out != self.clean.out:
            return f"exit code 0, but it printed {outcome.out!r}"
        return self.refused(outcome)

    def refused(self, outcome):
        """It says that it failed: everything is as it was."""
        del outcome
        return judge.difference(self.before, judge.entries(self.folder)) or None

    def check(self, image="i"):
        """None, or what nvkeep check has against it."""
        done = self.tools.run(self.folder, "check", image, "--key", "file=k")
        return None if done.returncode == 0 else f"nvkeep check: {done.stderr.decode()}"


class OnImage(Scene):
    def setup(self):
        self.needs = ("k", "i")
        super().setup()


class Create(Scene):
    """new: the files that it makes."""

    def __init__(self, *args, new=("i",), key="k"):
        super().__init__(*args)
        self.new, self.key = set(new), key

    def done(self, outcome):
        after = judge.entries(self.folder)
        rest = {n: v for n, v in after.items() if n not in self.new}
        wrong = judge.difference(self.before, rest)
        if wrong or not self.new <= after.keys():
            return f"exit code 0, but: {wrong or 'a file is missing'}"
        if any(after[n][0] != "-rw-------" for n in self.new):
            return "exit code 0, but others may read it"
        if "--json" in self.words:
            if json.loads(outcome.out)["result"] != "OK":
                return f"exit code 0, but it printed {outcome.out!r}"
        elif not re.search(r"instance [0-9a-f-]{36}, (.* created|imported)", outcome.out):
            return f"exit code 0, but it printed {outcome.out!r}"
        done = self.tools.run(self.folder, "check", "i", "--key", "file=" + self.key)
        return None if done.returncode in (0, 20) else f"nvkeep check: {done.stderr.decode()}"


class Import(Create):
    def setup(self):
        self.needs = ("k", "store")
        Scene.setup(self)


class ImportInPlace(Scene):
    """Of a state in the folder itself."""

    def setup(self):
        self.needs = ()
        super().setup()
        self.put("tpm2-00.permall", self.templates["state"])
        self.before = judge.entries(self.folder)

    def prepare(self):
        """The name may have become the image's meanwhile."""
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))
        super().prepare()

    def complaint(self, fault, outcome):
        """What is not there any more is gone, and was changed by somebody."""
        if fault.error == errno.ENOENT and outcome.code in (20, 31):
            return self.refused(outcome)
        return super().complaint(fault, outcome)

    def is_done(self):
        """None, or what is not as it is without faults."""
        after = judge.entries(self.folder)
        after.pop(".lock", None)  # swtpm leaves it, too
        wanted = {"tpm2-00.qcow2", "tpm2-00.key", "tpm2-00.permall.before-nvkeep"}
        if set(after) != wanted:
            return f"there is {sorted(after)}"
        if after["tpm2-00.permall.before-nvkeep"] != self.before["tpm2-00.permall"]:
            return "what was kept is not what was there"
        done = self.tools.run(self.folder, "check", "tpm2-00.qcow2", "--key", "file=tpm2-00.key")
        return None if done.returncode == 0 else f"nvkeep check: {done.stderr.decode()}"

    def done(self, outcome):
        wrong = self.is_done()
        return f"exit code 0, but: {wrong}" if wrong else None

    def refused(self, outcome):
        """Where even the way back failed, the image has the name of the state and the next call goes on."""
        wrong = judge.difference(self.before, judge.entries(self.folder))
        if not wrong:
            return None
        again = self.tools.run(self.folder, *self.words)
        unfinished = self.is_done()
        return f"{wrong}; and then: {again.stderr.decode()} {unfinished}" if unfinished else None


class Export(OnImage):
    """What comes out in clear is known to the byte."""

    def __init__(self, *args, target):
        super().__init__(*args)
        self.target = target

    def done(self, outcome):
        after = judge.entries(self.folder)
        made = after.pop("target", None)
        wrong = judge.difference(self.before, after)
        if wrong or not made or "exported" not in outcome.out:
            return f"exit code 0, but: {wrong or outcome.out}"
        content = _read(self.folder, self.target)
        # Behind the headers of store and file is the same state.
        return None if content[-1:] and self.templates["state"] in content else "another state"


class Recover(Scene):
    """Of the damaged image i, whose last record is lost."""

    def setup(self):
        self.needs = ("k",)
        super().setup()
        self.put("i", self.templates["damaged"])
        self.before = judge.entries(self.folder)

    def is_recovered(self):
        return self.check() is None

    def copy_is_wrong(self):
        path = os.path.join(self.folder, "b")
        if not os.path.exists(path):
            return None
        with open(path, "rb") as f:
            return None if f.read() == self.before["i"][3] else "the copy is not what the image was"

    def done(self, outcome):
        extra = judge.entries(self.folder).keys() - self.before.keys()
        wanted = {"b"} if "--backup" in self.words else set()
        if extra != wanted or "recovered:" not in outcome.out:
            return f"exit code 0, but there is {extra}, and it printed {outcome.out!r}"
        if not self.is_recovered():
            return "exit code 0, but the image is still damaged"
        return self.copy_is_wrong()

    def refused(self, outcome):
        after = judge.entries(self.folder)
        if "b" in after and "b" not in self.before:
            del after["b"]
        difference = judge.difference(self.before, after)
        if difference and set(after) != set(self.before):
            return difference
        if difference and not self.is_recovered():
            again = self.tools.run(self.folder, "recover", "i", "--key", "file=k", "--yes",
                                   "--no-backup")
            if again.returncode != 0 or not self.is_recovered():
                return f"{difference}; it cannot be recovered: {again.stderr.decode()}"
        return self.copy_is_wrong()


class KeyChange(OnImage):
    """Whatever fails, a key that stays opens the image, nothing in it is damaged, and the same command
    again leads to the keys that there are to be."""

    def __init__(self, *args, had=("k",), after):
        super().__init__(*args)
        self.had, self.after = had, set(after)

    def setup(self):
        super().setup()
        self.put("k2", b"the second key")
        if "k2" in self.had:
            done = self.tools.run(self.folder, "key", "add", "i", "--key", "file=k", "--next-key", "file=k2",
                                  "--iter-time", "1")
            if done.returncode != 0:
                raise Broken(f"key add: {done.stderr.decode()}")
        self.before = judge.entries(self.folder)

    def opening(self):
        return {k for k in ("k", "k2") if self.tools.run(self.folder, "check", "i", "--key",
                                                         "file=" + k).returncode == 0}

    def others(self):
        before, after = dict(self.before), judge.entries(self.folder)
        before.pop("i"), after.pop("i", None)
        return judge.difference(before, after) or None

    def done(self, outcome):
        del outcome
        if self.opening() != self.after:
            return f"exit code 0, and what opens the image is {self.opening()}"
        return self.others()

    def refused(self, outcome):
        now = self.opening()
        if not now >= self.after & set(self.had) or not now or not now <= self.after | set(self.had):
            return f"what opens the image is {now}"
        again = self.tools.run(self.folder, *self.words)
        gone = 11 if "remove" in self.words else 0  # --old-key opens nothing any more
        if again.returncode not in (0, gone) or self.opening() != self.after:
            return f"the same again: {again.stderr.decode()}, and what opens the image is {self.opening()}"
        return self.others()


class Ctl(Scene):
    """Against a daemon that nothing fails in. fresh: a new one each time."""

    DAEMON = ("serve", "i", "--key", "file=k", "--ctrl", "type=unixio,path=c", "--admin",
              "type=unixio,path=a", "--log", "file=l", "--flags", "startup-clear")

    def __init__(self, *args, fresh=False, waiting=False, stop_after=None):
        super().__init__(*args)
        self.fresh, self.stop_after = fresh, stop_after
        self.daemon_words = [w if not waiting or w != "file=k" else "admin" for w in self.DAEMON]
        self.daemon = None

    def begin_daemon(self):
        self.daemon = subprocess.Popen([self.tools.nvkeep, *self.daemon_words], cwd=self.folder,
                                       stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + LIMIT_S
        wanted = "a" if "admin" in self.daemon_words else "c"
        while not os.path.exists(os.path.join(self.folder, wanted)):
            if time.monotonic() > end:
                raise Broken("the daemon does not start")
            time.sleep(0.002)

    def end_daemon(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(LIMIT_S)
        self.daemon = None

    def setup(self):
        self.needs = ("k", "i")
        super().setup()
        if not self.fresh:
            self.begin_daemon()
            self.before = judge.entries(self.folder)

    def teardown(self):
        self.end_daemon()

    def prepare(self):
        if self.fresh:
            self.end_daemon()
            super().prepare()
            self.begin_daemon()

    def follow(self, run):
        if self.stop_after is not None:
            n, end = -1, time.monotonic() + LIMIT_S
            # Until it waits for events: nothing is asked for any more. Nothing at all: it has not begun.
            while not run.ended() and time.monotonic() < end and (n != run.asked_for() or n == 0):
                n = run.asked_for()
                run.wait_ended(self.stop_after)
            self.daemon.terminate()
        return run.wait_ended(LIMIT_S)

    def done(self, outcome):
        like = re.sub(r"[0-9a-zA-Z_+/=-]{60,}|\d{9,}\.\d+|\d+", "X", outcome.out)
        clean = re.sub(r"[0-9a-zA-Z_+/=-]{60,}|\d{9,}\.\d+|\d+", "X", self.clean.out)
        if like != clean and self.stop_after is None:
            return f"exit code 0, but it printed {outcome.out!r}"
        if "quit" in self.words and self.daemon.wait(LIMIT_S) != 0:
            return "exit code 0, but the daemon did not end in order"
        return self.refused(outcome)

    def refused(self, outcome):
        """The daemon is well, or has ended in order; the image is not changed by what is asked here."""
        if self.stop_after is not None or "quit" in self.words:
            try:
                code = self.daemon.wait(0.1 if outcome.code else LIMIT_S)
                return None if code == 0 else f"the daemon ended with {code}"
            except subprocess.TimeoutExpired:
                pass
        asked = self.tools.run(self.folder, "ctl", "a", "query-status")
        if asked.returncode != 0:
            return f"the daemon does not answer any more: {asked.stderr.decode()}"
        return None


def make_templates(tools, folder):
    """An image with an index, and the same with a damaged last record."""
    key = b"correct horse"
    with open(os.path.join(folder, "k"), "wb", opener=lambda p, f: os.open(p, f, 0o600)) as f:
        f.write(key)
    made = tools.run(folder, "create", "i", "--key", "file=k", "--iter-time", "1")
    if made.returncode != 0:
        raise Broken(f"create: {made.stderr.decode()}")
    from . import serving
    templates = {"k": key}
    with serving.Daemon(tools, folder) as daemon:
        daemon.tpm.nv_define(INDEX, 16)
        daemon.tpm.nv_write(INDEX, b"sixteen bytes...")
    templates["i"] = _read(folder, "i")
    shutil.copyfile(os.path.join(folder, "i"), os.path.join(folder, "fresh"))
    with serving.Daemon(tools, folder) as daemon:
        daemon.tpm.nv_write(INDEX, b"another sixteen.")
        before = _read(folder, "i")
        daemon.tpm.nv_write(INDEX, b"what is damaged.")
        after = _read(folder, "i")
        daemon.kill()
    for target in ("store", "state"):
        uri = ("file://" if target == "store" else "dir://") + target
        made = tools.run(folder, "export", "fresh", uri, "--key", "file=k", "--plaintext")
        if made.returncode != 0:
            raise Broken(f"export: {made.stderr.decode()}")
    at = next(i for i in range(len(after)) if after[i] != before[i])
    damaged = bytearray(after)
    damaged[at // 512 * 512 + 333] ^= 16
    templates["damaged"] = bytes(damaged)
    templates["store"] = _read(folder, "store")
    templates["state"] = _read(folder, "state/tpm2-00.permall")
    return templates


def _read(folder, name):
    with open(os.path.join(folder, name), "rb") as f:
        return f.read()


def all_scenes(tools, templates, base):
    t = (tools, templates, base)
    quick = ("--iter-time", "1")
    key = ("--key", "file=k")
    yield Create(*t, "create", "create", "i", *key, *quick)
    tpm12 = Create(*t, "create --new-key --tpm12 --json", "create", "i", "--new-key", "nk", "--tpm12",
                   *quick, "--json", new=("i", "nk"), key="nk")
    tpm12.n_short = 6  # each makes an RSA key
    yield tpm12
    yield Create(*t, "create --incoming", "create", "i", *key, *quick, "--incoming", "--size", "512K",
                 "--cluster-size", "4K")
    yield Import(*t, "import", "import", "file://store", "i", *key, *quick)
    yield ImportInPlace(*t, "import --in-place", "import", "--in-place", ".", *quick)
    yield Export(*t, "export file://", "export", "i", "file://target", *key, "--plaintext",
                 target="target")
    yield Export(*t, "export dir://", "export", "i", "dir://target", *key, "--plaintext",
                 target="target/tpm2-00.permall")
    yield OnImage(*t, "info", "info", "i")
    yield OnImage(*t, "info --key --json", "info", "i", *key, "--json")
    yield OnImage(*t, "verify-key", "verify-key", "i", "--key", "pwdfile=k")
    yield OnImage(*t, "check", "check", "i", *key)
    dry = Recover(*t, "recover", "recover", "i", *key)
    # What cannot be read is damage, too: it may say that less is left.
    dry.done = lambda outcome: (None if "recoverable:" in outcome.out else "exit code 0, and no report"
                                ) or Scene.refused(dry, outcome)
    yield dry
    yield Recover(*t, "recover --yes --backup", "recover", "i", *key, "--yes", "--backup", "b")
    yield Recover(*t, "recover --yes --no-backup", "recover", "i", *key, "--yes", "--no-backup")
    change = ("i", *key, "--next-key", "file=k2", *quick)
    yield OnImage(*t, "key list --key", "key", "list", "i", *key)
    yield KeyChange(*t, "key add --slot 6", "key", "add", *change, "--slot", "6", after=("k", "k2"))
    yield KeyChange(*t, "key rotate", "key", "rotate", *change, after=("k2",))
    yield KeyChange(*t, "key remove", "key", "remove", "i", "--key", "file=k2", "--old-key", "file=k",
                    had=("k", "k2"), after=("k2",))
    yield Ctl(*t, "ctl query-status", "ctl", "a", "query-status")
    yield Ctl(*t, "ctl prepare-outgoing --json", "ctl", "a", "prepare-outgoing", "--json")
    yield Ctl(*t, "ctl add-key", "ctl", "a", "add-key", *key, fresh=True, waiting=True)
    yield Ctl(*t, "ctl events", "ctl", "a", "events", "--follow", fresh=True, stop_after=0.05)
    yield Ctl(*t, "ctl quit", "ctl", "a", "quit", fresh=True)
    for words in (("help",), ("--version",), ("help", "exit-codes"), ("help", "words"),
                  ("create", "--help")):
        yield Scene(*t, " ".join(words), *words)
    from . import serving
    yield from serving.scenes(t, key)
