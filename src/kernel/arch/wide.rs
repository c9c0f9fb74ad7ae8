//! CRC32C by vectors of 64 bytes, and the instruction beside them.
//!
//! As in `fold`, the carry-less multiplier folds the beginning of a record while the CRC
//! instruction takes what follows. On Zen 4 a multiplication begins in every second cycle,
//! whether of 16, 32 or 64 bytes (bare loops: 0.541 ns at 3.7 GHz), and a vector takes two: 16
//! bytes a cycle, and 8 more by the instruction, whose pace multiplications beside it do not
//! change. So two thirds of a record are folded. The bound is 24 bytes a cycle, 88 GB/s.
//!
//! Besides, the sum needs no block of its own to end in: its four lanes are moved onto the last
//! 16 bytes of the record by one more pair of multiplications, each lane by a factor of its own,
//! and the instruction takes these 16 bytes in with the sum xored to them. A record of 64 bytes
//! is two multiplications and two instructions; by words it would be eight of these.
//!
//! Two records side by side are best or near it at every length: with one, two and four, GB/s
//! are 31, 31 and 28 for records of 64 B in L2, 52, 55 and 53 for 256 B, 47, 58 and 61 for
//! 1,024 B (Zen 4, a loop with nothing around it). The processor begins the next ones by itself.
//! Adding up the lanes of four records by shuffles was slower than of each alone: 28, 48 and 56.
//!
//! From memory (256 MiB, pieces of 1 MiB by this, by `fold` and read, in turn), of the speed of
//! reading: 64 B 0.59 and 0.61, 72 B 0.60 and 0.57, 128 B 0.80 and 0.68, 220 B 0.87 and 0.67,
//! 256 B 0.90 and 0.79, 1,024 B 0.97 and 0.98. One thread reads 32 GB/s there: records of 64 B
//! are what this computes in L2, 24 GB/s.
//!
//! What else counts is that the loop over pairs is one, with its plan made before it: called
//! for groups of eight, each with a plan of its own, records of 64 B took twice as long.

#![allow(unsafe_code)]
// The compiler carries the instructions into no closure: see `lanes`.
#![allow(clippy::needless_range_loop)]

use core::arch::x86_64 as simd;

use crate::kernel::arch::Ahead;
use crate::kernel::arch::Places;
use crate::kernel::arch::Records;
use crate::kernel::arch::fold;
use crate::kernel::arch::fold::Fold;
use crate::kernel::arch::fold::finish_word;
use crate::kernel::arch::prefetch;

/// Bytes of a vector, which are those of a cache line.
const BLOCK: usize = 64;

/// Words of a vector.
const WORDS: usize = BLOCK / 8;

/// Records of one length that are computed by one plan.
const EIGHT: usize = 8;

/// Shorter runs of bytes are left to the narrower vectors, which end sooner. One after the other,
/// ns by these and by those: 64 B 9.1 and 7.5, 100 B 10.0 and 10.0, 200 B 10.5 and 11.7, 1,024 B
/// 26 and 43 (Zen 4); there is no length from which on the crate crc32c, in three parts side by
/// side, is faster: 64 kB 1,777 and 2,472.
const RUN_MIN: usize = 160;

/// Records of which eight in a row are of one length go this way if it is at least so many bytes.
const LEN_MIN: usize = BLOCK;

/// And at most so many: one part each. Longer ones go by fours through `fold`, and one by one if
/// they come from memory: of the speed of reading, 4 KiB 0.92 and 64 KiB 0.95, where four side by
/// side, each from pages of its own, take 0.54 and 0.62. In L2 four are faster: 41 GB/s, 32 one by
/// one (Zen 4).
const LEN_MAX: usize = PART_MAX * 8 + 7;

/// How far ahead memory is asked for. Of the speed of reading, at 4 and 8 KiB: 64 B 0.64 and
/// 0.63, 256 B 0.86 and 0.84, 320 B 0.85 and 0.76, 512 B 0.81 and 0.72, 1,024 B 1.01 and 1.00,
/// 1,536 B 0.92 and 0.98, 2,048 B 0.92 and 1.01 (Zen 4).
const PREFETCH_AHEAD: usize = 4096;

