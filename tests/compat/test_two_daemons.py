"""The same questions to swtpm 0.7.1 and to what stands in its place; every answer compared."""

import os
import signal
import socket
import stat
import subprocess
import sys

from sides import Tried, policy, sides, tpm_command
from differences import DIFFERENCES
from harness.case import main
from harness.process import wait_until

STARTUP = bytes.fromhex("80010000000c000001440000")
GET_RANDOM = bytes.fromhex("80010000000c0000017b0004")
PROBE = bytes.fromhex("80010000000a00000181")
TPM12_PROBE = bytes.fromhex("00c10000000a00000063")
TPM12_STARTUP = bytes.fromhex("00c10000000c000000990001")


ASKED = {}  # every question, and what ours answered


class Answers:
    """What one side said, by question."""

    def __init__(self):
        self.by_question = {}

    def add(self, question, answer):
        if question in self.by_question:
            raise AssertionError(f"asked twice: {question}")
        self.by_question[question] = answer.hex() if isinstance(answer, bytes) else answer


def compare(test, ask):
    """ask(side, answers) for both. Every difference has a row, and every row of a question that was
    asked has its difference."""
    stock, ours = sides(test)
    said = []
    for side in (stock, ours):
        answers = Answers()
        ask(side, answers)
        said.append(answers.by_question)
    rows = {row[0]: row for row in DIFFERENCES}
    wrong = []
    for question in sorted(set(said[0]) | set(said[1])):
        theirs, mine = said[0].get(question), said[1].get(question)
        row = rows.get(question)
        if row is None and mine != theirs:
            wrong.append(f"{question}: ours {mine!r}, swtpm {theirs!r}")
        elif row is not None and (mine, theirs) != (row[1], row[2]):
            wrong.append(f"{question}: ours {mine!r}, swtpm {theirs!r}, and the table says "
                         f"{row[1]!r} and {row[2]!r}")
    ASKED.update(said[1])
    print(f"         {len(said[1])} questions, {sum(q in rows for q in said[1])} with a row")
    test.check(not wrong, "\n".join(["answers differ", *wrong]))


# ---- the control channel ----


def word(*values):
    return b"".join(v.to_bytes(4, "big") for v in values)


def ask_control(side, answers, family):
    side.emulator(family=family)
    c = side.control()

    def add(what, answer):
        answers.add(f"{family} {what}", answer)
    add("capabilities", c.ask(0x01, size=8))
    add("configuration", c.ask(0x0F, size=8))
    add("established, off", c.ask(0x04, size=8))
    for name, code in (("hash start", 0x06), ("hash end", 0x08), ("cancel", 0x09), ("store", 0x0A)):
        add(f"{name}, off", c.ask(code))
    add("reset established, off", c.ask(0x0B, b"\3"))
    add("state, off", c.blob(1, 1)[0][:4])
    add("buffer size, off", c.ask(0x11, word(0), 16)[:4])
    add("buffer size set, off", c.ask(0x11, word(4096), 16))
    add("buffer size too small, off", c.ask(0x11, word(10), 16))
    add("stop, off", c.ask(0x0E))
    add("init", c.ask(0x02, word(0)))
    add("init again", c.ask(0x02, word(0)))
    add("established", c.ask(0x04, size=8))
    for n in range(6):
        add(f"locality {n}", c.ask(0x05, bytes([n])))
    add("locality of QEMU's length", c.ask(0x05, bytes([2, 0, 0, 0])))
    add("locality 0 again", c.ask(0x05, b"\0"))
    add("buffer size set, on", c.ask(0x11, word(4096), 16)[:4])
    add("cancel", c.ask(0x09))
    ask_hash(c, add)
    add("store", c.ask(0x0A))
    for n in range(5):
        add(f"reset established {n}", c.ask(0x0B, bytes([n])))
    ask_info(c, add)
    ask_blobs(c, add)
    add("lock storage", c.ask(0x13, word(1)))
    add("shutdown", c.ask(0x03))


def ask_hash(c, add):
    add("hash start", c.ask(0x06))
    add("hash data", c.ask(0x07, word(5) + b"hello"))
    add("hash end", c.ask(0x08))
    add("established, hashed", c.ask(0x04, size=8))


