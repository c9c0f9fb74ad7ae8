//! Versions for any processor.

#![allow(unsafe_code)]

use core::array;

use crate::kernel::arch::Records;
use crate::kernel::arch::load::Load;

/// Items that are compared at once: 256 bytes, four cache lines of each column.
const DIFF_BLOCK: usize = 64;

/// Bytes that are copied out of shared memory at once. The copy stays in L1.
const COPY_LEN: usize = 512;

/// An item of a column that came from elsewhere: four bytes without padding,
/// least significant first where the machine does the same.
pub(super) trait Item: Copy {
    /// The number it stands for.
    fn value(self) -> u32;
}

impl Item for u32 {
    fn value(self) -> u32 {
        self
    }
}

impl Item for [u8; 4] {
    fn value(self) -> u32 {
        u32::from_le_bytes(self)
    }
}

/// CRC32C of each record.
///
/// # Safety
/// Every record may be read through `L`.
pub(super) unsafe fn checksums<L: Load>(records: Records<'_>, out: &mut [u32]) {
    for (i, (len, crc)) in records.lens.iter().zip(out).enumerate() {
        // A record of no bytes may lie anywhere: nothing is read there.
        let at = records.first.wrapping_add(i.wrapping_mul(records.stride));
        // SAFETY: the caller promises that this record is readable.
        *crc = unsafe { checksum::<L>(at, *len as usize) };
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
            differing_items(a, b, base + index, out);
        }
        index += DIFF_BLOCK as u32;
    }
    // What is left: ours behind its last block, or theirs where it is shorter.
    let done = index as usize;
    let rest = ours.get(done..).unwrap_or(&[]);
    differing_items(rest, theirs.get(done..).unwrap_or(&[]), base + index, out);
}

/// One branch a block: the loop has none, so that it becomes vector code.
fn equal<T: Item>(ours: &[u32; DIFF_BLOCK], theirs: &[T; DIFF_BLOCK]) -> bool {
    let differ: [u32; DIFF_BLOCK] = array::from_fn(|i| ours[i] ^ theirs[i].value());
    differ.iter().fold(0, |all, bits| all | bits) == 0
}

/// The plain loop, for one block and for the rest.
pub(super) fn differing_items<T: Item>(ours: &[u32], theirs: &[T], base: u32, out: &mut Vec<u32>) {
    for ((a, b), index) in ours.iter().zip(theirs).zip(base..) {
        if *a != b.value() {
            out.push(index);
        }
    }
}
