#!/usr/bin/env bash
# Mutation testing of crypto, backend and migration: mistakes that no test notices have a reason.
#
# Takes many hours in all; NVKEEP_MUTATION holds options of mutate.py (--sample, --files, --limit ...),
# and what was found once is kept in build/mutation/results.tsv.
set -u
cd "$(dirname "$0")" || exit 1
# shellcheck disable=SC2086 # options are words
exec python3 -B mutate.py ${NVKEEP_MUTATION-}
