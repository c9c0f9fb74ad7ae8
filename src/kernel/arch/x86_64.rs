//! Versions for x86-64: SSE4.2 for checksums, AVX2 and AVX-512 for the comparison
//! of columns.

#![allow(unsafe_code)]

use core::arch::x86_64 as simd;
use core::mem::MaybeUninit;

use crate::kernel::arch;
use crate::kernel::arch::Records;
use crate::kernel::arch::lanes;
use crate::kernel::arch::lanes::Crc;
use crate::kernel::arch::load::Load;
use crate::kernel::arch::portable;
use crate::kernel::arch::portable::Item;

/// Records side by side. An instruction takes three cycles, and one begins in
/// each: three are enough in the middle of a record, a fourth fills the gaps
/// between groups; 3, 6 and 8 were slower by 2 to 10 % (Zen 3).
const LANES: usize = 4;

/// Items that one mask tells of, a bit each: four cache lines of each column.
const DIFF_BLOCK: usize = portable::DIFF_BLOCK;

/// Items of a vector.
const VECTOR: usize = 8;

/// Items that are gone over in one way: a page of each column.
const STRETCH: usize = 1_024;

/// Items of a vector of AVX-512.
const WIDE_VECTOR: usize = 16;

/// Room for the differences of a block: each vector's list is written whole, whatever it counts.
const LIST: usize = DIFF_BLOCK + WIDE_VECTOR;

/// Differences of a stretch from which on the blocks of the next one are gone over without a
/// branch for those that are equal. Branches that nothing foretells cost more than the lists
/// that they avoid: 16 k items of which a hundredth differs, us with and without these branches
/// 2.9 and 1.7, of which none differs 1.46 and 1.67 (Zen 4, 64 patterns in turn, reading both
/// 1.45).
const FEW: usize = 4;

/// The same from which on they are listed by vectors of AVX-512: 1 in 21. Of an hundredth us
/// are 1.4 by words, and 1.4 to 2.2 by vectors: they are written again and again across the
/// same two cache lines, and how long that takes depends on where these lie.
const MANY_WIDE: usize = 48;

/// The same by vectors of AVX2, whose lists come from a table: an eighth.
const MANY: usize = STRETCH / 8;

/// Proof that the processor has SSE4.2.
#[derive(Clone, Copy, Debug)]
pub struct Sse42(());

/// Proof that the processor has AVX2, and BMI1 and POPCNT as all that have it.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// Proof that the processor has AVX-512F, and BMI1 and POPCNT as all that have it.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

/// Proof that the processor has [`Avx512`], and compresses vectors of bytes (AVX-512VBMI2).
#[derive(Clone, Copy, Debug)]
pub struct Avx512Bytes(());

impl Sse42 {
    /// Asks the processor.
    pub fn detect() -> Option<Sse42> {
        std::arch::is_x86_feature_detected!("sse4.2").then_some(Sse42(()))
    }

    /// # Safety
    /// Every record may be read through `L`.
    pub(super) unsafe fn checksums<L: Load>(self, records: impl Records, out: &mut [u32]) {
        // SAFETY: the token proves SSE4.2; the caller promises the records.
        unsafe { checksums_sse42::<L>(records, out) };
    }
}

/// # Safety
/// Every record may be read through `L`; the processor has SSE4.2.
#[target_feature(enable = "sse4.2")]
unsafe fn checksums_sse42<L: Load>(records: impl Records, out: &mut [u32]) {
    // SAFETY: the caller promises both.
    unsafe { lanes::checksums::<Instructions, L, LANES>(records, out) };
}

pub(super) struct Instructions;

impl Crc for Instructions {
    #[inline(always)]
    unsafe fn u8(crc: u64, value: u8) -> u64 {
        // SAFETY: the caller promises SSE4.2.
        u64::from(unsafe { simd::_mm_crc32_u8(crc as u32, value) })
    }

    #[inline(always)]
    unsafe fn u16(crc: u64, value: u16) -> u64 {
        // SAFETY: the caller promises SSE4.2.
        u64::from(unsafe { simd::_mm_crc32_u16(crc as u32, value) })
    }

