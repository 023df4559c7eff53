"""The key before the machine: nothing can connect until it was right."""

import os
import stat
import sys
import time

from harness.case import main
from harness.process import Failure, run, wait_until
from harness.store import KEY_MISSING, KEY_UNEXPECTED, KEY_WRONG, LOCKED, STATE_CORRUPT
from harness.store import STATE_FOREIGN, USAGE, NvkeepStore
from harness.tpm import PCR_DEBUG

INDEX = 0x01500001
SLOW_MS = 1200
SOCKET_WITHIN_S = 1.0


def stat_of(path):
    s = os.stat(path)
    return s.st_size, s.st_mtime_ns, s.st_ino, stat.S_IMODE(s.st_mode)


def is_refused(test, vm, rc, word, names=None, **how):
    """Exit code, one line that says the class and names a file (the image), no socket, no change, and
    QEMU does not start."""
    store = vm.store
    before = (store.bytes(), stat_of(store.image), sorted(os.listdir(test.folder)))
    began = time.monotonic()
    daemon = vm.start_daemon(wait=False, **how)
    test.equal(daemon.wait(), rc, f"exit code ({daemon.err().strip()})")
    seconds = time.monotonic() - began
    said = daemon.err() + daemon.log()
    test.contains(said, word, "what it says")
    named = os.path.basename(names or store.image)
    test.contains(said, named, "what it says of the file it is about")
    test.check(not daemon.bound(), "there is a socket")
    left = set(os.listdir(test.folder)) - set(before[2])
    test.check(all(n.endswith((".out", ".err", ".log")) for n in left), f"it left {left}")
    test.check(store.bytes() == before[0], "the image changed")
    test.equal(stat_of(store.image), before[1], "size, time, inode and mode of the image")
    test.equal(vm.start_qemu(hello=False).refused()[0], 1, "exit code of QEMU")
    return seconds


def a_wrong_key_is_refused_before_qemu_could_connect(test):  # alone
    """S0.2 S0.6 S0.8 S3.3 S3.10"""
    test.only_nvkeep("swtpm starts and fails later")
    vm = test.vm()
    vm.power_on()
    vm.tpm.nv_define(INDEX, 8)
    vm.tpm.nv_write(INDEX, b"12345678")
    vm.cut_power()
    wrong = test.path("wrong.key")
    vm.store.write_key(b"0" * 64, wrong)
    seconds = is_refused(test, vm, KEY_WRONG, "KEY_WRONG", key="file=" + wrong)
    test.check(seconds < 1, f"the refusal took {seconds:.2f} s")
    vm.power_on()
    test.equal(vm.tpm.nv_read(INDEX, 8), b"12345678", "NV with the right key")


def a_missing_key_is_refused(test):  # alone
    """S1.5"""
    test.only_nvkeep("swtpm starts and fails later")
    vm = test.vm()
    seconds = is_refused(test, vm, KEY_MISSING, "KEY_MISSING", key="")
    test.check(seconds < 1, f"the refusal took {seconds:.2f} s")
    empty = test.path("empty.key")
    vm.store.write_key(b"", empty)
    is_refused(test, vm, KEY_MISSING, "KEY_MISSING", names=empty, key="file=" + empty)


def a_key_for_a_plain_image_is_refused(test):
    """S1.19 S4.6"""
    test.only_nvkeep("swtpm knows no images")
    store = test.store(create=False)
    store.write_key(b"some key")
    made = run(["qemu-img", "create", "-q", "-f", "qcow2", store.image, "1M"])
    test.equal(made.rc, 0, "qemu-img create")
    is_refused(test, test.vm(store=store), KEY_UNEXPECTED, "KEY_UNEXPECTED")


