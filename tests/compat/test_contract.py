"""What those rely on who start swtpm, and what is promised beyond: nothing is ever overwritten, and
the image opens with qemu-img."""

import contextlib
import itertools
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import sys
import time
import tty

from sides import ours, policy, sides, tpm_command, write
from test_two_daemons import GET_RANDOM, STARTUP, filter_mode, word
from harness.case import Skip, main
from harness.process import run, wait_until

PASSPHRASE = b"a passphrase, and a newline that counts\n"


def refused(test, side, *argv, says):
    """Exit code 1, no socket, and stderr says it."""
    done = side.run("socket", "--tpm2", "--ctrl", "type=unixio,path=refused", *argv)
    test.equal(done.rc, 1, f"exit code ({done.err})")
    test.contains(done.err, says, "stderr")
    test.check(not os.path.exists(side.path("refused")), "there is a socket")
    return done


def shut_down(side, daemon, ctrl="ctrl"):
    """Once it is ready: told to end earlier, it would not make what it has not made yet."""
    c = side.control(ctrl)
    c.ask(0x01, size=8)
    side.test.equal(c.ask(0x03), bytes(4), "SHUTDOWN")
    c.close()
    side.test.equal(daemon.wait(), 0, "exit code")


def opened_by_qemu(test, image, secret):
    done = run(["qemu-img", "check", "--object", f"secret,id=k,file={secret}", "--image-opts",
                f"driver=qcow2,file.filename={image},encrypt.key-secret=k"])
    test.equal(done.rc, 0, f"qemu-img check: {done}")


def snapshot(folder):
    found = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            found[name] = (f.read(), os.stat(f.name).st_mtime_ns)
    return found


# ---- nothing is ever overwritten ----


# Names as users have them, or could. Longer than any line that is cut.
NAMES = ("plain", "two words", "it's \"one\" $HOME `id` \\n \\", "a\nline; \x1b[31m\tred \xe4",
         "/".join(["a rather long name of a directory, 'quoted' " * 4] * 15).replace(",", ""))


def as_taken_over(test, side, argv, line):
    """The line is run as it is, by somebody who stands elsewhere; then the same start succeeds."""
    test.check(line.startswith("nvkeep import "), f"not a command: {line[:100]}")
    test.check(all(" " <= c <= "~" for c in line), f"not printable: {line[:100]}")
    path = os.path.dirname(os.environ["NVKEEP"]) + ":" + os.environ["PATH"]
    done = run(["sh", "-c", line], timeout=120, cwd="/",
               env={**os.environ, "PATH": path})
    test.equal(done.rc, 0, f"{line[:300]}: {done}")
    daemon = side.start(*argv, ready="ctrl")
    test.equal(side.control().ask(0x02, word(0)), bytes(4), "INIT")
    shut_down(side, daemon)


def refused_line(test, argv, log):
    """What is told on stderr, in one line, and in the log."""
    done = run(argv, timeout=60, cwd=os.path.dirname(log))
    test.equal(done.rc, 1, f"exit code ({done.err[:300]})")
    test.equal(done.err.count("\n"), 1, "lines on stderr")
    line = done.err.partition(" with: ")[2].rstrip("\n")
    with open(log, encoding="utf-8") as f:
        test.contains(f.read(), line + "\n", "the log")
    os.unlink(log)
    return line