/// It is twice as far where the records side by side take more bytes than this.
const NEAR_LEN: usize = 2048;

/// Words of a polynomial, of which a vector has four.
const LANE: usize = 2;

/// Words that are taken in at once: longer records are computed in parts.
const PART_MAX: usize = 256;

/// Words behind the folded blocks, in a part.
const TAIL_MAX: usize = 92;

const _: () = {
    let mut words = WORDS;
    while words <= PART_MAX {
        let folded = folded_blocks(words);
        assert!(folded >= 1 && folded * WORDS <= words);
        // The sum of several blocks cannot end in one of them.
        assert!(folded == 1 || words - folded * WORDS >= LANE);
        assert!(words - folded * WORDS <= TAIL_MAX);
        words += 1;
    }
};

/// Factors that move each lane of a vector onto the last two of `i` words behind it, at `i`; 0
/// for what stands there already.
static ENDS: [[u64; WORDS]; TAIL_MAX + 1] = ends();

/// Factors that move a vector over another.
const STEP: [u64; 2] = {
    let powers = powers();
    [powers[WORDS + 1], powers[WORDS]]
};

/// Proof that the processor multiplies vectors of 64 bytes without carry, and what `fold` asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wide(Fold);

impl Wide {
    /// Asks the processor.
    pub fn detect() -> Option<Wide> {
        Fold::detect().and_then(Wide::beyond)
    }

    /// Asks a processor that has the narrower vectors.
    pub(super) fn beyond(fold: Fold) -> Option<Wide> {
        std::arch::is_x86_feature_detected!("avx512f").then_some(Wide(fold))
    }

    /// CRC32C of the bytes that gave `crc` followed by `bytes`.
    #[inline]
    pub(super) fn append(self, crc: u32, bytes: &[u8]) -> u32 {
        if bytes.len() < RUN_MIN {
            return self.0.append(crc, bytes);
        }
        // SAFETY: the token proves the instructions.
        unsafe { one(bytes, !crc) }
    }

    /// CRC32C of `front` followed by `bytes`.
    #[inline]
    pub(super) fn behind<const N: usize>(self, front: &[u8; N], bytes: &[u8]) -> u32 {
        if bytes.len() < RUN_MIN {
            return self.0.behind(front, bytes);
        }
        // SAFETY: the token proves the instructions.
        unsafe { behind(front, bytes) }
    }

    /// # Safety
    /// Every record may be read, and nobody writes it meanwhile.
    pub(super) unsafe fn checksums(self, records: impl Records, out: &mut [u32]) {
        // SAFETY: the token proves the instructions; the caller promises the records.
        unsafe { checksums(records, out) };
    }
}

/// How many blocks of so many words are folded: each takes the multiplier four cycles, and a
/// word the instruction one.
const fn folded_blocks(words: usize) -> usize {
    let even = (words + 8) / 12;
    let most = words.saturating_sub(LANE) / WORDS;
    let blocks = if even < most { even } else { most };
    if blocks == 0 { 1 } else { blocks }
}

/// x^(64 i - 1) modulo the polynomial, reflected, in the upper half of a word: see `fold` for
/// where the 1 comes from.
const fn powers() -> [u64; TAIL_MAX + WORDS + 1] {
    let mut powers = [0; TAIL_MAX + WORDS + 1];
    let (mut value, mut exponent): (u32, usize) = (1 << 31, 0);
    let mut i = 1;
    while i < powers.len() {
        while exponent < 64 * i - 1 {
            value = (value >> 1) ^ (0x82f6_3b78 & (value & 1).wrapping_neg());
            exponent += 1;
        }
        powers[i] = (value as u64) << 32;
        i += 1;
    }
    powers
}

const fn ends() -> [[u64; WORDS]; TAIL_MAX + 1] {
    let powers = powers();
    let mut ends = [[0; WORDS]; TAIL_MAX + 1];
    let mut tail = 0;
    while tail <= TAIL_MAX {
        let mut first = 0;
        while first < WORDS {
            let distance = WORDS + tail - LANE - first;
            if distance > 0 {
                ends[tail][first] = powers[distance + 1];
            }
            // The second word of a lane that moves over one stands in its place already.
            if distance >= LANE {
                ends[tail][first + 1] = powers[distance];
            }
            first += LANE;
        }
        tail += 1;
    }
    ends
}

