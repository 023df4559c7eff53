"""What keeps a TPM's state, and the daemon that serves it: nvkeep, or stock swtpm beside it.

Both stores have the same methods, so that a test (or a comparison) takes either.
"""

import json
import os
import shutil

from .process import Failure, Process, run, wait_until

# Exit codes of nvkeep: the result classes of src/base/err.c.
USAGE, KEY_MISSING, KEY_WRONG, KEY_UNEXPECTED = 2, 10, 11, 12
STATE_EMPTY, STATE_CORRUPT, STATE_FOREIGN, STATE_ROLLED_BACK = 20, 21, 22, 23
FENCED, LOCKED, UNSUPPORTED, STORAGE_ERROR = 30, 31, 40, 41


class Daemon(Process):
    """A running (or refusing) daemon. `ctrl` is the control socket's path."""

    def __init__(self, name, argv, folder, ctrl, log, pass_fds=()):
        super().__init__(name, argv, folder, pass_fds=pass_fds)
        self.ctrl = ctrl
        self.log_path = log

    def log(self):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def bound(self):
        return os.path.exists(self.ctrl)

    def wait_bound(self, timeout=30):
        def bound_or_dead():
            if not self.alive():
                raise Failure(f"{self.name} ended with {self.wait()} before its socket existed: "
                              f"{self.err().strip()} {self.log().strip()}")
            return self.bound()
        wait_until(f"control socket of {self.name}", bound_or_dead, timeout)


class NvkeepStore:
    kind = "nvkeep"

    def __init__(self, folder, name="tpm", family="2.0", nvkeep=None):
        self.folder = folder
        self.name = name
        self.family = family
        self.nvkeep = nvkeep or os.environ["NVKEEP"]
        self.image = os.path.join(folder, name + ".qcow2")
        self.key_file = os.path.join(folder, name + ".key")
        self.key = "file=" + self.key_file
        self.n_starts = 0

    def create(self, passphrase=None, iter_ms=None, incoming=False):
        """With a new key file, or with a passphrase and the time one try of it shall take. incoming:
        without a TPM, which a migration will bring."""
        argv = [self.nvkeep, "create", self.image, "--tpm12" if self.family == "1.2" else "--tpm2"]
        if passphrase is None:
            argv += ["--new-key", self.key_file]
        else:
            self.write_key(passphrase)
            argv += ["--key", self.key]
        if iter_ms is not None:
            argv += ["--iter-time", iter_ms]
        if incoming:
            argv += ["--incoming"]
        done = run(argv, timeout=120)
        if done.rc:
            raise Failure(f"nvkeep create: {done}")

    def write_key(self, passphrase, path=None):
        with open(path or self.key_file, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write(passphrase)

    def copy_to(self, folder, name):
        """A second image with the same TPM in it: the same bytes under another name."""
        other = NvkeepStore(folder, name, self.family, self.nvkeep)
        shutil.copyfile(self.image, other.image)
        shutil.copyfile(self.key_file, other.key_file)
        return other

    def view(self, name):
        """The same image as another host sees it."""
        other = NvkeepStore(self.folder, name, self.family, self.nvkeep)
        other.image, other.key_file, other.key = self.image, self.key_file, self.key
        return other

    def serve(self, key=None, options=(), pass_fds=(), admin=False, migration=None,
              migration_key=None, seal=None, keep=False):
        """Starts the daemon and does not wait. key: instead of the store's own; "" for none.
        migration_key: a file of hex digits. keep: it outlives its emulator."""
        self.n_starts += 1
        ctrl = os.path.join(self.folder, f"{self.name}-{self.n_starts}.sock")
        log = os.path.join(self.folder, f"{self.name}-{self.n_starts}.log")
        options = list(options)
        if admin:
            options += ["--admin", f"type=unixio,path={ctrl}.admin"]
        if migration:
            options += ["--migration", migration]
        if migration_key:
            options += ["--migration-key",
                        f"file={migration_key},format=hex,mode=aes-256-cbc"]
        if seal:
            options += ["--migration-seal", seal]
        argv = [self.nvkeep, "serve", self.image]
        key = self.key if key is None else key
        if key:
            argv += ["--key", key]
        argv += ["--ctrl", f"type=unixio,path={ctrl},mode=0600", "--log", f"file={log},level=5",
                 "--keep-listening" if keep else "--terminate"] + options
        return Daemon(f"nvkeep-{self.name}-{self.n_starts}", argv, self.folder, ctrl, log, pass_fds)

    def tool(self, command, *options, key=None, timeout=60):
        """nvkeep COMMAND on this image; key: instead of the store's own, "" for none."""
        key = self.key if key is None else key
        return run([self.nvkeep, command, self.image, *(["--key", key] if key else []), *options],
                   timeout)

    def info(self):
        done = self.tool("info", "--json")
        if done.rc:
            raise Failure(f"nvkeep info: {done}")
        return json.loads(done.out)

    def bytes(self):
        with open(self.image, "rb") as f:
            return f.read()


class SwtpmStore:
    kind = "swtpm"

    def __init__(self, folder, name="tpm", family="2.0"):
        self.folder = folder
        self.name = name
        self.family = family
        self.image = os.path.join(folder, name + ".state")
        self.file = None  # in place of the directory: a linear store
        self.key_file = os.path.join(folder, name + ".key")
        self.n_starts = 0

    def create(self, passphrase=b"swtpm comparison key", iter_ms=None, incoming=False):
        del iter_ms, incoming  # it stretches a thousandfold, always; and makes a TPM when it has none
        os.mkdir(self.image)
        self.write_key(passphrase)

    write_key = NvkeepStore.write_key

    def copy_to(self, folder, name):
        other = SwtpmStore(folder, name, self.family)
        shutil.copytree(self.image, other.image)
        shutil.copyfile(self.key_file, other.key_file)
        return other

    def view(self, name):
        other = SwtpmStore(self.folder, name, self.family)
        other.image, other.file, other.key_file = self.image, self.file, self.key_file
        return other

    def place(self):
        return f"backend-uri=file://{self.file}" if self.file else f"dir={self.image}"

    def serve(self, key=None, options=(), pass_fds=(), admin=False, migration=None,
              migration_key=None, seal=None):
        """0.7.1 knows of all this only the migration key."""
        del admin, migration, seal
        if migration_key:
            options = [*options, "--migration-key",
                       f"file={migration_key},format=hex,mode=aes-256-cbc"]
        self.n_starts += 1
        ctrl = os.path.join(self.folder, f"{self.name}-{self.n_starts}.sock")
        log = os.path.join(self.folder, f"{self.name}-{self.n_starts}.log")
        argv = ["swtpm", "socket", "--tpmstate", self.place(),
                "--ctrl", f"type=unixio,path={ctrl},mode=0600", "--log", f"file={log},level=1",
                "--terminate"] + (["--tpm2"] if self.family == "2.0" else []) + list(options)
        if key is None:
            key = f"pwdfile={self.key_file}"
        if key:
            argv += ["--key", key + ",mode=aes-256-cbc"]
        return Daemon(f"swtpm-{self.name}-{self.n_starts}", argv, self.folder, ctrl, log, pass_fds)
