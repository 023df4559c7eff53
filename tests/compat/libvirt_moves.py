"""Migrations between two private libvirtd, each a host of its own. As in libvirt_rows.py: chains of
(row, outcome)."""

import os
import threading

from libvirt_host import COUNTER, ENCRYPTION, NOBODY, PATIENCE, Host, emulator
from libvirt_rows import KEPT, SECOND_SECRET, count, counts, measure, must, outcome
from harness.process import Failure, run, wait_until
from harness.tpm import nv_increment_command

DIRECT, P2P, TUNNELLED = (), ("--p2p",), ("--p2p", "--tunnelled")


class Pair:
    """Two hosts; shared: their TPMs' states are in one directory that libvirtd takes for NFS."""

    def __init__(self, test, whose, shared=False, name="pair"):
        preload = os.path.join(os.environ["NVKEEP_BUILD"], "lib", "shared_fs.so") if shared else None
        self.test, self.shared = test, shared
        self.hosts = [Host(test, whose, f"{name}{n}", preload) for n in "ab"]
        self.here, self.there = self.hosts
        if shared:
            self._share(test.path(name + "-states"))

    def _share(self, folder):
        os.mkdir(folder)
        with open(os.path.join(folder, ".shared"), "w", encoding="ascii"):
            pass
        os.chown(folder, NOBODY, NOBODY)
        for host in self.hosts:
            run([*host.prefix, "mkdir", "-p", host.path("c/libvirt/qemu")])
            states = host.path("c/libvirt/qemu/swtpm")
            if os.path.isdir(states):
                os.rmdir(states)
            os.symlink(folder, states)

    def define(self, backend=None):
        self.backends = [backend or emulator()] * 2
        self.begin()

    def begin(self):
        self.here.define(self.backends[self.hosts.index(self.here)])
        self.there.version = self.here.version
        self.here.start()

    def undefine(self):
        self.here.undefine("--tpm")

    def arguments(self, how):
        """Of virsh migrate, for the machine as it is to be there."""
        backend = self.backends[self.hosts.index(self.there)]
        xml = self.there.xml("arriving.xml", self.there.domain(backend))
        socket = self.there.path(f"r/{len(os.listdir(self.there.path('r')))}.move")
        return ["migrate", "--live", "--persistent", "--undefinesource", "--xml", xml,
                "--persistent-xml", xml, *how, "vm", self.there.uri(),
                *(() if "--tunnelled" in how else ("--migrateuri", f"unix://{socket}"))]

    def move(self, how):
        """Its result; on success the machine is `here` again."""
        self.there.console.skip()
        done = self.here.virsh(*self.arguments(how))
        if done.rc == 0:
            self.here, self.there = self.there, self.here
        return done

    def moved(self, how):
        done = self.move(how)
        if done.rc != 0:
            raise Failure(f"virsh migrate {' '.join(how)}: {done}; {self.here.log()}; "
                          f"{self.there.log()}")

    def stays(self):
        must(self.here.do("domstate", "vm").startswith("running"), "the machine does not run on")


def there_and_back(pair, ways, kind, backend=None):
    """Each way in turn; after the last the machine is started anew where it is."""
    pair.define(backend)
    n, m = counts(pair.here), measure(pair.here)
    for name, how in ways:
        pair.moved(how)
        yield f"migration, {name}{kind}", outcome(pair.here, n, m, True)
        n = count(pair.here)
    pair.here.do("destroy", "vm")
    pair.here.start()
    yield f"a cold start after migrations{kind}", outcome(pair.here, n, m, False)
    pair.undefine()


def separate(pair):
    yield from there_and_back(pair, (("direct", DIRECT), ("p2p", P2P), ("p2p, tunnelled", TUNNELLED)),
                              "")


def separate_encrypted(pair):
    for host in pair.hosts:
        host.give_secret()
    yield from there_and_back(pair, (("direct", DIRECT), ("p2p", P2P), ("p2p, tunnelled", TUNNELLED)),
                              ", encrypted", emulator(ENCRYPTION))


