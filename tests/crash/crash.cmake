# What tests/crash/kept_disk.h needs.
foreach(name store_crash store_damage handover_crash recover_crash)
    target_link_options(crash_test_${name} PRIVATE -Wl,--wrap=qcow_disk_rw_free)
endforeach()

# What tests/support/fault.c takes the place of.
set(NVKEEP_FAULT_CALLS malloc calloc strdup mmap munmap open openat fcntl madvise mlock pread pwrite
    fdatasync fsync ftruncate fstat stat fstatat fstatfs fstatvfs linkat getrandom realpath)
list(TRANSFORM NVKEEP_FAULT_CALLS PREPEND "-Wl,--wrap=" OUTPUT_VARIABLE fault_options)
foreach(name store_faults handover_faults custody_faults recover_faults)
    target_link_options(crash_test_${name} PRIVATE ${fault_options})
endforeach()
