#!/usr/bin/env bash
# Counts the instructions of what costs most and fails where there are more than the table
# tests/golden/instructions.txt has: benches/instructions/main.rs says how. Counts depend on
# how it is built, so build it with this. valgrind is installed if it is missing, by apt-get.
#
# Usage: tools/instructions.sh                     counts and compares
#        MAPLEAF_BLESS=1 tools/instructions.sh     writes the table anew
#        MAPLEAF_MISSES=1 tools/instructions.sh    data that the caches of a model would not hold
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v valgrind >/dev/null; then
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update -qq
    $as_root apt-get install -qq -y --no-install-recommends valgrind
fi
cargo bench --locked --profile counted --no-default-features --features tree --bench instructions
