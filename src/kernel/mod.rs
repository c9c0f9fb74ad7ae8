//! The inner loops: checksums of records, the changed scan, the comparison of
//! columns.
//!
//! Everything here is plain computation over memory that the caller names; no
//! other module of the crate is imported. Each kernel has a portable version
//! and, where it pays, one for a processor extension that is reached through a
//! token (such as [`Sse42`]): only the token's `detect` makes one, so a kernel
//! is never run on a processor that lacks it, and one binary runs everywhere.
//! All versions of a kernel give the same results as a three-line reference,
//! for every length and alignment.
//!
//! Nothing here reads memory that another thread may be writing, but for
//! [`ChecksumKernel::batch_raw`], which does so by atomic loads: all others take
//! slices, and the crate makes no slice of bytes of what it shares (the module `tree`
//! copies out of its mapping, by atomics where it is not the owner).
//!
//! What a record, a leaf or a datagram looks like is left to the callers.

mod arch;
mod changed;
mod checksum;
mod diff;
mod revisions;

pub use arch::ChecksumKernel;
pub use arch::DiffKernel;
#[cfg(target_arch = "aarch64")]
pub use arch::aarch64::ArmCrc;
#[cfg(target_arch = "x86_64")]
pub use arch::fold::Fold;
pub use arch::prefetch;
#[cfg(target_arch = "x86_64")]
pub use arch::wide::Wide;
#[cfg(target_arch = "x86_64")]
pub use arch::x86_64::Avx2;
#[cfg(target_arch = "x86_64")]
pub use arch::x86_64::Avx512;
#[cfg(target_arch = "x86_64")]
pub use arch::x86_64::Avx512Bytes;
#[cfg(target_arch = "x86_64")]
pub use arch::x86_64::Sse42;
pub use changed::ChangedSet;
pub use checksum::BatchError;
pub use checksum::crc32c;
pub use checksum::crc32c_append;
pub use checksum::crc32c_batch;
pub use checksum::crc32c_behind;
pub use checksum::crc32c_each;
pub use diff::differing;
pub use diff::differing_le;
pub use revisions::RevisionColumn;
