#!/usr/bin/env bash
# Runs the tests in which threads meet under ThreadSanitizer: the loops of server,
# mirror, relay and device with what stops, reloads and watches them, the handler of
# lost pages beside readers, readers of a tree beside its writer and growth, checksums of
# memory beside its writer. First it runs a race that was planted: a sanitizer that sees
# nothing would pass everything.
#
# The standard library is built with the sanitizer as well: without that it takes every
# value behind a `Mutex` or a channel for a race. Its source comes from the toolchain
# that is in use (rustup's component rust-src), or from Debian's packages of rustc,
# unpacked below target/tsan and not installed. Unstable options are let in; nothing that
# is built here leaves target/tsan.
#
# No kernel of the product reads memory that another thread may be writing: they take
# slices, and nothing makes a slice of bytes of a mapped tree (docs/RELIABILITY.md says
# why that is certain). The one that callers of the library may give such memory,
# `ChecksumKernel::batch_raw`, loads it by atomics, and runs here beside a writer.
#
# What it does not see: other processes, what the kernel copies (pread, sendmsg,
# recvmmsg), fences, and orders of atomics, of which none is a race: those are for the
# models (src/tree/models).
#
# Usage: tools/tsan.sh
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
libraries=$(rustc --print sysroot)/lib/rustlib/$host/lib
work=$PWD/target/tsan
mkdir -p "$work"

# A compiler with the source of its standard library, made of Debian's packages, and with
# the sanitizer's runtime of the compiler in use: Debian's has none.
unpack() {
    local packages="$work/packages" root="$work/debian"
    rm -rf "$packages" "$root"
    mkdir -p "$packages" "$root"
    local names
    names=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances rustc-web rust-web-src |
        grep -E '^(rustc-web|rust-web-src|libstd-rust-web[-.0-9a-z]*|libllvm[0-9.]+)$' | sort -u)
    # shellcheck disable=SC2086
    (cd "$packages" && apt-get download -qq $names)
    local package
    for package in "$packages"/*.deb; do
        dpkg -x "$package" "$root"
    done
    rm -rf "$packages"
    cp "$libraries"/librustc-*_rt.tsan.a "$root/usr/lib/rustlib/$host/lib/"
    cat >"$root/rustc" <<'END'
#!/bin/sh
usr=$(dirname "$0")/usr
LD_LIBRARY_PATH=$(echo "$usr"/lib/*-linux-gnu) exec "$usr/bin/rustc" "$@"
END
    chmod +x "$root/rustc"
}

if [ ! -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ]; then
    if [ ! -x "$work/debian/rustc" ]; then
        # Lists of a machine that was set up long ago name a compiler that is too old.
        apt-get update -qq
        if ! apt-cache show rust-web-src >/dev/null 2>&1; then
            echo "no source of the standard library: expected rustup's rust-src, or Debian's rustc-web and rust-web-src" >&2
            exit 1
        fi
        unpack
    fi
    export RUSTC=$work/debian/rustc
fi
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS='-Zsanitizer=thread'
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=line-tables-only
export TSAN_OPTIONS="suppressions=$PWD/tools/tsan/suppressions exitcode=66"

# Of the race alone, the standard library need not be built.
"${RUSTC:-rustc}" --edition 2024 -O -Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer \
    tools/tsan/planted.rs -o "$work/planted"
status=0
"$work/planted" 2>/dev/null || status=$?
if [ "$status" != 66 ]; then
    echo "the planted race was not found: status $status, expected 66" >&2
    exit 1
fi

# The test that is left out has its process end by SIGBUS, which the sanitizer takes.
run() {
    cargo test -Zbuild-std=std,test,panic_unwind --locked --no-default-features \
        --features runtime --target "$host" --target-dir "$work" "$@"
}
run --lib -- --test-threads 1 runtime:: tree::sigbus:: kernel::arch:: --skip a_mapping_of_others
MAPLEAF_READS=${MAPLEAF_READS:-20000} run --test tree_engine -- --test-threads 1 \
    reads::threads other_threads