def a_state_of_swtpm_is_refused_with_the_command_that_takes_it_over(test):
    """Which is the same from swtpm_setup, and works."""
    stock, side = sides(test)
    write(side.path("pass word"), PASSPHRASE)
    write(side.path("hex"), b"00112233445566778899AABBCCDDEEFF\n")
    write(side.path("binary"), bytes(range(16)))
    forms = ((("--tpm2",), "dir", (), ()),
             ((), "dir", (), ()),
             (("--tpm2",), "dir", ("--key", "pwdfile=pass word,mode=aes-256-cbc"),
              ("--pwdfile", "pass word", "--cipher", "aes-256-cbc")),
             (("--tpm2",), "dir", ("--key", "file=hex"), ("--keyfile", "hex")),
             (("--tpm2",), "file", (), ()),
             (("--tpm2",), "file", ("--key", "pwdfile=pass word,mode=aes-256-cbc,kdf=sha512"), None),
             (("--tpm2",), "file", ("--key", "file=binary,format=binary"), None))
    # The short ones with every form, the others with the first.
    for form, name in [(f, n) for f in forms for n in NAMES if f is forms[0] or n == NAMES[2]]:
        family, backend, keys, setup_keys = form
        made = side.new_state()
        uri = f"dir://{made}" if backend == "dir" else f"file://{made}/nvram"
        ctrl = ["--ctrl", "type=unixio,path=ctrl"]
        daemon = stock.start("socket", "--tpmstate", f"backend-uri={uri}", *family,
                             *(k.replace("=", f"={side.folder}/", 1) for k in keys), *ctrl,
                             ready="ctrl")
        test.equal(stock.control().ask(0x02, word(0)), bytes(4), "INIT")
        shut_down(stock, daemon)
        folder = os.path.join(side.new_state(), name.encode("latin-1").decode("utf-8", "surrogateescape"))
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        os.rename(made, folder)
        before = snapshot(folder)
        where = f"dir://{folder}" if backend == "dir" else f"file://{folder}/nvram"
        argv = ["socket", "--tpmstate", f"backend-uri={where}", *family, *keys, *ctrl]
        line = refused_line(test, [side.swtpm, *argv, "--log", "file=log"], side.path("log"))
        if setup_keys is not None:
            setup = [side.swtpm + "_setup", "--tpm-state", where, *family, *setup_keys, "--overwrite"]
            test.equal(refused_line(test, [*setup, "--logfile", "log"], side.path("log")), line,
                       "what swtpm_setup says")
        test.equal(snapshot(folder), before, "what was there")
        as_taken_over(test, side, argv, line)


def what_is_neither_ours_nor_empty_is_left_alone(test):
    side = ours(test)
    folder = side.new_state()
    file = write(os.path.join(folder, "f"), b"somebody's text, longer than a header")
    for name, content in (("text", b"x"), ("zeroes", bytes(4096)), ("text2", b"QFI" + bytes(600))):
        write(file, content)
        before = snapshot(folder)
        refused(test, side, "--tpmstate", f"backend-uri=file://{file}", says="left alone")
        test.equal(snapshot(folder), before, f"{name}: what was there")
    # An image of somebody else's.
    os.unlink(file)
    test.equal(run(["qemu-img", "create", "-q", "-f", "qcow2", file, "1M"]).rc, 0, "qemu-img")
    before = snapshot(folder)
    refused(test, side, "--tpmstate", f"backend-uri=file://{file}", "--key", "pwdfile=/etc/hostname",
            says=file)
    test.equal(snapshot(folder), before, "a foreign image")


def a_key_that_does_not_fit_ends_the_start_with_one_line_and_changes_nothing(test):
    side = ours(test)
    write(side.path("right"), b"right")
    write(side.path("wrong"), b"wrong")
    state = side.new_state()
    shut_down(side, side.emulator("--key", "pwdfile=right", state=f"dir={state}"))
    before = snapshot(state)
    began = time.monotonic()
    done = refused(test, side, "--tpmstate", f"dir={state}", "--key", "pwdfile=wrong",
                   "--log", "file=log", says="key")
    test.check(time.monotonic() - began < 5, "it took longer than five seconds")
    test.equal(done.err.count("\n"), 1, "lines on stderr")
    with open(side.path("log"), encoding="utf-8") as f:
        test.contains(f.read(), "KEY_WRONG", "the log")
    refused(test, side, "--tpmstate", f"dir={state}", says="no key was given")
    test.equal(snapshot(state), before, "the image")


def an_image_of_the_other_kind_of_tpm_is_refused(test):
    side = ours(test)
    image = side.path("x.qcow2")
    shut_down(side, side.emulator(state=f"backend-uri=file://{image}", family="1.2"))
    with open(image, "rb") as f:
        before = f.read()
    refused(test, side, "--tpmstate", f"backend-uri=file://{image}", says="holds a TPM 1.2")
    with open(image, "rb") as f:
        test.equal(f.read() == before, True, "the image")


def an_empty_file_keeps_its_owner_and_mode(test):
    side = ours(test)
    image = write(side.path("empty"), b"", 0o640)
    os.chmod(image, 0o640)
    if os.geteuid() == 0:
        os.chown(image, 65534, 65534)
    was = os.stat(image)
    shut_down(side, side.emulator(state=f"backend-uri=file://{image}"))
    now = os.stat(image)
    test.equal((now.st_uid, now.st_gid, now.st_mode), (was.st_uid, was.st_gid, was.st_mode), "owner")
    test.check(now.st_size > 0, "nothing was made")
    test.check(not os.path.exists(image + ".empty"), "something is left beside it")