    #[inline(always)]
    unsafe fn u32(crc: u64, value: u32) -> u64 {
        // SAFETY: the caller promises SSE4.2.
        u64::from(unsafe { simd::_mm_crc32_u32(crc as u32, value) })
    }

    #[inline(always)]
    unsafe fn u64(crc: u64, value: u64) -> u64 {
        // SAFETY: the caller promises SSE4.2.
        unsafe { simd::_mm_crc32_u64(crc, value) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        arch::prefetch(at);
    }
}

impl Avx2 {
    /// Asks the processor.
    pub fn detect() -> Option<Avx2> {
        let found = std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("popcnt");
        found.then_some(Avx2(()))
    }

    pub(super) fn differing<T: Item>(
        self,
        ours: &[u32],
        theirs: &[T],
        base: u32,
        out: &mut Vec<u32>,
    ) {
        // SAFETY: the token proves the instructions.
        unsafe { differing_avx2(ours, theirs, base, out) };
    }
}

impl Avx512 {
    /// Asks the processor.
    pub fn detect() -> Option<Avx512> {
        let found = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("popcnt");
        found.then_some(Avx512(()))
    }

    pub(super) fn differing<T: Item>(
        self,
        ours: &[u32],
        theirs: &[T],
        base: u32,
        out: &mut Vec<u32>,
    ) {
        // SAFETY: the token proves the instructions.
        unsafe { differing_avx512(ours, theirs, base, out) };
    }
}

impl Avx512Bytes {
    /// Asks the processor.
    pub fn detect() -> Option<Avx512Bytes> {
        let found = Avx512::detect().is_some()
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vbmi2");
        found.then_some(Avx512Bytes(()))
    }

