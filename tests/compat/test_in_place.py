"""nvkeep import --in-place: machines that had a swtpm go on with nvkeep in its place, the same TPM in
each; what is not to be touched is not; and the way back."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading

from sides import sides, tpm_command
from test_contract import snapshot
from harness import tpm as t
from harness.case import Skip, main
from harness.process import Failure, run

INDEX = {"2.0": 0x01500001, "1.2": 0x00011001}
SECRET = b"a secret of libvirt's"
NOBODY = 65534


def nvkeep(*argv, cwd="/", **how):
    return run([os.environ["NVKEEP"], "import", "--in-place", *argv, "--iter-time", "1"], cwd=cwd, **how)


def states_of(done):
    """By the last parts of their paths."""
    return {os.path.relpath(s["path"], os.environ["MACHINES"]): s for s in json.loads(done.out)["states"]}


def write(path, content):
    with open(path, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as f:
        f.write(content)
    return path


class Guest:
    """One start of a TPM, by either program."""

    def __init__(self, side, state, family, key=()):
        flags = "not-need-init,startup-clear"
        side.n += 1
        data, ctrl = f"d{side.n}", f"c{side.n}"
        self.daemon = side.start("socket", *(["--tpm2"] if family == "2.0" else []), "--tpmstate", state,
                                 "--ctrl", f"type=unixio,path={ctrl}", "--server",
                                 f"type=unixio,path={data}", "--flags", flags, *key, ready=data)
        self.side, self.ctrl, self.family = side, ctrl, family
        self.data = side.connect(data)
        c = side.control(ctrl)
        c.ask(0x01, size=8)  # its TPM was started before it answers
        c.close()
        self.tpm = (t.Tpm2 if family == "2.0" else t.Tpm12)(lambda c: tpm_command(self.data, c))

    def fill(self, text):
        self.tpm.nv_define(INDEX[self.family], 32)
        self.tpm.nv_write(INDEX[self.family], text.ljust(32).encode())
        if self.family == "2.0":
            self.tpm.evict(self.tpm.create_primary(), 0x81000001)
        return self

    def facts(self):
        found = {"index": self.tpm.nv_read(INDEX[self.family], 32)}
        if self.family == "2.0":
            command = bytearray(t.create_primary_command())
            command[10:14] = t.u32(0x4000000B)
            ek = self.tpm.run("CreatePrimary", bytes(command)).u32()
            found["endorsement key"] = self.tpm.name(ek)
            self.tpm.flush(ek)
            found["persistent key"] = self.tpm.name(0x81000001)
        return found

    def end(self):
        c = self.side.control(self.ctrl)
        c.ask(0x03)
        c.close()
        self.data.close()
        self.side.test.equal(self.daemon.wait(), 0, "exit code of the daemon")


class Machines:
    """As libvirt keeps them, and as others do. what: by path below the folder."""

    KEY = ("--key", "pwdfile=PASS,mode=aes-256-cbc")

    def __init__(self, test, only=None):
        self.test = test
        self.stock, self.ours = sides(test)
        self.folder = test.path("machines")
        self.keys = test.path("keys")
        os.environ["MACHINES"] = self.folder
        os.makedirs(self.keys)
        self.what = {}
        for path, family, key in (("aa-11/tpm2", "2.0", False), ("bb-22/tpm1.2", "1.2", False),
                                  ("cc-33/tpm2", "2.0", True), ("single", "2.0", False)):
            if only is None or path in only:
                self.make(path, family, key)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def uri(self, path, is_file=False):
        return f"backend-uri=file://{self.path(path)}" if is_file else f"dir={self.path(path)}"

    def key_of(self, path):
        if not self.what[path][1]:
            return ()
        name = path.split("/")[0]
        return "--key", f"pwdfile={self.keys}/{name},mode=aes-256-cbc"

    def make(self, path, family, key, is_file=False):
        os.makedirs(os.path.dirname(self.path(path)) if is_file else self.path(path))
        self.what[path] = (family, key, is_file)
        if key:
            write(os.path.join(self.keys, path.split("/")[0]), SECRET + path.encode())
        guest = self.guest(self.stock, path).fill(path)
        self.what[path] += (guest.facts(),)
        guest.end()

    def guest(self, side, path):
        family, _, is_file = self.what[path][:3]
        return Guest(side, self.uri(path, is_file), family, self.key_of(path))

    def same(self, side, path):
        guest = self.guest(side, path)
        self.test.equal(guest.facts(), self.what[path][3], f"{path}: the TPM")
        guest.end()

    def convert(self, *more):
        return nvkeep(self.folder, "--source-key", f"pwdfile={self.keys}/%,mode=aes-256-cbc", "--json", *more)


def tree(folder):
    """Everything below, with its times."""
    found = {}
    for top, _, names in os.walk(folder):
        st = os.lstat(top)
        found[top] = (st.st_mtime_ns, st.st_mode, st.st_uid, st.st_gid)
        for name in names:
            path = os.path.join(top, name)
            st = os.lstat(path)
            content = b""
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    content = f.read()
            found[path] = (st.st_mtime_ns, st.st_mode, st.st_uid, st.st_gid, st.st_nlink, content)
    return found


def only_root():
    if os.geteuid() != 0:
        raise Skip("not root")


# ---- what it is there for ----


def machines_go_on_with_the_tpm_they_had(test):
    m = Machines(test)
    m.make("store/nvram", "2.0", False, is_file=True)
    before = {p: snapshot(m.path(p)) for p in m.what if p != "store/nvram"}
    done = m.convert()
    test.equal(done.rc, 0, f"exit code ({done.err})")
    report = json.loads(done.out)
    test.equal([report[n] for n in ("imported", "already", "skipped")], [4, 0, 0], "counts")
    test.equal(states_of(done)["cc-33/tpm2"]["source_encrypted"], True, "cc-33 is encrypted")
    test.equal(nvkeep(m.path("store", "nvram")).rc, 0, "exit code of the store's")
    for path, (family, key, is_file, _) in m.what.items():
        m.same(m.ours, path)
        if is_file:
            test.equal(sorted(os.listdir(m.path("store"))), ["nvram", "nvram.before-nvkeep", "nvram.key"],
                       "files of the store")
            continue
        stem = "tpm2-00" if family == "2.0" else "tpm-00"
        names = {stem + ".qcow2", stem + ".permall.before-nvkeep"} | (set() if key else {stem + ".key"})
        test.equal(set(os.listdir(m.path(path))) - {".lock"}, names, f"{path}: files")
        kept = snapshot(m.path(path))[stem + ".permall.before-nvkeep"]
        test.equal(kept == before[path][stem + ".permall"], True, f"{path}: what was kept is what was there")
        # The passphrase of libvirt's secret opens the image with qemu-img, too.
        secret = os.path.join(m.keys, "cc-33") if key else m.path(path, stem + ".key")
        image = m.path(path, stem + ".qcow2")
        checked = run(["qemu-img", "check", "--object", f"secret,id=k,file={secret}", "--image-opts",
                       f"driver=qcow2,file.filename={image},encrypt.key-secret=k"])
        test.equal(checked.rc, 0, f"{path}: qemu-img check: {checked}")


def called_again_it_changes_nothing(test):
    m = Machines(test, ("aa-11/tpm2", "cc-33/tpm2"))
    m.make("store/nvram", "2.0", False, is_file=True)
    test.equal(m.convert().rc, 0, "exit code")
    test.equal(nvkeep(m.path("store", "nvram")).rc, 0, "exit code of the store's")
    before = tree(m.folder)
    done = m.convert(m.folder + "/", m.path("aa-11"), m.path("store", "nvram"))
    test.equal(done.rc, 0, f"exit code ({done.err})")
    report = json.loads(done.out)
    test.equal([report[n] for n in ("imported", "already", "skipped")], [0, 3, 0], "counts")
    test.equal(tree(m.folder) == before, True, "nothing was touched")


def a_dry_run_says_the_same_and_changes_nothing(test):
    m = Machines(test)
    m.make("dd-44/tpm2", "2.0", False)
    running = m.guest(m.stock, "dd-44/tpm2")
    before = tree(m.folder)
    dry = m.convert("--dry-run")
    test.equal(tree(m.folder) == before, True, "nothing was touched")
    wet = m.convert()
    running.end()
    for a, b in zip(json.loads(dry.out)["states"], json.loads(wet.out)["states"]):
        test.equal(a["path"], b["path"], "path")
        test.equal(a["outcome"].replace("would be ", ""), b["outcome"], f"{a['path']}: outcome")
        test.equal((a.get("class"), a.get("image"), a.get("new_key")),
                   (b.get("class"), b.get("image"), b.get("new_key")), f"{a['path']}: what is said")
    test.equal((dry.rc, wet.rc), (31, 31), "exit codes")


def the_way_back_is_the_names_that_were_kept(test):
    m = Machines(test, ("aa-11/tpm2", "cc-33/tpm2"))
    test.equal(m.convert().rc, 0, "exit code")
    for path in m.what:
        for name in os.listdir(m.path(path)):
            if name.endswith(".before-nvkeep"):
                os.rename(m.path(path, name), m.path(path, name.removesuffix(".before-nvkeep")))
            elif name != ".lock":
                os.unlink(m.path(path, name))
        m.same(m.stock, path)
    # And over again: what was kept the first time would not be replaced.
    write(m.path("aa-11/tpm2/tpm2-00.permall.before-nvkeep"), b"kept")
    test.equal(m.convert().rc, 0, "exit code of the second time")
    test.check(os.path.exists(m.path("aa-11/tpm2/tpm2-00.permall.before-nvkeep.2")), "nothing was kept")
    with open(m.path("aa-11/tpm2/tpm2-00.permall.before-nvkeep"), "rb") as f:
        test.equal(f.read(), b"kept", "what was kept before")
    for path in m.what:
        m.same(m.ours, path)


# ---- what is left as it is ----


def left(test, m, path, code, words, *argv):
    """That one, and the other one is converted all the same."""
    before = tree(m.path(path))
    done = m.convert(*argv)
    state = states_of(done)[path]
    test.equal((state["outcome"], state["class"]), ("skipped", code), f"{path}: {state}")
    test.contains(state["message"], words, f"{path}: the reason")
    test.contains(done.err, code, "stderr")
    test.check(done.rc != 0, "exit code 0")
    test.equal(tree(m.path(path)) == before, True, f"{path}: what was there")
    others = {s["outcome"] for p, s in states_of(done).items() if p != path}
    test.check(others <= {"imported", "already an image"}, f"the others: {others}")
    return done


def what_a_swtpm_runs_on_is_left(test):
    m = Machines(test, ("aa-11/tpm2", "cc-33/tpm2"))
    m.make("store/nvram", "2.0", False, is_file=True)
    guest = m.guest(m.stock, "aa-11/tpm2")
    done = left(test, m, "aa-11/tpm2", "LOCKED", "a swtpm is running")
    test.equal(done.rc, 31, "exit code")
    guest.tpm.nv_write(INDEX["2.0"], b"changed while it ran".ljust(32))
    m.what["aa-11/tpm2"] = (*m.what["aa-11/tpm2"][:3], guest.facts())
    guest.end()
    stored = m.guest(m.stock, "store/nvram")
    before = snapshot(m.path("store"))
    test.equal(nvkeep(m.path("store", "nvram")).rc, 31, "exit code of the store's")
    test.equal(snapshot(m.path("store")) == before, True, "the store")
    stored.end()
    test.equal(m.convert().rc, 0, "exit code when it has ended")
    m.same(m.ours, "aa-11/tpm2")
    # Ours may run: then there is nothing to do.
    guest = m.guest(m.ours, "aa-11/tpm2")
    test.equal(m.convert().rc, 0, "exit code while ours runs")
    guest.end()


def keys_that_do_not_fit_leave_the_state(test):
    m = Machines(test, ("aa-11/tpm2", "cc-33/tpm2"))
    key = os.path.join(m.keys, "cc-33")
    before = tree(m.path("cc-33"))
    done = nvkeep(m.path("cc-33"), "--json")
    test.equal((done.rc, json.loads(done.out)["result"]), (10, "KEY_MISSING"), f"no key: {done}")
    right = m.path("cc-33.right")
    os.rename(key, right)
    done = nvkeep(m.path("cc-33"), "--source-key", f"pwdfile={m.keys}/%,mode=aes-256-cbc")
    test.equal(done.rc, 2, f"no file for this machine: {done}")
    write(key, b"wrong")
    left(test, m, "cc-33/tpm2", "KEY_WRONG", "key")
    test.equal(tree(m.path("cc-33")) == before, True, "nothing was touched")
    os.rename(right, key)
    # One in clear where there is a key for it is not what somebody expects there.
    m.make("ee-55/tpm2", "2.0", False)
    write(os.path.join(m.keys, "ee-55"), b"x")
    left(test, m, "ee-55/tpm2", "KEY_UNEXPECTED", "there is a key for ee-55")
    os.unlink(os.path.join(m.keys, "ee-55"))
    test.equal(m.convert().rc, 0, "exit code in the end")
    m.same(m.ours, "cc-33/tpm2")


def one_key_for_all_and_every_form_of_one(test):
    m = Machines(test, ())
    write(test.path("hex"), b"0x" + b"0123456789ABCDEF" * 4 + b"\n")
    write(test.path("bin"), bytes(range(100, 132)))
    write(test.path("pa%ss"), b"with a newline\n")
    stock, ours = m.stock, m.ours
    for n, form in enumerate(("file=hex,mode=aes-256-cbc", "file=bin,format=binary,mode=aes-256-cbc",
                              "pwdfile=pa%ss,kdf=sha512", "pwdfile=pa%ss")):
        folder = test.path(f"one{n}")
        os.makedirs(folder + "/vm/tpm2")
        absolute = form.replace("=", "=" + test.folder + "/", 1)
        guest = Guest(stock, f"dir={folder}/vm/tpm2", "2.0", ("--key", absolute)).fill(f"{n}")
        facts = guest.facts()
        guest.end()
        done = nvkeep(folder, "--source-key", form.replace("%", "%%"), cwd=test.folder)
        test.equal(done.rc, 0, f"{form}: {done}")
        guest = Guest(ours, f"dir={folder}/vm/tpm2", "2.0", ("--key", absolute))
        test.equal(guest.facts(), facts, f"{form}: the TPM")
        guest.end()
    for wrong in ("fd=0", "pwdfile=x,remove", "nonsense"):
        test.equal(nvkeep(folder, "--source-key", wrong).rc, 2, f"--source-key {wrong}")


def what_is_damaged_or_taken_is_left(test):
    m = Machines(test, ("aa-11/tpm2", "single"))
    permall = m.path("aa-11/tpm2/tpm2-00.permall")
    with open(permall, "rb") as f:
        right = f.read()
    write(permall, right[:-1])
    left(test, m, "aa-11/tpm2", "STATE_CORRUPT", "tpm2-00.permall")
    write(permall, b"")
    left(test, m, "aa-11/tpm2", "STATE_CORRUPT", "0 bytes")
    write(permall, right)
    image = write(m.path("aa-11/tpm2/tpm2-00.qcow2"), b"QFI\xfb and more")
    left(test, m, "aa-11/tpm2", "STATE_FOREIGN", "the image is what is used")
    write(image, b"")
    left(test, m, "aa-11/tpm2", "STATE_FOREIGN", "the image is what is used")
    os.unlink(image)
    os.mkdir(m.path("aa-11/tpm2/tpm2-00.key"))
    left(test, m, "aa-11/tpm2", "STATE_FOREIGN", "tpm2-00.key is in the way")
    os.rmdir(m.path("aa-11/tpm2/tpm2-00.key"))
    test.equal(m.convert().rc, 0, "exit code in the end")
    m.same(m.ours, "aa-11/tpm2")
    os.mkdir(test.path("empty"))
    for argv, code in ((["empty"], 20), (["absent"], 2), (["/dev/null"], 2), ([], 2),
                       (["empty", "--key", "file=k"], 2), (["empty", "--new-key", "k"], 2)):
        done = nvkeep(*[os.path.join(test.folder, a) if a[0] not in "-/" else a for a in argv])
        test.equal(done.rc, code, f"{argv}: {done}")
    test.equal(run([os.environ["NVKEEP"], "import", "a", "b", "--dry-run", "--key", "file=c"]).rc, 2,
               "--dry-run alone")


# ---- directories of others ----


def owner_and_mode_are_those_of_the_state(test):
    only_root()
    m = Machines(test, ("aa-11/tpm2", "single"))
    for top, _, names in os.walk(m.path("aa-11")):
        for path in [top, *(os.path.join(top, n) for n in names)]:
            os.chown(path, NOBODY, 12345)
    os.chmod(m.path("aa-11/tpm2/tpm2-00.permall"), 0o640)
    os.chmod(m.path("aa-11/tpm2"), 0o700)
    # The directory is root's, and what is in it the emulator's.
    os.chown(m.path("single/tpm2-00.permall"), NOBODY, 54321)
    os.chmod(m.path("single/tpm2-00.permall"), 0o600)
    test.equal(m.convert().rc, 0, "exit code")
    for path, gid, mode in (("aa-11/tpm2", 12345, 0o640), ("single", 54321, 0o600)):
        for name, bits in (("tpm2-00.qcow2", mode), ("tpm2-00.key", 0o600),
                           ("tpm2-00.permall.before-nvkeep", mode)):
            st = os.stat(m.path(path, name))
            test.equal((st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)), (NOBODY, gid, bits),
                       f"{path}/{name}: owner, group, mode")
    # A file that belongs to neither of the two who could have put it there.
    m.make("ff-66/tpm2", "2.0", False)
    os.chown(m.path("ff-66/tpm2"), NOBODY, NOBODY)
    left(test, m, "ff-66/tpm2", "USAGE", "belongs to user 0 and its directory to user 65534")
    # Not root, and somebody else's.
    done = run(["setpriv", "--reuid", "1234", "--clear-groups", os.environ["NVKEEP"], "import",
                "--in-place", m.path("single"), "--iter-time", "1"])
    test.equal(done.rc in (0, 2), True, f"as another user: {done}")


def no_link_is_followed_out_of_the_directory(test):
    only_root()
    m = Machines(test, ("aa-11/tpm2", "single"))
    outside = test.path("outside")
    shutil.copytree(m.path("single"), outside)
    shutil.rmtree(m.path("single"))
    before = tree(outside)
    folder = m.path("aa-11/tpm2")
    permall, image = (os.path.join(folder, "tpm2-00." + n) for n in ("permall", "qcow2"))
    aside = permall + ".real"
    os.symlink(outside, m.path("linked"))
    os.symlink(os.path.join(outside, "tpm2-00.permall"), m.path("store"))
    os.chown(folder, NOBODY, NOBODY)
    os.chown(permall, NOBODY, NOBODY)
    os.chown(os.path.join(folder, ".lock"), NOBODY, NOBODY)

    os.rename(permall, aside)
    os.symlink(os.path.join(outside, "tpm2-00.permall"), permall)
    left(test, m, "aa-11/tpm2", "STATE_FOREIGN", "not a file")
    os.unlink(permall)
    os.link(os.path.join(outside, "tpm2-00.permall"), permall)
    os.chown(permall, NOBODY, NOBODY)
    left(test, m, "aa-11/tpm2", "STATE_FOREIGN", "another name somewhere")
    os.unlink(permall)
    os.chown(os.path.join(outside, "tpm2-00.permall"), 0, 0)
    os.rename(aside, permall)
    for name in ("tpm2-00.key", "tpm2-00.qcow2"):
        os.symlink(os.path.join(outside, "made-through-a-link"), os.path.join(folder, name))
        left(test, m, "aa-11/tpm2", "STATE_FOREIGN", name)
        os.unlink(os.path.join(folder, name))
    os.rename(os.path.join(folder, ".lock"), os.path.join(folder, "lock"))
    os.symlink(os.path.join(outside, "tpm2-00.permall"), os.path.join(folder, ".lock"))
    left(test, m, "aa-11/tpm2", "USAGE", "lock")
    os.unlink(os.path.join(folder, ".lock"))
    # Our own names: what is there does not lead anywhere.
    os.symlink(os.path.join(outside, "tpm2-00.permall"), image + ".nvkeep-new")
    os.symlink(outside, permall + ".before-nvkeep")
    done = m.convert()
    test.equal(done.rc, 0, f"exit code ({done.err})")
    test.equal(nvkeep(m.path("store")).rc, 2, "a store that is a link")
    test.equal(list(states_of(done)), ["aa-11/tpm2"], "states found")
    test.equal(tree(outside) == before, True, "what is outside")


def one_who_swaps_names_meanwhile_reaches_nothing_outside(test):
    only_root()
    m = Machines(test, ("aa-11/tpm2",))
    outside = test.path("outside")
    shutil.copytree(m.path("aa-11/tpm2"), outside)
    template = test.path("template")
    shutil.copytree(m.path("aa-11/tpm2"), template)
    os.chmod(outside, 0o700)
    before = tree(outside)
    machine = m.path("aa-11")
    code = f"""
