"""libvirt in session mode, as an unprivileged user: only PATH says whose swtpm it finds. Each row of
libvirt_table.py; in the long form with Debian's swtpm beside it."""

import os
import sys

import libvirt_table
from libvirt_host import ENCRYPTION, Host, emulator
from libvirt_rows import KEPT, count, counts, measure, outcome
from harness.case import main


def group(test, which):
    for whose in ("ours", "stock") if test.long else ("ours",):
        found = libvirt_table.rows_of(test, whose, which)
        print(f"         {whose}: {len(found)} rows")
        test.end()


def machines_start_save_and_revert(test):
    group(test, libvirt_table.one_host)


def machines_with_a_secret_and_with_a_tpm12(test):
    group(test, libvirt_table.secrets_and_tpm12)


def machines_move_between_two_hosts_and_stay_where_that_fails(test):
    group(test, libvirt_table.moves)


def machines_move_on_shared_storage(test):
    group(test, libvirt_table.moves_on_shared_storage)


def an_external_daemon_outlives_its_machines(test):
    group(test, libvirt_table.external)


def images_of_ours_are_what_libvirt_keeps(test):
    """And a key beside it only where libvirt brings none."""
    host = Host(test, "ours")
    host.define()
    host.start()
    test.equal(sorted(os.listdir(host.state())), ["tpm2-00.key", "tpm2-00.qcow2"], "the files")
    host.undefine()
    host.give_secret()
    host.define(emulator(ENCRYPTION))
    host.start()
    test.equal(os.listdir(host.state()), ["tpm2-00.qcow2"], "the files with a secret of libvirt's")
    host.undefine()


def a_row_that_finds_another_state_is_caught(test):
    """The checkers can fail: a TPM that was exchanged, a machine that went on."""
    host = Host(test, "ours")
    host.define()
    host.start()
    n, m = counts(host), measure(host)
    test.equal(outcome(host, n, m, True), KEPT, "nothing was done")
    test.check(outcome(host, n, m, False) != KEPT, "a PCR that should have been reset")
    count(host)
    test.check(outcome(host, n, m, True) != KEPT, "a counter that went on")
    host.undefine()


if __name__ == "__main__":
    sys.exit(main())
