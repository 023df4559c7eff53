# What tests/crash/kept_disk.h needs.
foreach(name store_crash store_damage)
    target_link_options(crash_test_${name} PRIVATE -Wl,--wrap=qcow_disk_rw_free)
endforeach()
