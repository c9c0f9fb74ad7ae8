#!/usr/bin/env bash
# Runs the tests in which threads meet under ThreadSanitizer: the loops of server,
# mirror, relay and device with what stops, reloads and watches them, the handler of
# lost pages beside readers, readers of a tree beside its writer and growth, checksums of
# memory beside its writer. First it runs a race that was planted: a sanitizer that sees
# nothing would pass everything.
#
# Stable Rust with its unstable options let in. The standard library is not
# instrumented, and cannot be without its source: what that makes the sanitizer say
# wrongly is in tools/tsan/suppressions, each with its reason. Not in .ci/run: it
# builds everything again.
#
# No kernel of the product reads memory that another thread may be writing: they take
# slices, and nothing makes a slice of bytes of a mapped tree (docs/RELIABILITY.md says
# why that is certain). The one that callers of the library may give such memory,
# `ChecksumKernel::batch_raw`, loads it by atomics, and runs here beside a writer.
#
# What it does not see: other processes, what the kernel copies (pread, sendmsg,
# recvmmsg), and orders of atomics, of which none is a race: those are for the models
# (src/tree/models).
#
# Usage: tools/tsan.sh
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS='-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer'
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=line-tables-only
export TSAN_OPTIONS="suppressions=$PWD/tools/tsan/suppressions exitcode=66"

mkdir -p target/tsan
# shellcheck disable=SC2086
rustc --edition 2024 -O $RUSTFLAGS tools/tsan/planted.rs -o target/tsan/planted
status=0
target/tsan/planted 2>/dev/null || status=$?
if [ "$status" != 66 ]; then
    echo "the planted race was not found: status $status, expected 66" >&2
    exit 1
fi

# The test that is left out has its process end by SIGBUS, which the sanitizer takes.
run() {
    cargo test --locked --no-default-features --features runtime --target "$host" \
        --target-dir target/tsan "$@"
}
run --lib -- --test-threads 1 runtime:: tree::sigbus:: kernel::arch:: --skip a_mapping_of_others
MAPLEAF_READS=${MAPLEAF_READS:-20000} run --test tree_engine -- --test-threads 1 \
    reads::threads other_threads