def ask_info(c, add):
    for flags in (1, 2, 4, 7):
        head = c.ask(0x12, flags.to_bytes(8, "big") + word(0, 0), 12)
        text = c.take(int.from_bytes(head[8:12], "big"))
        add(f"info {flags}", text.decode().rstrip("\0"))


def ask_blobs(c, add):
    blobs = {}
    for kind in (1, 2, 3):
        head, blobs[kind] = c.blob(1, kind)
        add(f"blob {kind}", head[:8])
        add(f"blob {kind} is there", bool(blobs[kind]))
    add("blob of unknown kind", c.blob(1, 9)[0][:4])
    add("set while on", c.ask(0x0D, word(0, 1, 0)))
    add("stop", c.ask(0x0E))
    for kind in (1, 2):
        add(f"set {kind}", c.ask(0x0D, word(0, kind, len(blobs[kind])) + blobs[kind]))
    add("init with what was set", c.ask(0x02, word(1)))
    add("established, set", c.ask(0x04, size=8))


def every_control_command_is_answered_alike_by_a_tpm2(test):
    compare(test, lambda side, answers: ask_control(side, answers, "2.0"))


def every_control_command_is_answered_alike_by_a_tpm12(test):
    compare(test, lambda side, answers: ask_control(side, answers, "1.2"))


def the_data_descriptor_is_taken_alike(test):
    def ask(side, answers):
        side.emulator("--flags", "not-need-init")
        c = side.control()
        mine, theirs = socket.socketpair()
        answers.add("SET_DATAFD", c.ask(0x10, fds=[theirs.fileno()]))
        answers.add("SET_DATAFD a second time", c.ask(0x10, fds=[theirs.fileno()]))
        answers.add("a command before Startup", tpm_command(mine, GET_RANDOM))
        answers.add("Startup", tpm_command(mine, STARTUP))
        answers.add("GetRandom", tpm_command(mine, GET_RANDOM)[:12])
        answers.add("the probe of QEMU", tpm_command(mine, PROBE)[:10])
        answers.add("the probe for a TPM 1.2", tpm_command(mine, TPM12_PROBE))
        mine.close()
        answers.add("configuration behind it", len(c.ask(0x0F, size=8)))
    compare(test, ask)


def the_migration_key_is_told_of(test):
    def ask(side, answers):
        with open(side.path("key"), "w", encoding="ascii") as f:
            f.write("0123456789abcdef" * 2)
        side.emulator("--migration-key", "file=key,mode=aes-cbc,format=hex")
        c = side.control()
        answers.add("migration key configuration", c.ask(0x0F, size=8))
        answers.add("init with a migration key", c.ask(0x02, word(0)))
        head, blob = c.blob(1, 1)
        answers.add("blob under a migration key", head[:8])
        answers.add("its flags", blob[4:6])
    compare(test, ask)


# ---- where it listens ----


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def connect(port):
    found = []

    def there():
        try:
            found.append(socket.create_connection(("127.0.0.1", port), 20))
        except ConnectionRefusedError:
            pass
        return found
    wait_until("a port", there, 20)
    return found[0]