def a_tpm_that_was_changed_does_not_go_back_to_the_host_it_came_from(test):
    """A migration that failed late: the destination has it, and never used it. The source takes it
    back, unless somebody has changed it there meanwhile."""
    side = ours(test)
    for n, changes in enumerate((False, True)):
        state = side.new_state()
        source = side.emulator(state=f"dir={state}", ctrl="from")
        c = side.control("from")
        test.equal(c.ask(0x02, word(0)), bytes(4), "INIT")
        target = side.emulator("--migration", "incoming", state=f"dir={state}", ctrl="to")
        d = side.control("to")
        for kind in (1, 2, 3):
            head, blob = c.blob(0, kind)
            test.check(head[:4] == bytes(4) or kind == 3, f"state {kind}: {head.hex()}")
            if blob:
                flags = int.from_bytes(head[4:8], "big")
                test.equal(d.ask(0x0D, word(flags, kind, len(blob)) + blob), bytes(4), f"set {kind}")
        test.equal(d.ask(0x02, word(0)), bytes(4), "INIT on the destination")
        target.end()
        if changes:
            done = run([side.swtpm + "_setup", "--tpm2", "--tpm-state", state, "--reconfigure",
                        "--pcr-banks", "sha256"])
            test.equal(done.rc, 0, f"swtpm_setup: {done}")
        test.equal(c.ask(0x02, word(0)) != bytes(4), changes, f"{n}: INIT on the source")
        c.close()
        d.close()
        source.end()
        for left in ("from", "to"):
            if os.path.exists(side.path(left)):
                os.unlink(side.path(left))


# ---- keys ----


def every_form_of_the_key_opens_and_qemu_opens_with_the_same(test):
    side = ours(test)
    digits = "00112233445566778899aabbccddeeff"
    forms = {
        "pwdfile": (PASSPHRASE, "pwdfile={}", PASSPHRASE),
        "kdf": (b"pass", "pwdfile={},kdf=sha512,mode=aes-256-cbc", b"pass"),
        "hex": (digits.upper().encode(), "file={}", digits.encode()),
        "hex 0x": (b"0x" + digits.encode() + b"\n", "file={},format=hex,mode=aes-128-cbc",
                   digits.encode()),
        "binary": (bytes(range(32)), "file={},format=binary,mode=aes-256-cbc",
                   bytes(range(32)).hex().encode()),
    }
    for name, (content, how, secret) in forms.items():
        state = side.new_state()
        key = write(side.path("key"), content)
        shut_down(side, side.emulator("--key", how.format(key), state=f"dir={state}"))
        image = os.path.join(state, "tpm2-00.qcow2")
        opened_by_qemu(test, image, write(side.path("secret"), secret))
        # And by descriptor, from a pipe.
        reader, writer = os.pipe()
        os.write(writer, content)
        os.close(writer)
        by_fd = how.format(reader).replace("file=", "fd=")
        daemon = side.start("socket", "--tpm2", "--tpmstate", f"dir={state}", "--key", by_fd,
                            "--ctrl", "type=unixio,path=ctrl", ready="ctrl", pass_fds=[reader])
        os.close(reader)
        shut_down(side, daemon)
        print(f"         {name}")


def a_key_file_is_removed_when_asked_and_only_after_a_good_start(test):
    side = ours(test)
    state = side.new_state()
    write(side.path("key"), b"pass")
    write(side.path("other"), b"other")
    write(side.path("way"), b"way")
    shut_down(side, side.emulator("--key", "pwdfile=key,remove", "--migration-key",
                                  "pwdfile=way,remove", state=f"dir={state}"))
    test.check(not os.path.exists(side.path("key")), "the key file is there")
    test.check(not os.path.exists(side.path("way")), "the migration key's file is there")
    refused(test, side, "--tpmstate", f"dir={state}", "--key", "pwdfile=other,remove=true",
            says="key")
    test.check(os.path.exists(side.path("other")), "a key that did not fit was removed")


