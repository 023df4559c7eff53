"""Which error each system call can give, by its manual page, for what it is asked to do here.

Left out, with the reason:
  exit, exit_group, rt_sigreturn    do not return
  execve                            the program is not there before it
  getpid, gettid, getuid, umask,    cannot fail
  setfsuid, setfsgid                say nothing when they do; the program looks
  set_robust_list, sched_yield,
  clock_gettime, getrusage
  brk                               gives no error number; libc then asks mmap, and allocations fail by themselves
  rseq, set_tid_address             libc's own; it goes on without
EFAULT, EBADF, EINVAL and ENOTSOCK say that the caller is wrong, and are given only where a file system or
an older kernel gives them for a call that is right (O_TMPFILE, O_DIRECT, fallocate, statx, seccomp...).
"""

import errno as E

from . import inject

NUMBERS = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7,
    "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "ioctl": 16, "pread64": 17, "pwrite64": 18, "writev": 20, "access": 21, "mremap": 25,
    "madvise": 28, "dup2": 33, "nanosleep": 35, "socket": 41, "connect": 42, "accept": 43,
    "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "bind": 49,
    "listen": 50, "getsockname": 51, "getpeername": 52, "socketpair": 53, "setsockopt": 54,
    "getsockopt": 55, "clone": 56, "fork": 57, "wait4": 61, "kill": 62, "fcntl": 72, "fsync": 74,
    "fdatasync": 75, "ftruncate": 77, "getcwd": 79, "chdir": 80, "fchdir": 81, "flock": 73, "rename": 82, "mkdir": 83,
    "rmdir": 84, "unlink": 87,
    "readlink": 89, "chmod": 90, "fchmod": 91, "fchown": 93, "setsid": 112, "setgroups": 116, "renameat": 264, "statfs": 137,
    "fstatfs": 138, "mlock": 149, "munlock": 150, "prctl": 157, "setpriority": 141, "setrlimit": 160, "futex": 202,
    "getdents64": 217, "fadvise64": 221, "clock_nanosleep": 230, "openat": 257, "fchownat": 260,
    "newfstatat": 262, "unlinkat": 263, "linkat": 265, "readlinkat": 267, "fchmodat": 268,
    "faccessat": 269, "ppoll": 271, "fallocate": 285, "eventfd2": 290, "signalfd4": 289,
    "accept4": 288, "dup3": 292, "pipe2": 293, "prlimit64": 302, "renameat2": 316,
    "seccomp": 317, "getrandom": 318, "memfd_create": 319, "mlock2": 325, "statx": 332,
    "clone3": 435, "faccessat2": 439, "landlock_create_ruleset": 444, "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}
NAMES = {n: name for name, n in NUMBERS.items()}
FREE = {228, 96, 201, 229, 98, 231, 60, 15, 59, 39, 186, 102, 104, 107, 108, 95, 273, 24, 12, 334, 218, 122, 123}

# What is asked of them decides what they can answer. (Waking somebody cannot fail.)
F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL = 1030, 1, 2, 3, 4
F_OFD_GETLK, F_OFD_SETLK = 36, 37
BY_SECOND = {"fcntl": {F_GETFD: [E.EBADF], F_SETFD: [E.EBADF], F_GETFL: [E.EBADF],
                       F_SETFL: [E.EINVAL, E.EPERM], F_DUPFD_CLOEXEC: [E.EMFILE],
                       F_OFD_GETLK: [E.EINVAL, E.EINTR, E.EIO],
                       F_OFD_SETLK: [E.EAGAIN, E.EACCES, E.ENOLCK, E.EINTR, E.EINVAL, E.EIO]},
             "futex": {0x80: [E.EINTR, E.EAGAIN], 0x189: [E.EINTR, E.EAGAIN]}}  # waiting