def data_sockets_are_served_alike(test):
    def ask(side, answers):
        state = ["--tpm2", "--flags", "not-need-init,startup-clear"]

        def started(*how, **more):
            return side.start("socket", *state, "--tpmstate", "dir=" + side.new_state(), *how, **more)
        port = free_port()
        daemon = started("--server", f"type=tcp,port={port}")
        s = connect(port)
        answers.add("tcp: GetRandom", tpm_command(s, GET_RANDOM)[:12])
        answers.add("tcp: and again", tpm_command(s, GET_RANDOM)[:12])
        s.close()
        s = connect(port)
        answers.add("tcp: next connection", tpm_command(s, GET_RANDOM)[:12])
        s.close()
        daemon.end()

        port = free_port()
        daemon = started("--server", f"port={port},bindaddr=127.0.0.1,disconnect=true")
        s = connect(port)
        answers.add("disconnect: GetRandom", tpm_command(s, GET_RANDOM)[:12])
        answers.add("disconnect: is closed", s.recv(1))
        s.close()
        daemon.end()

        port = free_port()
        daemon = started("-p", str(port), "-t")
        s = connect(port)
        answers.add("-p: GetRandom", tpm_command(s, GET_RANDOM)[:12])
        s.close()
        daemon.end()

        daemon = started("--server", "type=unixio,path=data,mode=0600", "--terminate", ready="data")
        answers.add("unixio: mode", oct(stat.S_IMODE(os.stat(side.path("data")).st_mode)))
        s = socket.socket(socket.AF_UNIX)
        s.connect(side.path("data"))
        answers.add("unixio: GetRandom", tpm_command(s, GET_RANDOM)[:12])
        s.close()
        answers.add("unixio: --terminate", daemon.wait())
        answers.add("unixio: path is gone", os.path.exists(side.path("data")))

        for name, how in (("--server fd", "type=tcp,fd={}"), ("-f", None)):
            mine, theirs = socket.socketpair()
            n = theirs.fileno()
            daemon = started(*(["--server", how.format(n)] if how else ["-f", str(n)]), pass_fds=[n])
            theirs.close()
            answers.add(f"{name}: GetRandom", tpm_command(mine, GET_RANDOM)[:12])
            mine.close()
            answers.add(f"{name}: ends with it", daemon.wait())
    compare(test, ask)


def control_sockets_are_served_alike(test):
    def ask(side, answers):
        def started(*how, **more):
            return side.start("socket", "--tpm2", "--tpmstate", "dir=" + side.new_state(), *how,
                              **more)
        daemon = started("--ctrl", "type=unixio,path=c1,mode=0660", ready="c1")
        answers.add("ctrl: mode", oct(stat.S_IMODE(os.stat(side.path("c1")).st_mode)))
        c = side.control("c1")
        answers.add("ctrl: INIT", c.ask(0x02, word(0)))
        answers.add("ctrl: SHUTDOWN", c.ask(0x03))
        answers.add("ctrl: exit code", daemon.wait())
        answers.add("ctrl: path is there", os.path.exists(side.path("c1")))

        port = free_port()
        daemon = started("--ctrl", f"type=tcp,port={port}")
        connect(port).close()
        for name, tool in (("stock", "/usr/bin/swtpm_ioctl"), ("own", side.ioctl)):
            done = side.test.run([tool, "--tcp", f"127.0.0.1:{port}", "-e"])
            answers.add(f"ctrl tcp: {name} ioctl", (done.rc, done.out, done.err))
        daemon.end()

        mine, theirs = socket.socketpair()
        n = theirs.fileno()
        daemon = started("--ctrl", f"type=unixio,clientfd={n}", "--server", "type=tcp,port="
                         + str(free_port()), pass_fds=[n])
        theirs.close()
        mine.settimeout(20)
        mine.sendall(word(0x01))
        answers.add("clientfd: capabilities", len(mine.recv(8)))
        mine.sendall(word(0x03))
        answers.add("clientfd: SHUTDOWN", mine.recv(4))
        answers.add("clientfd: exit code", daemon.wait())

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(side.path("c2"))
        listener.listen(1)
        n = listener.fileno()
        daemon = started("--ctrl", f"type=unixio,fd={n}", pass_fds=[n])
        listener.close()
        c = side.control("c2")
        answers.add("ctrl fd: established", c.ask(0x04, size=8))
        daemon.end()
    compare(test, ask)


# ---- the process ----


def signals_end_it_alike(test):
    # Whoever starts this in the background has SIGINT ignored, nohup SIGHUP, and children inherit that;
    # not what is handled.
    for name in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(name) == signal.SIG_IGN:
            signal.signal(name, lambda *_: sys.exit(1))

    def ask(side, answers):
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            daemon = side.emulator("--pid", "file=pid", ctrl=name)
            wait_until("pid file", lambda: os.path.exists(side.path("pid"))
                       and os.path.getsize(side.path("pid")), 20)
            if name == "SIGTERM":
                with open(side.path("pid"), encoding="ascii") as f:
                    text = f.read()
                test.equal(int(text), daemon.process.pid, "the pid")
                answers.add("pid file", "number and newline" if text.endswith("\n") else "number")
            c = side.control(name)
            c.ask(0x01, size=8)  # it runs its loop
            daemon.process.send_signal(getattr(signal, name))
            if name == "SIGHUP":
                ended = daemon.process.poll
                answers.add(name, "goes on" if side.name == "ours" and c.ask(0x01, size=8)
                            and ended() is None else "ends by it" if daemon.wait() < 0 else "?")
                daemon.end()
                continue
            c.close()
            answers.add(name, daemon.wait())
            if name == "SIGTERM":
                answers.add("SIGTERM: what is left", [os.path.exists(side.path(p))
                                                      for p in (name, "pid")])
            if os.path.exists(side.path("pid")):
                os.unlink(side.path("pid"))
    compare(test, ask)


