"""The migration matrix, a part of it in each test; with NVKEEP_LONG all of it. See migration_cells.py.

S3.6: in every failing cell the source runs or is resumed, its TPM goes on, its image is sound."""

import sys

from harness.case import main
from migration_matrix import check_storage


def the_matrix_on_shared_storage(test):
    """S3.1 S3.4 S3.5 S3.6 S3.16 S3.17 S3.23 S3.25"""
    check_storage(test, "shared")


def the_matrix_between_separate_images(test):
    """S3.4 S3.5 S3.6 S3.22 S3.23"""
    check_storage(test, "separate")


def the_matrix_with_storage_that_is_copied(test):
    """S3.6 S3.18 S3.19 S3.20 S3.22"""
    check_storage(test, "copied")


def the_matrix_with_a_saved_machine(test):
    """S3.6 S3.11 S3.15"""
    check_storage(test, "file")


if __name__ == "__main__":
    sys.exit(main())
