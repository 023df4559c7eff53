"""nvkeep import --in-place is killed before each of its system calls. Afterwards the machine has its old
state, whole and under its name, or the image, whole; never neither, never both. What is there then goes
on: a second call finishes it, or what stands in swtpm's place starts from the image.

    test_in_place_kill.py             before every call that changes a name or a file, and some of the others
    test_in_place_kill.py --long      before every call

The program is the real one (NVKEEP), traced by tool_inject.c.
"""

import os
import shutil
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

from faults import calls, commands, serving  # noqa: E402
from faults.inject import KILL, Control, Injected  # noqa: E402
from faults.program import main  # noqa: E402

KEY = "file=k"
# What changes something. The others are many, and what is there then is what the call before left.
CHANGES = {"linkat", "renameat", "renameat2", "unlinkat", "fsync", "fdatasync", "fchmod", "fchown",
           "ftruncate", "pwrite64", "write"}
SOME_OTHERS = 23
WAIT_S = 20


class Kill:
    """Before the nth call of that number."""

    def __init__(self, number, nth):
        self.number, self.nth = number, nth

    def words(self):
        return {"call": self.number, "nth": self.nth, "how": KILL, "match": 0, "for_good": 0, "error": 0}

    def __str__(self):
        return f"killed before {calls.NAMES.get(self.number, self.number)} {self.nth}"


class Wrong(Exception):
    pass


def read(path):
    with open(path, "rb") as f:
        return f.read()