def filter_mode(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(line.split()[1] for line in f if line.startswith("Seccomp:"))


def system_calls_are_filtered_alike(test):
    def ask(side, answers):
        for action in ("kill", "none"):
            daemon = side.emulator("--seccomp", f"action={action}", ctrl=action)
            side.control(action).ask(0x02, word(0))
            filtered = "filtered" if filter_mode(daemon.process.pid) == "2" else "not filtered"
            answers.add(f"--seccomp action={action}", filtered)
            daemon.end()
    compare(test, ask)


def daemons_go_to_the_background_alike(test):
    def ask(side, answers):
        state = side.new_state()
        done = side.run("socket", "--tpm2", "-d", "--tpmstate", f"dir={state}", "--ctrl",
                        f"type=unixio,path={side.path('bg')}", "--pid",
                        f"file={side.path('bg.pid')}", "--log", f"file={side.path('bg.log')}")
        answers.add("--daemon", (done.rc, done.out))
        c = side.control("bg")
        answers.add("--daemon: established", c.ask(0x04, size=8))
        answers.add("--daemon: SHUTDOWN", c.ask(0x03))
        wait_until("its end", lambda: not os.path.exists(side.path("bg")), 20)
    compare(test, ask)


# ---- the state ----


def files_of(folder):
    return sorted(os.listdir(folder))


def states_are_where_they_are_looked_for(test):
    def ask(side, answers):
        for family, more in (("2.0", ""), ("1.2", ", TPM 1.2")):
            state = side.new_state()
            ctrl = "c" + family
            daemon = side.emulator(state=f"dir={state}", family=family, ctrl=ctrl)
            c = side.control(ctrl)
            answers.add(f"{family} first start", c.ask(0x02, word(0)))
            tpm2 = ["--tpm2"] if family == "2.0" else []
            if family == "2.0":
                answers.add("print-states, a state is held",
                            side.run("socket", "--print-states", *tpm2, "--tpmstate",
                                     f"dir={state}").rc)
            c.ask(0x03)
            daemon.wait()
            answers.add(f"files in the directory{more}", files_of(state))
            done = side.run("socket", "--print-states", *tpm2, "--tpmstate", f"dir={state}")
            answers.add(f"{family} print-states", (done.rc, "permall" in done.out,
                                                   done.out.startswith('{ "type": "swtpm"')))
            if family == "2.0":
                path = os.path.join(state, files_of(state)[-1])
                answers.add("mode of the state", f"{stat.S_IMODE(os.stat(path).st_mode):04o}")
        state = side.new_state()
        done = side.run("socket", "--print-states", "--tpm2", "--tpmstate", f"dir={state}")
        answers.add("print-states, nothing there", (done.rc, done.out))
        answers.add("print-states leaves", files_of(state))
        state = side.new_state()
        daemon = side.emulator(state=f"backend-uri=dir://{state},mode=0604", ctrl="cm")
        c = side.control("cm")
        c.ask(0x02, word(0))
        c.ask(0x03)
        daemon.wait()
        path = os.path.join(state, files_of(state)[-1])
        answers.add("mode as asked", f"{stat.S_IMODE(os.stat(path).st_mode):04o}")
        env = {"TPM_PATH": side.new_state()}
        daemon = side.start("socket", "--tpm2", "--ctrl", "type=unixio,path=ce", ready="ce", env=env)
        c = side.control("ce")
        answers.add("TPM_PATH", c.ask(0x02, word(0)))
        c.ask(0x03)
        daemon.wait()
        answers.add("TPM_PATH: something is there", bool(files_of(env["TPM_PATH"])))
        uri = "backend-uri=file://" + side.path("nvram")
        with open(side.path("nvram"), "wb"):
            pass
        daemon = side.emulator(state=uri, ctrl="cf")
        c = side.control("cf")
        answers.add("file://, an empty file", c.ask(0x02, word(0)))
        c.ask(0x03)
        daemon.wait()
        done = side.run("socket", "--print-states", "--tpm2", "--tpmstate", uri)
        answers.add("file://: print-states", (done.rc, "permall" in done.out))
    compare(test, ask)


def outcome(side, ctrl, *argv):
    """Of a start that should not work: what the manager sees."""
    daemon = side.start("socket", "--tpm2", "--ctrl", f"type=unixio,path={ctrl}", *argv)
    wait_until("socket or end", lambda: daemon.process.poll() is not None
               or os.path.exists(side.path(ctrl)), 20)
    if daemon.process.poll() is not None:
        socket_left = os.path.exists(side.path(ctrl))
        test = side.test
        test.check(daemon.process.stderr.read().strip(), f"{ctrl}: not a word on stderr")
        return f"exit {daemon.wait()} {'behind' if socket_left else 'before'} the socket"
    answer = side.control(ctrl).ask(0x02, word(0))
    daemon.end()
    return f"INIT {int.from_bytes(answer, 'big'):#x}"


def keys_that_do_not_fit_are_told_apart(test):
    def ask(side, answers):
        for name, text in (("right", "right"), ("wrong", "wrong"), ("128", "0123456789abcdef" * 2),
                           ("256", "0123456789abcdef" * 4)):
            with open(side.path(name), "w", encoding="ascii") as f:
                f.write(text)
        right = "pwdfile=right,mode=aes-256-cbc"
        keyed, plain, sized = (side.new_state() for _ in range(3))
        for n, (state, key) in enumerate(((keyed, ["--key", right]), (plain, []), (
                sized, ["--key", "file=256,mode=aes-256-cbc"]))):
            daemon = side.emulator(*key, state=f"dir={state}", ctrl=f"k{n}")
            c = side.control(f"k{n}")
            answers.add(f"first start {n}", c.ask(0x02, word(0)))
            answers.add(f"first start {n}: configuration", c.ask(0x0F, size=8) if key else None)
            c.ask(0x03)
            daemon.wait()
        answers.add("files in the directory, with a key", files_of(keyed))
        answers.add("right key", outcome(side, "r", "--tpmstate", f"dir={keyed}", "--key", right))
        answers.add("key file, right", outcome(side, "r2", "--tpmstate", f"dir={sized}", "--key",
                                               "file=256,format=hex,mode=aes-256-cbc"))
        answers.add("wrong key", outcome(side, "w", "--tpmstate", f"dir={keyed}", "--key",
                                         "pwdfile=wrong,mode=aes-256-cbc"))
        answers.add("key of another size", outcome(side, "s", "--tpmstate", f"dir={sized}",
                                                   "--key", "file=128,mode=aes-cbc"))
        answers.add("no key for a state with one", outcome(side, "n", "--tpmstate", f"dir={keyed}"))
        answers.add("key for a state without one", outcome(side, "p", "--tpmstate", f"dir={plain}",
                                                           "--key", right))

    def in_time(side, answers):
        with policy(side, b"iter-time = 1\n"):  # what takes longer is told behind the socket
            ask(side, answers)
    compare(test, in_time)


def two_daemons_never_have_one_state(test):
    def ask(side, answers):
        for name, uri in (("", "dir=" + side.new_state()),
                          (" on a file", "backend-uri=file://" + side.path("one"))):
            side.emulator(state=uri, ctrl="first" + name[-4:])
            answers.add(f"first daemon{name}",
                        side.control("first" + name[-4:]).ask(0x02, word(0)))
            answers.add(f"second daemon{name}", outcome(side, "second" + name[-4:], "--tpmstate",
                                                        uri))
    compare(test, ask)


# ---- the command line ----


# poll and its like; which argument is the time, and what it is where there is none.
WAITS = {7: (2, 0xFFFFFFFF), 271: (2, 0), 23: (4, 0), 270: (4, 0), 232: (3, 0xFFFFFFFF), 281: (3, 0xFFFFFFFF)}


def waits_for_ever(pid):
    """For what others send: it is up and runs."""
    try:
        with open(f"/proc/{pid}/syscall", encoding="ascii") as f:
            words = f.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    if words[0] in ("running", "-1") or int(words[0]) not in WAITS:
        return False
    at, never = WAITS[int(words[0])]
    return int(words[1 + at], 16) & 0xFFFFFFFF == never


def runs_or_ends(side, argv):
    """A wrong command line ends; the others wait for somebody."""
    daemon = side.start(*argv)
    try:
        wait_until(f"end of {argv}, or that it waits", lambda: daemon.process.poll() is not None
                   or waits_for_ever(daemon.process.pid), 60)
        return "runs" if daemon.process.poll() is None else daemon.process.poll()
    except PermissionError:  # not root: ours lets nobody look
        try:
            return daemon.process.wait(1.5)
        except subprocess.TimeoutExpired:
            return "runs"
    finally:
        daemon.end()


def command_lines_end_alike(test):
    def ask(side, answers):
        state = ["--tpm2", "--tpmstate", "dir=" + side.new_state()]
        ctrl = ["--ctrl", "type=unixio,path=cl"]
        lines = {
            "nothing": [], "unknown interface": ["bogus"], "cuse": ["cuse"], "--version": ["--version"],
            "-v": ["-v"], "--help": ["--help"], "socket --help": ["socket", "--help"],
            "chardev --help": ["chardev", "--help"], "unknown option": ["socket", "--bogus"],
            "-v behind the interface": ["socket", "-v"],
            "a word too many": ["socket", *state, *ctrl, "x"],
            "unknown sub-option of tpmstate": ["socket", "--tpmstate", "dir=/tmp,bogus=1"],
            "unknown sub-option of ctrl": ["socket", *state, "--ctrl", "type=unixio,path=cl,bogus"],
            "ctrl without a type": ["socket", *state, "--ctrl", "path=cl"],
            "ctrl without a path": ["socket", *state, "--ctrl", "type=unixio"],
            "ctrl tcp without a port": ["socket", *state, "--ctrl", "type=tcp"],
            "ctrl with a bad descriptor": ["socket", *state, "--ctrl", "type=unixio,fd=77"],
            "unknown flag": ["socket", *state, *ctrl, "--flags", "startup-foo"],
            "unknown locality rule": ["socket", *state, *ctrl, "--locality", "bogus"],
            "log without a file": ["socket", *state, *ctrl, "--log", "level=1"],
            "pid without a file": ["socket", *state, *ctrl, "--pid", "bogus"],
            "no such key file": ["socket", *state, *ctrl, "--key", "file=nope"],
            "key without a source": ["socket", *state, *ctrl, "--key", "mode=aes-cbc"],
            "unknown mode of a key": ["socket", *state, *ctrl, "--key", "pwdfile=/etc/hostname,mode=des"],
            "unknown user": ["socket", *state, *ctrl, "--runas", "nobody-of-that-name"],
            "-f of a low descriptor": ["socket", *state, "-f", "1"],
            "-f of no descriptor": ["socket", *state, "-f", "99"],
            "chardev without a device": ["chardev", *state],
            "chardev, no such device": ["chardev", *state, "--chardev", "/dev/nope"],
            "chardev, vtpm-proxy": ["chardev", *state, "--vtpm-proxy"],
            "print-states without a state": ["socket", "--print-states"],
            "--print-capabilities": ["socket", "--print-capabilities"],
            "an abbreviation": ["socket", "--print-cap"],
            "chardev --print-capabilities": ["chardev", "--print-capabilities", "--tpm2"],
            "--print-info": ["socket", "--tpm2", "--print-info", "1"],
            "no state named": ["socket", "--tpm2", *ctrl],
            "state directory missing": ["socket", "--tpm2", "--tpmstate", "dir=/nonexistent", *ctrl],
            "nobody could connect": ["socket", *state],
            "no ctrl, no not-need-init": ["socket", *state, "--server",
                                          f"type=tcp,port={free_port()}"],
        }
        for name, argv in lines.items():
            answers.add(name, runs_or_ends(side, argv))
    compare(test, ask)


def words_of_newer_versions_are_known(test):
    def ask(side, answers):
        lines = {"ctrl terminate": ["--ctrl", "type=unixio,path=nw,terminate"],
                 "--seccomp action=log": ["--seccomp", "action=log"],
                 "--migration": ["--migration", "release-lock-outgoing"],
                 "state lock": ["--tpmstate", f"dir={side.new_state()},lock"],
                 "flags disable-auto-shutdown": ["--flags", "disable-auto-shutdown"]}
        if os.geteuid() == 0:
            lines["--chroot"] = ["--chroot", "/"]
        for name, argv in lines.items():
            usual = {"--tpmstate": "dir=" + side.new_state(), "--ctrl": "type=unixio,path=nw"}
            usual.update(zip(argv[::2], argv[1::2]))
            answers.add(name, runs_or_ends(side, ["socket", "--tpm2", *sum(usual.items(), ())]))
            if os.path.exists(side.path("nw")):
                os.unlink(side.path("nw"))
    compare(test, ask)


# ---- swtpm_ioctl ----


CALLS = ["-c", "-g", "-e", "-C", "-v", "-h abc", "-l 3", "-l 9", "-l x", "-r 3", "-b 0", "-b 3000",
         "--save bogus f", "--save permanent f0", "-i", "-c", "-e", "-r 3", "-r 0", "-l 0", "-C", "-v",
         "-b 0", "-b 4096", "--info 1", "--info 0x7", "-h abc", "-h -", "--save permanent f1",
         "--save volatile f2", "--save savestate f3", "--load permanent f1", "--stop",
         "--load permanent f1", "--load volatile f2", "--load permanent none", "-i", "-g", "-c -g",
         "--bogus", "-l", "-s", "-c"]


def both_tools_say_the_same_of_both_daemons(test):
    """The tools are what is compared here, so that the daemon is the same."""
    stock, ours = sides(test)
    n = 0
    for family in ("2.0", "1.2"):
        for daemon in (stock, ours):
            said = []
            for tool in (stock.ioctl, ours.ioctl):
                ctrl = f"i{family}{len(said)}"
                running = daemon.emulator(family=family, ctrl=ctrl)
                answers = [daemon.call(tool, *call.split(), ctrl=ctrl) for call in CALLS]
                sizes = [os.path.getsize(daemon.path(f)) > 0 for f in ("f1", "f2", "f3")]
                said.append([*answers, sizes])
                running.wait()
                for f in ("f0", "f1", "f2", "f3"):
                    if os.path.exists(daemon.path(f)):
                        os.unlink(daemon.path(f))
            for call, a, b in zip([*CALLS, "files"], *said):
                n += 1
                what = f"{family} {daemon.name} {call}"
                if call == "files":
                    test.equal(b, a, what)
                    continue
                test.equal(b[:2], a[:2], what)
                # Of refusals of the system and of getopt each has its own words.
                if "TPM result" in a[2]:
                    test.equal(b[2].strip(), a[2].strip(), what)
                test.equal(bool(b[2]), bool(a[2]), what + ": says something")
    print(f"         {n} calls compared")


def summary():
    """After all tests of this file: what was compared, and every difference with its reason. 1 where a row
    of the table belongs to no question."""
    rows = [row for row in DIFFERENCES if row[0] in ASKED]
    print(f"compared: {len(ASKED)} answers, of {len(Tried.codes)} control commands, "
          f"{len(Tried.options)} options and sub-options and {len(CALLS)} calls of swtpm_ioctl; "
          f"{len(rows)} answers differ:")
    for question, mine, theirs, why in rows:
        print(f"  {question}: {mine}, swtpm {theirs}: {why}")
    unasked = [row[0] for row in DIFFERENCES if row[0] not in ASKED
               and not (row[0] == "--chroot" and os.geteuid())]
    print("".join(f"  a row that nobody asks for: {q}\n" for q in unasked), end="")
    return 1 if unasked else 0


if __name__ == "__main__":
    code = main()
    sys.exit(code or (summary() if len(sys.argv) == 1 else 0))