    pub(super) fn differing<T: Item>(
        self,
        ours: &[u32],
        theirs: &[T],
        base: u32,
        out: &mut Vec<u32>,
    ) {
        // SAFETY: the token proves the instructions.
        unsafe { differing_bytes(ours, theirs, base, out) };
    }
}

/// A block is listed by one vector, so that it is best wherever anything differs. Zen 4, 16 k items,
/// the share of the speed of reading both by this and by AVX-512F alone, medians of three runs: none
/// differs 1.08 and 1.08, a hundredth 1.04 and 0.93, a tenth 0.98 and 0.83.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi1,popcnt")]
fn differing_bytes<T: Item>(ours: &[u32], theirs: &[T], base: u32, out: &mut Vec<u32>) {
    let (ours, theirs, base) = from_a_line(ours, theirs, base, out);
    let mask = |a: &_, b: &_| wide_mask(a, b);
    let list = |a: &_, b: &_, first, to: &mut _| list_bytes(wide_mask(a, b), first, to);
    differing_by((ours, theirs), base, out, (mask, list, FEW));
}

/// Zen 4, 16 k items, the share of the speed of reading both by this and by AVX2: none differs
/// 1.07 and 1.11, a hundredth 0.95 and 0.90, a tenth 0.69 to 0.92 and 0.46, all 0.45 to 0.66 and 0.3 to 0.5.
/// That is with patterns that branches can learn; with 64 in turn a hundredth takes 0.87 and
/// 0.40. The range is that of places of the list in memory.
#[target_feature(enable = "avx512f,bmi1,popcnt")]
fn differing_avx512<T: Item>(ours: &[u32], theirs: &[T], base: u32, out: &mut Vec<u32>) {
    let (ours, theirs, base) = from_a_line(ours, theirs, base, out);
    let mask = |a: &_, b: &_| wide_mask(a, b);
    let list = |a: &_, b: &_, first, to: &mut _| list_masks(wide_masks(a, b), first, to);
    differing_by((ours, theirs), base, out, (mask, list, MANY_WIDE));
}

/// Compares the items before the first line of `ours`, and gives the others: a vector that lies
/// in two cache lines takes as long as two.
#[inline(always)]
fn from_a_line<'o, 't, T: Item>(
    ours: &'o [u32],
    theirs: &'t [T],
    base: u32,
    out: &mut Vec<u32>,
) -> (&'o [u32], &'t [T], u32) {
    let len = ours.len().min(theirs.len());
    let apart = ours.as_ptr().align_offset(size_of::<simd::__m512i>()).min(len);
    portable::differing_rest(&ours[..apart], theirs, 0, base, out);
    (&ours[apart..len], &theirs[apart..len], base + apart as u32)
}

#[target_feature(enable = "avx2,bmi1,popcnt")]
fn differing_avx2<T: Item>(ours: &[u32], theirs: &[T], base: u32, out: &mut Vec<u32>) {
    let mask = |a: &_, b: &_| differing_mask(a, b);
    let list = |a: &_, b: &_, first, to: &mut _| list_places(a, b, first, to);
    differing_by((ours, theirs), base, out, (mask, list, MANY));
}

/// Goes over each stretch by what the one before was like, in three ways: the time of the
/// first rises with what differs, that of the last does not. `mask` tells what differs in a
/// block, and `list` lists it, which is best from `many` in a stretch on.
///
/// Inlined in what has the instructions, so all of it may use them.
#[inline(always)]
fn differing_by<T: Item>(
    (ours, theirs): (&[u32], &[T]),
    base: u32,
    out: &mut Vec<u32>,
    (mask, list, many): (
        impl Fn(&[u32; DIFF_BLOCK], &[T; DIFF_BLOCK]) -> u64,
        impl Fn(&[u32; DIFF_BLOCK], &[T; DIFF_BLOCK], u32, &mut Room) -> usize,
        usize,
    ),
) {
    let len = ours.len().min(theirs.len());
    let (our_blocks, _) = ours.as_chunks::<DIFF_BLOCK>();
    let (their_blocks, _) = theirs.as_chunks::<DIFF_BLOCK>();
    out.reserve(len);
    let room = out.spare_capacity_mut();
    // The last one may find no room for a whole list.
    let with_room = room.len().saturating_sub(LIST - DIFF_BLOCK) / DIFF_BLOCK;
    let our_blocks = &our_blocks[..with_room.min(our_blocks.len())];
    let stretches = our_blocks.chunks(STRETCH / DIFF_BLOCK);
    let (mut index, mut found, mut differing) = (0, 0, 0);
    for (ours, theirs) in stretches.zip(their_blocks.chunks(STRETCH / DIFF_BLOCK)) {
        let (blocks, before) = (ours.iter().zip(theirs), found);
        if differing < FEW {
            for (a, b) in blocks {
                let mask = mask(a, b);
                if mask != 0 {
                    found += list_bits(mask, base + index, room_for_block(room, found));
                }
                index += DIFF_BLOCK as u32;
            }
        } else if differing < many {
            for (a, b) in blocks {
                found += list_bits(mask(a, b), base + index, room_for_block(room, found));
                index += DIFF_BLOCK as u32;
            }
        } else {
            for (a, b) in blocks {
                found += list(a, b, base + index, room_for_block(room, found));
                index += DIFF_BLOCK as u32;
            }
        }
        differing = found - before;
    }
    let found = out.len() + found;
    // SAFETY: `found` is at most the length and all items, which were reserved, and these
    // places were written: each list as far as it counts, from where the one before ended.
    unsafe { out.set_len(found) };
    portable::differing_rest(ours, theirs, index, base, out);
}

/// Room for what differs in a block.
type Room = [MaybeUninit<u32>; LIST];

/// One check of bounds for all lists of a block.
#[inline(always)]
fn room_for_block(room: &mut [MaybeUninit<u32>], found: usize) -> &mut Room {
    room[found..].first_chunk_mut().expect("what was reserved")
}

/// Bit `i` of mask `n` is set if item `i` of vector `n` differs.
#[inline]
#[target_feature(enable = "avx512f,bmi1,popcnt")]
fn wide_masks<T: Item>(
    ours: &[u32; DIFF_BLOCK],
    theirs: &[T; DIFF_BLOCK],
) -> [u16; DIFF_BLOCK / WIDE_VECTOR] {
    let (ours, _) = ours.as_chunks::<WIDE_VECTOR>();
    let (theirs, _) = theirs.as_chunks::<WIDE_VECTOR>();
    let mut masks = [0; DIFF_BLOCK / WIDE_VECTOR];
    for ((mask, a), b) in masks.iter_mut().zip(ours).zip(theirs) {
        *mask = simd::_mm512_cmpneq_epi32_mask(wide_vector(a), wide_vector(b));
    }
    masks
}

/// Bit `i` is set if item `i` differs.
#[inline]
#[target_feature(enable = "avx512f,bmi1,popcnt")]
fn wide_mask<T: Item>(ours: &[u32; DIFF_BLOCK], theirs: &[T; DIFF_BLOCK]) -> u64 {
    let [a, b, c, d] = wide_masks(ours, theirs).map(u64::from);
    a | b << 16 | c << 32 | d << 48
}

/// Writes `first + i` for each bit `i` of `mask`, and gives how many: compresses the numbers of
/// all bits to the front of one vector of bytes, and widens sixteen of them to places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi1,popcnt")]
fn list_bytes(mask: u64, first: u32, to: &mut Room) -> usize {
    const NUMBERS: [u8; DIFF_BLOCK] = {
        let mut numbers = [0; DIFF_BLOCK];
        let mut i = 0;
        while i < DIFF_BLOCK {
            numbers[i] = i as u8;
            i += 1;
        }
        numbers
    };
    // SAFETY: the array is as long as the vector, and the load asks for no alignment.
    let numbers = unsafe { simd::_mm512_loadu_si512(NUMBERS.as_ptr().cast()) };
    let first = simd::_mm512_set1_epi32(first as i32);
    let mut bits = simd::_mm512_maskz_compress_epi8(mask, numbers);
    let count = mask.count_ones() as usize;
    let (lists, _) = to.as_chunks_mut::<WIDE_VECTOR>();
    for (i, list) in lists.iter_mut().enumerate() {
        let places = simd::_mm512_cvtepu8_epi32(simd::_mm512_castsi512_si128(bits));
        let places = simd::_mm512_add_epi32(places, first);
        // SAFETY: they are as long as the vector, and the store asks for no alignment.
        unsafe { simd::_mm512_storeu_si512(list.as_mut_ptr().cast(), places) };
        if count <= (i + 1) * WIDE_VECTOR {
            break;
        }
        bits = simd::_mm512_alignr_epi32::<4>(bits, bits);
    }
    count
}

/// Writes `first + i` for each bit `i` of `mask`, and gives how many. By fours, as nothing
/// foretells how many there are: a branch for each costs more than what it spares.
#[inline(always)]
fn list_bits(mask: u64, first: u32, to: &mut Room) -> usize {
    let (places, _) = to.as_chunks_mut::<4>();
    let mut rest = mask;
    for four in places {
        for place in four {
            place.write(first.wrapping_add(rest.trailing_zeros()));
            rest &= rest.wrapping_sub(1);
        }
        if rest == 0 {
            break;
        }
    }
    mask.count_ones() as usize
}

/// The same for any number of each mask: compresses the places of a vector's bits to its front
/// and writes half of it or all, whatever they are.
#[inline]
#[target_feature(enable = "avx512f,bmi1,popcnt")]
fn list_masks(masks: [u16; DIFF_BLOCK / WIDE_VECTOR], first: u32, to: &mut Room) -> usize {
    let steps = simd::_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let mut count = 0;
    for (i, mask) in masks.into_iter().enumerate() {
        let first = first.wrapping_add((i * WIDE_VECTOR) as u32);
        let places = simd::_mm512_add_epi32(steps, simd::_mm512_set1_epi32(first as i32));
        // Through a register: written by the instruction itself a tenth takes 22 us, not 1.5.
        let places = simd::_mm512_maskz_compress_epi32(mask, places);
        let list = to[count..].first_chunk_mut::<WIDE_VECTOR>().expect("a vector behind a block");
        // Half a vector lies in two lines half as often: a tenth takes 1.6 us instead of 1.8.
        let half = simd::_mm512_castsi512_si256(places);
        // SAFETY: they are longer than half a vector, and the store asks for no alignment.
        unsafe { simd::_mm256_storeu_si256(list.as_mut_ptr().cast(), half) };
        if mask.count_ones() as usize > VECTOR {
            // SAFETY: they are as long as the vector, and the store asks for no alignment.
            unsafe { simd::_mm512_storeu_si512(list.as_mut_ptr().cast(), places) };
        }
        count += mask.count_ones() as usize;
    }
    count
}

#[inline]
#[target_feature(enable = "avx512f,bmi1,popcnt")]
fn wide_vector<T: Item>(items: &[T; WIDE_VECTOR]) -> simd::__m512i {
    const { assert!(size_of::<[T; WIDE_VECTOR]>() == size_of::<simd::__m512i>()) };
    // SAFETY: the items are as long as the vector, and the load asks for no alignment. Both
    // kinds of Item are plain integers or bytes.
    unsafe { simd::_mm512_loadu_si512(items.as_ptr().cast()) }
}

/// Writes `first + i` for each item `i` that differs, and gives how many: a list for each
/// vector, by a table and without a branch.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn list_places<T: Item>(
    ours: &[u32; DIFF_BLOCK],
    theirs: &[T; DIFF_BLOCK],
    first: u32,
    to: &mut Room,
) -> usize {
    let (ours, _) = ours.as_chunks::<VECTOR>();
    let (theirs, _) = theirs.as_chunks::<VECTOR>();
    let (mut first, mut count) = (simd::_mm256_set1_epi32(first as i32), 0);
    for (a, b) in ours.iter().zip(theirs) {
        let set = !same(a, b);
        let places = simd::_mm_cvtsi64_si128(i64::from_le_bytes(PLACES[usize::from(set)]));
        let places = simd::_mm256_add_epi32(simd::_mm256_cvtepu8_epi32(places), first);
        let list = to[count..].first_chunk_mut::<VECTOR>().expect("a vector behind a block");
        // SAFETY: the list is as long as the vector, and the store asks for no alignment.
        unsafe { simd::_mm256_storeu_si256(list.as_mut_ptr().cast(), places) };
        count += set.count_ones() as usize;
        first = simd::_mm256_add_epi32(first, simd::_mm256_set1_epi32(VECTOR as i32));
    }
    count
}

