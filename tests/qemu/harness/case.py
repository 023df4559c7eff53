"""What a test is given, and the main() of a test file.

    python3 test_power.py                every test of the file
    python3 test_power.py NAME...        those
    --daemon swtpm                       against stock swtpm instead of nvkeep
    --keep                               leave the folder with all logs and images
"""

import argparse
import inspect
import os
import shutil
import sys
import tempfile
import time
import traceback

from .process import Failure, run, wait_until
from .store import NvkeepStore, SwtpmStore
from .vm import Vm

SKIPPED = 77


class Skip(Exception):
    """Something that the test needs is missing; the text says what."""


class Case:
    def __init__(self, daemon, folder):
        self.kind = daemon
        self.folder = folder
        self.long = os.environ.get("NVKEEP_LONG", "") not in ("", "0")
        self._started = []
        self._stores = []
        self._vms = []

    # What a test is made of.

    def started(self, process):
        self._started.append(process)
        return process

    def store(self, name="tpm", family="2.0", create=True, **how):
        kind = SwtpmStore if self.kind == "swtpm" else NvkeepStore
        store = kind(self.folder, name, family)
        if create:
            store.create(**how)
            self._stores.append(store)
        return store

    def vm(self, device="tpm-tis", family="2.0", name="vm", store=None, **how):
        """A machine; with a new store of its own unless one is given."""
        if store is None:
            store = self.store(name + "-tpm", family)
        vm = Vm(self, store, name, device, **how)
        self._vms.append(vm)
        return vm

    def path(self, name):
        return os.path.join(self.folder, name)

    def migration_key(self, name="migration.key", digits="0123456789abcdef" * 4):
        """A file with one, for both ends."""
        path = self.path(name)
        with open(path, "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write(digits)
        return path

    def only_nvkeep(self, why):
        if self.kind != "nvkeep":
            raise Skip(f"{why}: only with nvkeep")

    # What a test demands.

    def check(self, condition, what):
        if not condition:
            raise Failure(what)

    def equal(self, found, wanted, what):
        if found != wanted:
            def show(v):
                return v.hex() if isinstance(v, bytes) else repr(v)
            raise Failure(f"{what}: found {show(found)}, wanted {show(wanted)}")

    def contains(self, text, wanted, what):
        if wanted not in text:
            raise Failure(f"{what}: {wanted!r} is not in {text!r}")

    def raises(self, kind, what, call, *args):
        try:
            call(*args)
        except kind as e:
            return e
        raise Failure(f"{what}: worked, and should not have")

    wait_until = staticmethod(wait_until)
    run = staticmethod(run)

    def sound(self, store):
        """The image is one that our and QEMU's tools accept."""
        if self.kind != "nvkeep":
            return
        ours = store.tool("check")
        self.equal(ours.rc, 0, f"nvkeep check: {ours}")
        theirs = run(["qemu-img", "check", "-U", "--object", f"secret,id=k,file={store.key_file}",
                      "--image-opts", f"driver=qcow2,file.filename={store.image},"
                      "encrypt.key-secret=k"])
        self.equal(theirs.rc, 0, f"qemu-img check: {theirs}")

    def end(self):
        while self._started:
            self._started.pop().end()

    def describe(self):
        return "".join(f"===== {vm.name}\n{vm.describe()}" for vm in self._vms)


def _run_one(name, function, daemon, keep):
    folder = tempfile.mkdtemp(prefix="nvk-", dir=os.environ.get("TMPDIR", "/tmp"))
    case = Case(daemon, folder)
    began = time.monotonic()
    result = 1
    try:
        function(case)
        # A test that leaves a damaged image behind has not passed, whatever it looked at.
        case.end()
        for store in case._stores:
            case.sound(store)
        print(f"ok       {name} ({time.monotonic() - began:.1f} s)", flush=True)
        result = 0
    except Skip as e:
        print(f"skipped  {name}: {e}", flush=True)
        result = SKIPPED
    except Exception as e:  # whatever it is, the logs are wanted
        where = [f for f in traceback.extract_tb(e.__traceback__) if "/harness/" not in f.filename]
        print(f"FAILED   {name}: {'' if isinstance(e, Failure) else type(e).__name__ + ': '}{e}")
        for frame in where:
            print(f"         {os.path.basename(frame.filename)}:{frame.lineno}: {frame.line}")
        if not isinstance(e, (Failure, OSError)):
            traceback.print_exc(file=sys.stdout)
        print(case.describe(), flush=True)
    finally:
        case.end()
        if keep:
            print(f"         kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return result


def main(module_name="__main__"):
    module = sys.modules[module_name]
    tests = {n: f for n, f in vars(module).items()
             if inspect.isfunction(f) and f.__module__ == module_name
             and list(inspect.signature(f).parameters) == ["test"]}
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--daemon", choices=("nvkeep", "swtpm"),
                        default=os.environ.get("NVKEEP_TEST_DAEMON", "nvkeep"))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join(tests))
        return 0
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(module.__file__))))
    os.environ.setdefault("NVKEEP_BUILD", os.path.join(source, "build"))
    os.environ.setdefault("NVKEEP", os.path.join(os.environ["NVKEEP_BUILD"], "bin", "nvkeep"))
    unknown = [n for n in options.names if n not in tests]
    if unknown:
        parser.error(f"no such test: {' '.join(unknown)}")
    for tool in ("qemu-system-x86_64", "qemu-img", "setpriv") + (
            ("swtpm",) if options.daemon == "swtpm" else ()):
        if not shutil.which(tool):
            print(f"{tool} is missing")
            return SKIPPED
    results = [_run_one(n, tests[n], options.daemon, options.keep)
               for n in options.names or tests]
    if 1 in results:
        return 1
    return 0 if 0 in results else SKIPPED
