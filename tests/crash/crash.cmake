# What tests/crash/kept_disk.h needs.
foreach(name store_crash store_damage)
    target_link_options(crash_test_${name} PRIVATE -Wl,--wrap=qcow_disk_rw_free)
endforeach()

# What tests/support/fault.c takes the place of.
set(NVKEEP_FAULT_CALLS malloc calloc strdup mmap munmap open openat fcntl madvise mlock pread pwrite
    fdatasync fsync ftruncate fstat stat fstatat fstatvfs linkat getrandom)
list(TRANSFORM NVKEEP_FAULT_CALLS PREPEND "-Wl,--wrap=" OUTPUT_VARIABLE fault_options)
target_link_options(crash_test_store_faults PRIVATE ${fault_options})
