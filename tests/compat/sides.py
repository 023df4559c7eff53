"""swtpm and what stands in its place, with the same calls for both."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "qemu"))

from harness.case import Skip  # noqa: E402
from harness.process import Failure, run, wait_until  # noqa: E402

WAIT = 20


class Tried:
    """What was given to the daemons, for a report of it."""

    codes, options = set(), set()

    @classmethod
    def argv(cls, argv):
        option = ""
        for word in argv:
            if word.startswith("-"):
                option = word
                cls.options.add(option)
            elif option and not word.startswith("/"):
                names = (part.partition("=") for part in word.split(","))
                cls.options |= {f"{option} {n}{s}{v if n == 'type' else ''}" for n, s, v in names
                                if re.fullmatch("[a-z][a-z0-9-]*", n)}


class Side:
    """One of the two, in a folder of its own. `state` names what --tpmstate gets."""

    def __init__(self, test, name, swtpm, ioctl):
        self.test, self.name, self.swtpm, self.ioctl = test, name, swtpm, ioctl
        self.folder = test.path(name)
        os.makedirs(self.folder, exist_ok=True)
        self.n = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def new_state(self, name=None):
        self.n += 1
        path = self.path(name or f"state{self.n}")
        os.mkdir(path)
        return path

    def run(self, *argv, **how):
        """To its end: what it said and its exit code."""
        Tried.argv(argv)
        return run([self.swtpm, *argv], timeout=WAIT, cwd=self.folder, **how)

    def start(self, *argv, pass_fds=(), ready=None, env=None):
        """A daemon; ready: the path that tells that it is there."""
        Tried.argv(argv)
        self.n += 1
        process = subprocess.Popen([self.swtpm, *argv], cwd=self.folder, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   pass_fds=pass_fds, env={**os.environ, **(env or {})})
        running = Running(process)
        self.test.started(running)
        if ready:
            def there():
                if process.poll() is not None:
                    raise Failure(f"{self.name} ended with {process.returncode}: "
                                  f"{process.stderr.read().decode(errors='replace')}")
                return os.path.exists(self.path(ready))
            wait_until(f"{ready} of {self.name}", there, WAIT)
        return running

    def emulator(self, *more, state=None, family="2.0", ctrl="ctrl"):
        """As an emulator's manager starts it, with a control socket."""
        state = state or "dir=" + self.new_state()
        tpm2 = ["--tpm2"] if family == "2.0" else []
        return self.start("socket", "--tpmstate", state, *tpm2, "--ctrl",
                          f"type=unixio,path={ctrl}", *more, ready=ctrl)

    def connect(self, name):
        """To a data channel; its path may be there before somebody listens."""
        def connected():
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(self.path(name))
                return s
            except ConnectionRefusedError:
                s.close()
                return None
        return wait_until(f"{name} of {self.name}", connected, WAIT)

    def control(self, ctrl="ctrl"):
        return Control(self.path(ctrl))

    def call(self, tool, *argv, ctrl="ctrl"):
        done = run([tool, "--unix", self.path(ctrl), *argv], timeout=WAIT, cwd=self.folder)
        return done.rc, done.out, done.err


class Running:
    def __init__(self, process):
        self.process = process

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def wait(self, timeout=WAIT):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.process.args[0]} did not end") from None


class Control:
    """The bytes of the control channel. An answer is what comes within a moment."""

    def __init__(self, path, patience=WAIT):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(patience)
        for _ in range(200):  # swtpm's path is there before it listens
            try:
                self.socket.connect(path)
                return
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise Failure(f"nobody listens at {path}")

    def ask(self, code, body=b"", size=4, fds=()):
        """The answer of `size` bytes, or the first four where they are a refusal."""
        Tried.codes.add(code)
        message = code.to_bytes(4, "big") + body
        if fds:
            socket.send_fds(self.socket, [message], list(fds))
        else:
            self.socket.sendall(message)
        first = self.take(4)
        if first != bytes(4) and size > 4:
            self.socket.settimeout(0.2)
            try:
                self.socket.recv(size - 4)  # some pad, and some do not
            except TimeoutError:
                pass
            self.socket.settimeout(WAIT)
            return first
        return first + self.take(size - 4)

    def take(self, n):
        got = b""
        while len(got) < n:
            more = self.socket.recv(n - len(got))
            if not more:
                raise Failure("the control channel was closed")
            got += more
        return got

    def blob(self, flags, kind, offset=0):
        head = self.ask(0x0C, b"".join(v.to_bytes(4, "big") for v in (flags, kind, offset)), 16)
        if len(head) < 16:
            return head, b""
        return head, self.take(int.from_bytes(head[12:16], "big"))

    def close(self):
        self.socket.close()


def tpm_command(connection, command):
    connection.settimeout(WAIT)
    connection.sendall(command)
    head = b""
    while len(head) < 10:
        more = connection.recv(10 - len(head))
        if not more:
            return head
        head += more
    size = int.from_bytes(head[2:6], "big")
    while len(head) < size:
        head += connection.recv(size - len(head))
    return head


def both(name):
    """The paths of a tool, swtpm's and ours."""
    stock = shutil.which(name, path="/usr/bin:/bin")
    if not stock:
        raise Skip(f"{name} is missing")
    return stock, os.path.join(os.environ["NVKEEP_BUILD"], "compat", name)


def sides(test):
    """Stock and ours."""
    stock, stock_ioctl = (shutil.which(t, path="/usr/bin:/bin") for t in ("swtpm", "swtpm_ioctl"))
    if not stock or not stock_ioctl:
        raise Skip("swtpm is missing")
    return Side(test, "stock", stock, stock_ioctl), ours(test)


def ours(test):
    compat = os.path.join(os.environ["NVKEEP_BUILD"], "compat")
    return Side(test, "ours", os.path.join(compat, "swtpm"), os.path.join(compat, "swtpm_ioctl"))


def write(path, content, mode=0o600):
    with open(path, "wb", opener=lambda p, f: os.open(p, f, mode)) as f:
        f.write(content)
    return path


@contextlib.contextmanager
def policy(side, text):
    """What the owner of the machine has decided."""
    os.environ["NVKEEP_SWTPM_CONF"] = write(side.path("swtpm.conf"), text)
    try:
        yield
    finally:
        del os.environ["NVKEEP_SWTPM_CONF"]
