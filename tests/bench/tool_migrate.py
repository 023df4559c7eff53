"""What a migration costs, against stock swtpm, one after the other in one run.

    python3 tool_migrate.py [--rounds N] [--device tpm-tis|tpm-crb]

KEY_WRONG   from the daemon's start to its refusal: nvkeep's exit with a key file; with swtpm the failing
            INIT, which is what tells of a wrong state key at all (without QEMU: three control messages)
hand-over   first GET_STATEBLOB to INIT answered, as a proxy on both control channels sees it; of it:
  GET, SET  all blobs at the source, at the destination
  INIT      at the destination: with nvkeep claimed, read afresh, committed and flushed
pause       the guest's, from STOP at the source to RESUME at the destination
"""

import argparse
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(SOURCE, "tests", "qemu"))
from harness.case import Case  # noqa: E402
from harness.continuity import Continuity  # noqa: E402
from harness.process import Failure  # noqa: E402
from harness.store import KEY_WRONG  # noqa: E402


def milliseconds(values):
    values = sorted(values)
    return (f"median {statistics.median(values):7.2f} ms   fastest {values[0]:7.2f}   "
            f"slowest {values[-1]:7.2f}   n={len(values)}")


def init_result(path):
    """What INIT says, as QEMU would ask."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        sock.sendall((2).to_bytes(4, "big") + bytes(4))
        return int.from_bytes(sock.recv(4), "big")


def refusal_ms(test, kind, i):
    """From start to the refusal of a wrong key."""
    test.kind = kind
    store = test.store(f"{kind}-{i}")
    if kind == "swtpm":
        first = test.started(store.serve())
        first.wait_bound()
        time.sleep(0.02)  # the path is there before somebody listens
        if init_result(first.ctrl):
            raise Failure("swtpm does not start with its own key")
        first.end()
    wrong = test.path("wrong.key")
    store.write_key(b"not the key", wrong)
    began = time.monotonic()
    if kind == "nvkeep":
        daemon = test.started(store.serve(key="file=" + wrong, migration="incoming"))
        if daemon.wait() != KEY_WRONG:
            raise Failure(f"exit code {daemon.wait()}")
    else:
        daemon = test.started(store.serve(key="pwdfile=" + wrong))
        while True:
            try:
                result = init_result(daemon.ctrl)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.0002)
        if result == 0:
            raise Failure("swtpm took a wrong key")
    took = (time.monotonic() - began) * 1000
    daemon.end()
    return took


def hosts(test, kind, device):
    """Two, each with its own storage, and one migration key; swtpm 0.7.1 cannot do it otherwise. And two
    with nvkeep on one image."""
    test.kind = "swtpm" if kind == "swtpm" else "nvkeep"
    made = []
    for i in range(2):
        if kind == "shared" and made:
            store = made[0].store.view("shared-there")
        else:
            store = test.store(f"{kind}-host{i}", incoming=i > 0)
        vm = test.vm(device, name=f"{kind}-vm{i}", store=store)
        vm.proxied = True
        made.append(vm)
    made[0].power_on(**how_of(test, kind))
    return made, Continuity(test, made[0])


def how_of(test, kind):
    return {} if kind == "shared" else {"migration_key": test.migration_key()}


def spent(proxy, name):
    """ms in which the daemon had such messages."""
    return sum((m.answered - m.at) * 1000 for m in proxy.log if m.name == name)


def hand_over(here, there, seen, how):
    """{what: ms}"""
    there.incoming(**how)
    if here.migrate(there) != "completed":
        raise Failure("the migration failed")
    asked = here.proxy.find("GET_STATEBLOB")
    started = there.proxy.find("INIT")
    stop, resume = here.qmp.wait("STOP"), there.qmp.wait("RESUME")
    here.quit()
    seen.holds(there.tpm)
    return {"hand-over": (started.answered - asked.at) * 1000,
            "  GET": spent(here.proxy, "GET_STATEBLOB"),
            "  SET": spent(there.proxy, "SET_STATEBLOB"),
            "  INIT": (started.answered - started.at) * 1000,
            "pause": (resume.at - stop.at) * 1000}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="tpm-tis", choices=("tpm-tis", "tpm-crb"))
    options = parser.parse_args()
    os.environ.setdefault("NVKEEP_BUILD", os.path.join(SOURCE, "build"))
    os.environ.setdefault("NVKEEP", os.path.join(os.environ["NVKEEP_BUILD"], "bin", "nvkeep"))
    kinds = ["nvkeep", "swtpm"] if shutil.which("swtpm") else ["nvkeep"]
    folder = tempfile.mkdtemp(prefix="nvk-")
    test = Case("nvkeep", folder)
    try:
        found = {}
        for i in range(options.rounds):
            for kind in kinds:
                found.setdefault(("KEY_WRONG", kind), []).append(refusal_ms(test, kind, i))
        pairs = {kind: hosts(test, kind, options.device) for kind in kinds + ["shared"]}
        for i in range(options.rounds):
            for kind in pairs:
                (a, b), seen = pairs[kind]
                here, there = (a, b) if i % 2 == 0 else (b, a)
                for what, took in hand_over(here, there, seen,
                                            how_of(test, kind)).items():
                    found.setdefault((what, kind), []).append(took)
        print(f"{options.device}; {'/'.join(kinds)} with separate storage and one migration key, "
              "nvkeep with shared storage, in turn")
        for what in dict.fromkeys(what for what, _ in found):
            for kind in (k for k in kinds + ["shared"] if (what, k) in found):
                print(f"{what:10} {kind:7} {milliseconds(found[what, kind])}")
    finally:
        test.end()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