PATH = [E.EACCES, E.ELOOP, E.ENAMETOOLONG, E.ENOENT, E.ENOMEM, E.ENOTDIR, E.EIO]
STORAGE = [E.EIO, E.ENOSPC, E.EDQUOT, E.EROFS]
NO_MEMORY = [E.ENOMEM]
DESCRIPTORS = [E.EMFILE, E.ENFILE, E.ENOMEM]
ERRORS = {
    "read": [E.EIO, E.EINTR, E.EISDIR],
    "write": STORAGE + [E.EFBIG, E.EPERM, E.EINTR],
    "writev": STORAGE + [E.EINTR],
    "open": PATH + [E.EMFILE, E.ENFILE, E.ENOSPC, E.EROFS, E.EPERM, E.EINTR],
    "openat": PATH + [E.EMFILE, E.ENFILE, E.ENOSPC, E.EDQUOT, E.EROFS, E.EPERM, E.EEXIST, E.EISDIR,
                      E.EOPNOTSUPP, E.EINTR, E.EBUSY, E.ETXTBSY, E.EOVERFLOW, E.ENXIO],
    "close": [E.EINTR, E.EIO, E.ENOSPC, E.EDQUOT],
    "stat": PATH, "lstat": PATH, "newfstatat": PATH + [E.EOVERFLOW],
    "fstat": [E.EIO, E.ENOMEM, E.EOVERFLOW],
    "statx": [E.EIO, E.ENOSYS, E.EINVAL, E.ENOMEM],
    "poll": [E.EINTR, E.ENOMEM], "ppoll": [E.EINTR, E.ENOMEM],
    "lseek": [E.EINVAL, E.EOVERFLOW, E.ESPIPE],
    "mmap": [E.ENOMEM, E.EAGAIN, E.EPERM], "mprotect": [E.ENOMEM, E.EACCES],
    "mremap": NO_MEMORY, "munmap": NO_MEMORY, "madvise": [E.ENOMEM, E.EAGAIN, E.EINVAL],
    "mlock": [E.ENOMEM, E.EPERM, E.EAGAIN], "mlock2": [E.ENOMEM, E.EPERM, E.EAGAIN],
    "munlock": NO_MEMORY,
    "rt_sigaction": [E.EINVAL], "rt_sigprocmask": [E.EINVAL],
    "ioctl": [E.ENOTTY, E.EIO],
    "pread64": [E.EIO, E.EINTR, E.EINVAL, E.EAGAIN],
    "pwrite64": STORAGE + [E.EFBIG, E.EPERM, E.EINTR, E.EINVAL, E.ENOMEM],
    "access": PATH, "faccessat": PATH, "faccessat2": PATH,
    "dup2": [E.EMFILE, E.EINTR, E.EBUSY], "dup3": [E.EMFILE, E.EINTR],
    "nanosleep": [E.EINTR], "clock_nanosleep": [E.EINTR],
    "socket": [E.EAFNOSUPPORT, E.EACCES, E.ENOBUFS] + DESCRIPTORS,
    "socketpair": [E.EAFNOSUPPORT] + DESCRIPTORS,
    "connect": [E.ECONNREFUSED, E.EACCES, E.EAGAIN, E.ENOENT, E.EINTR, E.ETIMEDOUT],
    "accept": [E.ECONNABORTED, E.EINTR, E.ENOBUFS, E.EPERM, E.EAGAIN] + DESCRIPTORS,
    "accept4": [E.ECONNABORTED, E.EINTR, E.ENOBUFS, E.EPERM, E.EAGAIN] + DESCRIPTORS,
    "sendto": [E.EPIPE, E.ECONNRESET, E.EAGAIN, E.EINTR, E.ENOBUFS, E.ENOMEM],
    "sendmsg": [E.EPIPE, E.ECONNRESET, E.EAGAIN, E.EINTR, E.ENOBUFS, E.ENOMEM, E.ETOOMANYREFS],
    "recvfrom": [E.ECONNRESET, E.EAGAIN, E.EINTR, E.ENOMEM],
    "recvmsg": [E.ECONNRESET, E.EAGAIN, E.EINTR, E.ENOMEM],
    "shutdown": [E.ENOTCONN],
    "bind": [E.EADDRINUSE, E.EACCES, E.ENOSPC, E.EROFS, E.EIO, E.ENOMEM, E.ENOENT],
    "listen": [E.EADDRINUSE], "getsockname": [E.ENOBUFS], "getpeername": [E.ENOBUFS, E.ENOTCONN],
    "setsockopt": [E.ENOPROTOOPT, E.ENOMEM], "getsockopt": [E.ENOPROTOOPT],
    "clone": [E.EAGAIN, E.ENOMEM], "clone3": [E.EAGAIN, E.ENOMEM], "fork": [E.EAGAIN, E.ENOMEM],
    "wait4": [E.EINTR, E.ECHILD], "kill": [E.EPERM, E.ESRCH],
    "fsync": STORAGE, "fdatasync": STORAGE,
    "ftruncate": [E.EIO, E.ENOSPC, E.EFBIG, E.EPERM, E.EROFS, E.EINTR, E.EDQUOT],
    "fallocate": [E.ENOSPC, E.EOPNOTSUPP, E.EIO, E.EINTR, E.EFBIG],
    "getcwd": [E.ENOENT, E.EACCES, E.ENOMEM], "chdir": [E.EACCES, E.EIO, E.ENOMEM],
    "fchdir": [E.EACCES, E.EIO],
    "flock": [E.EWOULDBLOCK, E.EINTR, E.ENOLCK],
    "rename": STORAGE + [E.EACCES], "renameat": STORAGE + [E.EACCES], "renameat2": STORAGE + [E.EACCES, E.EEXIST, E.EINVAL],
    "mkdir": STORAGE + [E.EACCES, E.ENOMEM, E.EMLINK], "rmdir": [E.EACCES, E.EIO, E.EROFS, E.EBUSY],
    "linkat": STORAGE + [E.EACCES, E.EEXIST, E.EMLINK, E.EPERM, E.ENOENT, E.EXDEV],
    "unlink": [E.EACCES, E.EIO, E.EROFS, E.EBUSY], "unlinkat": [E.EACCES, E.EIO, E.EROFS, E.EBUSY],
    "readlink": [E.EACCES, E.EIO, E.EINVAL, E.ENOENT, E.ENOMEM],
    "readlinkat": [E.EACCES, E.EIO, E.ENOENT, E.ENOMEM],
    "chmod": [E.EPERM, E.EROFS, E.EIO], "fchmod": [E.EPERM, E.EROFS, E.EIO],
    "fchmodat": [E.EPERM, E.EROFS, E.EIO], "fchown": [E.EPERM, E.EROFS, E.EIO, E.EDQUOT],
    "fchownat": [E.EPERM, E.EROFS, E.EIO, E.EDQUOT],
    "setsid": [E.EPERM], "setgroups": [E.EPERM, E.ENOMEM], "statfs": [E.EIO, E.ENOSYS], "fstatfs": [E.EIO, E.ENOSYS],
    "prctl": [E.EPERM, E.EINVAL], "prlimit64": [E.EPERM], "setrlimit": [E.EPERM], "setpriority": [E.EACCES],
    "getdents64": [E.ENOENT], "fadvise64": [E.ESPIPE],
    "eventfd2": DESCRIPTORS, "signalfd4": DESCRIPTORS, "pipe2": DESCRIPTORS,
    "memfd_create": DESCRIPTORS,
    "seccomp": [E.EINVAL, E.ENOMEM, E.EACCES, E.ESRCH],
    "getrandom": [E.EINTR, E.ENOSYS],
    "landlock_create_ruleset": [E.ENOSYS, E.EOPNOTSUPP, E.ENOMEM, E.EINVAL],
    "landlock_add_rule": [E.ENOMEM, E.EINVAL],
    "landlock_restrict_self": [E.EPERM, E.E2BIG, E.ENOMEM],
}
# Where a descriptor is not a file: what it can give instead.
NOT_A_FILE = {
    "socket:": {"read": [E.ECONNRESET, E.EAGAIN, E.EINTR],
                "write": [E.EPIPE, E.ECONNRESET, E.EAGAIN, E.EINTR, E.ENOBUFS]},
    "pipe:": {"read": [E.EAGAIN, E.EINTR], "write": [E.EPIPE, E.EAGAIN, E.EINTR]},
    "anon_inode:": {"read": [E.EAGAIN], "write": []},  # never full, never waits
}
# These pass: for good they would be another fault, a machine on which nothing goes on.
PASSING = {E.EINTR, E.EAGAIN, E.ECONNABORTED}
PASSING_FOR = {"connect": {E.EAGAIN, E.EINTR}}
# The call is made, and fails all the same: a descriptor is closed whatever close() says, and what
# had been written may have got to the disk although the flush failed.
ALSO_AFTERWARDS = {"close", "fsync", "fdatasync", "pwrite64", "unlink", "unlinkat"}
CAN_BE_SHORT = {"read", "write", "pread64", "pwrite64", "sendto", "recvfrom"}
CAN_END = {"read", "pread64"}
# Memory and signals are the sanitizer's own in a program built with one, and it aborts without.
NOT_WHEN_SANITIZED = {"mmap", "munmap", "mprotect", "mremap", "madvise", "prlimit64", "futex",
                      "rt_sigaction", "rt_sigprocmask", "clone", "clone3", "mlock", "getcwd",
                      "readlink"}


