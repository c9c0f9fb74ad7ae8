//! Versions for any processor.

#![allow(unsafe_code)]

use crate::kernel::arch::Places;
use crate::kernel::arch::Records;
use crate::kernel::arch::load::Load;

/// Items that are compared at once: 256 bytes, four cache lines of each column.
pub(super) const DIFF_BLOCK: usize = 64;

/// Bytes that are copied out of shared memory at once. The copy stays in L1.
const COPY_LEN: usize = 512;

/// An item of a column that came from elsewhere: four bytes without padding,
/// least significant first where the machine does the same.
pub(super) trait Item: Copy {
    /// The number it stands for.
    fn value(self) -> u32;
}

impl Item for u32 {
    #[inline(always)]
    fn value(self) -> u32 {
        self
    }
}

impl Item for [u8; 4] {
    #[inline(always)]
    fn value(self) -> u32 {
        u32::from_le_bytes(self)
    }
}

/// CRC32C of each record.
///
/// # Safety
/// Every record may be read through `L`.
pub(super) unsafe fn checksums<L: Load>(records: impl Records, out: &mut [u32]) {
    let mut records = records;
    for crc in out {
        let (places, [len]) = records.take::<1>();
        // SAFETY: the caller promises that this record is readable; one of no bytes may
        // lie anywhere, and nothing is read there.
        *crc = unsafe { checksum::<L>(places.at(0), len) };
    }
}

/// # Safety
/// `len` bytes at `at` may be read through `L`.
unsafe fn checksum<L: Load>(at: *const u8, len: usize) -> u32 {
    let mut crc = 0;
    let mut done = 0;
    let mut copy = [0; COPY_LEN];
    while done < len {
        let part = &mut copy[..(len - done).min(COPY_LEN)];
        // SAFETY: `done + part.len()` is at most `len`.
        unsafe { copy_out::<L>(at.wrapping_add(done), part) };
        crc = crc32c::crc32c_append(crc, part);
        done += part.len();
    }
    crc
}

/// # Safety
/// `to.len()` bytes at `at` may be read through `L`.
unsafe fn copy_out<L: Load>(at: *const u8, to: &mut [u8]) {
    let head = at.align_offset(L::WORD_ALIGN).min(to.len());
    let (first, rest) = to.split_at_mut(head);
    let (words, last) = rest.as_chunks_mut::<8>();
    let tail = head + words.len() * 8;
    for (i, byte) in first.iter_mut().enumerate() {
        // SAFETY: `i` is less than `to.len()`; a byte is always aligned.
        *byte = unsafe { L::u8(at.wrapping_add(i)) };
    }
    for (i, word) in words.iter_mut().enumerate() {
        // SAFETY: the word ends within `to.len()`; `head` made it aligned.
        *word = unsafe { L::u64(at.wrapping_add(head + i * 8)) }.to_ne_bytes();
    }
    for (i, byte) in last.iter_mut().enumerate() {
        // SAFETY: `tail + i` is less than `to.len()`; a byte is always aligned.
        *byte = unsafe { L::u8(at.wrapping_add(tail + i)) };
    }
}

/// Appends `base + i` for each `i` at which the columns differ.
pub(super) fn differing<T: Item>(ours: &[u32], theirs: &[T], base: u32, out: &mut Vec<u32>) {
    let (our_blocks, _) = ours.as_chunks::<DIFF_BLOCK>();
    let (their_blocks, _) = theirs.as_chunks::<DIFF_BLOCK>();
    let mut index = 0;
    for (a, b) in our_blocks.iter().zip(their_blocks) {
        if !equal(a, b) {
            push_bits(differing_mask(a, b), base + index, out);
        }
        index += DIFF_BLOCK as u32;
    }
    differing_rest(ours, theirs, index, base, out);
}

/// The same from `index` on, item by item.
pub(super) fn differing_rest<T: Item>(
    ours: &[u32],
    theirs: &[T],
    index: u32,
    base: u32,
    out: &mut Vec<u32>,
) {
    let rest = ours.iter().zip(theirs).skip(index as usize);
    for ((a, b), index) in rest.zip(base + index..) {
        if *a != b.value() {
            out.push(index);
        }
    }
}

/// One branch a block: the loop has none, so that it becomes vector code.
#[inline(always)]
fn equal<T: Item>(ours: &[u32; DIFF_BLOCK], theirs: &[T; DIFF_BLOCK]) -> bool {
    let mut differ = 0;
    for i in 0..DIFF_BLOCK {
        differ |= ours[i] ^ theirs[i].value();
    }
    differ == 0
}

/// Bit `i` is set if item `i` differs.
#[inline(always)]
fn differing_mask<T: Item>(ours: &[u32; DIFF_BLOCK], theirs: &[T; DIFF_BLOCK]) -> u64 {
    let mut mask = 0;
    for i in 0..DIFF_BLOCK {
        mask |= u64::from(ours[i] != theirs[i].value()) << i;
    }
    mask
}

/// Appends `base + i` for each bit `i` that is set.
///
/// Writing eight indices for each byte of the mask through a table of places,
/// which needs no branch, took 1.2 to 1.5 times as long (Zen 3).
#[inline(always)]
fn push_bits(mut mask: u64, base: u32, out: &mut Vec<u32>) {
    while mask != 0 {
        out.push(base.wrapping_add(mask.trailing_zeros()));
        mask &= mask.wrapping_sub(1);
    }
}
