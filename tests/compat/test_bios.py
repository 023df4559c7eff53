"""swtpm_bios and what stands in its place: the same commands on the wire, the same words and exit codes,
with every combination of options, whatever the TPM answers; and each with each daemon."""

import os
import re
import socket
import struct
import sys
import threading
import tty

from sides import both, sides
from test_two_daemons import GET_RANDOM, TPM12_PROBE, free_port
from sides import tpm_command
from harness.case import main
from harness.process import run

STARTUPS = ([], ["-c"], ["-s"], ["-d"], ["-n"])
MORE = ("-o", "-cs", "-ea", "-u")
PASSWORD = re.compile("(80020000003100000129.{38}).{40}")
# What stock says, and ours.
SPELLED = ("TPM2_ImcrementalSelfTest", "TPM2_IncrementalSelfTest")


class FakeTpm:
    """Answers every command with success, or as it is told; one for each connection."""

    def __init__(self, path, answer=None):
        self.answer = answer or (lambda n, command: None)
        self.commands = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                command = client.recv(4096)
                if command:
                    self.commands.append(PASSWORD.sub(r"\1", command.hex()))
                    client.sendall(self.reply(command))

    def reply(self, command):
        told = self.answer(len(self.commands), command)
        if isinstance(told, bytes):
            return told
        tag = {b"\x00\xc1": 0xC4, b"\x80\x01": 0x8001, b"\x80\x02": 0x8002}[command[:2]]
        return struct.pack(">HII", tag, 10, told or 0)

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


def said(test, tool, argv, answer=None, env=None):
    """What it sent, its exit code, what it said: swtpm's refusals of a TPM 2.0 are on standard output,
    ours are all on standard error."""
    path = test.path("fake")
    if os.path.exists(path):
        os.unlink(path)
    fake = FakeTpm(path, answer)
    done = run([tool, "--unix", path, *argv], timeout=60, env=env)
    fake.end()
    return fake.commands, done.rc, (done.out + done.err).replace(*SPELLED)


def same(test, argv, answer=None):
    stock, ours = (said(test, tool, argv, answer) for tool in both("swtpm_bios"))
    test.equal(ours, stock, f"{argv}: commands, exit code, what is said")
    return stock


def combinations():
    for family in ([], ["--tpm2"]):
        for startup in STARTUPS:
            for mask in range(1 << len(MORE)):
                yield family + startup + [w for i, w in enumerate(MORE) if mask >> i & 1]


def every_combination_of_options_says_the_same_to_a_tpm(test):
    n = sent = 0
    for argv in combinations():
        sent += len(same(test, argv)[0])
        n += 1
    for argv in (["-tpm2", "-cs"], ["-c", "-s"], ["-s", "-c"], ["-d", "-n"], ["-n", "-c"], ["x", "-o"]):
        sent += len(same(test, argv)[0])
        n += 1
    print(f"         {n} command lines compared, {sent} commands")


def flags(deactivated, disabled=0):
    body = struct.pack(">IH", 22, 0x1F) + bytes([disabled, 1, deactivated]) + bytes(17)
    return struct.pack(">HII", 0xC4, 10 + len(body), 0) + body


def whatever_a_tpm_refuses_is_said_alike(test):
    n = 0
    for argv, most in ((["-u", "-cs", "-ea"], 9), (["--tpm2", "-u", "-cs"], 3), (["-d"], 1)):
        for at in range(1, most + 1):
            for code in (5, 0x26, 0x100, 0x101, 0x80000001):
                result = same(test, argv, lambda i, _: code if i == at else None)
                test.check(result[1] == 128, f"{argv}: command {at} refused: exit code {result[1]}")
                n += 1
    for deactivated in (0, 1):
        for argv in (["-ea"], ["-ea", "-u", "-cs"], ["-cs"]):
            result = same(test, argv, lambda _, c: flags(deactivated) if c[6:10] == b"\0\0\0\x65" else None)
            test.equal(result[1], 129 if deactivated and "-ea" in argv else 0, f"{argv}: exit code")
            n += 1
    print(f"         {n} refusals compared")