def without_a_key_a_random_one_is_made_and_said_once(test):
    side = ours(test)
    state = side.new_state()
    key = os.path.join(state, "tpm2-00.key")
    for start in range(2):
        shut_down(side, side.emulator("--log", "file=log", state=f"dir={state}"))
        test.equal(stat.S_IMODE(os.stat(key).st_mode), 0o600, "mode of the key")
        with open(side.path("log"), encoding="utf-8") as f:
            test.equal(f.read().count("a random key was made in " + key), 1, f"start {start}")
    opened_by_qemu(test, os.path.join(state, "tpm2-00.qcow2"), key)
    shutil.move(key, side.path("moved"))
    refused(test, side, "--tpmstate", f"dir={state}", says=key)
    test.check(not os.path.exists(key), "another key was made for an image that has one")


def both_tools_mean_the_same_by_place_and_key(test):
    """What one has made the other opens, and makes nothing beside it."""
    side = ours(test)
    write(side.path("pass"), PASSPHRASE)
    write(side.path("hex"), b"0x00112233445566778899AABBCCDDEEFF\n")
    write(side.path("hex256"), b"00112233445566778899aabbccddeeff" * 2)
    keys = (((), ()),
            (("--pwdfile", "pass"), ("--key", "pwdfile=pass")),
            (("--pwdfile-fd", "{}", "--cipher", "aes-256-cbc"), ("--key", "pwdfd={},mode=aes-256-cbc")),
            (("--keyfile", "hex"), ("--key", "file=hex")),
            (("--keyfile-fd", "{}", "--cipher", "aes-256-cbc"), ("--key", "fd={},mode=aes-256-cbc")))
    with policy(side, b"iter-time = 1\n"):
        for n, which in itertools.product(range(len(keys)), range(3)):
            for_setup, for_daemon = keys[n]
            where = ("dir", "dir://", "file://")[which]
            folder = side.new_state()
            place = {"dir": folder, "dir://": "dir://" + folder, "file://": f"file://{folder}/x"}[where]
            state = f"dir={folder}" if where == "dir" else f"backend-uri={place}"

            def setup(*more):
                with piped(side, for_setup) as (argv, fds):
                    return run([side.swtpm + "_setup", "--tpm2", "--tpm-state", place, *argv, *more],
                               cwd=side.folder, pass_fds=fds)

            def start():
                with piped(side, for_daemon) as (argv, fds):
                    daemon = side.start("socket", "--tpm2", "--tpmstate", state, *argv, "--ctrl",
                                        "type=unixio,path=ctrl", pass_fds=fds, ready="ctrl")
                test.equal(side.control().ask(0x02, word(0)), bytes(4), "INIT")
                shut_down(side, daemon)
            if (n + which) % 2:
                start()
            test.equal(setup("--not-overwrite").rc, 0, f"{for_setup} {where}: swtpm_setup")
            there = sorted(os.listdir(folder))
            start()
            done = setup("--not-overwrite")
            test.contains(done.out, "Not overwriting", f"{for_setup} {where}: {done}")
            test.equal(sorted(os.listdir(folder)), there, "the files")
            test.equal(len(there), 1 if for_setup else 2, f"files: {there}")


@contextlib.contextmanager
def piped(side, argv):
    """Where a number belongs, that of a pipe with the key in it."""
    if not any("{}" in a for a in argv):
        yield argv, ()
        return
    reader, writer = os.pipe()
    with open(side.path("pass" if any("pwd" in a for a in argv) else "hex256"), "rb") as f:
        os.write(writer, f.read())
    os.close(writer)
    try:
        yield [a.format(reader) for a in argv], (reader,)
    finally:
        os.close(reader)


def the_policy_says_how_long_a_passphrase_is_stretched(test):
    side = ours(test)
    write(side.path("pass"), PASSPHRASE)
    iterations = {}
    for ms in ("1", None, "1000"):
        folder = side.new_state()
        with policy(side, f"iter-time = {ms}\n".encode() if ms else b"# none\n"):
            done = run([side.swtpm + "_setup", "--tpm2", "--tpm-state", folder, "--pwdfile", "pass"],
                       cwd=side.folder)
        test.equal(done.rc, 0, f"swtpm_setup: {done}")
        info = run([os.environ["NVKEEP"], "info", "--json", f"{folder}/tpm2-00.qcow2"])
        iterations[ms] = json.loads(info.out)["luks"]["slots"][0]["iterations"]
    print(f"         iterations: {iterations}")
    # Not by the noise of what measures it.
    test.check(20 * iterations["1"] < iterations[None] < iterations["1000"], "the time changes nothing")