def an_encrypted_image_that_is_not_ours_is_refused(test):
    test.only_nvkeep("swtpm knows no images")
    store = test.store(create=False)
    store.write_key(b"some key")
    made = None
    for _ in range(60):  # now and then it finds its own clock too coarse to measure itself
        made = run(["qemu-img", "create", "-q", "--object", f"secret,id=k,file={store.key_file}",
                    "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=k,"
                    "encrypt.iter-time=10", store.image, "1M"])
        if "accurate CPU usage" not in made.err:
            break
        time.sleep(0.2)
    test.equal(made.rc, 0, f"qemu-img create: {made}")
    vm = test.vm(store=store)
    daemon = vm.start_daemon(wait=False)
    rc = daemon.wait()
    # Never written to: empty. With somebody's data where our sector would be: foreign.
    test.equal(rc, 20, f"exit code ({daemon.err().strip()})")
    test.check(not daemon.bound(), "there is a socket")
    filled = run(["qemu-io", "--object", f"secret,id=k,file={store.key_file}", "--image-opts",
                  f"driver=qcow2,file.filename={store.image},encrypt.key-secret=k",
                  "-c", "write -P 0x5a 0 64k"])
    test.equal(filled.rc, 0, f"qemu-io: {filled}")
    is_refused(test, vm, STATE_FOREIGN, "STATE_FOREIGN")


def a_damaged_state_is_refused_before_qemu_could_connect(test):
    """S1.9 S3.8: the reference sector has a flipped bit; the key is right."""
    test.only_nvkeep("swtpm starts and fails later")
    store = test.store()
    test._stores.remove(store)  # it is damaged on purpose
    options = ["--object", f"secret,id=k,file={store.key_file}", "--image-opts",
               f"driver=qcow2,file.filename={store.image},encrypt.key-secret=k"]
    written = run(["qemu-io", *options, "-c", "write -P 0xff 300 4"])
    test.equal(written.rc, 0, f"qemu-io: {written}")
    is_refused(test, test.vm(store=store), STATE_CORRUPT, "STATE_CORRUPT")


def a_missing_image_is_refused_and_not_made(test):
    test.only_nvkeep("swtpm makes a new TPM")
    store = test.store(create=False)
    store.write_key(b"some key")
    vm = test.vm(store=store)
    daemon = vm.start_daemon(wait=False)
    test.equal(daemon.wait(), USAGE, f"exit code ({daemon.err().strip()})")
    test.check(not os.path.exists(store.image), "an image was made")
    test.check(not daemon.bound(), "there is a socket")


def a_slow_passphrase_lets_the_machine_wait(test):  # alone
    """The socket is there within a second, QEMU connects, and the guest boots once the passphrase
    was found right."""
    test.only_nvkeep("swtpm does not stretch")
    store = test.store(passphrase=b"a passphrase that a person chose", iter_ms=SLOW_MS)
    vm = test.vm(store=store)
    began = time.monotonic()
    vm.start_daemon()
    bound = time.monotonic() - began
    test.check(bound < SOCKET_WITHIN_S, f"the socket took {bound:.2f} s")
    vm.start_qemu(hello=False)
    vm.wait_ready()
    ready = time.monotonic() - began
    test.check(ready > SLOW_MS / 4000, f"ready after {ready:.2f} s: the passphrase was not slow")
    vm.tpm.nv_define(INDEX, 8)
    vm.tpm.nv_write(INDEX, b"12345678")
    print(f"         socket after {bound:.2f} s, guest ready after {ready:.2f} s")
    vm.cut_power()
    vm.power_on()
    test.equal(vm.tpm.nv_read(INDEX, 8), b"12345678", "NV after a power cut")


def a_slow_wrong_passphrase_ends_qemu_before_the_guest_runs(test):  # alone
    """S3.1 S3.10: the verdict comes when QEMU is connected already; no guest ever runs."""
    test.only_nvkeep("swtpm does not stretch")
    store = test.store(passphrase=b"a passphrase that a person chose", iter_ms=SLOW_MS)
    before = store.bytes(), stat_of(store.image)
    vm = test.vm(store=store)
    store.write_key(b"another passphrase", test.path("wrong.key"))
    began = time.monotonic()
    daemon = vm.start_daemon(key="file=" + test.path("wrong.key"))
    test.check(time.monotonic() - began < SOCKET_WITHIN_S, "the socket came late")
    qemu = vm.start_qemu(hello=False)
    test.equal(qemu.refused()[0], 1, "exit code of QEMU")
    test.equal(daemon.wait(), KEY_WRONG, f"exit code ({daemon.err().strip()})")
    test.contains(daemon.err() + daemon.log(), "KEY_WRONG", "what it says")
    wait_until("removal of the socket", lambda: not daemon.bound(), 5)
    test.equal(qemu.console.lines, [], "what the guest said")
    test.check((store.bytes(), stat_of(store.image)) == before, "the image changed")


