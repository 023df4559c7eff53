"""A program under tool_inject.c: what is to fail, what did, and how it ended."""

import mmap
import os
import re
import signal
import struct
import subprocess
import tempfile
import time

WORDS = ("armed", "arm_at_entry", "until_confined", "call", "match", "value", "nth", "for_good", "error", "how",
         "n_calls", "n_seen", "n_hits", "alloc_way", "alloc_nth",
         "alloc_for_good", "n_alloc_made", "n_alloc_seen", "n_alloc_hits",
         "n_alloc_excluded", "program", "status", "has_ended")
TEXT_BYTES = 256
RECORD = 4 * len(WORDS) + 2 * TEXT_BYTES
MAX_WAYS = 32768
CONTROL_BYTES = RECORD + 4 + 8 * MAX_WAYS
NO_CALL = 0xFFFFFFFF
INSTEAD, AFTERWARDS, SHORT, KILL = range(4)
ANY, FIRST, SECOND = range(3)


class Control:
    """struct control of inject.h, by the names of its members."""

    def __init__(self, path):
        with open(path, "wb") as f:
            f.write(bytes(CONTROL_BYTES))
        with open(path, "r+b") as f:
            self._map = mmap.mmap(f.fileno(), CONTROL_BYTES)
        self.path = path

    def __getattr__(self, name):
        if name not in WORDS:
            raise AttributeError(name)
        return struct.unpack_from("<I", self._map, 4 * WORDS.index(name))[0]

    def set(self, **words):
        for name, value in words.items():
            struct.pack_into("<I", self._map, 4 * WORDS.index(name), value)

    def _text(self, n):
        at = 4 * len(WORDS) + n * TEXT_BYTES
        return self._map[at:at + TEXT_BYTES].split(b"\0")[0].decode(errors="replace")

    @property
    def hit(self):
        """The first call that failed: "number arguments file"."""
        return self._text(0)

    @property
    def alloc_hit(self):
        return self._text(1)

    def clear(self):
        self._map[:RECORD + 4] = bytes(RECORD + 4)
        self.set(call=NO_CALL)

    def record(self):
        """What allocates is kept, from now on."""
        struct.pack_into("<I", self._map, RECORD, 1)

    def ways(self):
        """[(way, whether the program itself asked)] of each allocation in turn."""
        n = min(self.n_alloc_made, MAX_WAYS)
        words = struct.unpack_from(f"<{2 * n}I", self._map, RECORD + 4)
        return list(zip(words[::2], words[1::2]))

    def plan(self, fault):
        """fault: None, or what it says of itself. Does not arm."""
        self.set(call=NO_CALL, alloc_nth=0, n_seen=0, n_hits=0, n_alloc_seen=0, n_alloc_hits=0,
                 alloc_way=0, for_good=0, alloc_for_good=0)
        if fault:
            self.set(**fault.words())


class Injected:
    """The program runs under the tool; in folder, with output into files there."""

    def __init__(self, tools, control, argv, folder, output, log="-", preload=True, pass_fds=()):
        self.control = control
        self.out_path, self.err_path = output + ".out", output + ".err"
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.child = subprocess.Popen(
                [tools.inject, control.path, log, tools.shim if preload else "-", *argv],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=pass_fds,
                env=tools.environment)

    def asked_for(self):
        """System calls so far, or allocations where those fail."""
        return self.control.n_calls + self.control.n_alloc_made

    def ended(self):
        """Of the program itself; a child that it left may go on."""
        return bool(self.control.has_ended) or self.child.poll() is not None

    def wait_ended(self, timeout):
        """Exit code, negative for a signal; None if the time is over."""
        end = time.monotonic() + timeout
        pause = 0.0005
        while not self.ended():
            if time.monotonic() > end:
                return None
            time.sleep(pause)
            pause = min(pause * 1.3, 0.01)
        if not self.control.has_ended:
            return -999  # the tool itself gave up; its output says why
        return os.waitstatus_to_exitcode(self.control.status)

    def wait_all(self, timeout):
        """Every process that the program started has ended."""
        try:
            self.child.wait(timeout)
            return True
        except subprocess.TimeoutExpired:
            return False

    def signal_program(self, number):
        try:
            os.kill(self.control.program, number)
        except ProcessLookupError:
            pass

    def kill(self):
        """The tool, and with it everything that it traces."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def out(self):
        with open(self.out_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def err(self):
        with open(self.err_path, encoding="utf-8", errors="replace") as f:
            return f.read()


class Tools:
    """The program under test and what it is tested with. sanitized: the program is built with a sanitizer,
    whose own allocations and mappings cannot be told from the program's: those do not fail then."""

    def __init__(self):
        here = os.path.dirname(os.path.abspath(__file__))
        build = os.path.abspath(os.environ.get("NVKEEP_BUILD", os.path.join(here, *[".."] * 3, "build")))
        self.nvkeep = os.path.abspath(os.environ.get("NVKEEP", os.path.join(build, "bin", "nvkeep")))
        self.inject = os.path.join(build, "bin", "tool_inject")
        self.shim = os.path.join(build, "lib", "libfault_alloc.so")
        with open(self.nvkeep, "rb") as f:
            self.sanitized = b"__asan_init" in f.read()
        # Leaks are looked for by tracing, which one tracer already does.
        self.environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0"}

    def missing(self):
        for path in (self.nvkeep, self.inject, self.shim):
            if not os.path.exists(path):
                return path
        with tempfile.NamedTemporaryFile() as control:
            control.truncate(CONTROL_BYTES)
            done = subprocess.run([self.inject, control.name, "-", "-", "/bin/true"], check=False,
                                  capture_output=True, text=True)
        said = re.search("missing: (.*)", done.stdout + done.stderr)
        return said and said.group(1)

    def run(self, folder, *words, timeout=60):
        """Without faults."""
        return subprocess.run([self.nvkeep, *words], cwd=folder, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=timeout, check=False)