def a_policy_can_demand_a_key_and_one_that_is_not_understood_ends_the_start(test):
    side = ours(test)
    state = side.new_state()
    with policy(side, b"# ours\nrequire-key = yes\nmigration-seal = required\n"):
        refused(test, side, "--tpmstate", f"dir={state}", says="require-key")
        test.equal(os.listdir(state), [], "what is in the directory")
        write(side.path("key"), b"pass")
        shut_down(side, side.emulator("--key", "pwdfile=key", state=f"dir={state}"))
    for wrong in (b"require-key = perhaps\n", b"iter-time = 0\n", b"iter-time = 1s\n", b"more = 1\n"):
        with policy(side, wrong):
            refused(test, side, "--tpmstate", f"dir={state}", "--key", "pwdfile=key", says="line 1")
    # Nor does a key that lies beside the image count.
    shut_down(side, side.emulator(state="dir=" + side.new_state("without")))
    with policy(side, b"require-key = yes\n"):
        refused(test, side, "--tpmstate", "dir=" + side.path("without"), says="require-key")


def the_policy_is_the_machines_in_whatever_root_and_as_whatever_user(test):
    if os.geteuid() != 0:
        raise Skip("--chroot needs root")
    side = ours(test)
    root = side.new_state()
    os.chmod(test.folder, 0o755)
    for path in (side.folder, root):
        os.chown(path, 65534, 65534)
    for tool in ("swtpm", "swtpm_setup"):
        path = "/etc/nvkeep/swtpm.conf"
        words = ["socket", "--help"] if tool == "swtpm" else ["--help"]
        done = run([side.swtpm + tool[5:], *words])
        test.contains(done.out, f"decides in {path}.\n", f"{tool} --help")
    with policy(side, b"require-key = yes\n"):
        os.chmod(side.path("swtpm.conf"), 0o600)
        refused(test, side, "--chroot", root, "--tpmstate", "dir=/", says="require-key")
        refused(test, side, "--runas", "nobody", "--tpmstate", f"dir={root}", says="require-key")
        done = run([side.swtpm + "_setup", "--tpm2", "--tpm-state", root, "--runas", "nobody"])
        test.contains(done.err, "require-key", "swtpm_setup")
    test.equal(os.listdir(root), [], "what is in it")


# ---- the process ----


def a_key_that_does_not_come_ends_the_start(test):
    """Neither from a descriptor, nor from a named pipe, nor from one where the key file belongs."""
    side = ours(test)
    reader, writer = os.pipe()
    os.mkfifo(side.path("fifo"))
    state = side.new_state()
    shut_down(side, side.emulator("--key", f"pwdfile={write(side.path('key'), b'pass')}",
                                  state=f"dir={state}"))
    before = snapshot(state)
    waiting = [side.start("socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl",
                          "type=unixio,path=refused", *argv, pass_fds=[reader])
               for argv in (["--key", f"pwdfd={reader}"], ["--key", f"fd={reader}", "--daemon"],
                            ["--key", "pwdfile=fifo"], ["--key", "file=fifo,format=binary"],
                            ["--key", "pwdfile=key", "--migration-key", f"pwdfd={reader}"])]
    os.mkfifo(os.path.join(state, "tpm2-00.key"))
    refused(test, side, "--tpmstate", f"dir={state}", says="is no key")
    os.unlink(os.path.join(state, "tpm2-00.key"))
    began = time.monotonic()
    for one in waiting:
        test.equal(one.wait(30), 1, "exit code")
        test.contains(one.process.stderr.read().decode(), "did not come within 10 seconds", "stderr")
    print(f"         ended within {time.monotonic() - began:.1f} s")
    os.close(reader)
    os.close(writer)
    test.equal(snapshot(state), before, "the image")
    with policy(side, b""):
        os.unlink(side.path("swtpm.conf"))
        os.mkfifo(side.path("swtpm.conf"))
        refused(test, side, "--tpmstate", f"dir={state}", says="swtpm.conf: wanted a file")


def what_the_tool_saves_to_and_loads_from_does_not_keep_it_waiting(test):
    side = ours(test)
    os.mkfifo(side.path("fifo"))
    side.emulator()
    test.equal(side.control().ask(0x02, word(0)), bytes(4), "INIT")
    for verb in ("--save", "--load"):
        rc, _, err = side.call(side.ioctl, verb, "permanent", side.path("fifo"))
        test.equal(rc, 1, f"{verb}: exit code")
        test.contains(err, "not ready within 10 seconds", verb)


