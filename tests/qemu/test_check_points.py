"""The points at which a migration can be refused, from the daemon's start to the fall-back, one test
each. Every test says when its refusal came, against the moment at which the guest was stopped."""

import sys
import time

from harness.admin import prepare
from harness.case import main
from harness.continuity import COUNTER, Continuity
from harness.process import Failure, Timeout, wait_until
from harness.qmp import QmpError
from harness.store import KEY_MISSING, KEY_WRONG, STATE_CORRUPT, STATE_EMPTY
from harness.tpm import nv_increment_command


def a_guest(test, name="source", **how):
    source = test.vm("tpm-tis", name=name)
    source.proxied = True
    source.power_on(admin=True, **how)
    return source, Continuity(test, source)


def shared(test, source, name="target"):
    target = test.vm("tpm-tis", name=name, store=source.store.view(name))
    target.proxied = True
    return target


def never_stopped(test, source):
    test.check(source.qmp.find("STOP") is None, "the guest was stopped")
    test.equal(source.status(), "running", "the source")


def goes_on(test, seen, vm):
    """The loop in it, and all that it should see."""
    seen.runs_on(vm)
    seen.stop(vm)
    seen.holds(vm.tpm)


def moves(test, seen, source, name="good", **how):
    target = shared(test, source, name)
    target.incoming(**how)
    test.equal(source.migrate(target), "completed", "a migration with everything right")
    seen.holds(target.tpm)
    return target


def check_point_a_a_source_that_could_not_hand_over_does_not_start(test):
    test.only_nvkeep("check points are ours")
    store = test.store()
    vm = test.vm(store=store, name="source")
    vm.store.write_key(b"not the key", test.path("wrong.key"))
    daemon = vm.start_daemon(wait=False, key="file=" + test.path("wrong.key"))
    test.equal(daemon.wait(), KEY_WRONG, "exit code")
    vm.power_on(admin=True)
    # What management asks before it moves the guest: nothing happens, any number of times.
    before = store.bytes()
    for _ in range(3):
        vm.admin.command("migrate-prepare")
    test.check(store.bytes() == before, "asking changed the image")


def check_point_b_a_destination_is_refused_before_its_socket_exists(test):
    """S3.1 S3.5 S3.16 S3.17 S3.26: read-only and without a lock, while the source runs."""
    test.only_nvkeep("check points are ours")
    source, seen = a_guest(test)
    wrong = test.path("wrong.key")
    source.store.write_key(b"not the key", wrong)
    damaged = source.store.copy_to(test.folder, "damaged")
    with open(damaged.image, "r+b") as f:
        f.seek(-(1 << 20) + 100, 2)
        f.write(b"\0" * 64)
    empty = source.store.copy_to(test.folder, "empty")
    with open(empty.image, "wb"):
        pass
    for what, store, key, wanted in (
            ("wrong key", source.store.view("t1"), "file=" + wrong, KEY_WRONG),
            ("no key", source.store.view("t2"), "", KEY_MISSING),
            ("damage", damaged, None, STATE_CORRUPT),
            ("an empty file", empty, None, STATE_EMPTY)):
        target = test.vm(name="target", store=store)
        before = source.store.bytes()
        began = time.monotonic()
        daemon = target.start_daemon(wait=False, key=key, migration="incoming")
        test.equal(daemon.wait(), wanted, f"exit code with {what} ({daemon.err().strip()})")
        print(f"         {what}: refused {(time.monotonic() - began) * 1000:.0f} ms after the start,"
              " the guest was never stopped")
        test.check(not daemon.bound(), "there is a socket")
        test.equal(target.start_qemu(hello=False).refused()[0], 1, "exit code of QEMU")
        test.check(source.store.bytes() == before, "a refusal changed the source's image")
        never_stopped(test, source)
        seen.holds(source.tpm)
    moves(test, seen, source)


def check_point_c_a_late_verdict_ends_the_emulator_at_its_first_commands(test):  # alone
    """S3.1 S3.11: a slow passphrase turns out wrong behind the bound socket."""
    test.only_nvkeep("check points are ours")
    store = test.store(passphrase=b"what a person chose", iter_ms=700)
    source = test.vm(store=store, name="source")
    source.power_on()
    seen = Continuity(test, source)
    wrong = test.path("wrong.key")
    store.write_key(b"what a person thought", wrong)
    target = test.vm(name="target", store=store.view("target"))
    target.proxied = True
    target.start_daemon(key="file=" + wrong, migration="incoming")
    rc, said = target.start_qemu(["-incoming", "defer"], hello=False).refused()
    test.equal(rc, 1, f"exit code of QEMU ({said.strip()})")
    test.equal(target.daemon.wait(), KEY_WRONG, "exit code of the daemon")
    refused = target.proxy.refusal()
    print(f"         refused at {refused.name}, the guest was never stopped")
    never_stopped(test, source)
    seen.holds(source.tpm)


