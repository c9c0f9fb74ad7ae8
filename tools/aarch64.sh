#!/usr/bin/env bash
# Type-checks the library for aarch64 and runs the tests of its kernels there, on an
# emulated processor: what stands in src/kernel/arch/aarch64.rs is compiled for no other.
#
# A compiler whose standard library knows aarch64, a linker and the emulator (qemu-user)
# come from Debian's packages. They are unpacked below target/aarch64 and not installed, and
# lists of packages of the other architecture are kept there as well: the system stays as it
# is. It shows that results are right; how fast a processor is, an emulator does not tell.
#
# Usage: tools/aarch64.sh [ARGUMENT...]     arguments go to the test program
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
work=${CARGO_TARGET_DIR:-$PWD/target}/aarch64
root=$work/debian

# apt with lists and a cache of its own, and with the other architecture.
apt() {
    local command=$1
    shift
    "$command" -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" \
        -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 \
        -o APT::Sandbox::User=root "$@"
}

# What it takes, of all that these packages depend on.
names() {
    apt apt-cache depends --recurse --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances rustc-web gcc-12-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user |
        grep -E "^($1)\$" | sort -u
}

unpack() {
    rm -rf "$root" "$work/packages"
    mkdir -p "$root" "$work/packages" "$work/lists/partial" "$work/cache/archives/partial"
    apt apt-get update -qq
    local rust='rustc-web|libstd-rust-web[-.0-9a-z]*|libllvm[0-9.]+|libz3-4'
    local cross='(gcc|cpp)-12-aarch64-linux-gnu|binutils-aarch64-linux-gnu|lib(gcc|c6|atomic1)[-a-z0-9]*-arm64-cross|linux-libc-dev-arm64-cross|lib(isl|mpc|mpfr|gmp|jansson)[0-9]+'
    local emulator='qemu-user|liburing[0-9]+|libcapstone[0-9]+'
    # shellcheck disable=SC2046
    (cd "$work/packages" &&
        apt apt-get download -qq $(names "$rust|$cross|$emulator") libstd-rust-web-dev:arm64)
    local package
    for package in "$work"/packages/*.deb; do
        dpkg -x "$package" "$root"
    done
    rm -rf "$work/packages"
    # It names the parts of the C library by where they would be installed.
    sed -i 's|/usr/aarch64-linux-gnu/lib/||g' "$root/usr/aarch64-linux-gnu/lib/libc.so"
    local program
    for program in rustc aarch64-linux-gnu-gcc-12 aarch64-linux-gnu-ar qemu-aarch64; do
        cat >"$root/$program" <<END
#!/bin/sh
export PATH="$root/usr/bin:\$PATH"
LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu" exec "$root/usr/bin/$program" "\$@"
END
        chmod +x "$root/$program"
    done
}

if [ ! -x "$root/qemu-aarch64" ]; then
    if ! apt-cache show rustc-web >/dev/null 2>&1; then
        echo "no compiler for $target: expected Debian's packages, rustc-web among them" >&2
        exit 1
    fi
    unpack
fi

export RUSTC=$root/rustc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$root/aarch64-linux-gnu-gcc-12
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$root/qemu-aarch64 -L $root/usr/aarch64-linux-gnu"
export CC_aarch64_unknown_linux_gnu=$root/aarch64-linux-gnu-gcc-12
export AR_aarch64_unknown_linux_gnu=$root/aarch64-linux-gnu-ar

# Unoptimised, the tests over all lengths take minutes on the emulator.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=line-tables-only
export RUSTFLAGS='-D warnings'

cargo check --locked --target "$target" --target-dir "$work" --lib --no-default-features \
    --features runtime,sim
cargo test --locked --target "$target" --target-dir "$work" --lib --no-default-features \
    -- kernel:: wire:: "$@"
