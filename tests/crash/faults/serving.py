"""serve, from its start to the first command it answers, and down again."""

import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "qemu"))

from harness.process import Failure  # noqa: E402
from harness.tpm import Tpm2  # noqa: E402

from . import judge  # noqa: E402
from .commands import INDEX, LIMIT_S, Broken, Scene  # noqa: E402

SOCKETS = ("--ctrl", "type=unixio,path=c", "--server", "type=unixio,path=d")
READY = ("--flags", "not-need-init,startup-clear")


class Data:
    """A client of the data channel."""

    def __init__(self, path, timeout=LIMIT_S):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(path)

    def receive(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise Failure("the data connection was closed")
            data += more
        return data

    def send(self, command):
        self.sock.sendall(command)
        head = self.receive(10)
        return head + self.receive(int.from_bytes(head[2:6], "big") - 10)

    def close(self):
        self.sock.close()


class Daemon:
    """One that nothing fails in."""

    def __init__(self, tools, folder, *more):
        self.folder = folder
        self.child = subprocess.Popen(
            [tools.nvkeep, "serve", "i", "--key", "file=k", *SOCKETS, *READY, *more], cwd=folder,
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        end = time.monotonic() + LIMIT_S
        while not os.path.exists(os.path.join(folder, "d")):
            if self.child.poll() is not None or time.monotonic() > end:
                self.child.kill()
                raise Broken(f"the daemon does not start: {self.child.stderr.read().decode()}")
            time.sleep(0.002)
        self.data = Data(os.path.join(folder, "d"))
        self.tpm = Tpm2(self.data.send)

    def __enter__(self):
        return self

    def kill(self):
        self.child.kill()

    def __exit__(self, *_):
        self.data.close()
        self.child.terminate()
        self.child.communicate(timeout=LIMIT_S)
        for name in ("c", "d"):
            if os.path.exists(os.path.join(self.folder, name)):
                os.unlink(os.path.join(self.folder, name))


class Serve(Scene):
    """Faults until it is confined; from then on everything works, or nothing was ever there."""

    n_short = 20

    def setup(self):
        self.needs = ("k", "i")
        super().setup()

    def answers(self):
        """None, or what is wrong with the service."""
        try:
            data = Data(os.path.join(self.folder, "d"))
            tpm = Tpm2(data.send)
            if tpm.nv_read(INDEX, 16) != b"sixteen bytes...":
                return "it serves another state"
            tpm.nv_write(INDEX, b"written again...")
            if tpm.nv_read(INDEX, 16) != b"written again...":
                return "it does not keep what is written"
            data.close()
        except (OSError, Failure) as e:
            return f"it does not serve: {e}"
        return None

    def follow(self, run):
        self.service = None
        end = time.monotonic() + LIMIT_S
        while not run.ended() and not self.is_ready(run.control):
            if time.monotonic() > end:
                return None
            time.sleep(0.001)
        if run.ended():
            return run.wait_ended(LIMIT_S)
        self.service = self.answers() or "ok"
        run.signal_program(signal.SIGTERM)
        return run.wait_ended(LIMIT_S)

    @staticmethod
    def is_ready(control):
        """It was armed at its first instruction and is no more."""
        return control.n_calls > 0 and not control.armed

    def done(self, outcome):
        if self.service != "ok":
            return f"exit code 0, but {self.service}"
        return self.left_behind(outcome) or self.check()

    def refused(self, outcome):
        if self.service is not None:
            return f"it failed after it was ready: {outcome.err}"
        return self.left_behind(outcome) or self.check()

    def left_behind(self, outcome):
        """The log stays, and what could not be taken away because that was what failed: the next start
        finds nobody behind it."""
        after = judge.entries(self.folder, contents=False)
        extra = after.keys() - self.before.keys() - {"l"}
        if outcome.hit.split()[:1] in (["262"], ["263"]) or outcome.code < 0:
            extra -= {"c", "d", "a", "p"}
        return f"left behind: {sorted(extra)}" if extra else None


class Background(Serve):
    """The exit code tells whether there is a daemon; nobody else is left."""

    def follow(self, run):
        self.service = None
        code = run.wait_ended(LIMIT_S)
        if code == 0:
            self.service = self.answers() or "ok"
            self.end_daemon()
        return code

    def end_daemon(self):
        try:
            with open(os.path.join(self.folder, "p"), encoding="ascii") as f:
                os.kill(int(f.read()), signal.SIGTERM)
        except (OSError, ValueError) as e:
            self.service = f"its pid file cannot be used: {e}"


def scenes(t, key):
    serve = ("serve", "i", *key, *SOCKETS, *READY)
    yield Serve(*t, "serve", *serve, "--admin", "type=unixio,path=a", "--pid", "file=p", "--log",
                "file=l", until_confined=True)
    yield Background(*t, "serve --daemon --pid", *serve, "--daemon", "--pid", "file=p")