/// # Safety
/// Every record may be read, and nobody writes it meanwhile.
#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn checksums(records: impl Records, out: &mut [u32]) {
    let (mut records, mut out) = (records, out);
    while !out.is_empty() {
        let next = next_of(records, out.len());
        let (first, rest) = out.split_at_mut(next.count(out.len()));
        match next {
            // SAFETY: the caller promises these records, here and below.
            Next::Alike { len, .. } => unsafe { pairs(&mut records, len, first) },
            // SAFETY: as above.
            Next::Long => first[0] = unsafe { alone(&mut records) },
            // SAFETY: as above.
            Next::Others => unsafe { others(&mut records, first) },
        }
        out = rest;
    }
}

/// How the next records are computed.
enum Next {
    /// So many of one length, by twos.
    Alike {
        /// Bytes of each.
        len: usize,
        /// Eights of them.
        count: usize,
    },
    /// One that is long, from memory.
    Long,
    /// Up to eight, by narrower vectors.
    Others,
}

impl Next {
    /// How many these are, of so many that are left.
    #[inline(always)]
    fn count(&self, left: usize) -> usize {
        match self {
            Next::Alike { count, .. } => *count,
            Next::Long => 1,
            Next::Others => EIGHT.min(left),
        }
    }
}

#[inline(always)]
fn next_of(records: impl Records, left: usize) -> Next {
    let mut ahead = records;
    let (places, [len]) = ahead.take::<1>();
    let count = match (len, places.ahead()) {
        (..LEN_MIN, _) => 0,
        (..=LEN_MAX, _) => alike(records, len, left),
        (_, Ahead::Nothing) => 0,
        _ => return Next::Long,
    };
    if count == 0 { Next::Others } else { Next::Alike { len, count } }
}

/// How many of so many records are of this length, in eights.
#[inline(always)]
fn alike(records: impl Records, len: usize, left: usize) -> usize {
    let (mut records, mut found) = (records, 0);
    while left - found >= EIGHT {
        let (_, lens) = records.take::<EIGHT>();
        let mut differ = 0;
        for i in 0..EIGHT {
            differ |= len ^ lens[i];
        }
        if differ != 0 {
            break;
        }
        found += EIGHT;
    }
    found
}

/// Computes what is short, of several lengths or few, by narrower vectors. Apart, so that its
/// registers are not in the way of the others.
///
/// # Safety
/// As for `checksums`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn others(records: &mut impl Records, out: &mut [u32]) {
    match <&mut [u32; EIGHT]>::try_from(&mut *out) {
        // SAFETY: the caller promises these records, here and below.
        Ok(out) => unsafe { fold::eight(records, out) },
        // SAFETY: as above.
        Err(_) => unsafe { fold::some(records, out) },
    }
}

/// # Safety
/// As for `checksums`; all are of `len` bytes, which is at least a block.
#[inline]
#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn pairs<R: Records>(records: &mut R, len: usize, out: &mut [u32]) {
    let plan = Plan::of::<2>(len / 8);
    let end = plan.words * 8;
    let (pairs, _) = out.as_chunks_mut::<2>();
    for out in pairs {
        let (places, _) = records.take::<2>();
        // SAFETY: each record has the words of the plan.
        let crcs = unsafe { part::<_, 2>(places, plan, [u64::from(u32::MAX); 2]) };
        for i in 0..2 {
            out[i] = !(crcs[i] as u32);
        }
        if len > end {
            for i in 0..2 {
                let rest = places.at(i).wrapping_add(end);
                // SAFETY: the record has these bytes, less than a word.
                out[i] = !unsafe { finish_word(rest, len - end, crcs[i] as u32) };
            }
        }
    }
}

/// How a part of a record is computed.
#[derive(Clone, Copy)]
struct Plan {
    words: usize,
    /// Bytes that are folded.
    folded: usize,
    /// How far ahead memory is asked for.
    distance: usize,
}