def what_is_unknown_is_said_in_printable_characters(test):
    side = ours(test)
    done = refused(test, side, "--tpmstate", f"dir={side.new_state()},bogus=\x1b[2J\nx", says="bogus")
    test.check(all(" " <= c <= "~" for c in done.err.rstrip("\n")), f"stderr: {done.err!r}")




def the_socket_is_there_within_a_second_also_on_the_first_start(test):
    side = ours(test)
    write(side.path("key"), b"a secret of libvirt's")
    state = side.new_state()
    limit = 10 if os.environ.get("NVKEEP_BUILD", "").endswith("asan") else 1
    for start in ("first", "second"):
        began = time.monotonic()
        daemon = side.emulator("--key", "pwdfile=key,mode=aes-256-cbc", state=f"dir={state}")
        took = time.monotonic() - began
        print(f"         {start} start: {took * 1000:.0f} ms")
        test.check(took < limit, f"{start} start: the socket took {took:.2f} s")
        shut_down(side, daemon)


def inherited_descriptors_stay_open_and_stderr_may_be_gone(test):
    """libvirt holds a locked pid file open through it, and closes its end of stderr."""
    side = ours(test)
    held = os.open(side.path("held"), os.O_RDWR | os.O_CREAT)
    daemon = side.emulator("--terminate", state="dir=" + side.new_state())
    daemon.end()
    daemon = side.start("socket", "--tpm2", "--tpmstate", "dir=" + side.new_state("h"), "--ctrl",
                        "type=unixio,path=h.ctrl", "--terminate", pass_fds=[held], ready="h.ctrl")
    names = [os.readlink(f"/proc/{daemon.process.pid}/fd/{n}")
             for n in os.listdir(f"/proc/{daemon.process.pid}/fd")]
    test.check(side.path("held") in names, f"the descriptor was closed: {names}")
    os.close(held)
    daemon.process.stderr.close()
    c = side.control("h.ctrl")
    mine, theirs = socket.socketpair()
    test.equal(c.ask(0x10, fds=[theirs.fileno()]), bytes(4), "SET_DATAFD")
    theirs.close()
    test.equal(c.ask(0x02, word(0)), bytes(4), "INIT")
    tpm_command(mine, STARTUP)
    mine.close()
    test.equal(daemon.process.wait(20), 0, "--terminate")
    test.check(not os.path.exists(side.path("h.ctrl")), "the socket is there")


def it_serves_a_character_device(test):
    """A pseudo-terminal, raw, is one."""
    side = ours(test)
    master, slave = os.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    for how in (["--chardev", path], ["-f", str(slave)]):
        daemon = side.start("chardev", "--tpm2", "--tpmstate", "dir=" + side.new_state(), "--flags",
                            "not-need-init,startup-clear", "--ctrl", "type=unixio,path=ctrl", *how,
                            pass_fds=[slave], ready="ctrl")
        os.write(master, GET_RANDOM)
        got = b""
        while len(got) < 12:
            got += os.read(master, 64)
        test.equal(got[:10], bytes.fromhex("80010000001000000000"), "GetRandom")
        if len(got) < 16:
            os.read(master, 64)
        shut_down(side, daemon)


def frozen_daemons_do_not_hold_the_tool(test):
    side = ours(test)
    daemon = side.emulator()
    daemon.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    rc, _, err = side.call(side.ioctl, "-s")
    test.check(time.monotonic() - began < 8, "it waited too long")
    test.equal(rc, 1, "exit code")
    test.contains(err, "in time", "stderr")
    daemon.process.send_signal(signal.SIGCONT)


def others_tools_run_it(test):
    """Debian's swtpm_setup: it starts the daemon several times, and kills it in the end."""
    setup = shutil.which("swtpm_setup", path="/usr/bin:/bin")
    if not setup:
        raise Skip("swtpm_setup is missing")
    side = ours(test)
    state = side.new_state()
    done = run([setup, "--tpm2", "--tpm-state", state, "--tpm", f"{side.swtpm} socket",
                "--createek", "--pcr-banks", "sha256"], timeout=120)
    test.equal(done.rc, 0, f"swtpm_setup: {done}")
    daemon = side.emulator(state=f"dir={state}")
    test.equal(side.control().ask(0x02, word(0)), bytes(4), "INIT")
    shut_down(side, daemon)
    done = run([setup, "--tpm2", "--tpm-state", state, "--tpm", f"{side.swtpm} socket",
                "--not-overwrite"], timeout=120)
    test.equal(done.rc, 0, f"swtpm_setup --not-overwrite: {done}")


