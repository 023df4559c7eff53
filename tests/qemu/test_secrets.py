"""Keys, passphrases and what a guest stores: searched for in every place where they must not be.

Each test prints a table, place by place, and in each place a copy of each secret is planted and found."""

import os
import secrets
import socket
import struct
import sys
import threading

from harness import search
from harness.case import Skip, main
from harness.process import run
from harness.proxy import StreamRelay

INDEX = 0x01500010
LIBTPMS = "libtpms' working copy lies in memory that is not locked; encrypt the host's swap"
LEFT = "libtpms does not wipe its own static and freed memory when the TPM goes off, only the end of " \
       "the process does; encrypt the host's swap"
SCHEDULE = "the ciphers of the open image: the first round keys of AES are the key; locked, not dumped"
OURS = "our copy of the stored state; locked, not dumped"
SEALS = "seals what is handed over; locked, not dumped"
STANDS = "the TPM stands still until it is taken back (`cont` goes on with it) or the daemon ends"


def cannot_look():
    """Why the memory of the daemon cannot be read, or is not what it would be."""
    if os.geteuid() != 0:
        return "not root: the memory of the daemon cannot be read, which is what it promises"
    if any(mark in search.read(os.environ["NVKEEP"]) for mark in (b"__asan_init", b"__tsan_init")):
        return "built with sanitizers, which lock nothing and keep what was freed"
    return None


def machine(test, name, **how):
    """(vm that uses its TPM, all secrets)"""
    marker = secrets.token_bytes(32)
    passphrase = b"passphrase-" + secrets.token_hex(12).encode()
    digits = secrets.token_hex(32)
    store = test.store(name, passphrase=passphrase, iter_ms=20)
    vm = test.vm(name=name + "-vm", store=store)
    vm.power_on(admin=True, migration_key=test.migration_key(name + ".migration", digits), **how)
    vm.tpm.nv_define(INDEX, len(marker))
    vm.tpm.nv_write(INDEX, marker)
    vm.reset()  # what the guest sent is in its own memory no more
    vm.tpm.get_random(16)
    wanted = search.of_image(store.bytes(), passphrase)
    wanted += [search.Secret("migration key", bytes.fromhex(digits)),
               search.Secret("NV marker", marker)]
    return vm, passphrase, search.Table(wanted)


def folder_but_keys(case):
    """Everything that lies in the folder of the test, but what is there to hold the key."""
    content = []
    for here, _, names in os.walk(case.folder):
        for name in sorted(names):
            path = os.path.join(here, name)
            if os.path.isfile(path) and not path.endswith((".key", ".migration")):
                content.append(search.read(path))
    return b"\0".join(content)


def open_files(pid):
    """Regular files that it holds open, by name or not."""
    content = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        if os.path.isfile(path):
            content.append(search.read(path))
    return b"\0".join(content)


def searched(test, table):
    table.show()
    test.equal(table.wrong, [], "what the search found")


def memory_rows(test, table, pid, when, locked, unlocked):
    """What the process holds, as root may see it."""
    if cannot_look():
        print(f"         {when}: memory not searched: {cannot_look()}")
        return
    table.search(f"{when}: memory, locked", search.memory(pid, search.locked), locked)
    table.search(f"{when}: memory, not locked", search.memory(pid, search.unlocked), unlocked)
    table.search(f"{when}: what a core dump would hold", search.memory(pid, search.dumped), unlocked)
    for m in search.mappings(pid):
        if search.locked(m):
            test.check("dd" in m.flags, f"{when}: {m.first:x} is locked, and would be dumped")
    test.check(search.status(pid, "VmLck") > 0, f"{when}: nothing is locked")
    test.equal(search.status(pid, "VmSwap"), 0, f"{when}: kB in the swap")


def no_secret_is_where_others_look_while_a_machine_runs(test):
    """S1.10 S1.15"""
    test.only_nvkeep("about nvkeep")
    vm, _, table = machine(test, "tpm")
    pid = vm.daemon.pid
    table.search("image", vm.store.bytes())
    table.search("log at its highest level", search.read(vm.daemon.log_path))
    table.search("stdout and stderr of the daemon",
                 (vm.daemon.out() + vm.daemon.err()).encode(), may_be_empty=True)
    tools = [vm.store.tool(c, "--json") for c in ("info", "verify-key", "check")]
    table.search("info, verify-key, check: what they print",
                 "".join(t.out + t.err for t in tools).encode())
    table.search("command lines of all processes", search.every_process("cmdline"))
    table.search("environments of all processes", search.every_process("environ"))
    table.search("files that the daemon holds open", open_files(pid))
    table.search("folder of image, log, sockets and pid", folder_but_keys(test))
    memory_rows(test, table, pid, "running",
                {"volume key": SCHEDULE, "migration key": SEALS, "NV marker": OURS},
                {"NV marker": LIBTPMS})
    searched(test, table)