class Scene:
    """One machine's state; what is kept of it has other names."""

    def __init__(self, tools, base, name, source, words, state="tpm2-00.permall", image="tpm2-00.qcow2"):
        self.tools, self.name, self.source, self.words = tools, name, source, words
        self.folder = os.path.join(base, name)
        self.place = os.path.join(self.folder, "machine", "tpm2")
        self.state, self.image = state, image
        self.is_store = state == image
        self.old = {n: read(os.path.join(source, n)) for n in os.listdir(source)}
        self.outcomes = {"state": 0, "image": 0}

    def path(self, name):
        return os.path.join(self.place, name)

    def has(self, name):
        return os.path.exists(self.path(name))

    def prepare(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        shutil.copytree(self.source, self.place)
        shutil.copy(os.path.join(self.source, "..", "k"), self.folder)

    def argv(self):
        target = "machine/tpm2/" + self.state if self.is_store else "machine"
        return ["import", "--in-place", target, "--iter-time", "1", *self.words]

    def run(self, control, kill=None, log="-"):
        self.prepare()
        control.clear()
        control.plan(kill)
        control.set(armed=0, arm_at_entry=1, has_ended=0)
        run = Injected(self.tools, control, [self.tools.nvkeep, *self.argv()], self.folder,
                       self.folder + ".output", log, preload=False)
        try:
            code = run.wait_ended(WAIT_S)
            if not run.wait_all(WAIT_S):
                raise Wrong("it hangs")
        finally:
            run.kill()
        return code, run.err()

    def look(self):
        """"state" or "image"; Wrong where it is neither, or both."""
        named = [n for n in {self.state, self.image} if self.has(n)]
        images = [n for n in named if read(self.path(n))[:4] == b"QFI\xfb"]
        if images and images != named and not self.is_store:
            raise Wrong(f"there are {named}, and not all of them the image")
        if images:
            if len({os.stat(self.path(n)).st_ino for n in images}) != 1:
                raise Wrong(f"{images} are two images")
            self.check_kept()
            self.check_image(images[0])
            return "image"
        if not named:
            raise Wrong(f"there is neither state nor image: {sorted(os.listdir(self.place))}")
        for name, content in self.old.items():
            if read(self.path(name)) != content:
                raise Wrong(f"the old {name} is not whole")
        return "state"

    def check_kept(self):
        for name, content in self.old.items():
            if read(self.path(name + ".before-nvkeep")) != content:
                raise Wrong(f"what was kept of {name} is not what it was")

    def key(self):
        return KEY if self.words else "file=" + self.path(
            self.state + ".key" if self.is_store else "tpm2-00.key")

    def check_image(self, name):
        done = self.tools.run(self.folder, "check", self.path(name), "--key", self.key())
        if done.returncode:
            raise Wrong(f"nvkeep check: {done.stderr.decode()}")

    def call_again(self):
        for _ in range(2):  # the second time there is nothing to do
            done = self.tools.run(self.folder, *self.argv())
            if done.returncode:
                raise Wrong(f"called again: {done.stderr.decode()}")
        if self.look() != "image":
            raise Wrong("called again, and there is no image")
        rest = {n for n in os.listdir(self.place) if not n.endswith(".before-nvkeep")}
        wanted = {self.image, ".lock"} | (set() if self.words else {os.path.basename(self.key()[5:])})
        if rest - {".lock"} != wanted - {".lock"}:
            raise Wrong(f"called again, and there is {sorted(rest)}")

    def start_in_swtpms_place(self):
        """The image has its own name then."""
        ctrl = os.path.join(self.folder, "c")
        state = (f"backend-uri=file://{self.path(self.state)}" if self.is_store
                 else f"dir={self.place}")
        daemon = subprocess.Popen(
            [os.path.join(os.environ["NVKEEP_BUILD"], "compat", "swtpm"), "socket", "--tpm2", "--tpmstate",
             state, "--ctrl", f"type=unixio,path={ctrl}",
             *(["--key", "pwdfile=k,mode=aes-256-cbc"] if self.words else [])],
            cwd=self.folder, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            end = time.monotonic() + WAIT_S
            while not os.path.exists(ctrl):
                if daemon.poll() is not None or time.monotonic() > end:
                    raise Wrong(f"does not start: {daemon.stderr.read().decode()}")
                time.sleep(0.005)
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(WAIT_S)
                s.connect(ctrl)
                s.sendall(bytes([0, 0, 0, 2, 0, 0, 0, 0]))
                if s.recv(4) != bytes(4):
                    raise Wrong("INIT fails")
        finally:
            daemon.kill()
            daemon.communicate()
        if not self.has(self.image):
            raise Wrong(f"it runs, and there is {sorted(os.listdir(self.place))}")

    def try_one(self, control, kill, starts):
        code, err = self.run(control, kill)
        if control.n_hits == 0:
            if code != 0:
                raise Wrong(f"without a kill: {code}: {err}")
            return False
        found = self.look()
        self.outcomes[found] += 1
        if found == "image" and starts:
            self.start_in_swtpms_place()
        self.call_again()
        return True


def kills_of(log, every):
    """One for each line of the log, with the number among its like."""
    seen, changing, others = {}, [], []
    with open(log, encoding="utf-8", errors="replace") as f:
        for line in f:
            number = int(line.split()[0])
            seen[number] = seen.get(number, 0) + 1
            which = changing if calls.NAMES.get(number) in CHANGES else others
            which.append(Kill(number, seen[number]))
    # What an image consists of is written before it has a name; that is one moment, and not hundreds.
    writes = [k for k in changing if calls.NAMES[k.number] in ("pwrite64", "write")]
    changing = [k for k in changing if k not in writes]
    return changing + (others + writes if every else (others + writes)[::SOME_OTHERS])


def make_sources(tools, base):
    """What swtpm would have: a state with a volatile one, and the same encrypted, and in a store."""
    made = os.path.join(base, "made")
    os.mkdir(made)
    commands.make_templates(tools, made)
    with serving.Daemon(tools, made) as daemon:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(WAIT_S)
            s.connect(os.path.join(made, "c"))
            s.sendall(bytes([0, 0, 0, 10]))
            s.recv(4)
        daemon.kill()
    os.mkdir(os.path.join(made, "linear"))
    for uri, *more in (("dir://clear", "--plaintext"), ("file://linear/nvram", "--plaintext"),
                       ("dir://sealed", "--target-key", "pwdfile=k,mode=aes-256-cbc")):
        done = tools.run(made, "export", "i", uri, "--key", KEY, *more)
        if done.returncode:
            raise commands.Broken(f"export: {done.stderr.decode()}")
    return made


class Tally:
    violations = faults = 0


def run_all(tools, options, base):
    made = make_sources(tools, base)
    control = Control(os.path.join(base, "control"))
    log = os.path.join(base, "log")
    tally = Tally()
    sealed = ("--source-key", "pwdfile=k,mode=aes-256-cbc")
    for scene in (Scene(tools, base, "clear", os.path.join(made, "clear"), ()),
                  Scene(tools, base, "sealed", os.path.join(made, "sealed"), sealed),
                  Scene(tools, base, "store", os.path.join(made, "linear"), (), "nvram", "nvram")):
        code, err = scene.run(control, log=log)
        if code != 0 or scene.look() != "image":
            raise commands.Broken(f"{scene.name}: {code}: {err}")
        kills = kills_of(log, options.long)[:: options.every or 1]
        for n, kill in enumerate(kills):
            try:
                tally.faults += scene.try_one(control, kill, starts=options.long or n % 2 == 0)
            except Wrong as e:
                tally.violations += 1
                print(f"VIOLATION: {scene.name}: {kill}: {e}", flush=True)
        print(f"{scene.name}: {len(kills)} kills: {scene.outcomes['state']} left the old state, "
              f"{scene.outcomes['image']} the image", flush=True)
        if not all(scene.outcomes.values()):
            tally.violations += 1
            print(f"VIOLATION: {scene.name}: of the two only one was seen")
    print(f"{tally.faults} kills, {tally.violations} violations")
    return tally


if __name__ == "__main__":
    sys.exit(main(run_all))
