//! CRC32C by two units of the processor at once: the carry-less multiplier folds the
//! first half of a record while the CRC instruction takes the second half in.
//!
//! Each does 8 bytes a cycle (Zen 3), and neither waits for the other: the folded half
//! is moved over the rest of the record by one more multiplication, and xored into its
//! last block before the instruction takes that in.
//!
//! What bounds it on Zen 3, by bare loops at 3.23 GHz: a multiplication of 32 bytes begins in
//! every second cycle, whether of 16 bytes or of 32, and a block takes two; a CRC instruction
//! of 8 bytes begins in every cycle. That is 8 bytes a cycle each and 16 together, 51.4 GB/s,
//! if the instructions of both alternate, and 13.5 if they stand in clumps. This reaches 11.4
//! with records of 4 KiB in L2 and 10.6 with 1,024 B, whose beginnings and ends, where one
//! unit waits for the other, are a fifth of the time.
//!
//! How a fold works: 32 bytes of the message are two polynomials of 128 bits. Moving one
//! by `d` bits is a multiplication by x^d; modulo the CRC's polynomial that is a factor of
//! 32 bits for each half of it. Words are reflected (bit 0 is the highest power), and the
//! product of two such words is short of one power of x, so that the factors are
//! x^(d + 63) for the half that comes first and x^(d - 1) for the other.

#![allow(unsafe_code)]
// The compiler carries the instructions into no closure: see `lanes`.
#![allow(clippy::needless_range_loop)]

use core::arch::x86_64 as simd;

use crate::kernel::arch;
use crate::kernel::arch::Ahead;
use crate::kernel::arch::Places;
use crate::kernel::arch::Records;

/// Bytes of a block: a vector of two polynomials.
const BLOCK: usize = 32;

/// Words of a block.
const WORDS: usize = BLOCK / 8;

/// Blocks that the CRC instruction takes in at most before a fold is moved over them.
/// Longer records are computed in parts of twice as many blocks.
const JUMP_MAX: usize = 32;

/// Records side by side.
const FOUR: usize = 4;

/// Records side by side when they are short: what is done once for a group weighs more
/// then (Zen 3; 64 bytes: 1.12 times as fast as by fours, 1,024: 0.9 times).
const EIGHT: usize = 8;

/// Below this many bytes they are short, if they are few, and so in a core's own cache. In L2,
/// GB/s by fours and by eights: 220 B 21.1 and 24.6, 256 B 25.8 and 27.9 (Zen 3).
const SHORT_NEAR: usize = 320;

/// The same from memory: 220 B 16.2 and 10.8.
const SHORT_FAR: usize = 192;

/// How far ahead memory is asked for, see `lanes`: two of its pages, or two groups of records
/// of 1 KiB. From memory, GB/s at 4, 8 and 16 KiB: 220 B 12.8, 15.9 and 14.2, 1,024 B 12.8,
/// 13.4 and 13.0 (Zen 3). Asked for by records and not in order, that is: see `prefetch`.
const PREFETCH_AHEAD: usize = 8192;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Factors that move a block over `i` blocks, at `i`.
static JUMPS: [[u64; 2]; JUMP_MAX + 1] = jumps();

/// Proof that the processor multiplies vectors without carry, and has SSE4.2.
#[derive(Clone, Copy, Debug)]
pub struct Fold(());

impl Fold {
    /// Asks the processor.
    pub fn detect() -> Option<Fold> {
        let found = std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("vpclmulqdq")
            && std::arch::is_x86_feature_detected!("pclmulqdq")
            && std::arch::is_x86_feature_detected!("sse4.2");
        found.then_some(Fold(()))
    }

    /// CRC32C of the bytes that gave `crc` followed by `bytes`.
    #[inline]
    pub(super) fn append(self, crc: u32, bytes: &[u8]) -> u32 {
        // SAFETY: the token proves the instructions.
        unsafe { append(crc, bytes) }
    }

