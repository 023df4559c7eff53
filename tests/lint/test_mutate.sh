#!/usr/bin/env bash
# The tool of the mutation report makes the mutants it should, and sees which ones a test notices.
set -u
exec python3 -B "$(dirname "$0")/../reports/mutate_self_test.py"
