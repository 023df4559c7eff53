"""Snapshots of a running TPM, whose guest increments an NV counter without a pause.

    snapshot_live.py            some dozens
    snapshot_live.py --long     a thousand

Each snapshot must go back to a value of the counter that was acknowledged before the command was
answered, and not before it was given. Snapshots by qemu-img come between, where the daemon rests; what
qemu-img applies is refused, and adopted. qemu-img check finds nothing at the end. The line at the end
tells what an increment takes with and without snapshots.
"""
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

LONG = "--long" in sys.argv[1:]
N_LIVE = 1000 if LONG else 40
KEPT_MOST = 1200 if LONG else 24
N_OTHERS = 25 if LONG else 2
N_RESTORED = 200 if LONG else 8
NVKEEP = os.environ["NVKEEP"]
INDEX = 0x01800021
PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)


def fail(text):
    print("FAILED:", text)
    sys.exit(1)


def run(*args, want=0):
    done = subprocess.run(args, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != want:
        fail(f"exit code {done.returncode}, not {want}: {' '.join(args)}\n{done.stdout}{done.stderr}")
    return done.stdout


def nvkeep(*args, want=0):
    return run(NVKEEP, *args, "--key", "file=key", want=want)


def qemu_img(*args):
    return run("qemu-img", *args, "--object", "secret,id=s0,file=key", "--image-opts",
               "driver=qcow2,file.filename=image,encrypt.key-secret=s0")


class Daemon:
    def __init__(self):
        self.process = subprocess.Popen(
            [NVKEEP, "serve", "image", "--key", "file=key", "--server", "type=unixio,path=tpm",
             "--ctrl", "type=unixio,path=ctrl", "--admin", "type=unixio,path=admin",
             "--flags", "not-need-init,startup-clear", "--log", "file=log"])
        self.tpm = self.connect("tpm")
        self.admin = self.connect("admin")
        self.lines = self.admin.makefile("r")
        self.lines.readline()
        self.ask("qmp_capabilities")
        self.ask("query-status")

    def connect(self, path):
        while self.process.poll() is None:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(path)
                return s
            except OSError:
                time.sleep(0.01)
        return fail("the daemon ended: " + open("log").read())

    def ask(self, command, **arguments):
        self.admin.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self.lines.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                return answer["error"]

    def command(self, code, handles, parameters):
        body = struct.pack(f">{len(handles)}I", *handles) + PASSWORD + parameters
        self.tpm.sendall(struct.pack(">HII", 0x8002, 10 + len(body), code) + body)
        head = self.tpm.recv(10, socket.MSG_WAITALL)
        size, rc = struct.unpack(">II", head[2:])
        rest = self.tpm.recv(size - 10, socket.MSG_WAITALL) if size > 10 else b""
        return rc, rest

    def define(self):
        attributes = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 17 | 1 << 18 | 1 << 25
        public = struct.pack(">IHIHH", INDEX, 0x000B, attributes, 0, 8)
        rc, _ = self.command(0x12A, [0x40000001], struct.pack(">HH", 0, len(public)) + public)
        if rc:
            fail(f"defining the counter: {rc:#x}")

    def increment(self):
        rc, _ = self.command(0x134, [INDEX, INDEX], b"")
        if rc:
            fail(f"incrementing: {rc:#x}")

    def value(self):
        rc, rest = self.command(0x14E, [INDEX, INDEX], struct.pack(">HH", 8, 0))
        return struct.unpack(">Q", rest[6:14])[0] if rc == 0 else fail(f"reading: {rc:#x}")

    def end(self):
        self.ask("quit")
        self.process.wait(60)


class Guest(threading.Thread):
    """Increments. `value` is what was acknowledged last, `asked` what was asked for."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self.daemon_of_tpm = daemon
        self.value = self.asked = daemon.value()
        self.times = []
        self.stopping = False
        self.start()

    def run(self):
        while not self.stopping:
            self.asked = self.value + 1
            begin = time.monotonic()
            self.daemon_of_tpm.increment()
            self.times.append(time.monotonic() - begin)
            self.value = self.asked

    def stop(self):
        self.stopping = True
        self.join()


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1000 if times else 0


def live(kept):
    daemon = Daemon()
    guest = Guest(daemon)
    while len(guest.times) < 300:
        time.sleep(0.01)
    alone = len(guest.times)
    took = []
    for i in range(N_LIVE):
        name = f"live {i}"
        least, begin = guest.value, time.monotonic()
        answer = daemon.ask("snapshot-create", name=name)
        took.append(time.monotonic() - begin)
        if answer:
            fail(f"snapshot-create: {answer}")
        kept[name] = (least, guest.asked)
        if len(kept) > KEPT_MOST or i % 10 == 9 and not LONG:
            gone = random.choice(list(kept))
            if daemon.ask("snapshot-delete", name=gone):
                fail("snapshot-delete")
            del kept[gone]
    names = [s["name"] for s in daemon.ask("snapshot-list")["snapshots"]]
    if set(names) != set(kept):
        fail(f"snapshot-list: {names}")
    for command, word in (("snapshot-apply", "the TPM is on"), ("snapshot-create", "already")):
        answer = daemon.ask(command, name=names[0])
        if word not in answer.get("desc", ""):
            fail(f"{command}: {answer}")
    guest.stop()
    daemon.end()
    return guest.times[:alone], guest.times[alone:], took


def by_others(kept):
    """And what they apply is told, and adopted."""
    for i in range(N_OTHERS):
        name = f"theirs {i}"
        daemon = Daemon()
        daemon.increment()
        value = daemon.value()
        daemon.end()
        qemu_img("snapshot", "-c", name)
        kept[name] = (value, value)
        daemon = Daemon()
        daemon.increment()
        daemon.end()
        name = random.choice(list(kept))
        qemu_img("snapshot", "-a", name)
        nvkeep("check", "image", want=23)
        nvkeep("adopt", "image", "--yes")
        look(name, kept)


def look(name, kept):
    daemon = Daemon()
    value = daemon.value()
    daemon.end()
    if not kept[name][0] <= value <= kept[name][1]:
        fail(f"{name}: the counter is {value}, and was {kept[name]}")


def main():
    work = tempfile.mkdtemp(prefix="nvkeep-snapshots-")
    os.chdir(work)
    random.seed(4)
    os.umask(0o077)
    run(NVKEEP, "create", "image", "--new-key", "key")
    daemon = Daemon()
    daemon.define()
    daemon.increment()
    daemon.end()
    kept = {}
    alone, beside, took = live(kept)
    qemu_img("check")
    by_others(kept)
    restored = random.sample(list(kept), min(N_RESTORED, len(kept)))
    for name in restored:
        nvkeep("snapshot", "apply", "image", name)
        look(name, kept)
    qemu_img("check")
    nvkeep("check", "image")
    print(f"snapshots of a running TPM: {N_LIVE} made, {N_OTHERS} by qemu-img and as many applied by it, "
          f"{len(restored)} restored, all to their instant; one takes {percentile(took, .5):.1f} ms, "
          f"p99 {percentile(took, .99):.1f} ms; an increment {percentile(alone, .5):.2f} ms, p99 "
          f"{percentile(alone, .99):.2f} ms, beside snapshots {percentile(beside, .5):.2f} ms, p99 "
          f"{percentile(beside, .99):.2f} ms, most {percentile(beside, 1):.1f} ms")
    shutil.rmtree(work)


main()
