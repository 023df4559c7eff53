"""The daemon's admin socket: QMP's dialect, so QEMU's monitor client speaks it too."""

import json
import os
import socket

from .process import wait_until
from .qmp import Qmp


CHANGE_S = 180  # passphrases are stretched, on a machine that has other things to do


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
        return self.change("add-key", passphrase)

    def change(self, command, passphrase, **arguments):
        """By a descriptor: the key is in no message."""
        return self.answer(self.change_later(command, passphrase, **arguments), command, CHANGE_S)

    def change_later(self, command, passphrase, **arguments):
        """What its answer will be known by."""
        reader, writer = os.pipe()
        os.write(writer, passphrase)
        os.close(writer)
        self._n += 1
        request = {"execute": command, "id": self._n}
        if arguments:
            request["arguments"] = arguments
        socket.send_fds(self.sock, [json.dumps(request).encode() + b"\n"], [reader])
        os.close(reader)
        return self._n


def prepare(source, target):
    """The prepared hand-over, as management does it before it starts the migration."""
    ready = target.token("prepare-incoming", token=source.token("prepare-outgoing"))
    source.command("commit-outgoing", token=ready)