    /// CRC32C of `front` followed by `bytes`.
    #[inline]
    pub(super) fn behind<const N: usize>(self, front: &[u8; N], bytes: &[u8]) -> u32 {
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

/// x^n modulo the polynomial, reflected, in the upper half of a word.
const fn power(n: usize) -> u64 {
    let mut value: u32 = 1 << 31;
    let mut i = 0;
    while i < n {
        value = (value >> 1) ^ (0x82f6_3b78 & (value & 1).wrapping_neg());
        i += 1;
    }
    (value as u64) << 32
}

const fn jumps() -> [[u64; 2]; JUMP_MAX + 1] {
    let mut jumps = [[0; 2]; JUMP_MAX + 1];
    let mut i = 1;
    while i <= JUMP_MAX {
        let bits = i * BLOCK * 8;
        jumps[i] = [power(bits + 63), power(bits - 1)];
        i += 1;
    }
    jumps
}

/// # Safety
/// Every record may be read, and nobody writes it meanwhile.
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn checksums(records: impl Records, out: &mut [u32]) {
    let mut records = records;
    let (groups, rest) = out.as_chunks_mut::<EIGHT>();
    for out in groups {
        // SAFETY: the caller promises these records.
        unsafe { eight(&mut records, out) };
    }
    // SAFETY: as above.
    unsafe { some(&mut records, rest) };
}

/// # Safety
/// As for `checksums`.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
pub(super) unsafe fn eight(records: &mut impl Records, out: &mut [u32; EIGHT]) {
    let mut rest = *records;
    let (places, lens) = rest.take::<EIGHT>();
    let short = if let Ahead::Nothing = places.ahead() { SHORT_NEAR } else { SHORT_FAR };
    if lens[0] < short && lens == [lens[0]; EIGHT] {
        *records = rest;
        // SAFETY: the caller promises the records, which are all of this length.
        *out = unsafe { group::<_, EIGHT>(places, [lens[0]; EIGHT], u32::MAX) };
        return;
    }
    // SAFETY: as above.
    unsafe { some(records, out) };
}

#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn append(crc: u32, bytes: &[u8]) -> u32 {
    // SAFETY: the one record is the slice, which nobody writes.
    let [crc] = unsafe { group([bytes.as_ptr()], [bytes.len()], !crc) };
    crc
}

#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn behind<const N: usize>(front: &[u8; N], bytes: &[u8]) -> u32 {
    let (words, rest) = front.as_chunks::<8>();
    let mut crc = u64::from(u32::MAX);
    for word in words {
        crc = simd::_mm_crc32_u64(crc, u64::from_le_bytes(*word));
    }
    // SAFETY: the bytes are those of a slice.
    let crc = unsafe { finish(rest.as_ptr(), rest.len(), crc) };
    // SAFETY: the one record is the slice, which nobody writes.
    let [crc] = unsafe { group([bytes.as_ptr()], [bytes.len()], crc) };
    crc
}

/// Computes some records, of any lengths: by fours, and those that are left together.
///
/// # Safety
/// As for `checksums`.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
pub(super) unsafe fn some(records: &mut impl Records, out: &mut [u32]) {
    let mut rest = out;
    while rest.len() >= FOUR {
        // Five are as fast as four, and one alone takes as long as these.
        rest = match rest.len() {
            // SAFETY: the caller promises these records, here and below.
            5 => unsafe { take::<5>(records, rest) },
            // SAFETY: as above.
            6 => unsafe { take::<3>(records, rest) },
            // SAFETY: as above.
            _ => unsafe { take::<FOUR>(records, rest) },
        };
    }
    match rest.len() {
        // SAFETY: as above.
        3 => unsafe { take::<3>(records, rest) },
        // SAFETY: as above.
        2 => unsafe { take::<2>(records, rest) },
        // SAFETY: as above.
        1 => unsafe { take::<1>(records, rest) },
        _ => rest,
    };
}

/// Computes the first `N` records, and gives the places of the others.
///
/// # Safety
/// As for `checksums`.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn take<'o, const N: usize>(
    records: &mut impl Records,
    out: &'o mut [u32],
) -> &'o mut [u32] {
    let (places, lens) = records.take::<N>();
    let (first, rest) = out.split_first_chunk_mut::<N>().expect("as many as are taken");
    // SAFETY: the caller promises these records.
    *first = unsafe { group::<_, N>(places, lens, u32::MAX) };
    rest
}

