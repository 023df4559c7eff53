"""QEMU's monitor. A thread reads, so that every event has the time at which it came."""

import json
import socket
import threading
import time

from .process import Failure, Timeout


class QmpError(Failure):
    def __init__(self, command, error):
        super().__init__(f"{command}: {error.get('class')}: {error.get('desc')}")
        self.error_class = error.get("class", "")
        self.desc = error.get("desc", "")


class Event:
    """`at` is this program's monotonic clock, `wall` QEMU's own time stamp in seconds."""

    def __init__(self, at, message):
        self.at = at
        self.name = message["event"]
        self.data = message.get("data", {})
        stamp = message["timestamp"]
        self.wall = stamp["seconds"] + stamp["microseconds"] / 1e6

    def __repr__(self):
        return f"{self.at:.4f} {self.name} {self.data}"


class Qmp:
    def __init__(self, sock):
        self.sock = sock
        self.events = []
        self.closed = False
        self._answers = []
        self._changed = threading.Condition()
        self._n = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        stream = self.sock.makefile("rb")
        while True:
            try:
                line = stream.readline()
            except OSError:
                line = b""
            at = time.monotonic()
            with self._changed:
                if not line:
                    self.closed = True
                    self._changed.notify_all()
                    return
                message = json.loads(line)
                if "event" in message:
                    self.events.append(Event(at, message))
                elif "QMP" not in message:
                    self._answers.append(message)
                self._changed.notify_all()

    def hello(self, timeout=30):
        self.command("qmp_capabilities", timeout=timeout)

    def send(self, command, arguments=None):
        """Without waiting; the answer is answer(ID)."""
        self._n += 1
        message = {"execute": command, "id": self._n}
        if arguments:
            message["arguments"] = arguments
        try:
            self.sock.sendall(json.dumps(message).encode() + b"\n")
        except OSError as e:
            raise Failure(f"{command}: the monitor is gone: {e}") from None
        return self._n

    def answer(self, wanted, command, timeout=30):
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                for message in self._answers:
                    if message.get("id") == wanted:
                        self._answers.remove(message)
                        if "error" in message:
                            raise QmpError(command, message["error"])
                        return message["return"]
                if self.closed:
                    raise Failure(f"{command}: QEMU ended")
                if not self._changed.wait(end - time.monotonic()):
                    raise Timeout(f"{command}: no answer within {timeout} s")

    def command(self, command, timeout=30, **arguments):
        """Underscores in argument names stand for hyphens."""
        named = {k.replace("_", "-"): v for k, v in arguments.items()}
        return self.answer(self.send(command, named), command, timeout)

    def find(self, name, since=0, **data):
        """The first such event from index `since` on, or None."""
        for event in self.events[since:]:
            if event.name == name and all(event.data.get(k) == v for k, v in data.items()):
                return event
        return None

    def wait(self, name, since=0, timeout=30, **data):
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                event = self.find(name, since, **data)
                if event:
                    return event
                if self.closed:
                    raise Failure(f"QEMU ended before the event {name} {data or ''}")
                if not self._changed.wait(end - time.monotonic()):
                    raise Timeout(f"no event {name} {data or ''} within {timeout} s")

    def mark(self):
        """For `since`: everything that comes from now on."""
        with self._changed:
            return len(self.events)

    def hmp(self, line, timeout=60):
        """A command that only people have; what it prints is an error for all we use it for."""
        text = self.command("human-monitor-command", timeout=timeout, command_line=line)
        if text.strip():
            raise Failure(f"{line}: {text.strip()}")

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread
        except OSError:
            pass
        self.sock.close()
