"""The daemon's admin socket: QMP's dialect, so QEMU's monitor client speaks it too."""

import json
import os
import socket

from .process import wait_until
from .qmp import Qmp


class Admin(Qmp):
    def __init__(self, path):
        wait_until(f"admin socket {path}", lambda: os.path.exists(path), 10)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(path)
        super().__init__(sock)
        self.hello()

    def token(self, command, **arguments):
        return self.command(command, **arguments)["token"]

    def add_key(self, passphrase):
        """By a descriptor: the key is in no message."""
        reader, writer = os.pipe()
        os.write(writer, passphrase)
        os.close(writer)
        self._n += 1
        message = json.dumps({"execute": "add-key", "id": self._n}).encode() + b"\n"
        socket.send_fds(self.sock, [message], [reader])
        os.close(reader)
        return self.answer(self._n, "add-key")


def prepare(source, target):
    """The prepared hand-over, as management does it before it starts the migration."""
    ready = target.token("prepare-incoming", token=source.token("prepare-outgoing"))
    source.command("commit-outgoing", token=ready)