class Fault:
    """The nth call of a kind, or the nth allocation."""

    def __init__(self, call, nth, error=0, how=inject.INSTEAD, for_good=False, second=None):
        self.call, self.nth, self.error, self.how = call, nth, error, how
        self.for_good, self.second = for_good, second

    def words(self):
        if self.call == "allocation":
            return {"alloc_way": self.second, "alloc_nth": self.nth,
                    "alloc_for_good": int(self.for_good)}
        return {"call": NUMBERS[self.call], "nth": self.nth, "error": self.error, "how": self.how,
                "for_good": int(self.for_good),
                "match": inject.ANY if self.second is None else inject.SECOND,
                "value": self.second or 0}

    @property
    def kind(self):
        """As far as counting pairs goes: what fails, and how."""
        error = E.errorcode.get(self.error, "") if self.call != "allocation" else "ENOMEM"
        if self.how == inject.SHORT:
            return "short"
        return error or "end of file"

    def __str__(self):
        what = self.call + ("" if self.second is None else f"({self.second:x})")
        made = " afterwards" if self.how == inject.AFTERWARDS else ""
        return f"{what} {self.nth}{' and on' if self.for_good else ''}: {self.kind}{made}"


def _errors(name, second, file):
    if name in BY_SECOND:
        return BY_SECOND[name].get(second, [])
    for prefix, errors in NOT_A_FILE.items():
        if file.startswith(prefix) and name in errors:
            return errors[name]
    return ERRORS[name]


