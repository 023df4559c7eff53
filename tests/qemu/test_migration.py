"""Live migration between two images of their own: the guest goes on, and so does its TPM."""

import sys

from harness.case import main
from harness.continuity import COUNTER, Continuity
from harness.process import wait_until
from harness.tpm import PCR_DEBUG


# Two images with different keys: what goes between them is not sealed, or under a migration key.
PLAIN = {"seal": "off"}


def two_hosts(test, device="tpm-tis", family="2.0"):
    """Each with an image and a key of its own; the destination's holds no TPM."""
    target = test.store("target", family, incoming=True)
    return (test.vm(device, family, name="source"),
            test.vm(device, family, name="target", store=target))


def migrates(test, device, return_path, how):
    source, target = two_hosts(test, device)
    source.power_on(**how)
    seen = Continuity(test, source)
    target.incoming(**how)
    source.console.verb("dirty 2048")
    source.console.start_loop(seen.commands)
    wait_until("load in the guest", lambda: source.console.n_loop_answers() > 20)
    test.equal(source.migrate(target, return_path=return_path), "completed", "migration")
    n = target.console.n_loop_answers()
    wait_until("load in the guest", lambda: target.console.n_loop_answers() > n + 20)
    rounds = seen.follow(target.console.stop_loop())
    test.check(rounds > 4, "the loop did not run on")
    seen.holds(target.tpm)
    test.equal(source.quit(), (0, 0), "exit codes of the source")
    seen.holds(target.tpm)

    target.cut_power()
    target.power_on(**how)
    test.equal(target.tpm.nv_counter(COUNTER), seen.count, "the counter after a power cut")
    test.equal(target.tpm.pcr_read(PCR_DEBUG), bytes(32), "PCR after a power cut")


def a_guest_under_load_moves_with_its_tpm_over_tis(test):
    migrates(test, "tpm-tis", True, PLAIN)


def a_guest_under_load_moves_with_its_tpm_over_crb(test):
    migrates(test, "tpm-crb", False, {"migration_key": test.migration_key()})


def a_tpm12_moves(test):
    source, target = two_hosts(test, family="1.2")
    how = {"migration_key": test.migration_key()}
    source.power_on(**how)
    source.tpm.nv_define(0x00011101, 8)
    source.tpm.nv_write(0x00011101, b"moved888")
    value = source.tpm.pcr_extend(PCR_DEBUG, b"\1" * 20)
    target.incoming(**how)
    test.equal(source.migrate(target), "completed", "migration")
    test.equal(target.tpm.nv_read(0x00011101, 8), b"moved888", "NV")
    test.equal(target.tpm.pcr_read(PCR_DEBUG), value, "PCR")


def there_and_back(test):
    """Two hosts in turn; each takes its image out of use when the guest has left."""
    hosts = two_hosts(test, "tpm-crb")
    how = {"migration_key": test.migration_key()}
    hosts[0].power_on(**how)
    seen = Continuity(test, hosts[0])
    for i in range(4):
        here, there = hosts[i % 2], hosts[1 - i % 2]
        there.incoming(**how)
        test.equal(here.migrate(there), "completed", f"migration {i}")
        here.quit()
        seen.holds(there.tpm)
        there.console.start_loop(seen.commands, 3)
        seen.follow(there.console.loop_answers())


def a_failed_migration_leaves_the_guest_its_tpm(test):
    """The destination dies while it receives; the source resumes by itself or by `cont`."""
    source, target = two_hosts(test)
    source.power_on(**PLAIN)
    seen = Continuity(test, source)
    target.incoming(**PLAIN)
    target.daemon.kill()
    target.daemon.wait()
    test.equal(source.migrate(target), "failed", "migration")
    source.qmp.wait("RESUME")
    seen.holds(source.tpm)
    source.console.start_loop(seen.commands, 5)
    test.equal(seen.follow(source.console.loop_answers()), 5, "rounds")


def a_target_with_the_wrong_key_never_gets_the_guest(test):
    """S3.1: the daemon refuses before QEMU could connect, so the source notices nothing."""
    test.only_nvkeep("swtpm notices after the source was stopped")
    source, target = two_hosts(test)
    source.power_on()
    seen = Continuity(test, source)
    before = target.store.bytes()
    target.store.write_key(b"not the key", test.path("wrong.key"))
    daemon = target.start_daemon(wait=False, key="file=" + test.path("wrong.key"),
                                 migration="incoming")
    test.equal(daemon.wait(), 11, "exit code")
    test.check(not daemon.bound(), "there is a socket")
    target.start_qemu(["-incoming", "defer"], hello=False)
    test.equal(target.qemu.refused()[0], 1, "exit code of QEMU")
    test.check(target.store.bytes() == before, "the image changed")
    test.equal(source.status(), "running", "the source")
    seen.holds(source.tpm)


if __name__ == "__main__":
    sys.exit(main())