def check_point_d_a_token_shows_what_is_wrong_before_anything_moves(test):
    """S3.5 S3.22: another migration key, none, an older state: each is a class of its own."""
    test.only_nvkeep("check points are ours")
    right, other = test.migration_key(), test.migration_key("another.key", "f" * 64)
    source, seen = a_guest(test, migration_key=right)
    for name, key, wanted in (("other", other, "KEY_WRONG"), ("none", None, "KEY_MISSING")):
        target = test.vm(name=name, store=test.store(name, incoming=True))
        target.incoming(admin=True, migration_key=key, seal=None if key else "off")
        began = time.monotonic()
        refused = test.raises(QmpError, f"prepare-incoming with {name}", prepare, source.admin,
                              target.admin)
        test.contains(refused.error_class + refused.desc, wanted, "the class")
        print(f"         {wanted}: refused after {(time.monotonic() - began) * 1000:.1f} ms, "
              "the guest was never stopped")
        target.quit()
        never_stopped(test, source)
        seen.holds(source.tpm)
    good = test.vm(name="good", store=test.store("good", incoming=True))
    good.incoming(admin=True, migration_key=right)
    prepare(source.admin, good.admin)
    test.equal(source.migrate(good), "completed", "migration")
    seen.holds(good.tpm)


def check_point_e_management_looks_before_the_switchover_and_cancels(test):
    test.only_nvkeep("check points are ours")
    source, seen = a_guest(test)
    target = shared(test, source)
    target.incoming(admin=True)
    target.admin.command("query-status")
    seen.start(source)
    target.daemon.kill()
    source.begin_migration(target, return_path=False, pause=True)
    source.qmp.wait("MIGRATION", status="pre-switchover")
    test.raises(Failure, "query-status of a dead daemon", target.admin.command, "query-status")
    source.qmp.command("migrate_cancel")
    source.qmp.wait("RESUME")
    took = (source.qmp.find("RESUME").at - source.qmp.find("STOP").at) * 1000
    print(f"         the guest was back after {took:.1f} ms")
    test.check(source.proxy.find("GET_STATEBLOB") is None, "a state was asked for")
    goes_on(test, seen, source)
    source.enable("pause-before-switchover", state=False)
    target.qemu.kill()
    moves(test, seen, source)


def check_point_e_management_looks_while_memory_moves_and_cancels(test):
    """The guest is never stopped."""
    test.only_nvkeep("check points are ours")
    source, seen = a_guest(test)
    target = shared(test, source)
    target.incoming(admin=True)
    source.console.verb("dirty 8192")
    source.console.start_loop(seen.commands)
    source.qmp.command("migrate-set-parameters", max_bandwidth=1 << 20)
    source.begin_migration(target, return_path=False)
    source.qmp.wait("MIGRATION", status="active")
    target.admin.command("query-status")
    target.daemon.kill()
    test.raises(Failure, "query-status of a dead daemon", target.admin.command, "query-status")
    source.qmp.command("migrate_cancel")
    test.equal(source.end_of_migration(), "cancelled", "migration")
    never_stopped(test, source)
    goes_on(test, seen, source)
    source.qmp.command("migrate-set-parameters", max_bandwidth=1 << 30)
    target.qemu.kill()
    moves(test, seen, source)


def copied(source, target, n_bytes=None):
    """The next piece of a mirror."""
    data = source.store.bytes()
    with open(target.store.image, "r+b") as f:
        f.write(data[:n_bytes])
        f.truncate(len(data[:n_bytes]))