# ---- every capability that is advertised is used ----


def runs(side, *argv, family="2.0"):
    daemon = side.emulator(*argv, family=family)
    answer = side.control().ask(0x02, word(0))
    side.test.equal(answer, bytes(4), f"INIT with {argv}")
    return daemon


def key_by(side, how):
    reader, writer = os.pipe()
    os.write(writer, b"0123456789abcdef" * 2)
    os.close(writer)
    daemon = side.start("socket", "--tpm2", "--tpmstate", "dir=" + side.new_state(), "--key",
                        how.format(reader), "--ctrl", "type=unixio,path=ctrl", pass_fds=[reader],
                        ready="ctrl")
    os.close(reader)
    return daemon


def framed(side):
    """TCG's framing: code 8, locality, length; then the length, the response and a zero."""
    daemon = side.start("socket", "--tpm2", "--tpmstate", "dir=" + side.new_state(), "--flags",
                        "not-need-init,startup-clear", "--server", "type=unixio,path=data",
                        ready="data")
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(side.path("data"))
    s.sendall(word(8) + b"\0" + word(len(GET_RANDOM)) + GET_RANDOM)
    got = b""
    while len(got) < 4 + 16 + 4:
        got += s.recv(64)
    side.test.equal((got[:4], got[-4:]), (word(16), word(0)), "the frame")
    return daemon


def started_up(side):
    daemon = side.start("socket", "--tpm2", "--tpmstate", "dir=" + side.new_state(), "--flags",
                        "startup-clear", "--server", "type=unixio,path=data", ready="data")
    s = socket.socket(socket.AF_UNIX)
    s.connect(side.path("data"))
    side.test.equal(tpm_command(s, STARTUP)[6:10], word(0x100), "a second Startup")
    return daemon


def ends_with_ctrl(side):
    daemon = side.start("socket", "--tpm2", "--tpmstate", "dir=" + side.new_state(), "--ctrl",
                        "type=unixio,path=t.ctrl,terminate", ready="t.ctrl")
    c = side.control("t.ctrl")
    c.ask(0x01, size=8)  # it is ready
    c.close()
    side.test.equal(daemon.wait(), 0, "exit code when the control client hangs up")
    return daemon


def filtered(side):
    daemon = runs(side, "--seccomp", "action=kill")
    side.test.equal(filter_mode(daemon.process.pid), "2", "seccomp mode")
    return daemon


def in_a_root_of_its_own(side):
    if os.geteuid() != 0:
        return None
    root = side.new_state()
    os.mkdir(os.path.join(root, "tpm"))
    daemon = side.start("socket", "--tpm2", "--chroot", root, "--tpmstate", "dir=/tpm", "--ctrl",
                        "type=unixio,path=/tpm/ctrl", ready=os.path.join(root, "tpm/ctrl"))
    side.control(os.path.join(root, "tpm/ctrl")).ask(0x01, size=8)  # it is ready
    side.test.equal(sorted(os.listdir(os.path.join(root, "tpm"))),
                    ["ctrl", "tpm2-00.key", "tpm2-00.qcow2"], "what is in it")
    return daemon


def waits_for_migration(side):
    """It holds no claim: another one runs on the image."""
    state = "dir=" + side.new_state()
    first = runs_on(side, state, "first")
    second = side.emulator("--migration", "release-lock-outgoing,incoming", state=state,
                           ctrl="second")
    side.test.check(second.process.poll() is None, "it ended")
    first.end()
    return second


def runs_on(side, state, ctrl):
    daemon = side.emulator(state=state, ctrl=ctrl)
    side.test.equal(side.control(ctrl).ask(0x02, word(0)), bytes(4), "INIT")
    return daemon


def makes_rsa_keys(bits):
    def make(side):
        daemon = side.start("socket", "--tpm2", "--tpmstate", "dir=" + side.new_state(), "--flags",
                            "not-need-init,startup-clear", "--server", "type=unixio,path=data",
                            ready="data")
        s = socket.socket(socket.AF_UNIX)
        s.connect(side.path("data"))
        # TestParms: RSA of that size without scheme and symmetric cipher.
        parms = bytes.fromhex("0001" "0010" "0010") + bits.to_bytes(2, "big") + bytes(4)
        command = bytes.fromhex("8001") + word(10 + len(parms), 0x18A) + parms
        side.test.equal(tpm_command(s, command)[6:10], word(0), f"RSA {bits}")
        return daemon
    return make