import os, random, time
os.chdir({machine!r})
os.setgid({NOBODY}); os.setuid({NOBODY})
print("here", flush=True)
while True:
    for a, b in (("tpm2", "away"), ("link", "tpm2"), ("tpm2", "link"), ("away", "tpm2")):
        time.sleep(random.random() * 0.003)
        try: os.rename(a, b)
        except OSError: pass
    name = random.choice(("tpm2-00.qcow2.nvkeep-new", "tpm2-00.key", "tpm2-00.permall.before-nvkeep", ".lock"))
    for change in (lambda: os.unlink("tpm2/" + name),
                   lambda: os.symlink({outside!r} + "/tpm2-00.permall", "tpm2/" + name),
                   lambda: os.unlink("tpm2/" + name)):
        time.sleep(random.random() * 0.003)
        try: change()
        except OSError: pass
"""
    rounds = 60 if test.long else 8
    found = set()
    for _ in range(rounds):
        shutil.rmtree(machine)
        os.mkdir(machine)
        shutil.copytree(template, os.path.join(machine, "tpm2"))
        os.symlink(outside, os.path.join(machine, "link"))
        for i in range(4):  # time goes by between looking for it and its turn
            shutil.rmtree(m.path(f"aa-0{i}"), ignore_errors=True)
            shutil.copytree(template, m.path(f"aa-0{i}", "tpm2"))
        for top, folders, names in os.walk(machine):
            for path in [top, *(os.path.join(top, n) for n in names + folders)]:
                os.lchown(path, NOBODY, NOBODY)
        attacker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        attacker.stdout.readline()
        for _ in range(4):
            done = nvkeep(m.folder, "--json")
            found.add(done.rc)
        attacker.kill()
        attacker.communicate()
        test.equal(tree(outside) == before, True, f"what is outside, after exit codes {sorted(found)}")
    test.check(found - {0, 20}, f"the two never met: exit codes {found}")
    print(f"         {rounds * 4} calls beside one who swaps names: exit codes {sorted(found)}")


def two_at_once_convert_each_state_once(test):
    m = Machines(test, ("aa-11/tpm2", "cc-33/tpm2", "single"))
    m.make("store/nvram", "2.0", False, is_file=True)
    results = []

    def convert():
        results.append(m.convert(m.path("store", "nvram")))
    threads = [threading.Thread(target=convert) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    n = sum(json.loads(r.out)["imported"] for r in results)
    test.equal(n, 4, f"imported by all of them: {[r.out for r in results]}")
    for r in results:
        test.check(r.rc in (0, 31), f"exit code: {r}")
    test.equal(m.convert().rc, 0, "exit code afterwards")
    for path in m.what:
        m.same(m.ours, path)


def what_was_said_cannot_be_printed_and_the_images_stay(test):
    m = Machines(test, ("aa-11/tpm2",))
    with open("/dev/full", "wb") as full:
        done = subprocess.run([os.environ["NVKEEP"], "import", "--in-place", m.folder, "--iter-time", "1"],
                              stdout=full, stderr=subprocess.PIPE, check=False)
    if done.returncode != 41:
        raise Failure(f"exit code {done.returncode}")
    test.equal(m.convert().rc, 0, "exit code afterwards")
    m.same(m.ours, "aa-11/tpm2")


if __name__ == "__main__":
    sys.exit(main())
