"""The destination of a cell of the matrix: which image it finds, in which condition, with which key."""

import migration_cells as cells
from harness.process import Failure, wait_until
from harness.vm import Vm

FORMAT_BIT = 72 + 2  # in qcow2's incompatible features: one that nobody has defined


class Target:
    """Part of a Run."""

    def target_store(self):
        c = self.cell
        if c.storage == "separate" and c.image == "older":
            store = self.before.view("target")
        elif c.storage == "separate":
            store = self.test.store("target", incoming=True)
        elif c.storage == "copied":
            store = self.source.store.view("target")
            store.image = self.test.path("copy.qcow2")
            with open(store.image, "wb"):
                pass
            return store
        elif c.image == "sound":
            return self.source.store.view("target")
        else:
            store = self.source.store.copy_to(self.test.folder, "target")
        if c.image != "sound":
            if store in self.test._stores:
                self.test._stores.remove(store)  # damaged on purpose
            self.spoil(store.image)
        return store

    def spoil(self, path):
        """What the destination sees instead of a sound image. What is cut off is as a copy that has
        come half way."""
        with open(path, "rb") as f:
            data = bytearray(f.read())
        if self.cell.image == "empty":
            data = bytearray()
        elif self.cell.image == "truncated":
            data = data[:len(data) // 2]
        elif self.cell.image == "flipped":
            data[self.newest_record(data)] ^= 0x10
        elif self.cell.image == "newer":
            data[FORMAT_BIT] ^= 1
        elif self.cell.image == "older" and self.cell.storage != "separate":
            data = bytearray(self.older)
        with open(path, "r+b") as f:
            f.write(data)
            f.truncate(len(data))

    def newest_record(self, data):
        """A byte of it. A separate image has no records yet: of its first sector then."""
        if self.cell.storage == "separate":
            return len(data) - (1 << 20) + 200
        return self.record_at

    def find_record(self):
        before = self.source.store.bytes()
        self.tick()
        after = self.source.store.bytes()
        # The last command of a tick that writes is one record: somewhere in what has changed.
        self.record_at = next(i for i in range(len(after) - 1, 0, -1)
                              if i >= len(before) or before[i] != after[i])

    def start_target(self):
        """False: it was refused."""
        c = self.cell
        self.target = Vm(self.test, self.target_store(), "target", c.device)
        self.target.proxied = True
        self.test._vms.append(self.target)
        key = None
        if c.key == "wrong":
            wrong = self.test.path("wrong.key")
            self.target.store.write_key(b"not the key", wrong)
            key = "file=" + wrong
        elif c.key == "missing":
            key = ""
        elif c.key == "late":
            key = "admin"
        before = self.source.store.bytes()
        self.theirs = self.target.store.bytes()
        self.target.start_daemon(wait=False, key=key, admin=True, migration_key=self.keys[1],
                                 migration="incoming" + (",storage=copied" if c.storage == "copied"
                                                         else ""))
        daemon = self.target.daemon
        if c.key == "late":
            # S3.4 S3.12: while it waits there is nothing that QEMU could connect to.
            self.test.check(not daemon.bound(), "there is a control socket before the key")
            with open(self.target.store.key_file, "rb") as f:
                self.target.admin.add_key(f.read())
        wait_until("the daemon's verdict", lambda: daemon.bound() or not daemon.alive())
        if not daemon.bound():
            self.row.code = f"exit {daemon.wait()}"
            self.row.outcome = cells.AT_START
            self.test.check(self.source.store.bytes() == before, "a refusal changed the image")
            self.row.image = "same bytes"
            return False
        try:
            self.target.defer()
        except Failure:
            self.row.code = f"QEMU {self.target.qemu.wait()}"
            self.row.outcome = cells.AT_START
            return False
        if c.storage != "file":
            self.target.listen()
        return True

    def copy_arrives(self):
        data = self.source.store.bytes()
        if self.cell.image == "empty":
            return
        with open(self.target.store.image, "r+b") as f:
            f.write(data)
        if self.cell.image != "sound":
            self.spoil(self.target.store.image)
        self.theirs = self.target.store.bytes()
