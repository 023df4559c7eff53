# What tests/crash/kept_disk.h needs.
foreach(name store_crash store_damage handover_crash recover_crash)
    target_link_options(crash_test_${name} PRIVATE -Wl,--wrap=qcow_disk_rw_free)
endforeach()
# And tests/crash/walk.h.
target_link_options(crash_test_sequence_crash PRIVATE -Wl,--wrap=qcow_disk_rw_free
    -Wl,--wrap=blk_open -Wl,--wrap=qcow_recover
    -Wl,--wrap=secret_new -Wl,--wrap=secret_free)
target_link_options(crash_test_snapshot_crash PRIVATE -Wl,--wrap=blk_open -Wl,--wrap=qcow_recover)
target_link_options(crash_test_tpm_crash PRIVATE -Wl,--wrap=qcow_disk_rw_free
    -Wl,--wrap=store_commit -Wl,--wrap=secret_new -Wl,--wrap=secret_free)

# What tests/crash/damage_image.h needs.
foreach(name image_damage image_recover)
    target_link_options(crash_test_${name} PRIVATE -Wl,--wrap=blk_open -Wl,--wrap=luks_slot_open)
endforeach()

# What tests/crash/test_bounds.c counts.
target_link_options(crash_test_bounds PRIVATE -Wl,--wrap=pread -Wl,--wrap=malloc -Wl,--wrap=calloc
    -Wl,--wrap=free -Wl,--wrap=mmap -Wl,--wrap=munmap)

# What tests/support/fault.c takes the place of.
set(NVKEEP_FAULT_CALLS malloc calloc strdup mmap munmap open openat fcntl madvise mlock pread pwrite
    fdatasync fsync ftruncate fstat stat fstatat fstatfs fstatvfs linkat getrandom realpath)
list(TRANSFORM NVKEEP_FAULT_CALLS PREPEND "-Wl,--wrap=" OUTPUT_VARIABLE fault_options)
target_link_libraries(crash_test_manufacture_faults PRIVATE nvk_program)
foreach(name store_faults handover_faults custody_faults recover_faults tpm_faults manufacture_faults)
    target_link_options(crash_test_${name} PRIVATE ${fault_options})
endforeach()
target_link_options(crash_test_tpm_faults PRIVATE -Wl,--wrap=TPMLIB_GetState -Wl,--wrap=TPMLIB_GetInfo)

# What makes the calls and the allocations of the real program fail.
add_library(fault_alloc MODULE ${CMAKE_CURRENT_LIST_DIR}/shim_alloc.c)
target_compile_options(fault_alloc PRIVATE -fno-builtin -fvisibility=default -fno-sanitize=all)
target_link_options(fault_alloc PRIVATE -fno-sanitize=all -static-libgcc)
set_target_properties(fault_alloc PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
foreach(name command_faults service_faults in_place_kill key_running)
    if(Python3_FOUND)
        add_test(NAME crash/test_${name} WORKING_DIRECTORY ${CMAKE_BINARY_DIR} COMMAND
            ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/test_${name}.py)
        set_tests_properties(crash/test_${name} PROPERTIES LABELS crash SKIP_RETURN_CODE 77 TIMEOUT 900
            ENVIRONMENT "NVKEEP=${CMAKE_BINARY_DIR}/bin/nvkeep;NVKEEP_BUILD=${CMAKE_BINARY_DIR}")
    endif()
endforeach()
