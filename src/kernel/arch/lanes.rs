//! Records side by side: the loop that the CRC instructions of x86-64 and
//! aarch64 share.
//!
//! A CRC instruction takes three cycles or so and waits for the one before it in
//! its record, but one may start in every cycle. So several records are
//! computed in step, one word of each in turn.

#![allow(unsafe_code)]

use crate::kernel::arch::Records;
use crate::kernel::arch::load::Load;

/// The CRC instructions of a processor. `crc` is not inverted.
///
/// # Safety of the instructions
/// The processor has them.
pub(super) trait Crc {
    /// Takes one byte in.
    unsafe fn u8(crc: u32, value: u8) -> u32;
    /// Takes two bytes in.
    unsafe fn u16(crc: u32, value: u16) -> u32;
    /// Takes four bytes in.
    unsafe fn u32(crc: u32, value: u32) -> u32;
    /// Takes eight bytes in.
    unsafe fn u64(crc: u32, value: u64) -> u32;
    /// Asks for the cache line at `at`, which need not exist.
    unsafe fn prefetch(at: *const u8);
}

/// How far ahead memory is asked for: the prefetchers of the processors stop
/// at the end of a page of 4 KiB.
const PREFETCH_AHEAD: usize = 4096;

/// Bytes of a record not yet taken in, and the CRC so far.
#[derive(Clone, Copy)]
struct Lane {
    at: *const u8,
    len: usize,
    crc: u32,
}

/// CRC32C of each record.
///
/// # Safety
/// Every record may be read through `L`; the processor has the instructions.
#[inline(always)]
pub(super) unsafe fn checksums<C: Crc, L: Load, const N: usize>(
    records: Records<'_>,
    out: &mut [u32],
) {
    let mut first = 0;
    let (groups, rest) = out.as_chunks_mut::<N>();
    for group in groups {
        // SAFETY: the caller promises records and instructions.
        *group = unsafe { group_checksums::<C, L, N>(records, first) };
        first += N;
    }
    for crc in rest {
        // SAFETY: as above.
        [*crc] = unsafe { group_checksums::<C, L, 1>(records, first) };
        first += 1;
    }
}

/// CRC32C of `N` records from `first` on.
///
/// # Safety
/// These records may be read through `L`; the processor has the instructions.
#[inline(always)]
unsafe fn group_checksums<C: Crc, L: Load, const N: usize>(
    records: Records<'_>,
    first: usize,
) -> [u32; N] {
    let mut lanes: [Lane; N] = core::array::from_fn(|i| records.lane(first + i));
    for lane in &mut lanes {
        // SAFETY: the caller promises record and instructions.
        unsafe { lane.align::<C, L>() };
    }
    let words = lanes.iter().map(|lane| lane.len / 8).min().unwrap_or(0);
    for word in 0..words {
        for lane in &mut lanes {
            let at = lane.at.wrapping_add(word * 8);
            // SAFETY: no lane has fewer than `words` words left, and `align`
            // has aligned them.
            let value = unsafe { L::u64(at) };
            // SAFETY: the caller promises the instructions.
            lane.crc = unsafe { C::u64(lane.crc, value.to_le()) };
            if word % 8 == 0 {
                // SAFETY: as above; a prefetch may name any address.
                unsafe { C::prefetch(at.wrapping_add(PREFETCH_AHEAD)) };
            }
        }
    }
    lanes.map(|lane| {
        // SAFETY: the first `words` words of the lane have been taken in.
        unsafe { lane.behind(words * 8).finish::<C, L>() }
    })
}

impl Records<'_> {
    fn lane(&self, index: usize) -> Lane {
        // A record of no bytes may lie anywhere: nothing is read there.
        let at = self.first.wrapping_add(index.wrapping_mul(self.stride));
        Lane { at, len: self.lens[index] as usize, crc: u32::MAX }
    }
}

/// Takes one integer of a lane in.
macro_rules! take {
    ($name:ident, $size:literal, $int:ident) => {
        /// # Safety
        /// The lane has so many bytes, aligned as `L` asks and readable through
        /// it; the processor has the instructions.
        #[inline(always)]
        unsafe fn $name<C: Crc, L: Load>(&mut self) {
            // SAFETY: the caller promises the bytes.
            let value = unsafe { L::$int(self.at) };
            // SAFETY: the caller promises the instructions.
            let crc = unsafe { C::$int(self.crc, value.to_le()) };
            *self = Lane { crc, ..self.behind($size) };
        }
    };
}

impl Lane {
    take!(take_1, 1, u8);
    take!(take_2, 2, u16);
    take!(take_4, 4, u32);
    take!(take_8, 8, u64);

    #[inline(always)]
    fn behind(self, len: usize) -> Lane {
        Lane { at: self.at.wrapping_add(len), len: self.len - len, crc: self.crc }
    }

    /// Whether the way to the next aligned word has a step of `size` bytes
    /// that the lane is long enough for.
    #[inline(always)]
    fn steps<L: Load>(&self, size: usize) -> bool {
        L::WORD_ALIGN > size && self.at.addr() & size != 0 && self.len >= size
    }

    /// Takes bytes in until words may be read. Where the lane is too short for
    /// a step, it is aligned for the smaller steps that `finish` takes.
    ///
    /// # Safety
    /// The lane may be read through `L`; the processor has the instructions.
    #[inline(always)]
    unsafe fn align<C: Crc, L: Load>(&mut self) {
        if self.steps::<L>(1) {
            // SAFETY: the lane has a byte; the caller promises the rest.
            unsafe { self.take_1::<C, L>() };
        }
        if self.steps::<L>(2) {
            // SAFETY: the lane has two bytes, and the step before aligned them.
            unsafe { self.take_2::<C, L>() };
        }
        if self.steps::<L>(4) {
            // SAFETY: the lane has four bytes, and the steps before aligned them.
            unsafe { self.take_4::<C, L>() };
        }
    }

    /// Takes the rest in and inverts the CRC.
    ///
    /// # Safety
    /// As for `align`, which must have been called, with nothing but words
    /// taken in since then.
    #[inline(always)]
    unsafe fn finish<C: Crc, L: Load>(mut self) -> u32 {
        while self.len >= 8 {
            // SAFETY: eight bytes are left, so `align` reached a word.
            unsafe { self.take_8::<C, L>() };
        }
        if self.len >= 4 {
            // SAFETY: four bytes are left, so `align` reached a multiple of four.
            unsafe { self.take_4::<C, L>() };
        }
        if self.len >= 2 {
            // SAFETY: two bytes are left, so `align` reached a multiple of two.
            unsafe { self.take_2::<C, L>() };
        }
        if self.len == 1 {
            // SAFETY: a byte is left, and a byte is always aligned.
            unsafe { self.take_1::<C, L>() };
        }
        !self.crc
    }
}