def who_cannot_be_reached_has_the_same_exit_code(test):
    stock, ours = both("swtpm_bios")
    port = str(free_port())
    lines = [["--unix", "/nope"], ["--tcp", "127.0.0.1:" + port], ["--tpm-device", "/nope"],
             ["--tpm-device", "/dev/null"], ["--unix", "x" * 200], ["--tpm-device", "/dev/zero"],
             ["--unix", "/nope", "--tcp", ":" + port], ["--tcp", "host.invalid:1"]]
    environments = [{"TCSD_USE_TCP_DEVICE": "1", "TCSD_TCP_DEVICE_PORT": port},
                    {"TCSD_USE_TCP_DEVICE": "1", "TCSD_TCP_DEVICE_PORT": port,
                     "TCSD_TCP_DEVICE_HOSTNAME": "127.0.0.1"}, {"TPM_DEVICE": "/dev/null"}]
    for argv, env in [(line, None) for line in lines] + [([], e) for e in environments]:
        a, b = (run([tool, *argv], env=env) for tool in (stock, ours))
        test.equal((b.rc, b.out, bool(b.err)), (a.rc, a.out, bool(a.err)), f"{argv} {env}: {b.err}")
        test.equal(a.rc, 255, f"{argv} {env}: exit code")
    for argv in (["--bogus"], ["--tcp"], ["-x"]):
        a, b = (run([tool, *argv]) for tool in (stock, ours))
        test.equal((b.rc, "swtpm_bios" in b.out), (a.rc, "swtpm_bios" in a.out), f"{argv}")
    test.equal(run([ours, "-h"]).rc, run([stock, "-h"]).rc, "-h")
    # swtpm's prints its help behind the version and ends with 1; the manual says that it ends well.
    test.equal((run([stock, "-v"]).rc, run([ours, "-v"]).rc), (1, 0), "-v")


def a_response_that_is_none_has_the_same_exit_code(test):
    header = bytes.fromhex("00c40000000a00000000")
    for answer in (b"\0", header[:5], header[:9], header + b"extra", bytes(10), b"\xff" * 10,
                   bytes.fromhex("00c40000100100000000")):
        stock, ours = (said(test, tool, ["-o"], lambda *_: answer) for tool in both("swtpm_bios"))
        test.equal((ours[:2], bool(ours[2])), (stock[:2], bool(stock[2])), f"answered {answer.hex()}: {ours}")
        test.equal(ours[1], 255, f"answered {answer.hex()}: exit code")


CALLS = {"2.0": (["-n", "-cs"], ["-c"], ["-c"], ["-n", "-cs"], ["-u"], ["-n", "-u"], ["-s"], ["-d"]),
         "1.2": (["-n"], ["-c"], ["-c"], ["-n", "-ea"], ["-n", "-cs", "-u"], ["-n"], ["-d"], ["-s", "-o"])}


def answers_of(tool, side, family, where):
    """Of a daemon that was just started: of each call, and of a command at the end."""
    state = ["--tpmstate", "dir=" + side.new_state()] + (["--tpm2"] if family == "2.0" else [])
    keep, fds = [], ()
    side.n += 1
    path, ctrl = f"b{side.n}", f"bc{side.n}"
    if where == "chardev":
        master, slave = os.openpty()
        tty.setraw(slave)
        keep, fds = [master, slave], (master,)
        to = ["--tpm-device", os.ttyname(slave)]
        argv = ["chardev", "--fd", str(master)]
    elif where == "tcp":
        port = free_port()
        to = ["--tcp", f"127.0.0.1:{port}"]
        argv = ["socket", "--server", f"type=tcp,port={port}"]
    else:
        to = ["--unix", side.path(path)]
        argv = ["socket", "--server", f"type=unixio,path={path}"]
    daemon = side.start(*argv, *state, "--flags", "not-need-init", "--ctrl",
                        f"type=unixio,path={ctrl}", pass_fds=fds, ready=ctrl)
    c = side.control(ctrl)
    c.ask(0x01, size=8)  # everything listens
    said_so = []
    for call in CALLS[family]:
        done = run([tool, *to, *(["--tpm2"] if family == "2.0" else []), *call])
        said_so.append((call, done.rc, (done.out + done.err).replace(*SPELLED)))
    if where == "unix":
        data = side.connect(path)
        command = GET_RANDOM if family == "2.0" else TPM12_PROBE
        said_so.append(tpm_command(data, command)[6:10])
        data.close()
    c.close()
    daemon.end()
    for fd in keep:
        os.close(fd)
    return said_so


def each_tool_starts_the_tpm_of_each_daemon_alike(test):
    n, pair = 0, sides(test)
    for family in ("2.0", "1.2"):
        # A TPM 1.2 takes a second to power on: each way only in the long form.
        for where in ("unix", "tcp", "chardev") if family == "2.0" or test.long else ("unix",):
            found = []
            for side in pair:
                for tool in both("swtpm_bios"):
                    found.append(answers_of(tool, side, family, where))
                    n += len(found[-1])
            for other in found[1:]:
                test.equal(other, found[0], f"TPM {family}, {where}: answers")
            test.check(any(a[1] == 0 for a in found[0][:-1]) and any(a[1] == 128 for a in found[0][:-1]),
                       f"TPM {family}, {where}: of success and refusal both are seen: {found[0]}")
    print(f"         {n} answers compared")


if __name__ == "__main__":
    sys.exit(main())
