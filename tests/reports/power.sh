#!/usr/bin/env bash
# Power loss below real daemons on real file systems: nvkeep and stock swtpm in one table.
#
# The long form of tests/crash/block_power.py, whose head says what is tried and what the columns mean.
set -u
cd "$(dirname "$0")/../.." || exit 1
mkdir -p build/reports
if ! { cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=gcc \
    -DNVKEEP_SANITIZE= -DNVKEEP_TESTS=ON && ninja --quiet -C build nvkeep; } >build/reports/power.log 2>&1; then
    tail -n 40 build/reports/power.log
    exit 1
fi
uname -sr
swtpm --version | head -n 1
qemu-storage-daemon --version | head -n 1
NVKEEP=$PWD/build/bin/nvkeep python3 -B tests/crash/block_power.py --long