def check_point_e_a_copy_is_asked_about_until_it_is_whole(test):
    """S3.18 S3.19 S3.20: empty, cut off, whole, and out of date again when the guest goes on."""
    test.only_nvkeep("check points are ours")
    source, seen = a_guest(test)
    target = shared(test, source)
    target.store.image = test.path("copy.qcow2")
    with open(target.store.image, "wb"):
        pass
    target.incoming(admin=True, migration="incoming,storage=copied")
    for n_bytes in (0, 4096, len(source.store.bytes()) // 2):
        copied(source, target, n_bytes)
        before = target.store.bytes()
        refused = test.raises(QmpError, f"migrate-prepare of {n_bytes} bytes", target.admin.command,
                              "migrate-prepare")
        print(f"         {n_bytes} bytes: {refused.error_class}")
        test.check(refused.error_class.startswith("STATE_"), f"the class: {refused}")
        test.check(target.store.bytes() == before, "asking changed the copy")
    copied(source, target)
    target.admin.command("migrate-prepare")
    target.admin.command("migrate-prepare")

    seen.start(source)  # and with it the copy is out of date
    test.equal(source.migrate(target), "failed", "migration")
    source.qmp.wait("RESUME")
    goes_on(test, seen, source)
    refusal = target.proxy.refusal()
    target.qemu.wait()
    target.daemon.wait()
    test.contains(target.daemon.log() + target.daemon.err(), "STATE_ROLLED_BACK", "what it says")
    print(f"         out of date: {refusal.name} {refusal.result:#x}")

    target.incoming(admin=True, migration="incoming,storage=copied")
    source.begin_migration(target, pause=True)
    source.qmp.wait("MIGRATION", status="pre-switchover")
    copied(source, target)
    target.admin.command("migrate-prepare")
    source.qmp.command("migrate-continue", state="pre-switchover")
    test.equal(source.end_of_migration(), "completed", "migration of a whole copy")
    target.take_guest(source)
    seen.holds(target.tpm)


def check_point_f_an_unprepared_source_gives_nothing_away(test):
    """S3.6 S3.23: the first GET_STATEBLOB is an error unless armed, and QEMU resumes the guest by
    itself even without its return path."""
    test.only_nvkeep("check points are ours")
    source, seen = a_guest(test, migration="require-prepare=1")
    for why in ("never armed", "armed too long ago"):
        target = shared(test, source, "target" + why[0])
        target.incoming(admin=True)
        if why == "armed too long ago":
            prepare(source.admin, target.admin)
            time.sleep(1.2)
        seen.start(source)
        mark = source.qmp.mark()
        since = time.monotonic()
        test.equal(source.migrate(target, return_path=False), "failed", f"migration, {why}")
        resumed = source.qmp.wait("RESUME", mark)
        stopped = source.qmp.wait("STOP", mark)
        refusal = source.proxy.refusal(since)
        test.equal((refusal.name, refusal.blob), ("GET_STATEBLOB", 1), "what was refused")
        print(f"         {why}: refused {(refusal.answered - stopped.at) * 1000:+.1f} ms behind the "
              f"stop, the guest was back after {(resumed.at - stopped.at) * 1000:.1f} ms")
        goes_on(test, seen, source)
        target.qemu.kill()
        target.qemu.wait()
        target.daemon.wait()
    target = shared(test, source, "last")
    target.incoming(admin=True)
    prepare(source.admin, target.admin)
    test.equal(source.migrate(target, return_path=False), "completed", "a prepared migration")
    seen.holds(target.tpm)


def check_point_g_a_changed_blob_is_refused_and_the_claim_let_go(test):
    """S3.6 S3.22: one bit of what arrives is flipped; nothing of it is stored, and the source has its
    TPM back at once."""
    test.only_nvkeep("check points are ours")
    source, seen = a_guest(test)
    for blob in (1, 2):
        target = shared(test, source, f"target{blob}")
        target.incoming()

        def flipped(message, body, blob=blob):
            if (message.name, message.blob) != ("SET_STATEBLOB", blob):
                return body
            at = len(body) - 40
            return body[:at] + bytes([body[at] ^ 1]) + body[at + 1:]
        target.proxy.tamper = flipped
        seen.start(source)
        mark = source.qmp.mark()
        since = time.monotonic()
        test.equal(source.migrate(target), "failed", "migration")
        stopped, resumed = source.qmp.wait("STOP", mark), source.qmp.wait("RESUME", mark)
        refusal = target.proxy.refusal(since)
        test.equal((refusal.name, refusal.blob), ("SET_STATEBLOB", blob), "what was refused")
        goes_on(test, seen, source)
        print(f"         blob {blob}: refused with {refusal.result:#x} "
              f"{(refusal.answered - stopped.at) * 1000:+.1f} ms behind the stop, "
              f"the guest was back after {(resumed.at - stopped.at) * 1000:.1f} ms")
        target.qemu.wait()
        target.daemon.wait()
    moves(test, seen, source)


def check_point_h_the_source_takes_its_storage_back(test):
    """S3.6 S3.23 S3.25: at every step at which the destination can end, the answer to LOCK_STORAGE comes
    within milliseconds, and the guest's TPM goes on without anyone's help."""
    test.only_nvkeep("check points are ours")
    source, seen = a_guest(test)
    took = []
    for i, (name, blob, who) in enumerate((("STOP", None, "qemu"), ("SET_STATEBLOB", 1, "daemon"),
                                           ("SET_STATEBLOB", 2, "qemu"), ("INIT", None, "qemu"))):
        target = shared(test, source, f"target{i}")
        target.incoming()
        victim = target.qemu if who == "qemu" else target.daemon
        seen.start(source)
        mark, since = source.qmp.mark(), time.monotonic()
        # Not the STOPs of the destination's own start.
        target.proxy.on("answered", name, blob, victim.kill)
        test.equal(source.migrate(target), "failed", "migration")
        source.qmp.wait("RESUME", mark)
        failed = source.qmp.wait("MIGRATION", mark, status="failed")
        lock = source.proxy.wait("LOCK_STORAGE", since=since)
        test.equal(lock.result, 0, "LOCK_STORAGE")
        seen.runs_on(source)
        seen.stop(source)
        seen.holds(source.tpm)
        took.append((lock.answered - failed.at) * 1000)
        print(f"         {who} ends at {name} {blob or ''}: LOCK_STORAGE took "
              f"{(lock.answered - lock.at) * 1000:.1f} ms, answered {took[-1]:.1f} ms behind the "
              "failure")
        target.qemu.end()
        target.daemon.end()
    test.check(max(took) < 500, f"falling back took {max(took):.0f} ms")
    moves(test, seen, source)


def check_point_h_nothing_is_executed_between_giving_away_and_taking_back(test):
    """S3.6: the destination hangs with the claim; the source's guest gets no wrong answer, its daemon
    lives, and its TPM is back as soon as the other one lets go."""
    test.only_nvkeep("check points are ours")
    test.check(any(gave_up_on_a_hang(test, i) for i in range(3)), "QEMU never took migrate_cancel")


def gave_up_on_a_hang(test, attempt):
    """False: it was QEMU that hung. Now and then its main loop waits until somebody reads the rest of its
    stream, which nobody does while the destination hangs."""
    source, seen = a_guest(test, f"source{attempt}")
    target = shared(test, source, f"held{attempt}")
    target.incoming()
    held = target.proxy.on("answered", "INIT", None,
                           lambda: wait_until("the end of the test", lambda: done, 60))
    done = []
    source.begin_migration(target)
    wait_until("the destination's start", lambda: held.done_at)
    began = time.monotonic()
    try:
        source.qmp.command("migrate_cancel", timeout=5)
    except Timeout:
        print("         QEMU took no migrate_cancel: once more")
        done.append(True)
        return False
    test.equal(source.end_of_migration(), "cancelled", "migration")
    source.qmp.wait("RESUME")
    lock = source.proxy.wait("LOCK_STORAGE")
    print(f"         LOCK_STORAGE: {lock.result:#x} after {(lock.answered - lock.at) * 1000:.1f} ms "
          "while the destination holds the claim")
    test.check(lock.answered - lock.at < 3.2, "QEMU's main loop waited for long")
    test.equal(source.status(), "running", "the source")
    if lock.result:
        before = source.store.bytes()
        rc = int.from_bytes(source.console.tpm(nv_increment_command(COUNTER))[6:10], "big")
        test.check(rc != 0, "a command was executed")
        print(f"         meanwhile the guest's commands are answered with {rc:#x}")
        test.check(source.store.bytes() == before, "something was written")
    target.daemon.kill()
    target.daemon.wait()
    done.append(True)

    def answers():
        response = source.console.tpm(nv_increment_command(COUNTER))
        return int.from_bytes(response[6:10], "big") == 0
    wait_until("the TPM", answers, 10)
    print(f"         the TPM answers again {(time.monotonic() - began) * 1000:.0f} ms behind the "
          "cancellation")
    seen.count += 1
    seen.holds(source.tpm)
    moves(test, seen, source)
    return True


if __name__ == "__main__":
    sys.exit(main())
