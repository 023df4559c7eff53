#!/usr/bin/env bash
# Line and branch coverage of crypto, backend and migration; every branch not taken has a reason.
#
# NVKEEP_COVERAGE_BUILD: another folder to build in; NVKEEP_COVERAGE_TESTS: labels, as a regex of ctest.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${NVKEEP_COVERAGE_BUILD:-build/coverage}
mkdir -p "$build" && build=$(cd "$build" && pwd) || exit 1

# Counters are mapped into the file (%c): so children that are killed and daemons that locked
# themselves in are counted too.
options='-fprofile-instr-generate -fcoverage-mapping -Xclang -mllvm -Xclang -runtime-counter-relocation'
if ! { cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_COMPILER=clang \
    -DCMAKE_C_FLAGS="-O1 $options" && ninja --quiet -C "$build"; } >"$build/build.log" 2>&1; then
    tail -n 40 "$build/build.log"
    exit 1
fi
rm -rf "$build/profile"
mkdir "$build/profile"
LLVM_PROFILE_FILE="$build/profile/%c%m.profraw" ctest --test-dir "$build" -j2 \
    -L "${NVKEEP_COVERAGE_TESTS:-^(base|crypto|backend|migration|src|crash|fuzz|interop)$}" \
    -E '^(src/test_wrong_keys|crypto/test_constant_time|crash/test_(command|service)_faults)$' >"$build/tests.log" 2>&1 </dev/null
failed=$?
grep -E '\*\*\*|tests passed' "$build/tests.log"
# Where memory or the system refuses: all of these faults, not the part that is a test. What they
# find is not asked here; the calls that the instrumented program makes for itself fail too.
for what in command service; do
    LLVM_PROFILE_FILE="$build/profile/%c%m.profraw" NVKEEP="$build/bin/nvkeep" NVKEEP_BUILD="$build" \
        timeout 3600 python3 -B "tests/crash/test_${what}_faults.py" --long >"$build/${what}_faults.log" 2>&1
done
python3 -B tests/reports/coverage.py "$build" . && [ "$failed" = 0 ]
