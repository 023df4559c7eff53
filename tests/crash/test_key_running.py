"""Keys of an image are changed while its TPM is being served.

    test_key_running.py           a guest that writes all the time meets three changes; then the daemon
                                  is killed at every fourth write and flush of a rotation
    test_key_running.py --long    thirty changes; killed at every write and flush

The guest's commands are answered while a passphrase is stretched, which takes longer than many of them;
how long they take with and without is printed. After a kill a key opens the image, its TPM is as the
guest left it, and the same rotation comes to the same end. [S0.7]
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "qemu"))

from faults.serving import Daemon  # noqa: E402
from harness.admin import CHANGE_S, Admin  # noqa: E402
from harness.process import Failure  # noqa: E402
from harness.qmp import QmpError  # noqa: E402

INDEX, NV_BYTES = 0x01500001, 16
KEYS = {"k": b"correct horse", "k2": b"the second key", "k3": b"the third key"}
STRETCH_MS = "300"
N_BASELINE = 2000


class Tools:
    nvkeep = os.environ["NVKEEP"]

    def run(self, folder, *words):
        return subprocess.run([self.nvkeep, *words], cwd=folder, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=60, check=False)


def check(condition, what):
    if not condition:
        raise Failure(what)


def opening(tools, folder):
    """The keys that open the image; nothing in it is damaged."""
    opened = {k for k in KEYS if tools.run(folder, "verify-key", "i", "--key", "file=" + k).returncode == 0}
    for k in opened:
        done = tools.run(folder, "check", "i", "--key", "file=" + k)
        check(done.returncode == 0, f"nvkeep check: {done.stderr.decode()}")
    return opened


class Guest:
    """Writes to an index, one command after the other, and notes how long each took."""

    def __init__(self, tpm):
        self.tpm, self.n = tpm, 0

    def write(self):
        self.n += 1
        began = time.monotonic()
        self.tpm.nv_write(INDEX, b"%016d" % self.n)
        return (time.monotonic() - began) * 1000

    def holds(self):
        check(self.tpm.nv_read(INDEX, NV_BYTES) == b"%016d" % self.n, "the TPM lost what was written")


class Busy:
    """A processor that has nothing to do sleeps deeply, and disks answer it late: what keeps it awake, as
    stretching does, makes the guest's commands faster."""

    def __enter__(self):
        self.child = subprocess.Popen(["nice", "-n", "5", "sh", "-c", "while :; do :; done"])

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()


def figures(ms):
    ms = sorted(ms)
    return (f"p50 {ms[len(ms) // 2]:.2f} ms, p99 {ms[len(ms) * 99 // 100]:.2f} ms, longest {ms[-1]:.1f} ms "
            f"({len(ms)} commands)")


def write_during(guest, change):
    """The latencies of what the guest wrote while it was changed, and how long that took."""
    result, ms = [], []

    def run():
        try:
            result.append(change())
        except Failure as e:
            result.append(e)

    thread = threading.Thread(target=run)
    began = time.monotonic()
    thread.start()
    while thread.is_alive():
        ms.append(guest.write())
    thread.join()
    if isinstance(result[0], Failure):
        raise result[0]
    return ms, (time.monotonic() - began) * 1000, result[0]


def under_load(tools, folder, rounds):
    with Daemon(tools, folder, "--admin", "type=unixio,path=a") as daemon:
        admin = Admin(os.path.join(folder, "a"))
        guest = Guest(daemon.tpm)
        daemon.tpm.nv_define(INDEX, NV_BYTES)
        alone = [guest.write() for _ in range(N_BASELINE)]
        with Busy():
            busy = [guest.write() for _ in range(N_BASELINE)]
        meanwhile, most = [], 0.0
        for n in range(rounds):
            a, b = ("k2", "k3") if n % 2 else ("k3", "k2")
            slot = 1 + n % 2
            steps = [lambda: admin.change("key-add", KEYS[b], **{"slot": str(slot), "iter-time": STRETCH_MS}),
                     lambda: admin.change("key-rotate", KEYS[a], **{"slot": str(slot), "iter-time": STRETCH_MS}),
                     lambda: admin.change("key-remove", KEYS["k"], slot=str(used()))]

            def used():
                return admin.change("key-test", KEYS[a])["opens"][0]

            for step in steps:
                ms, took, _ = write_during(guest, step)
                # Stretching alone takes longer than many commands.
                check(len(ms) >= 10, f"{len(ms)} commands of the TPM in {took:.0f} ms of a change")
                most = max(most, max(ms) / took)
                meanwhile += ms
        guest.holds()
        check(admin.command("key-list")["in_use"] == [0], "other slots than 0 are in use")
        refuses(lambda: admin.change("key-remove", KEYS["k"], slot="0"), "USAGE", "the last key")
        refuses(lambda: admin.change("key-remove", KEYS["k2"], slot="0"), "KEY_WRONG", "one that stays")
        refuses(lambda: admin.change("key-add", KEYS["k2"], slot="0"), "USAGE", "slot 0 holds a key")
        refuses(lambda: admin.change("key-add", KEYS["k2"], slot="8"), "USAGE", "up to 7")
        refuses(lambda: admin.change("key-rotate", KEYS["k"], slot="0"), "USAGE", "is the old one")
        refuses(lambda: admin.command("key-add"), "KEY_MISSING", "descriptor")
        one_at_a_time(admin, folder)
        admin.close()
    check(opening(tools, folder) == {"k"}, "other keys than the first open the image")
    print(f"without changes of keys: {figures(alone)}")
    print(f"and with a busy processor: {figures(busy)}")
    print(f"while keys are changed:  {figures(meanwhile)}, {3 * rounds} changes of {STRETCH_MS} ms and more")
    return 3 * rounds