def no_key_stays_in_memory_that_is_not_locked_when_the_tpm_is_off(test):
    """S1.15: on and off again, in a daemon that goes on running."""
    test.only_nvkeep("about nvkeep")
    if cannot_look():
        raise Skip(cannot_look())
    vm, _, table = machine(test, "tpm")
    vm.quit()
    daemon = test.started(vm.store.serve())
    daemon.wait_bound()
    init, stop = struct.pack(">II", 2, 0), struct.pack(">I", 14)
    # Connected all the time: the daemon ends with its last client.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ctrl:
        ctrl.connect(daemon.ctrl)
        for message in (init, stop):
            ctrl.sendall(message)
            test.equal(ctrl.recv(4, socket.MSG_WAITALL), bytes(4), "INIT and STOP")
        memory_rows(test, table, daemon.pid, "TPM off", {"volume key": SCHEDULE, "NV marker": OURS},
                    {"NV marker": LEFT})
    searched(test, table)


def no_key_stays_in_memory_that_is_not_locked_between_two_emulators(test):
    """S1.15: of a daemon that was shut down and waits for the next machine."""
    test.only_nvkeep("about nvkeep")
    if cannot_look():
        raise Skip(cannot_look())
    vm, _, table = machine(test, "tpm", keep=True)
    test.equal(vm.power_off_machine(), 0, "exit code of QEMU")
    memory_rows(test, table, vm.daemon.pid, "waiting",
                {"volume key": SCHEDULE, "migration key": SEALS, "NV marker": OURS},
                {"NV marker": LEFT})
    searched(test, table)


def no_core_is_left_by_a_daemon_that_is_killed(test):
    """Neither by the kernel nor by a debugger of the same user; root needs a debugger, and gets what
    the table above says."""
    test.only_nvkeep("about nvkeep")
    vm, _, _ = machine(test, "tpm")
    pid = vm.daemon.pid
    limits = search.read(f"/proc/{pid}/limits").decode()
    line = next(l for l in limits.splitlines() if l.startswith("Max core file size"))
    test.equal(line.split()[4:6], ["0", "0"], "the limit of core files")
    if os.geteuid() != 0:
        test.raises(PermissionError, "reading the daemon's memory", open, f"/proc/{pid}/mem", "rb")
        # Files of an undumpable process belong to root [proc(5)]; of another one to its user. (Of
        # root's nothing can be told by them: test_confine.c asks the process.)
        test.equal(os.stat(f"/proc/{pid}/environ").st_uid, 0, "the owner of /proc/PID/environ")
    vm.daemon.signal(6)
    test.equal(vm.daemon.child.wait(), -6, "how it ended")
    left = [n for n in os.listdir(test.folder) + os.listdir("/") if n.startswith("core")]
    test.equal(left, [], "core files")
    vm.qemu.end()


def no_secret_travels_or_stays_behind_with_a_machine_that_moved(test):
    """S1.10 S1.15: two hosts; what went through is kept on its way. The owner that gave its TPM away may
    claim it again, and keeps the volume key for that, locked."""
    test.only_nvkeep("about nvkeep")
    source, _, table = machine(test, "tpm")
    saved = test.path("saved.state")
    source.enable("events")
    source.qmp.command("migrate", uri=f"exec:cat >{saved}")
    test.equal(source.end_of_migration(), "completed", "saving")
    table.search("saved machine", search.read(saved))
    source.go_on()
    target = test.vm(name="target", store=source.store.view("target"))
    target.incoming(migration_key=test.path("tpm.migration"), admin=True)
    relay = StreamRelay(test.path("relay"), target.uri)
    source.begin_migration(target, uri=relay.uri)
    test.equal(source.end_of_migration(), "completed", "migration")
    target.take_guest(source)
    table.search("migration stream", bytes(relay.kept))
    memory_rows(test, table, source.daemon.pid, "given away",
                {"volume key": "kept to claim the image again, until the daemon ends; locked, not "
                               "dumped",
                 "migration key": SEALS, "NV marker": STANDS}, {"NV marker": f"{STANDS}; {LIBTPMS}"})
    table.search("log of the source", search.read(source.daemon.log_path))
    table.search("log of the target", search.read(target.daemon.log_path))
    table.search("folder of both", folder_but_keys(test))
    searched(test, table)


