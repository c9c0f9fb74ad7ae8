//! Versions for aarch64: the CRC extension for checksums.

#![allow(unsafe_code)]

use core::arch::aarch64 as simd;

use crate::kernel::arch::Records;
use crate::kernel::arch::lanes;
use crate::kernel::arch::lanes::Crc;
use crate::kernel::arch::load::Load;

/// Records side by side, as on x86-64: an instruction takes two or three cycles
/// on common cores, and one begins in each.
const LANES: usize = 4;

/// Proof that the processor has the CRC extension.
#[derive(Clone, Copy, Debug)]
pub struct ArmCrc(());

impl ArmCrc {
    /// Asks the processor.
    pub fn detect() -> Option<ArmCrc> {
        std::arch::is_aarch64_feature_detected!("crc").then_some(ArmCrc(()))
    }

    /// # Safety
    /// Every record may be read through `L`.
    pub(super) unsafe fn checksums<L: Load>(self, records: impl Records, out: &mut [u32]) {
        // SAFETY: the token proves the extension; the caller promises the records.
        unsafe { checksums_crc::<L>(records, out) };
    }
}

/// # Safety
/// Every record may be read through `L`; the processor has the CRC extension.
#[target_feature(enable = "crc")]
unsafe fn checksums_crc<L: Load>(records: impl Records, out: &mut [u32]) {
    // SAFETY: the caller promises both.
    unsafe { lanes::checksums::<Instructions, L, LANES>(records, out) };
}

struct Instructions;

// Each with the extension itself, and not always inline as on x86-64: from rustc 1.96 on the
// intrinsics are put only inside of what has it. That compiler takes them for safe there.
#[allow(unused_unsafe)]
impl Crc for Instructions {
    #[inline]
    #[target_feature(enable = "crc")]
    unsafe fn u8(crc: u64, value: u8) -> u64 {
        // SAFETY: the caller promises the CRC extension.
        u64::from(unsafe { simd::__crc32cb(crc as u32, value) })
    }

    #[inline]
    #[target_feature(enable = "crc")]
    unsafe fn u16(crc: u64, value: u16) -> u64 {
        // SAFETY: the caller promises the CRC extension.
        u64::from(unsafe { simd::__crc32ch(crc as u32, value) })
    }

    #[inline]
    #[target_feature(enable = "crc")]
    unsafe fn u32(crc: u64, value: u32) -> u64 {
        // SAFETY: the caller promises the CRC extension.
        u64::from(unsafe { simd::__crc32cw(crc as u32, value) })
    }

    #[inline]
    #[target_feature(enable = "crc")]
    unsafe fn u64(crc: u64, value: u64) -> u64 {
        // SAFETY: the caller promises the CRC extension.
        u64::from(unsafe { simd::__crc32cd(crc as u32, value) })
    }

    /// The prefetchers are left to themselves: the instruction has no stable
    /// intrinsic here, and no gain has been measured.
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
}