impl Plan {
    /// Of the first part of so many words of each of `N` records.
    #[inline(always)]
    fn of<const N: usize>(words: usize) -> Plan {
        let words = words.min(PART_MAX);
        let is_near = N * words * 8 <= NEAR_LEN;
        let distance = if is_near { PREFETCH_AHEAD } else { 2 * PREFETCH_AHEAD };
        Plan { words, folded: folded_blocks(words) * BLOCK, distance }
    }
}

#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn behind<const N: usize>(front: &[u8; N], bytes: &[u8]) -> u32 {
    let (words, rest) = front.as_chunks::<8>();
    let mut crc = u64::from(u32::MAX);
    for word in words {
        crc = simd::_mm_crc32_u64(crc, u64::from_le_bytes(*word));
    }
    // SAFETY: the bytes are those of a slice.
    let crc = unsafe { finish_word(rest.as_ptr(), rest.len(), crc as u32) };
    one(bytes, crc)
}

/// CRC32C of `bytes` behind others that gave `before`, inverted.
#[inline]
#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn one(bytes: &[u8], before: u32) -> u32 {
    // SAFETY: the one record is the slice, which nobody writes.
    unsafe { record([bytes.as_ptr()], bytes.len(), before) }
}

/// Computes one long record. Apart, as `others` are.
///
/// # Safety
/// As for `checksums`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn alone(records: &mut impl Records) -> u32 {
    let (places, [len]) = records.take::<1>();
    // SAFETY: the caller promises this record.
    unsafe { record(places, len, u32::MAX) }
}

/// CRC32C of one record behind others that gave `before`, inverted.
///
/// # Safety
/// It may be read, and nobody writes it meanwhile.
#[inline]
#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn record(places: impl Places, len: usize, before: u32) -> u32 {
    let first = places.at(0);
    let mut crcs = [u64::from(before)];
    let mut done = 0;
    while len - done >= BLOCK {
        let plan = Plan::of::<1>((len - done) / 8);
        // SAFETY: the record has these words, here and below.
        crcs = unsafe { part(places.behind(done), plan, crcs) };
        done += plan.words * 8;
    }
    while len - done >= 8 {
        // SAFETY: as above.
        unsafe { take_word([first], done, &mut crcs, &[0]) };
        done += 8;
    }
    // SAFETY: the record has these bytes.
    !unsafe { finish_word(first.wrapping_add(done), len - done, crcs[0] as u32) }
}

/// Takes the words of a plan of each record in, side by side.
///
/// # Safety
/// Each record has them, and nobody writes them meanwhile.
#[inline]
#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn part<P: Places, const N: usize>(places: P, plan: Plan, before: [u64; N]) -> [u64; N] {
    let mut at = [core::ptr::null(); N];
    for i in 0..N {
        at[i] = places.at(i);
    }
    let (folded, end) = (plan.folded, plan.words * 8);
    // In the order in which they lie, evenly spread over what is computed.
    let all = N * end.div_ceil(BLOCK);
    let mut lines = Lines { ahead: places.ahead(), distance: plan.distance, asked: 0, all };
    let step = simd::_mm512_broadcast_i32x4(simd::_mm_set_epi64x(STEP[1] as i64, STEP[0] as i64));
    let mut sums = [simd::_mm512_setzero_si512(); N];
    let mut crcs = [0_u64; N];
    for i in 0..N {
        // What came before stands in the first four bytes.
        let before = simd::_mm512_zextsi128_si512(simd::_mm_cvtsi32_si128(before[i] as i32));
        // SAFETY: the record has this block.
        sums[i] = simd::_mm512_xor_si512(unsafe { load(at[i]) }, before);
    }
    // Without checks of overflow, which cannot be: a part is 2 KiB at most.
    let (mut first, mut second) = (BLOCK, folded);
    while first < folded && second.wrapping_add(4 * 8 + LANE * 8) <= end {
        lines.ask(&at, 3 * N / 2);
        for quarter in 0..4 {
            for i in quarter * N / 4..(quarter + 1) * N / 4 {
                // SAFETY: the record has this block.
                let next = unsafe { load(at[i].wrapping_add(first)) };
                sums[i] = moved(sums[i], step, next);
            }
            // SAFETY: each record has this word.
            unsafe { take_word(at, second, &mut crcs, &[0; N]) };
            second = second.wrapping_add(8);
        }
        first = first.wrapping_add(BLOCK);
    }
    while first < folded {
        for i in 0..N {
            // SAFETY: the record has this block.
            let next = unsafe { load(at[i].wrapping_add(first)) };
            sums[i] = moved(sums[i], step, next);
        }
        first = first.wrapping_add(BLOCK);
    }
    lines.ask(&at, usize::MAX);
    let (mut firsts, mut seconds) = ([0; N], [0; N]);
    // SAFETY: the words are as long as the vector.
    let ends = unsafe { load(ENDS[(end - folded) / 8].as_ptr().cast()) };
    for i in 0..N {
        [firsts[i], seconds[i]] = lanes_of(moved(sums[i], ends, simd::_mm512_setzero_si512()));
    }
    while second.wrapping_add(LANE * 8) < end {
        // SAFETY: each record has this word.
        unsafe { take_word(at, second, &mut crcs, &[0; N]) };
        second = second.wrapping_add(8);
    }
    // SAFETY: each record has these words.
    unsafe { take_word(at, end.wrapping_sub(16), &mut crcs, &firsts) };
    // SAFETY: as above.
    unsafe { take_word(at, end.wrapping_sub(8), &mut crcs, &seconds) };
    crcs
}

