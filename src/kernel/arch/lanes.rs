//! Records side by side: the loop that the CRC instructions of x86-64 and
//! aarch64 share.
//!
//! A CRC instruction takes three cycles or so and waits for the one before it in
//! its record, but one may start in every cycle. So several records are
//! computed in step, one word of each in turn.

#![allow(unsafe_code)]

use crate::kernel::arch::Places;
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
    records: impl Records,
    out: &mut [u32],
) {
    let mut records = records;
    let (groups, rest) = out.as_chunks_mut::<N>();
    for out in groups {
        let (places, lens) = records.take::<N>();
        // SAFETY: the caller promises records and instructions.
        unsafe { group_checksums::<C, L, N>(places, lens, out) };
    }
    for out in rest {
        let (places, lens) = records.take::<1>();
        // SAFETY: as above.
        unsafe { group_checksums::<C, L, 1>(places, lens, core::array::from_mut(out)) };
    }
}

/// CRC32C of `N` records.
///
/// Plain loops over indices: the compiler does not carry the instructions into
/// closures, and every call would cost more than it does.
///
/// # Safety
/// These records may be read through `L`; the processor has the instructions.
#[inline(always)]
unsafe fn group_checksums<C: Crc, L: Load, const N: usize>(
    places: impl Places,
    lens: [usize; N],
    out: &mut [u32; N],
) {
    let mut lanes = [Lane { at: places.at(0), len: 0, crc: u64::from(u32::MAX) }; N];
    for i in 0..N {
        // A record of no bytes may lie anywhere: nothing is read there.
        lanes[i].at = places.at(i);
        lanes[i].len = lens[i];
        // SAFETY: the caller promises record and instructions.
        unsafe { lanes[i].align::<C, L>() };
    }
    let (shortest, equal) = shortest(&lanes);
    let words = shortest / 8;
    let mut done = 0;
    while words - done >= LINE {
        for lane in &lanes {
            let ahead = lane.at.wrapping_add(done * 8 + PREFETCH_AHEAD);
            // SAFETY: the caller promises the instructions; any address will do.
            unsafe { C::prefetch(ahead) };
        }
        // SAFETY: each lane has `words` words, aligned by `align`.
        unsafe { take_words::<C, L, N>(&mut lanes, done, LINE) };
        done += LINE;
    }
    while done < words {
        // SAFETY: as above.
        unsafe { take_words::<C, L, N>(&mut lanes, done, 1) };
        done += 1;
    }
    for i in 0..N {
        // Nothing is left nearly always: records of one parent tend to be of
        // one length, and lengths to be multiples of a word.
        out[i] = match equal && shortest % 8 == 0 {
            true => !(lanes[i].crc as u32),
            // SAFETY: `align` was called, and only words were taken in since.
            false => unsafe { lanes[i].behind(words * 8).finish::<C, L>() },
        };
    }
}

/// Length of the shortest lane, and whether all are as short.
#[inline(always)]
fn shortest<const N: usize>(lanes: &[Lane; N]) -> (usize, bool) {
    let (mut shortest, mut unequal) = (lanes[0].len, 0);
    for lane in lanes {
        unequal |= lane.len ^ lanes[0].len;
        shortest = shortest.min(lane.len);
    }
    (shortest, unequal == 0)
}

/// Takes `count` words of each lane in, from word `first` on, one of each lane
/// in turn. Where they begin and end is left to the caller to note.
///
/// # Safety
/// Each lane has these words, aligned as `L` asks and readable through it; the
/// processor has the instructions.
#[inline(always)]
unsafe fn take_words<C: Crc, L: Load, const N: usize>(
    lanes: &mut [Lane; N],
    first: usize,
    count: usize,
) {
    for word in first..first.wrapping_add(count) {
        for lane in &mut *lanes {
            // SAFETY: the caller promises this word of the lane.
            let value = unsafe { L::u64(lane.at.wrapping_add(word.wrapping_mul(8))) };
            // SAFETY: the caller promises the instructions.
            lane.crc = unsafe { C::u64(lane.crc, value.to_le()) };
        }
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
