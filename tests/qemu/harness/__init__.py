"""The real machine around the TPM: a daemon, QEMU, and a guest that says what its TPM answered.

    def nv_survives(test):              # a test is a function of one argument called test
        vm = test.vm()                  # an image with its key, not running yet
        vm.power_on()                   # daemon, QEMU, guest ready
        vm.tpm.nv_define(0x1500001, 8)
        vm.cut_power()                  # SIGKILL to both
        ...

process     programs that are started, and never left behind
qmp         QEMU's monitor, with the times of its events
console     the micro-guest's serial line
tpm         TPM commands, as bytes
continuity  what a guest must go on seeing of its TPM
admin       the daemon's admin socket
proxy       between QEMU and its daemon, and in the migration stream: logs, times, disturbs
store       an image with its key (nvkeep) or a state directory (swtpm), and their daemons
vm          all of it together; migration
case        what a test is given, and the main() of a test file
Only the standard library, and only what Debian 12 has.
"""