class Listener:
    """An admin socket that keeps what it is told; the key's descriptor too."""

    def __init__(self, path):
        self.heard, self.fds = bytearray(), []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(path)
        self._socket.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        client, _ = self._socket.accept()
        client.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n')
        while True:
            data, fds, _, _ = socket.recv_fds(client, 65536, 4)
            if not data:
                return
            self.heard += data
            self.fds += fds
            if b"}" in data:
                client.sendall(b'{"return": {}, "id": 1}\n')

    def key(self):
        return b"".join(iter(lambda: os.read(self.fds[0], 4096), b"")) if self.fds else b""


def no_secret_is_told_to_or_by_the_admin_socket(test):
    """S1.10 S3.4: the key goes by a descriptor of its own; no message has it, in either direction."""
    test.only_nvkeep("about nvkeep")
    vm, passphrase, table = machine(test, "tpm")
    ask = [vm.admin.command(c) for c in ("query-status",)]
    table.search("answers and events of the admin socket",
                 (repr(ask) + repr(vm.admin.events)).encode())
    vm.quit()
    path = test.path("listener")
    listener = Listener(path)
    done = run([os.environ["NVKEEP"], "ctl", path, "add-key", "--key", vm.store.key], timeout=20)
    test.equal(listener.key(), passphrase, f"the key behind the descriptor: {done}; {listener.heard}")
    table.search("nvkeep ctl add-key: what it says", bytes(listener.heard))
    table.search("nvkeep ctl add-key: what it prints", (done.out + done.err).encode(),
                 may_be_empty=True)
    waiting = vm.store.serve(key="admin", admin=True)
    test.started(waiting)
    vm.daemon = waiting
    vm._admin = None
    answer = vm.admin.add_key(passphrase)
    waiting.wait_bound()
    table.search("add-key: what the daemon answers",
                 (repr(answer) + repr(vm.admin.events) + waiting.log()).encode())
    memory_rows(test, table, waiting.pid, "key by admin, TPM off", {"volume key": SCHEDULE,
                                                                   "NV marker": OURS},
                {"NV marker": LEFT})
    searched(test, table)


def no_secret_is_in_what_recover_leaves(test):
    """S1.10: an image with a damaged record, the copy that is made of it, and what is printed."""
    test.only_nvkeep("about nvkeep")
    vm, _, table = machine(test, "tpm")
    before = vm.store.bytes()
    vm.tpm.nv_write(INDEX, b"something else..")
    changed = next(i for i, (a, b) in enumerate(zip(before, vm.store.bytes())) if a != b)
    vm.tpm.nv_write(INDEX, b"and once more...")
    vm.cut_power()
    with open(vm.store.image, "r+b") as f:
        f.seek(changed)
        byte = f.read(1)[0]
        f.seek(changed)
        f.write(bytes([byte ^ 8]))
    copy = test.path("damaged.qcow2")
    done = vm.store.tool("recover", "--yes", "--backup", copy)
    test.equal(done.rc, 0, f"nvkeep recover: {done}")
    table.search("image, recovered", vm.store.bytes())
    table.search("copy made by recover --backup", search.read(copy))
    table.search("what recover prints", (done.out + done.err).encode())
    searched(test, table)


def what_lies_in_the_memory_of_a_process_is_found(test):
    """The search of memory itself, on a process that holds one of each secret, and shows another in its
    command line and environment."""
    if cannot_look():
        raise Skip(cannot_look())
    vm, _, table = machine(test, "tpm")
    vm.quit()
    values = [v for s in table.secrets for v in (s.values[0], s.values[-1])]
    text = "import sys; held = [bytes.fromhex(l) for l in sys.stdin.readline().split()]; " \
           "print('ready', flush=True); sys.stdin.read()"
    shown = table.secrets[3].values[0].hex()
    from subprocess import PIPE, Popen
    with Popen([sys.executable, "-c", text, shown], stdin=PIPE, stdout=PIPE,
               env={**os.environ, "SHOWN": shown}) as child:
        child.stdin.write(" ".join(v.hex() for v in values).encode() + b"\n")
        child.stdin.flush()
        test.equal(child.stdout.readline(), b"ready\n", "the process that holds them")
        content = search.memory(child.pid, search.unlocked)
        for secret in table.secrets:
            test.check(secret.count(content) > 0, f"{secret.name} was not found in memory")
        for name in ("cmdline", "environ"):
            test.check(table.secrets[3].count(search.every_process(name)) > 0,
                       f"what is shown in {name} was not found")
        child.stdin.close()


if __name__ == "__main__":
    sys.exit(main())
