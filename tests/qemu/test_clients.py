"""Other clients on the control socket, while a machine uses it."""

import os
import signal
import socket
import struct
import sys
import time

from harness.case import main
from harness.process import wait_until
from harness.tpm import get_random_command, response_code

INDEX = 0x01500001
GET_CAPABILITY, SET_BUFFERSIZE = 1, 17


def connect(vm, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    s.settimeout(10)
    s.connect(vm.daemon.ctrl)
    return s


def works(test, vm, what):
    began = time.monotonic()
    test.equal(len(vm.tpm.get_random(16)), 16, what)
    test.check(time.monotonic() - began < 5, f"{what}: it took {time.monotonic() - began:.1f} s")


def a_client_that_hangs_before_qemu_comes_does_not_keep_it_out(test):
    test.only_nvkeep("swtpm serves one client, and waits for it")
    vm = test.vm()
    vm.start_daemon()
    half = connect(vm)
    half.sendall(struct.pack(">I", GET_CAPABILITY)[:2])
    silent = connect(vm)
    vm.start_qemu()
    vm.wait_ready()
    works(test, vm, "random bytes beside two clients that hang")
    half.close()
    silent.close()
    works(test, vm, "random bytes after they left")


def a_client_that_hangs_beside_qemu_does_not_disturb(test):
    vm = test.vm()
    vm.power_on()
    clients = [connect(vm) for _ in range(5 if test.kind == "nvkeep" else 1)]
    for i, client in enumerate(clients):
        client.sendall(struct.pack(">I", GET_CAPABILITY)[:i])
    works(test, vm, "random bytes beside clients that hang")
    vm.tpm.nv_define(INDEX, 8)
    test.equal(vm.reset()[:1], ["tis"], "the machine after a reset")
    for client in clients:
        client.close()
    works(test, vm, "random bytes after they left")
    test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon")


def garbage_on_the_socket_does_not_disturb(test):
    test.only_nvkeep("swtpm serves one client, and waits for it")
    vm = test.vm()
    vm.power_on()
    for garbage in (b"\xff" * 4096, b"\0" * 4096, b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096),
                    struct.pack(">II", 99, 1), struct.pack(">I", SET_BUFFERSIZE) + b"\xff" * 4):
        client = connect(vm)
        try:
            client.sendall(garbage)
            client.settimeout(0.2)
            client.recv(4096)
        except OSError:
            pass
        client.close()
        test.check(vm.daemon.alive(), f"the daemon ended at {garbage[:16]!r}")
    works(test, vm, "random bytes after garbage")


def a_second_client_may_ask(test):
    test.only_nvkeep("swtpm serves one client, and waits for it")
    vm = test.vm()
    vm.power_on()
    for _ in range(20):
        client = connect(vm)
        client.sendall(struct.pack(">I", GET_CAPABILITY))
        test.equal(len(client.recv(64)), 8, "length of the answer to GET_CAPABILITY")
        client.close()
    works(test, vm, "random bytes after twenty questions")


def a_frozen_daemon_freezes_no_monitor(test):
    """QEMU waits for its TPM in a thread; the monitor answers, and the guest goes on when the daemon
    does."""
    vm = test.vm()
    vm.power_on()
    vm.daemon.signal(signal.SIGSTOP)
    vm.console.send(get_random_command(8).hex())
    time.sleep(0.3)
    test.equal(vm.status(), "running", "the machine")
    vm.daemon.signal(signal.SIGCONT)
    answer = vm.console.next_line()
    test.equal(response_code(bytes.fromhex(answer[2:])), 0, "the command that waited")


def a_probe_before_qemu_changes_nothing(test):
    """libvirt and people look whether the socket answers, and leave."""
    vm = test.vm()
    vm.start_daemon()
    for _ in range(3):
        probe = connect(vm)
        probe.sendall(struct.pack(">I", GET_CAPABILITY))
        answer = probe.recv(64)
        test.equal(len(answer), 8, "length of the answer to GET_CAPABILITY")
        probe.close()
    test.check(vm.daemon.alive(), "the daemon ended with the probe")
    vm.start_qemu()
    vm.wait_ready()
    works(test, vm, "random bytes after probes")


if __name__ == "__main__":
    sys.exit(main())