def _of_call(name, nth, second, file, sanitized):
    if sanitized and name in NOT_WHEN_SANITIZED:
        return
    errors = _errors(name, second, file)
    passing = PASSING_FOR.get(name, PASSING)
    for error in errors:
        for for_good in (False, True):
            if not (for_good and error in passing):
                if name != "close":
                    yield Fault(name, nth, error, inject.INSTEAD, for_good, second)
                if name in ALSO_AFTERWARDS and (name == "close" or error != E.EINTR):
                    yield Fault(name, nth, error, inject.AFTERWARDS, for_good, second)
    for for_good in (False, True):
        if file.startswith("anon_inode:"):
            return
        if name in CAN_BE_SHORT:
            yield Fault(name, nth, 0, inject.SHORT, for_good, second)
        if name in CAN_END:
            yield Fault(name, nth, 0, inject.INSTEAD, for_good, second)


class UnknownCall(Exception):
    pass


def _of_allocations(ways):
    """Each that the program itself asks for; of a library's, the first two and the last along each way."""
    total, seen = {}, {}
    for way, _ in ways:
        total[way] = total.get(way, 0) + 1
    for way, is_ours in ways:
        nth = seen[way] = seen.get(way, 0) + 1
        if is_ours or nth <= 2 or nth == total[way]:
            for for_good in (False, True):
                yield Fault("allocation", nth, for_good=for_good, second=way)


def some_of(faults, options, n_short, offset):
    """All (--long), or one in so many: for about n_short. Never an even stride: what fails once and what
    fails for good takes turns."""
    every = 1 if options.long else options.every or max(1, len(faults) // n_short) | 1
    return faults[offset % every::every]


def faults_of(log, ways, sanitized=False):
    """Every fault of a run whose calls are in log (lines of tool_inject.c), and how many of each call.
    ways: what allocates (Control.ways())."""
    counts = {}
    faults = []
    for line in log:
        words = line.split()
        number = int(words[0])
        if number in FREE:
            continue
        name = NAMES.get(number)
        if name not in ERRORS and name not in BY_SECOND:
            if sanitized:
                continue
            raise UnknownCall(f"{name or number}: calls.py does not say which errors it gives")
        second = int(words[2], 16) if name in BY_SECOND else None
        counts[name, second] = counts.get((name, second), 0) + 1
        file = words[7] if len(words) > 7 else ""
        faults += _of_call(name, counts[name, second], second, file, sanitized)
    if not sanitized:
        faults += _of_allocations(ways)
    return faults, counts
