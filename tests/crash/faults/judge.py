"""What a command may say when something failed, and what it may leave behind."""

import errno as E
import os
import re
import signal
import stat

from . import inject

EXIT_CODES = {"USAGE": 2, "KEY_MISSING": 10, "KEY_WRONG": 11, "KEY_UNEXPECTED": 12, "STATE_EMPTY": 20,
              "STATE_CORRUPT": 21, "STATE_FOREIGN": 22, "STATE_ROLLED_BACK": 23, "FENCED": 30,
              "LOCKED": 31, "UNSUPPORTED": 40, "STORAGE_ERROR": 41}
CLASS_OF = {code: name for name, code in EXIT_CODES.items()}

TAKES_A_NAME = {"socket", "open", "openat", "stat", "lstat", "newfstatat", "access", "faccessat", "faccessat2",
                "connect", "getcwd", "mkdir", "bind", "readlink", "linkat", "renameat2", "fchmodat", "fchownat", "chmod"}
# What is wrong with a name, and with what is there; the rest is wrong with the system.
ABOUT_A_NAME = {E.EACCES, E.EPERM, E.ENOENT, E.ENOTDIR, E.ELOOP, E.ENAMETOOLONG, E.EISDIR, E.EEXIST,
                E.EROFS, E.ENXIO, E.ETXTBSY, E.EBUSY, E.ECONNREFUSED}
CONFINES = {"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
            "prctl"}
NOT_HERE = {E.ENOSYS, E.EOPNOTSUPP, E.EAFNOSUPPORT}
# No failure at all: whoever is interrupted, or gets less than wanted, goes on.
GOES_ON = {"read", "write", "pread64", "pwrite64", "poll", "ppoll", "recvmsg", "sendmsg", "fcntl",
           "wait4", "nanosleep", "clock_nanosleep", "futex", "accept4", "getrandom"}
MESSAGE = re.compile(r"^nvkeep: ([A-Z_]+): (\S.{9,})$", re.M)
NOTE = re.compile(r"^nvkeep: (note: .*|one try of the key .*)$")


def classes(fault):
    """Those that tell the truth about it."""
    right = {"STORAGE_ERROR"}
    if fault.call in TAKES_A_NAME and fault.error in ABOUT_A_NAME:
        right.add("USAGE")
    if fault.call == "fcntl" and fault.error in (E.EAGAIN, E.EACCES):
        right.add("LOCKED")
    if fault.call == "bind" and fault.error == E.EADDRINUSE:
        right.add("LOCKED")
    if fault.call in CONFINES or fault.error in NOT_HERE:
        right.add("UNSUPPORTED")
    if fault.call == "read" and fault.error == 0 or fault.call == "write":
        right.add("KEY_MISSING")  # a source that delivers nothing; a pipe to the daemon that takes none
    return right


def must_go_on(fault):
    if fault.how == inject.SHORT:
        return True
    return fault.error == E.EINTR and fault.call in GOES_ON


def must_fail(fault):
    """What is not on the disk is not done, whatever it looks like afterwards."""
    return (fault.call in ("fsync", "fdatasync", "pwrite64", "ftruncate") and fault.error != E.EINTR
            and fault.how != inject.SHORT)


def no_failure(fault, hit):
    """must_go_on(), but for stdio: it takes an interruption for an error. Nothing interrupts here, for no
    signal has a handler."""
    words = hit.split()
    return must_go_on(fault) and not (
        fault.call == "write" and fault.error == E.EINTR and words[1:2] in (["1"], ["2"]))


def message_is_lost(fault, hit):
    """It was writing the message that failed, too."""
    words = hit.split()
    return fault.call in ("write", "writev") and (
        fault.for_good or (len(words) > 1 and words[1] == "2"))


def died_in_library(fault, hit, code):
    """libcrypto, which libtpms computes with, does not survive the lack of memory everywhere. What it
    takes with it is the process, and nothing else may be lost by that."""
    return (fault.call == "allocation" and code in (-signal.SIGSEGV, -signal.SIGABRT)
            and is_libcrypto(hit))


def is_libcrypto(hit):
    return hit.startswith("libcrypto.")


def complaint_about_words(fault, hit, code, err, clean_err=""):
    """None, or what is wrong with how a command failed."""
    if code == -999:
        return f"the tool gave up: {err}"
    if code < 0:
        return f"died of signal {-code}"
    name = CLASS_OF.get(code)
    if name is None:
        return f"exit code {code} is no class's"
    if name not in classes(fault):
        return f"{name} is the wrong class: {err.strip()}"
    said = [m.group(1) for m in MESSAGE.finditer(err)]
    if said != [name] and not message_is_lost(fault, hit):
        return f"exit code {code}, but it says: {err.strip()!r}"
    noise = [line for line in err.splitlines()
             if line and not MESSAGE.match(line) and not NOTE.match(line) and line not in clean_err]
    if noise:
        return f"it also says: {noise}"
    return None


def entries(folder, contents=True):
    """Every file: kind, mode, size, time of change, bytes."""
    found = {}
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        st = os.lstat(path)
        data = b""
        if contents and stat.S_ISREG(st.st_mode):
            with open(path, "rb") as f:
                data = f.read()
        found[name] = (stat.filemode(st.st_mode), st.st_size, st.st_mtime_ns, data)
    return found


def difference(before, after):
    """In words; "" if there is none."""
    words = [f"{n} is new" for n in sorted(after.keys() - before.keys())]
    words += [f"{n} is gone" for n in sorted(before.keys() - after.keys())]
    for n in sorted(before.keys() & after.keys()):
        if before[n] != after[n]:
            which = [what for what, a, b in zip(("mode", "size", "time", "bytes"), before[n], after[n])
                     if a != b]
            words.append(f"{n} has another {' and '.join(which)}")
    return ", ".join(words)