def the_image_of_a_running_machine_is_claimed(test):
    """S0.18 S3.9 S3.25: nobody else gets it, and everybody may ask about it."""
    test.only_nvkeep("swtpm locks by other means")
    vm = test.vm()
    vm.power_on()
    vm.tpm.nv_define(INDEX, 8)
    second = test.started(vm.store.serve())
    test.equal(second.wait(), LOCKED, f"exit code ({second.err().strip()})")
    test.check(not second.bound(), "the second one has a socket")
    theirs = run(["qemu-img", "info", vm.store.image])
    test.check(theirs.rc != 0 and "lock" in theirs.err, f"qemu-img info: {theirs}")
    test.equal(run(["qemu-img", "info", "-U", vm.store.image]).rc, 0, "qemu-img info -U")
    test.equal(vm.store.tool("verify-key").rc, 0, "verify-key")
    test.equal(vm.store.tool("info", key="").rc, 0, "info")
    test.equal(vm.store.tool("check").rc, 0, "check")
    vm.store.write_key(b"wrong", test.path("wrong.key"))
    test.equal(vm.store.tool("verify-key", key="file=" + test.path("wrong.key")).rc, KEY_WRONG,
               "verify-key with a wrong key")
    vm.tpm.nv_write(INDEX, b"12345678")
    vm.cut_power()
    vm.power_on()  # the claim of the dead is nobody's
    test.equal(vm.tpm.nv_read(INDEX, 8), b"12345678", "NV after all that")


def every_source_of_the_key_starts_the_machine(test):
    """S1.21"""
    test.only_nvkeep("the grammar is ours")
    store = test.store(passphrase=b"a passphrase", iter_ms=10)
    with_newline = test.path("with-newline")
    store.write_key(b"a passphrase\n", with_newline)
    credentials = test.path("credentials")
    os.mkdir(credentials)
    store.write_key(b"a passphrase", os.path.join(credentials, "tpm-key"))
    os.environ["CREDENTIALS_DIRECTORY"] = credentials
    vm = test.vm(store=store)
    for kind, content in (("file", None), ("pwdfile", None), ("credential", None),
                          ("fd", b"a passphrase"), ("pwdfd", b"a passphrase\n")):
        if content is None:
            key = {"file": "file=" + store.key_file, "pwdfile": "pwdfile=" + with_newline,
                   "credential": "credential=tpm-key"}[kind]
            vm.power_on(key=key)
        else:
            reader, writer = os.pipe()
            os.write(writer, content)
            os.close(writer)
            vm.power_on(key=f"{kind}={reader}", pass_fds=(reader,))
            os.close(reader)
        test.equal(len(vm.tpm.get_random(8)), 8, f"random bytes with {kind}=")
        vm.cut_power()
    del os.environ["CREDENTIALS_DIRECTORY"]
    # The newline counts where the bytes are meant exactly.
    daemon = vm.start_daemon(wait=False, key="file=" + with_newline)
    test.equal(daemon.wait(), KEY_WRONG, "exit code with a newline too many")


def the_key_is_in_no_command_line_environment_or_log(test):
    test.only_nvkeep("it is about our daemon")
    passphrase = b"needle-in-the-haystack-8271"
    store = test.store(passphrase=passphrase, iter_ms=10)
    vm = test.vm(store=store)
    vm.power_on()
    vm.tpm.pcr_extend(PCR_DEBUG, bytes(32))
    for name in ("cmdline", "environ"):
        with open(f"/proc/{vm.daemon.pid}/{name}", "rb") as f:
            test.check(passphrase not in f.read(), f"the passphrase is in {name}")
    vm.power_off()
    for name in os.listdir(test.folder):
        path = os.path.join(test.folder, name)
        if path != store.key_file and os.path.isfile(path):
            with open(path, "rb") as f:
                test.check(passphrase not in f.read(), f"the passphrase is in {name}")


if __name__ == "__main__":
    sys.exit(main())
