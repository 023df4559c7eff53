#!/usr/bin/env bash
# Fuzzing: CPU hours, executions, edges and findings of each class of targets, from tests/fuzz/hours.tsv
#
# The hours are those that tests/fuzz/campaign.py --hand-in added up; a finding is an input that broke
# a promise of its target, was fixed, and is in the corpus since. A class with less than four CPU
# hours fails.
set -u
cd "$(dirname "$0")/../.." || exit 1

python3 -B tests/fuzz/campaign.py --table || exit 1
echo
python3 -B tests/fuzz/campaign.py --targets || exit 1
echo
python3 -B tests/fuzz/campaign.py --least 4