def asks_for_states(side):
    state = side.new_state()
    shut_down(side, side.emulator(state=f"dir={state}"))
    done = side.run("socket", "--tpm2", "--tpmstate", f"dir={state}", "--print-states")
    states = json.loads(done.out)["states"]
    side.test.equal([s["name"] for s in states], ["permall"], "the states")
    side.test.check(1000 < states[0]["size"] < 4000, f"its size: {states}")


CAPABILITIES = {
    "tpm-1.2": lambda side: runs(side, family="1.2"),
    "tpm-2.0": runs,
    "tpm-send-command-header": framed,
    "flags-opt-startup": started_up,
    "flags-opt-disable-auto-shutdown": lambda side: runs(side, "--flags", "disable-auto-shutdown"),
    "ctrl-opt-terminate": ends_with_ctrl,
    "cmdarg-seccomp": filtered,
    "cmdarg-key-fd": lambda side: key_by(side, "fd={},format=hex"),
    "cmdarg-pwd-fd": lambda side: key_by(side, "pwdfd={},mode=aes-256-cbc"),
    "cmdarg-print-states": asks_for_states,
    "cmdarg-chroot": in_a_root_of_its_own,
    "cmdarg-migration": waits_for_migration,
    "nvram-backend-dir": lambda side: runs_on(side, "backend-uri=dir://" + side.new_state(), "ctrl"),
    "nvram-backend-file": lambda side: runs_on(side, f"backend-uri=file://{side.path('n')}", "ctrl"),
    "tpmstate-opt-lock": lambda side: runs_on(side, f"dir={side.new_state()},lock", "ctrl"),
    "rsa-keysize-1024": makes_rsa_keys(1024),
    "rsa-keysize-2048": makes_rsa_keys(2048),
    "rsa-keysize-3072": makes_rsa_keys(3072),
}


def every_capability_that_is_advertised_works(test):
    side = ours(test)
    done = side.run("socket", "--print-capabilities", "--tpm2")
    said = json.loads(done.out)
    test.equal(done.rc, 0, "exit code")
    test.equal((said["type"], done.out.count("\n")), ("swtpm", 1), "type and lines")
    test.equal(sorted(said["features"]), sorted(CAPABILITIES), "what is advertised and tested")
    plain = json.loads(side.run("socket", "--print-capabilities").out)
    test.equal(plain["features"], [f for f in said["features"] if not f.startswith("rsa-")],
               "without --tpm2")
    # What libvirt asks --print-info for is the profile of a state; libtpms 0.9 knows none.
    info = json.loads(side.run("socket", "--tpm2", "--print-info", "0x20").out)
    test.equal("cmdarg-print-info" in said["features"], "ActiveProfile" in info, "cmdarg-print-info")
    for name in said["features"]:
        daemon = CAPABILITIES[name](side)
        if daemon:
            daemon.end()
        for left in ("ctrl", "data"):
            if os.path.exists(side.path(left)):
                os.unlink(side.path(left))
    print(f"         {len(said['features'])} capabilities")


def runas_changes_the_user(test):
    if os.geteuid() != 0:
        raise Skip("--runas needs root")
    side = ours(test)
    state = side.new_state()
    os.chmod(test.folder, 0o755)
    for path in (side.folder, state):
        os.chown(path, 65534, 65534)
    daemon = side.emulator("--runas", "nobody", state=f"dir={state}")
    test.equal(os.stat(f"/proc/{daemon.process.pid}").st_mode is not None, True, "it runs")
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as f:
        ids = {name: set(rest.split()) for name, rest in (line.split(":", 1) for line in f)}
    nobody = pwd.getpwnam("nobody")
    groups = {str(g) for g in os.getgrouplist("nobody", nobody.pw_gid)}
    test.equal((ids["Uid"], ids["Gid"], ids["Groups"]),
               ({str(nobody.pw_uid)}, {str(nobody.pw_gid)}, groups), "its user and groups")
    side.control().ask(0x01, size=8)  # it is ready
    test.equal(os.stat(os.path.join(state, "tpm2-00.qcow2")).st_uid, 65534, "the image's owner")
    shut_down(side, daemon)


if __name__ == "__main__":
    sys.exit(main())
