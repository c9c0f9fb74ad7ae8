//! How the kernels read memory: plainly where nobody else writes it, by relaxed
//! atomic loads where others may.

#![allow(unsafe_code)]

use core::sync::atomic::AtomicU8;
use core::sync::atomic::AtomicU16;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

/// A way to read integers in the machine's byte order.
///
/// # Safety of the loads
/// The bytes of the integer are readable, and `at` is aligned to its size
/// unless [`Load::WORD_ALIGN`] is 1.
pub(super) trait Load: Copy {
    /// Alignment that the loads ask for, at most; a power of two up to 8.
    const WORD_ALIGN: usize;
    /// Reads one byte.
    unsafe fn u8(at: *const u8) -> u8;
    /// Reads two bytes.
    unsafe fn u16(at: *const u8) -> u16;
    /// Reads four bytes.
    unsafe fn u32(at: *const u8) -> u32;
    /// Reads eight bytes.
    unsafe fn u64(at: *const u8) -> u64;
}

/// Memory that nobody writes while it is read.
#[derive(Clone, Copy)]
pub(super) struct Plain;

/// Memory that other threads may write by atomic operations, and other
/// processes in any way.
#[derive(Clone, Copy)]
pub(super) struct Shared;

macro_rules! plain_load {
    ($name:ident) => {
        #[inline(always)]
        unsafe fn $name(at: *const u8) -> $name {
            // SAFETY: the caller promises readable bytes that nobody writes.
            unsafe { at.cast::<$name>().read_unaligned() }
        }
    };
}

macro_rules! shared_load {
    ($name:ident, $atomic:ident) => {
        #[inline(always)]
        unsafe fn $name(at: *const u8) -> $name {
            // SAFETY: the caller promises readable, aligned bytes that other
            // threads write by atomic operations alone. The reference lives for
            // this load, and a relaxed load of at most a word only reads, so
            // that a read-only mapping will do.
            let word = unsafe { $atomic::from_ptr(at.cast_mut().cast()) };
            word.load(Relaxed)
        }
    };
}

impl Load for Plain {
    const WORD_ALIGN: usize = 1;
    plain_load!(u8);
    plain_load!(u16);
    plain_load!(u32);
    plain_load!(u64);
}

impl Load for Shared {
    const WORD_ALIGN: usize = 8;
    shared_load!(u8, AtomicU8);
    shared_load!(u16, AtomicU16);
    shared_load!(u32, AtomicU32);
    shared_load!(u64, AtomicU64);
}