def wrong_secret(pair, kind="", keep=False):
    """The destination has another secret for the same machine; then the same one."""
    pair.here.give_secret()
    pair.there.give_secret(SECOND_SECRET)
    pair.define(emulator(ENCRYPTION, keep=keep))
    n, m = counts(pair.here), measure(pair.here)
    done = pair.move(DIRECT)
    must(done.rc != 0, "the machine went to a host with a wrong secret")
    pair.stays()
    yield f"migration refused: wrong secret there{kind}; the guest here", \
        outcome(pair.here, n, m, True)
    n = count(pair.here)
    pair.here.do("destroy", "vm")
    pair.here.start()
    m = measure(pair.here)
    yield f"a cold start after the refusal{kind}", outcome(pair.here, n, m, True)
    pair.there.give_secret()
    pair.moved(DIRECT)
    yield f"the same with the right secret{kind}", outcome(pair.here, n, m, True)
    pair.undefine()


def disturbed(pair, disturb):
    """A migration that does not come to its end by itself; disturb() it. The guest counts all the
    while. Returns what virsh said, and what the counter is to be."""
    pair.here.console.verb("dirty 16384")
    before = pair.here.tpm.nv_counter(COUNTER)
    pair.here.console.start_loop([nv_increment_command(COUNTER)])
    argv = pair.arguments(DIRECT) + ["--bandwidth", "1"]
    result = []
    thread = threading.Thread(target=lambda: result.append(pair.here.virsh(*argv)), daemon=True)
    thread.start()
    wait_until("a migration under way", lambda: result or "Data processed" in
               pair.here.virsh("domjobinfo", "vm").out, PATIENCE, 0.2)
    must(not result, f"the migration ended before it was disturbed: {result}")
    n = disturb(before)
    thread.join(PATIENCE)
    must(result, "virsh migrate hangs")
    return result[0], n


def counted(pair, before):
    return before + len(pair.here.console.stop_loop(PATIENCE))


def destination_dies(pair):
    """Its QEMU while memory is copied; its daemon, so that the state is given away and not taken."""
    pair.define()
    counts(pair.here)
    m = measure(pair.here)

    def emulator_killed(before):
        pair.there.kill("qemu-system")
        return counted(pair, before)

    def daemon_killed(before):
        pair.there.kill("--tpmstate")
        n = counted(pair, before)
        pair.here.do("migrate-setspeed", "vm", "1000")
        return n

    for what, disturb in (("QEMU", emulator_killed), ("TPM daemon", daemon_killed)):
        done, n = disturbed(pair, disturb)
        must(done.rc != 0, "the migration succeeded")
        pair.stays()
        yield f"migration fails: the {what} there is killed; the guest here", \
            outcome(pair.here, n, m, True)
    n = count(pair.here)
    pair.moved(DIRECT)
    yield "another migration after those", outcome(pair.here, n, m, True)
    n = count(pair.here)
    pair.here.do("destroy", "vm")
    pair.here.start()
    yield "a cold start after failed migrations", outcome(pair.here, n, m, False)
    pair.undefine()


CHAINS = (separate, separate_encrypted, wrong_secret, destination_dies)


def shared(pair):
    """Libvirt refuses this to a swtpm that cannot let its lock go: then the row says so.
    persistent_state: when a machine does not arrive, libvirt 9.0 deletes the state of its TPM there,
    which is the state here, unless it is told to keep it."""
    pair.define(emulator(keep=True))
    n, m = counts(pair.here), measure(pair.here)
    done = pair.move(DIRECT)
    if done.rc != 0:
        must("does not support migration with shared storage" in done.err,
             f"{done.err}; {pair.there.log()}")
        pair.stays()
        yield "migration, shared state", f"refused by libvirt, {outcome(pair.here, n, m, True)}"
        pair.undefine()
        return
    yield "migration, shared state", outcome(pair.here, n, m, True)
    n = count(pair.here)
    pair.moved(P2P)
    yield "and back, p2p, shared state", outcome(pair.here, n, m, True)
    n = count(pair.here)
    pair.here.do("destroy", "vm")
    pair.here.start()
    yield "a cold start after migrations, shared state", outcome(pair.here, n, m, False)
    pair.undefine()
    yield from wrong_secret(pair, ", shared state", keep=True)


SHARED_CHAINS = (shared,)