/// CRC32C of `N` records, behind bytes that gave `before`, inverted: side by side as far as
/// all go, then each alone.
///
/// # Safety
/// These records may be read, and nobody writes them meanwhile.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn group<P: Places, const N: usize>(places: P, lens: [usize; N], before: u32) -> [u32; N] {
    let shortest = shortest(&lens);
    if !shortest.is_multiple_of(LINE) {
        // What is left behind the last pair of blocks may lie in a line of its own.
        for i in 0..N {
            prefetch(places, i, shortest, N * (shortest / LINE) + i);
        }
    }
    let mut crcs = [u64::from(before); N];
    let mut done = 0;
    while shortest - done >= 2 * BLOCK {
        let blocks = ((shortest - done) / BLOCK).min(2 * JUMP_MAX);
        // SAFETY: each record has so many blocks more.
        crcs = unsafe { blocks_of::<_, N>(places.behind(done), blocks, crcs) };
        done += blocks * BLOCK;
    }
    while shortest - done >= 8 {
        for i in 0..N {
            let word = places.at(i).wrapping_add(done);
            // SAFETY: the record has these bytes.
            let value = unsafe { word.cast::<u64>().read_unaligned() };
            crcs[i] = simd::_mm_crc32_u64(crcs[i], value);
        }
        done += 8;
    }
    let mut out = [0; N];
    let mut left = 0;
    for i in 0..N {
        out[i] = !(crcs[i] as u32);
        left |= lens[i] - done;
    }
    if left > 0 {
        for i in 0..N {
            let at = places.at(i).wrapping_add(done);
            // SAFETY: the record has these bytes.
            out[i] = !unsafe { finish(at, lens[i] - done, crcs[i]) };
        }
    }
    out
}

#[inline(always)]
fn shortest<const N: usize>(lens: &[usize; N]) -> usize {
    let mut shortest = lens[0];
    for i in 1..N {
        shortest = shortest.min(lens[i]);
    }
    shortest
}

/// Takes `blocks` blocks of each record in, 2 to 2 * JUMP_MAX.
///
/// Plain loops over indices, as in `lanes`. The instructions of both units alternate, those
/// of the CRC over the records: clumps of each take a fifth longer on Zen 3.
///
/// # Safety
/// As for `group`.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn blocks_of<P: Places, const N: usize>(
    places: P,
    blocks: usize,
    before: [u64; N],
) -> [u64; N] {
    let counted = blocks / 2;
    let folded = blocks - counted;
    let step = simd::_mm256_broadcastsi128_si256(factors(1));
    let jump = simd::_mm256_broadcastsi128_si256(factors(counted));
    let mut sums = [simd::_mm256_setzero_si256(); N];
    let mut crcs = [0_u64; N];
    for i in 0..N {
        prefetch(places, i, 0, i);
        // What came before stands in the first four bytes.
        let before = simd::_mm256_castsi128_si256(simd::_mm_cvtsi32_si128(before[i] as i32));
        let before = simd::_mm256_inserti128_si256::<1>(before, simd::_mm_setzero_si128());
        // SAFETY: the record has this block.
        sums[i] = simd::_mm256_xor_si256(unsafe { load(places.at(i)) }, before);
    }
    // Without checks of overflow, which cannot be: a part is 2 KiB at most.
    let mut first = BLOCK;
    while first < counted * BLOCK {
        let at = Step { first, second: first.wrapping_add((folded - 1) * BLOCK) };
        first = first.wrapping_add(BLOCK);
        // SAFETY: each record has both blocks, here and below.
        unsafe { round::<_, N, 0>(places, at, step, &mut sums, &mut crcs) };
        // SAFETY: as above.
        unsafe { round::<_, N, 1>(places, at, step, &mut sums, &mut crcs) };
        // SAFETY: as above.
        unsafe { round::<_, N, 2>(places, at, step, &mut sums, &mut crcs) };
        // SAFETY: as above.
        unsafe { round::<_, N, 3>(places, at, step, &mut sums, &mut crcs) };
    }
    if folded > counted {
        for i in 0..N {
            // SAFETY: the record has this block.
            let next = unsafe { load(places.at(i).wrapping_add(counted * BLOCK)) };
            sums[i] = fold(sums[i], step, next);
        }
    }
    let mut last = [[0_u64; WORDS]; N];
    for i in 0..N {
        // SAFETY: the record has this block.
        let next = unsafe { load(places.at(i).wrapping_add((blocks - 1) * BLOCK)) };
        let block = fold(sums[i], jump, next);
        // SAFETY: the words are as long as the vector.
        unsafe { simd::_mm256_storeu_si256(last[i].as_mut_ptr().cast(), block) };
    }
    for word in 0..WORDS {
        for i in 0..N {
            crcs[i] = simd::_mm_crc32_u64(crcs[i], last[i][word]);
        }
    }
    crcs
}

/// Offsets of the blocks that are taken in at the same time, one of each half.
#[derive(Clone, Copy)]
struct Step {
    first: usize,
    second: usize,
}

