"""Programs that a test starts. None outlives it: the kernel kills them if the test is killed."""

import os
import signal
import subprocess
import time


class Failure(Exception):
    """What was expected did not happen; the text is for the reader of the test's output."""


class Timeout(Failure):
    pass


def wait_until(what, condition, timeout=30, step=0.002):
    """The first true value of condition(). Says what it was waiting for when it gives up."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"no {what} within {timeout} s")
        time.sleep(step)
        step = min(step * 1.5, 0.05)


class Process:
    """One child. Its output goes to files in `folder`, where a failing test finds it."""

    def __init__(self, name, argv, folder, stdin=subprocess.DEVNULL, stdout=None, pass_fds=(),
                 env=None, cwd=None):
        self.name = name
        self.argv = [str(a) for a in argv]
        self.out_path = os.path.join(folder, name + ".out")
        self.err_path = os.path.join(folder, name + ".err")
        with open(self.out_path, "ab") as out, open(self.err_path, "ab") as err:
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL"] + self.argv,
                stdin=stdin, stdout=out if stdout is None else stdout, stderr=err, pass_fds=pass_fds, cwd=cwd,
                env=None if env is None else {**os.environ, **env})
        self.started = time.monotonic()

    @property
    def pid(self):
        return self.child.pid

    def alive(self):
        return self.child.poll() is None

    def kill(self):
        """SIGKILL; does not wait, so that several can be killed at one moment."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)

    def signal(self, number):
        if self.alive():
            os.kill(self.pid, number)

    def wait(self, timeout=30):
        """The exit code, negative for a signal."""
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Timeout(f"{self.name} (pid {self.pid}) did not end within {timeout} s") from None

    def end(self):
        """Whatever it was doing."""
        self.signal(signal.SIGCONT)
        self.kill()
        self.wait()

    def out(self):
        with open(self.out_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def err(self):
        with open(self.err_path, encoding="utf-8", errors="replace") as f:
            return f.read()


class Result:
    def __init__(self, rc, out, err, seconds):
        self.rc, self.out, self.err, self.seconds = rc, out, err, seconds

    def __repr__(self):
        return f"exit code {self.rc} after {self.seconds:.2f} s; out: {self.out!r}; err: {self.err!r}"


def run(argv, timeout=60, stdin=b"", env=None, cwd=None, pass_fds=()):
    """A program that ends by itself."""
    began = time.monotonic()
    try:
        done = subprocess.run([str(a) for a in argv], input=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=timeout, check=False, cwd=cwd,
                              pass_fds=pass_fds, env=None if env is None else {**os.environ, **env})
    except subprocess.TimeoutExpired:
        raise Timeout(f"{argv[0]} {argv[1]} did not end within {timeout} s") from None
    return Result(done.returncode, done.stdout.decode(errors="replace"),
                  done.stderr.decode(errors="replace"), time.monotonic() - began)
