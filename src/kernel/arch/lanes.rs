//! Records side by side: the loop that the CRC instructions of x86-64 and
//! aarch64 share.
//!
//! A CRC instruction takes three cycles or so and waits for the one before it in
//! its record, but one may start in every cycle. So several records are
//! computed in step, one word of each in turn.

#![allow(unsafe_code)]

use crate::kernel::arch::Records;
use crate::kernel::arch::load::Load;

/// The CRC instructions of a processor. `crc` is not inverted; the upper half
/// of it means nothing.
///
/// # Safety of the instructions
/// The processor has them.
pub(super) trait Crc {
    /// Takes one byte in.
    unsafe fn u8(crc: u64, value: u8) -> u64;
    /// Takes two bytes in.
    unsafe fn u16(crc: u64, value: u16) -> u64;
    /// Takes four bytes in.
    unsafe fn u32(crc: u64, value: u32) -> u64;
    /// Takes eight bytes in.
    unsafe fn u64(crc: u64, value: u64) -> u64;
    /// Asks for the cache line at `at`, which need not exist.
    unsafe fn prefetch(at: *const u8);
}

/// How far ahead memory is asked for: the prefetchers of the processors stop
/// at the end of a page of 4 KiB. From memory, records of 64 to 1,024 bytes take
/// 1.2 to 1.65 times as long without it (Zen 3); in L2 it costs 1 %.
const PREFETCH_AHEAD: usize = 4096;

/// Words of a cache line.
const LINE: usize = 8;

/// Bytes of a record not yet taken in, and the CRC so far.
#[derive(Clone, Copy)]
struct Lane {
    at: *const u8,
    len: usize,
    crc: u64,
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
    let Records { first: mut at, stride, lens } = records;
    let (groups, rest) = lens.as_chunks::<N>();
    let (out_groups, out_rest) = out.as_chunks_mut::<N>();
    for (lens, out) in groups.iter().zip(out_groups) {
        // SAFETY: the caller promises records and instructions.
        unsafe { group_checksums::<C, L, N>(at, stride, lens, out) };
        at = at.wrapping_add(stride.wrapping_mul(N));
    }
    for (len, out) in rest.iter().zip(out_rest) {
        let (len, out) = (core::array::from_ref(len), core::array::from_mut(out));
        // SAFETY: as above.
        unsafe { group_checksums::<C, L, 1>(at, stride, len, out) };
        at = at.wrapping_add(stride);
    }
}

/// CRC32C of `N` records from `at` on.
///
/// Plain loops over indices: the compiler does not carry the instructions into
/// closures, and every call would cost more than it does.
///
/// # Safety
/// These records may be read through `L`; the processor has the instructions.
#[inline(always)]
unsafe fn group_checksums<C: Crc, L: Load, const N: usize>(
    at: *const u8,
    stride: usize,
    lens: &[u32; N],
    out: &mut [u32; N],
) {
    let mut lanes = [Lane { at, len: 0, crc: u64::from(u32::MAX) }; N];
    let mut words = usize::MAX;
    for i in 0..N {
        // A record of no bytes may lie anywhere: nothing is read there.
        lanes[i].at = at.wrapping_add(stride.wrapping_mul(i));
        lanes[i].len = lens[i] as usize;
        // SAFETY: the caller promises record and instructions.
        unsafe { lanes[i].align::<C, L>() };
        words = words.min(lanes[i].len / 8);
    }
    for _ in 0..words / LINE {
        for lane in &lanes {
            // SAFETY: the caller promises the instructions; any address will do.
            unsafe { C::prefetch(lane.at.wrapping_add(PREFETCH_AHEAD)) };
        }
        // SAFETY: each lane has `words` words, aligned by `align`.
        unsafe { take_words::<C, L, N, LINE>(&mut lanes) };
    }
    for _ in 0..words % LINE {
        // SAFETY: as above.
        unsafe { take_words::<C, L, N, 1>(&mut lanes) };
    }
    // SAFETY: `align` was called, and only words were taken in since then.
    unsafe { finish::<C, L, N>(&mut lanes, out) };
}

/// Takes what is left of each lane in, and inverts the CRCs.
///
/// # Safety
/// As for [`Lane::finish`].
#[inline(always)]
unsafe fn finish<C: Crc, L: Load, const N: usize>(lanes: &mut [Lane; N], out: &mut [u32; N]) {
    let len = lanes[0].len;
    let mut unequal = 0;
    for lane in &*lanes {
        unequal |= lane.len ^ len;
    }
    if unequal == 0 && len == 0 {
        // Nearly always: records of one parent tend to be of one length.
        for i in 0..N {
            out[i] = !(lanes[i].crc as u32);
        }
        return;
    }
    for i in 0..N {
        // SAFETY: the caller promises what is asked for.
        out[i] = unsafe { lanes[i].finish::<C, L>() };
    }
}

/// Takes `WORDS` words of each lane in, one of each in turn.
///
/// # Safety
/// Each lane has so many words, aligned as `L` asks and readable through it;
/// the processor has the instructions.
#[inline(always)]
unsafe fn take_words<C: Crc, L: Load, const N: usize, const WORDS: usize>(lanes: &mut [Lane; N]) {
    for word in 0..WORDS {
        for lane in &mut *lanes {
            // SAFETY: the caller promises this word of the lane.
            let value = unsafe { L::u64(lane.at.wrapping_add(word * 8)) };
            // SAFETY: the caller promises the instructions.
            lane.crc = unsafe { C::u64(lane.crc, value.to_le()) };
        }
    }
    for lane in lanes {
        lane.at = lane.at.wrapping_add(WORDS * 8);
        lane.len = lane.len.wrapping_sub(WORDS * 8);
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
        Lane { at: self.at.wrapping_add(len), len: self.len.wrapping_sub(len), crc: self.crc }
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
        !(self.crc as u32)
    }
}
