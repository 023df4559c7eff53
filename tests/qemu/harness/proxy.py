"""Between QEMU and its daemon: a proxy on the control channel that logs, times and disturbs; and a
relay for the migration stream that keeps what went through."""

import array
import os
import select
import socket
import threading
import time

from .process import wait_until

NAMES = {1: "GET_CAPABILITY", 2: "INIT", 3: "SHUTDOWN", 4: "GET_TPMESTABLISHED", 5: "SET_LOCALITY",
         9: "CANCEL_TPM_CMD", 10: "STORE_VOLATILE", 11: "RESET_TPMESTABLISHED",
         12: "GET_STATEBLOB", 13: "SET_STATEBLOB", 14: "STOP", 15: "GET_CONFIG", 16: "SET_DATAFD",
         17: "SET_BUFFERSIZE", 19: "LOCK_STORAGE"}
BODY_BYTES = {2: 4, 5: 4, 11: 4, 12: 12, 13: 12, 17: 4, 19: 4}  # as QEMU sends them
REPLY_BYTES = {1: 8, 4: 8, 12: 16, 15: 8, 17: 16}  # of all others 4
FAIL = 9


class Gone(Exception):
    """One end hung up."""


class Message:
    """`blob` is the kind of a state blob (1 to 3), `at` when it was asked, `answered` when the daemon
    had answered; result None: it never did."""

    def __init__(self, command, blob):
        self.name = NAMES.get(command, hex(command))
        self.blob = blob
        self.at = time.monotonic()
        self.answered = None
        self.result = None

    def __repr__(self):
        blob = f" {self.blob}" if self.blob else ""
        took = f" {(self.answered - self.at) * 1000:.1f} ms" if self.answered else ""
        result = "no answer" if self.result is None else f"{self.result:#x}"
        return f"{self.at:.4f} {self.name}{blob}: {result}{took}"


class Hook:
    """Does `call` once, at the message that it waits for: "asked" before the daemon gets it,
    "answered" before QEMU gets the answer, "told" behind that."""

    def __init__(self, when, name, blob, call):
        self.when, self.name, self.blob, self.call = when, name, blob, call
        self.done_at = None

    def fires(self, when, message):
        return (self.done_at is None and when == self.when and message.name == self.name
                and self.blob in (None, message.blob))


class ControlProxy:
    """Serves one QEMU at `path`. Ends when either side does."""

    def __init__(self, path, daemon_path):
        self.path, self.daemon_path = path, daemon_path
        self.log = []
        self.hooks = []
        self.answers = {}  # name -> result told instead of asking the daemon
        self.tamper = None  # (message, what follows its code) -> what the daemon gets to see of it
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(1)
        threading.Thread(target=self._serve, daemon=True).start()

    def on(self, when, name, blob, call):
        hook = Hook(when, name, blob, call)
        self.hooks.append(hook)
        return hook

    def find(self, name, blob=None, since=0):
        for message in self.log:
            if message.name == name and blob in (None, message.blob) and message.at >= since:
                return message
        return None

    def wait(self, name, blob=None, since=0, timeout=30):
        """Until it was answered."""
        def found():
            message = self.find(name, blob, since)
            return message if message and message.answered else None
        return wait_until(f"{name} on {self.path}", found, timeout)

    def refusal(self, since=0):
        """The first message that failed."""
        for message in self.log:
            if message.at < since or message.result == 0:
                continue
            # The third blob need not exist: 0x800 says so.
            if (message.name, message.result) != ("GET_STATEBLOB", 0x800):
                return message
        return None

    def _serve(self):
        client, _ = self._listener.accept()
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            daemon.connect(self.daemon_path)
            while True:
                self._one(client, daemon)
        except (Gone, OSError):
            pass
        finally:
            for end in (client, daemon, self._listener):
                end.close()

    def _one(self, client, daemon):
        ready, _, _ = select.select([client, daemon], [], [])
        if daemon in ready:
            raise Gone("the daemon says what nobody asked for, or goodbye")
        head, fds = self._take(client, 4)
        command = int.from_bytes(head, "big")
        body, _ = self._take(client, BODY_BYTES.get(command, 0))
        blob = int.from_bytes(body[4:8], "big") if command in (12, 13) else 0
        if command == 13:
            body += self._take(client, int.from_bytes(body[8:12], "big"))[0]
        message = Message(command, blob)
        self.log.append(message)
        self._fire("asked", message)
        if self.tamper:
            body = self.tamper(message, body)
        if message.name in self.answers:
            reply = self.answers[message.name].to_bytes(4, "big")
            reply += bytes(REPLY_BYTES.get(command, 4) - 4)
        else:
            socket.send_fds(daemon, [head + body], fds)
            for fd in fds:
                os.close(fd)
            reply, _ = self._take(daemon, REPLY_BYTES.get(command, 4))
            if command == 12:
                reply += self._take(daemon, int.from_bytes(reply[12:16], "big"))[0]
        message.answered = time.monotonic()
        message.result = int.from_bytes(reply[:4], "big")
        self._fire("answered", message)
        client.sendall(reply)
        self._fire("told", message)

    def _fire(self, when, message):
        for hook in self.hooks:
            if hook.fires(when, message):
                hook.done_at = time.monotonic()
                hook.call()

    @staticmethod
    def _take(sock, n):
        data, fds = b"", array.array("i")
        while len(data) < n:
            part, more, _, _ = socket.recv_fds(sock, n - len(data), 1)
            if not part:
                raise Gone("hung up")
            data += part
            fds.extend(more)
        return data, list(fds)


class StreamRelay:
    """A migration stream on its way: listens at `uri`, passes on to `to`, keeps the bytes."""

    def __init__(self, path, to):
        self.uri = "unix:" + path
        self.kept = bytearray()
        self._to = to.removeprefix("unix:")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(1)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        here, _ = self._listener.accept()
        there = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        there.connect(self._to)
        back = threading.Thread(target=self._pass, args=(there, here, bytearray()), daemon=True)
        back.start()
        self._pass(here, there, self.kept)
        back.join()
        for end in (here, there, self._listener):
            end.close()

    @staticmethod
    def _pass(source, sink, kept):
        try:
            while data := source.recv(65536):
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


__all__ = ["ControlProxy", "StreamRelay", "Gone", "FAIL"]
