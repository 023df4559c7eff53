# The crash loop opens a store on one disk a million times: the disk outlives each of them.
target_link_options(crash_test_store_crash PRIVATE -Wl,--wrap=qcow_disk_rw_free)
