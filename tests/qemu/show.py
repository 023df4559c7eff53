"""What ./run shows: a machine, its TPM in an encrypted image, a power cut. Checks what it claims."""

import hashlib
import os
import shlex
import shutil
import sys
import tempfile
import time

from harness.case import Case
from harness.process import Failure, run
from harness.store import KEY_WRONG
from harness.tpm import PCR_DEBUG, extended

INDEX, TEXT = 0x01500001, b"written before the power cut"


def step(text):
    print(f"\n{text}", flush=True)


def say(text):
    print("".join(f"    {line}\n" for line in text.rstrip().splitlines()), end="", flush=True)


def command(argv, wanted=0, timeout=60, hide=None):
    """Shows a command as one would type it and what it says. hide: less of its output."""
    say("$ " + " ".join(shlex.quote(str(a)) for a in argv))
    done = run(argv, timeout)
    text = (done.out + done.err).rstrip()
    say(hide(text) if hide else text)
    if done.rc != wanted:
        raise Failure(f"exit code {done.rc} instead of {wanted}: {text}")
    return done


def must(condition, text):
    if not condition:
        raise Failure(text)


def show(case):
    os.chdir(case.folder)  # short names in what is shown
    os.symlink(os.environ["NVKEEP"], "nvkeep")
    store = case.store("vm", create=False)
    store.nvkeep = "./nvkeep"

    step("1. An encrypted qcow2 image with a new TPM 2.0 in it, and a new key")
    command(["./nvkeep", "create", "vm.qcow2", "--new-key", "vm.key"])

    step("2. A machine boots with it: QEMU, tpm-crb, firmware and a small guest")
    vm = case.vm("tpm-crb", store=store)
    began = time.monotonic()
    vm.power_on()
    tpm = vm.tpm
    tpm.nv_define(INDEX, len(TEXT))
    tpm.nv_write(INDEX, TEXT)
    digest = hashlib.sha256(b"a measurement").digest()
    tpm.pcr_extend(PCR_DEBUG, digest)
    value = tpm.pcr_read(PCR_DEBUG)
    must(value == extended(bytes(32), digest), "the PCR holds something else")
    say(f"ready after {time.monotonic() - began:.1f} s\n"
        f"guest: NV index {INDEX:#x} := {TEXT.decode()!r}\n"
        f"guest: PCR {PCR_DEBUG} extended, now {value.hex()[:16]}...")

    step("3. Power cut: SIGKILL to QEMU and to nvkeep at one moment")
    pids = vm.qemu.pid, vm.daemon.pid
    vm.cut_power()
    say(f"processes {pids[0]} and {pids[1]} are gone")

    step("4. The machine boots again")
    vm.power_on()
    found, value = vm.tpm.nv_read(INDEX, len(TEXT)), vm.tpm.pcr_read(PCR_DEBUG)
    must(found == TEXT, f"NV holds {found!r}")
    must(value == bytes(32), f"PCR {PCR_DEBUG} was not reset")
    say(f"guest: NV index {INDEX:#x} is {found.decode()!r}: still there\n"
        f"guest: PCR {PCR_DEBUG} is {value.hex()[:16]}...: reset, as in every start")
    must(vm.power_off() == (0, 0), "QEMU or nvkeep did not end in order")
    say("guest: switched itself off; nvkeep ended with it")

    step("5. A wrong key")
    with open("wrong.key", "wb") as f:
        f.write(b"not the key of this image")
    command(["./nvkeep", "serve", "vm.qcow2", "--key", "file=wrong.key",
             "--ctrl", "type=unixio,path=wrong.sock"], wanted=KEY_WRONG)
    must(not os.path.exists("wrong.sock"), "there is a socket")
    say(f"exit code {KEY_WRONG} (KEY_WRONG), no socket: QEMU cannot even start")

    step("6. Stock qemu-img on the same image")
    command(["qemu-img", "check", "--object", "secret,id=k,file=vm.key", "--image-opts",
             "driver=qcow2,file.filename=vm.qcow2,encrypt.key-secret=k"])
    wanted = ("file format:", "virtual size:", "encrypt", "format: luks", "cipher", "hash alg")
    command(["qemu-img", "info", "vm.qcow2"], hide=lambda text: "\n".join(
        line for line in text.splitlines() if any(w in line for w in wanted)))

    nvkeep = os.environ["NVKEEP"]
    step("For a machine of your own:")
    say(f"{nvkeep} create vm-tpm.qcow2 --new-key vm-tpm.key\n"
        f"{nvkeep} serve vm-tpm.qcow2 --key file=vm-tpm.key \\\n"
        "    --ctrl type=unixio,path=vm-tpm.sock --terminate &\n"
        "qemu-system-x86_64 ...your options... \\\n"
        "    -chardev socket,id=chrtpm,path=vm-tpm.sock \\\n"
        "    -tpmdev emulator,id=tpm0,chardev=chrtpm \\\n"
        "    -device tpm-crb,tpmdev=tpm0")
    say(f"\n{nvkeep} --help says the rest; the key file is the only way back to the TPM: keep it.")


def main():
    folder = tempfile.mkdtemp(prefix="nvkeep-run-", dir=os.environ.get("TMPDIR", "/tmp"))
    case = Case("nvkeep", folder)
    try:
        show(case)
        return 0
    except Failure as e:
        print(f"\nFAILED: {e}\n{case.describe()}", file=sys.stderr)
        return 1
    finally:
        case.end()
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