/// Lines of memory that are asked for ahead of a part, by number over all its records.
struct Lines {
    ahead: Ahead,
    distance: usize,
    asked: usize,
    all: usize,
}

impl Lines {
    /// Asks for the next `count`, as far as there are so many.
    #[inline(always)]
    fn ask<const N: usize>(&mut self, at: &[*const u8; N], count: usize) {
        if let Ahead::Nothing = self.ahead {
            return;
        }
        let until = self.asked.saturating_add(count).min(self.all);
        for line in self.asked..until {
            let place = match self.ahead {
                Ahead::ByRecord => at[line % N].wrapping_add(line / N * BLOCK),
                _ => at[0].wrapping_add(line * BLOCK),
            };
            prefetch(place.wrapping_add(self.distance));
        }
        self.asked = until;
    }
}

/// Takes the word at `offset` of each record in, with `also` xored to it.
///
/// # Safety
/// As for `part`.
#[inline]
#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn take_word<const N: usize>(
    at: [*const u8; N],
    offset: usize,
    crcs: &mut [u64; N],
    also: &[u64; N],
) {
    for i in 0..N {
        let word = at[i].wrapping_add(offset);
        // SAFETY: the caller promises this word.
        let value = unsafe { word.cast::<u64>().read_unaligned() };
        crcs[i] = simd::_mm_crc32_u64(crcs[i], value ^ also[i]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn moved(sum: simd::__m512i, factors: simd::__m512i, next: simd::__m512i) -> simd::__m512i {
    let first = simd::_mm512_clmulepi64_epi128::<0x00>(sum, factors);
    let second = simd::_mm512_clmulepi64_epi128::<0x11>(sum, factors);
    simd::_mm512_ternarylogic_epi64::<XOR_OF_THREE>(first, second, next)
}

/// A bit for each of the eight combinations of three: those in which an odd number is set.
const XOR_OF_THREE: i32 = 0b1001_0110;

/// The sum of the four lanes, as words.
#[inline]
#[target_feature(enable = "avx512f,avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn lanes_of(vector: simd::__m512i) -> [u64; LANE] {
    let (low, high) =
        (simd::_mm512_castsi512_si256(vector), simd::_mm512_extracti64x4_epi64::<1>(vector));
    let two = simd::_mm256_xor_si256(low, high);
    let (low, high) = (simd::_mm256_castsi256_si128(two), simd::_mm256_extracti128_si256::<1>(two));
    let one = simd::_mm_xor_si128(low, high);
    [simd::_mm_cvtsi128_si64(one) as u64, simd::_mm_extract_epi64::<1>(one) as u64]
}

/// # Safety
/// 64 bytes from here may be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(at: *const u8) -> simd::__m512i {
    // SAFETY: the caller promises 64 bytes; the load asks for no alignment.
    unsafe { simd::_mm512_loadu_si512(at.cast()) }
}
