"""The micro-guest's serial line (tests/guest/main.c says what it understands)."""

import os
import select
import threading
import time

from .process import Failure, Timeout


class GuestRefused(Failure):
    """The guest could not do it: "! why"."""


class Console:
    """Over pipes, not a socket: QEMU writes byte by byte, a few hundred such writes fill a socket, and
    a machine that migrates while a byte waits says it twice or never again."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        os.set_blocking(reader, False)
        self.closed = False
        self.lines = []  # (monotonic time, text)
        self._bytes = b""  # a line that has not ended yet
        self._next = 0  # the first line that nobody has taken
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while not self.closed:
            select.select([self.reader], [], [])
            with self._changed:
                self._drain()
                self._changed.notify_all()
        os.close(self.reader)

    def _drain(self):
        """All that is there. Under the lock, so that who holds it knows that nothing is on its way
        between pipe and list."""
        while not self.closed:
            try:
                data = os.read(self.reader, 65536)
            except BlockingIOError:
                return
            if not data:
                self.closed = True
                return
            self._take(data)

    def _take(self, data):
        at = time.monotonic()
        *ended, self._bytes = (self._bytes + data).split(b"\n")
        for line in ended:
            self.lines.append((at, line.decode("ascii", "replace").strip("\r")))

    def adopt(self, other):
        """After a migration: what this guest said before, it said on the other line, down to half a
        line. The guest has left there: what is in the socket is all there will be."""
        with other._changed:
            other._drain()
            before, tail, n_taken = list(other.lines), other._bytes, other._next
        with self._changed:
            if self.lines:
                at, text = self.lines[0]
                self.lines[0] = (at, tail.decode("ascii", "replace") + text)
            else:
                self._bytes = tail + self._bytes
            self._next += n_taken if self._next == 0 else len(before)
            self.lines[:0] = before

    def send(self, line):
        try:
            os.write(self.writer, line.encode() + b"\n")
        except OSError as e:
            raise Failure(f"the guest's line is gone: {e}") from None

    def next_line(self, timeout=30, what="line"):
        end = time.monotonic() + timeout
        with self._changed:
            while len(self.lines) <= self._next:
                if self.closed:
                    raise Failure(f"the guest ended before its {what}; it said {self.tail()}")
                if not self._changed.wait(max(0, end - time.monotonic())):
                    raise Timeout(f"no {what} from the guest within {timeout} s; "
                                  f"it said {self.tail()}")
            self._next += 1
            return self.lines[self._next - 1][1]

    def skip(self):
        """Nobody wants what was said up to now."""
        with self._changed:
            self._next = len(self.lines)

    def tail(self, n=5):
        return [text[:120] for _, text in self.lines[-n:]] + ([self._bytes[-120:]] if self._bytes
                                                             else [])

    def wait_ready(self, timeout=30):
        """What the guest found, as words: ["tis", "2.0", "id", ...]."""
        while True:
            line = self.next_line(timeout, "first line")
            if line.startswith("ready "):
                return line.split()[1:]
            if line.startswith("! "):
                raise GuestRefused(line[2:])

    def verb(self, line, timeout=30):
        self.send(line)
        answer = self.next_line(timeout, f"answer to {line.split()[0]}")
        if answer != "ok":
            raise GuestRefused(answer.removeprefix("! "))

    def locality(self, n):
        self.verb(f"locality {n}")

    def tpm(self, command, timeout=60, abort_ms=0):
        """Bytes of a TPM command, bytes of its response."""
        self.send((f"abort {abort_ms} " if abort_ms else "") + command.hex())
        answer = self.next_line(timeout, "response")
        if not answer.startswith("< "):
            raise GuestRefused(answer.removeprefix("! "))
        return bytes.fromhex(answer[2:])

    def start_loop(self, commands, rounds=0):
        self.send(f"loop {rounds} " + " ".join(c.hex() for c in commands))

    def stop_loop(self, timeout=60):
        """Ends an endless loop; what it answered up to there."""
        self.send("")
        return self.loop_answers(timeout)

    def loop_answers(self, timeout=60):
        """[(time, response)] of a loop that ends; checks that not one is missing or said twice."""
        answers = []
        while True:
            line = self.next_line(timeout, "end of the loop")
            if line == "ok":
                return answers
            answers.append(self._loop_answer(self.lines[self._next - 1][0], line, len(answers)))

    def answers_so_far(self):
        """The same of a loop that runs, was killed, or gave up because the TPM did; takes the lines.
        An unfinished one is not among them."""
        answers = []
        with self._changed:
            for at, line in self.lines[self._next:]:
                if line.startswith("! "):
                    break
                answers.append(self._loop_answer(at, line, len(answers)))
            self._next = len(self.lines)
        return answers

    def n_loop_answers(self):
        with self._changed:
            return sum(1 for _, line in self.lines[self._next:] if line.startswith("= "))

    @staticmethod
    def _loop_answer(at, line, seq):
        words = line.split()
        if len(words) != 3 or words[0] != "=":
            raise GuestRefused(line.removeprefix("! "))
        if int(words[1]) != seq:
            raise Failure(f"the guest's answer {words[1]} came where {seq} was due")
        return at, bytes.fromhex(words[2])

    def close(self):
        """QEMU has ended, so the thread ends by itself."""
        if self.writer is not None:
            os.close(self.writer)
        self.writer = None