/// Takes one word of each record's second block in, and a quarter of the first blocks: all
/// of them in the four rounds. What these loops go over is constant, so that the compiler
/// keeps all sums in registers.
///
/// # Safety
/// As for `group`; each record has both blocks.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn round<P: Places, const N: usize, const WORD: usize>(
    places: P,
    at: Step,
    factors: simd::__m256i,
    sums: &mut [simd::__m256i; N],
    crcs: &mut [u64; N],
) {
    for i in WORD * N / WORDS..(WORD + 1) * N / WORDS {
        // A line is two blocks, one of each half.
        let offset = at.first.wrapping_mul(2);
        prefetch(places, i, offset, offset / LINE * N + i);
        // SAFETY: the caller promises this block.
        let next = unsafe { load(places.at(i).wrapping_add(at.first)) };
        sums[i] = fold(sums[i], factors, next);
    }
    for i in 0..N {
        let word = places.at(i).wrapping_add(at.second).wrapping_add(WORD * 8);
        // SAFETY: as above.
        let value = unsafe { word.cast::<u64>().read_unaligned() };
        crcs[i] = simd::_mm_crc32_u64(crcs[i], value);
    }
}

#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn factors(blocks: usize) -> simd::__m128i {
    let [first, second] = JUMPS[blocks];
    simd::_mm_set_epi64x(second as i64, first as i64)
}

#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
fn fold(sum: simd::__m256i, factors: simd::__m256i, next: simd::__m256i) -> simd::__m256i {
    let first = simd::_mm256_clmulepi64_epi128::<0x00>(sum, factors);
    let second = simd::_mm256_clmulepi64_epi128::<0x11>(sum, factors);
    simd::_mm256_xor_si256(simd::_mm256_xor_si256(first, second), next)
}

/// Asks for memory that is needed later; it need not exist. Neighbours are fetched best in the
/// order in which they lie: line `line` of all, whatever record it is of. Else it is the line
/// at `offset` of record `i`.
#[inline(always)]
fn prefetch(places: impl Places, i: usize, offset: usize, line: usize) {
    let at = match places.ahead() {
        Ahead::Nothing => return,
        Ahead::InOrder => places.at(0).wrapping_add(line.wrapping_mul(LINE)),
        Ahead::ByRecord => places.at(i).wrapping_add(offset),
    };
    arch::prefetch(at.wrapping_add(PREFETCH_AHEAD));
}

/// # Safety
/// 32 bytes from here may be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(at: *const u8) -> simd::__m256i {
    // SAFETY: the caller promises 32 bytes; the load asks for no alignment.
    unsafe { simd::_mm256_loadu_si256(at.cast()) }
}

/// Takes the rest of one record in.
///
/// # Safety
/// As for `group`.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn finish(at: *const u8, len: usize, crc: u64) -> u32 {
    if len < 8 {
        // SAFETY: the caller promises the bytes.
        unsafe { finish_word(at, len, crc as u32) }
    } else {
        // SAFETY: as above.
        unsafe { finish_long(at, len, crc) }
    }
}

/// # Safety
/// As for `group`.
#[cold]
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq,sse4.2")]
unsafe fn finish_long(at: *const u8, len: usize, crc: u64) -> u32 {
    let (mut crc, mut done) = (crc, 0);
    while len - done >= 2 * BLOCK {
        let blocks = ((len - done) / BLOCK).min(2 * JUMP_MAX);
        // SAFETY: the record has so many blocks more.
        [crc] = unsafe { blocks_of::<_, 1>([at].behind(done), blocks, [crc]) };
        done += blocks * BLOCK;
    }
    while len - done >= 8 {
        // SAFETY: the record has these bytes.
        let value = unsafe { at.wrapping_add(done).cast::<u64>().read_unaligned() };
        crc = simd::_mm_crc32_u64(crc, value);
        done += 8;
    }
    // SAFETY: as above.
    unsafe { finish_word(at.wrapping_add(done), len - done, crc as u32) }
}

/// Takes up to 7 bytes in.
///
/// # Safety
/// They may be read.
#[inline]
#[target_feature(enable = "sse4.2")]
pub(super) unsafe fn finish_word(at: *const u8, len: usize, crc: u32) -> u32 {
    let (mut at, mut len, mut crc) = (at, len, crc);
    if len >= 4 {
        // SAFETY: as above.
        crc = simd::_mm_crc32_u32(crc, unsafe { at.cast::<u32>().read_unaligned() });
        (at, len) = (at.wrapping_add(4), len - 4);
    }
    if len >= 2 {
        // SAFETY: as above.
        crc = simd::_mm_crc32_u16(crc, unsafe { at.cast::<u16>().read_unaligned() });
        (at, len) = (at.wrapping_add(2), len - 2);
    }
    if len == 1 {
        // SAFETY: as above.
        crc = simd::_mm_crc32_u8(crc, unsafe { at.read() });
    }
    crc
}