/// Bit `i` is set if item `i` is the same.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn same<T: Item>(ours: &[u32; VECTOR], theirs: &[T; VECTOR]) -> u8 {
    let same = simd::_mm256_cmpeq_epi32(vector(ours), vector(theirs));
    simd::_mm256_movemask_ps(simd::_mm256_castsi256_ps(same)) as u8
}

/// The bits of each byte that are set, ascending, and zeros behind.
static PLACES: [[u8; VECTOR]; 256] = places();

const fn places() -> [[u8; VECTOR]; 256] {
    let mut all = [[0; VECTOR]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut count) = (0, 0);
        while bit < VECTOR {
            if byte >> bit & 1 == 1 {
                all[byte][count] = bit as u8;
                count += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    all
}

/// Bit `i` is set if item `i` differs.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn differing_mask<T: Item>(ours: &[u32; DIFF_BLOCK], theirs: &[T; DIFF_BLOCK]) -> u64 {
    let (ours, _) = ours.as_chunks::<VECTOR>();
    let (theirs, _) = theirs.as_chunks::<VECTOR>();
    let mut equal = 0;
    for i in 0..DIFF_BLOCK / VECTOR {
        equal |= u64::from(same(&ours[i], &theirs[i])) << (i * VECTOR);
    }
    !equal
}

#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn vector<T: Item>(items: &[T; VECTOR]) -> simd::__m256i {
    const { assert!(size_of::<[T; VECTOR]>() == size_of::<simd::__m256i>()) };
    // SAFETY: the items are as long as the vector, and the load asks for no
    // alignment. Both kinds of Item are plain integers or bytes.
    unsafe { simd::_mm256_loadu_si256(items.as_ptr().cast()) }
}