def refuses(call, name, text):
    try:
        call()
    except QmpError as e:
        check(name in str(e) and text in str(e), f"wanted {name} and \"{text}\": {e}")
    else:
        raise Failure(f"wanted {name} and \"{text}\", and it was done")


def one_at_a_time(admin, folder):
    """A second client is told so, and the first one's is done. One that hangs up has it done, too."""
    other = Admin(os.path.join(folder, "a"))
    first = admin.change_later("key-add", KEYS["k2"], **{"slot": "5", "iter-time": STRETCH_MS})
    other.command("query-status")
    refuses(lambda: other.change("key-test", KEYS["k"]), "LOCKED", "being changed")
    check(admin.answer(first, "key-add", CHANGE_S)["slot"] == 5, "another slot than 5")
    other.close()
    end = time.monotonic() + CHANGE_S
    while slots_in_use(admin) != [0]:
        check(time.monotonic() < end, "what a client asked for that hung up is never done")
        gone = Admin(os.path.join(folder, "a"))
        gone.change_later("key-remove", KEYS["k"], slot="5")
        gone.close()
        time.sleep(0.2)  # or the question may come first, and it is refused


def slots_in_use(admin):
    while True:
        try:
            return admin.command("key-list")["in_use"]
        except QmpError as e:
            check("LOCKED" in str(e), str(e))
            time.sleep(0.05)


def traced(tools, folder, at):
    """A daemon that is killed at its at-th write or flush."""
    words = ["serve", "i", "--key", "file=k2", "--ctrl", "type=unixio,path=c", "--admin", "type=unixio,path=a"]
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
    return subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fdatasync", "-e",
                             f"inject=pwrite64,fdatasync:signal=KILL:when={at}", tools.nvkeep, *words],
                            cwd=folder, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def rotate(folder):
    """False: the daemon was gone before it answered. None: it refused."""
    try:
        admin = Admin(os.path.join(folder, "a"))
        admin.change("key-rotate", KEYS["k3"], **{"slot": "6", "iter-time": "1"})
        admin.command("quit")
        admin.close()
    except QmpError:
        return None
    except (OSError, Failure):
        return False
    return True


def killed(tools, folder, step):
    """How often."""
    n = 0
    done = tools.run(folder, "key", "rotate", "i", "--key", "file=k", "--next-key", "file=k2", "--slot", "6",
                     "--iter-time", "1")
    check(done.returncode == 0, f"key rotate: {done.stderr.decode()}")
    shutil.copyfile(os.path.join(folder, "i"), os.path.join(folder, "whole"))
    for at in range(2, 200, step):  # the first flush is that of the start
        shutil.copyfile(os.path.join(folder, "whole"), os.path.join(folder, "i"))
        for name in ("a", "c"):
            if os.path.exists(os.path.join(folder, name)):
                os.unlink(os.path.join(folder, name))
        child = traced(tools, folder, at)
        whole = rotate(folder)
        if whole is None:
            child.kill()
            raise Failure(f"to be killed at call {at}: refused")
        child.communicate(timeout=60)
        if whole:
            break
        n += 1
        opened = opening(tools, folder)
        check(opened, f"killed at call {at}: no key opens the image")
        check(opened <= {"k2", "k3"}, f"killed at call {at}: {opened} open the image")
        again = tools.run(folder, "key", "rotate", "i", "--key", "file=k2", "--next-key", "file=k3", "--iter-time",
                          "1")
        check(again.returncode == 0, f"killed at call {at}, again: {again.stderr.decode()}")
        check(opening(tools, folder) == {"k3"}, f"killed at call {at}, again: the wrong keys")
    check(n > 15 // step, f"killed only {n} times")
    return n


def main():
    rounds, step = (10, 1) if "--long" in sys.argv else (1, 4)
    if not shutil.which("strace"):
        print("missing: strace")
        return 77
    tools = Tools()
    with tempfile.TemporaryDirectory(prefix="nvkeep-keys.") as folder:
        for name, key in KEYS.items():
            with open(os.path.join(folder, name), "wb") as f:
                f.write(key)
        made = tools.run(folder, "create", "i", "--key", "file=k", "--iter-time", "1")
        check(made.returncode == 0, f"create: {made.stderr.decode()}")
        n_changes = under_load(tools, folder, rounds)
        n_killed = killed(tools, folder, step)
    print(f"keys of a running TPM: {n_changes} changes under load, {n_killed} times killed, 0 without a key")
    return 0


if __name__ == "__main__":
    sys.exit(main())
