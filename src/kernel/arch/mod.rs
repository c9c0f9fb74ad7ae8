//! The versions of each kernel, and the choice between them at run time.

#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
pub(super) mod aarch64;
#[cfg(target_arch = "x86_64")]
pub(super) mod fold;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod lanes;
mod load;
mod portable;
#[cfg(target_arch = "x86_64")]
pub(super) mod wide;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86_64;

use load::Load;
use load::Plain;
use load::Shared;

use crate::kernel::checksum::BatchError;
use crate::kernel::checksum::check_batch;

/// Longest run of bytes that is folded (Zen 3, ns beside the crate crc32c: 200 bytes 13.5 and
/// 23.8, 512 22.6 and 59.9, 1,024 51 and 67). The crate takes longer ones in three parts side
/// by side.
#[cfg(target_arch = "x86_64")]
const RUN_MAX: usize = 1024;

/// A way to compute CRC32C of many records.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ChecksumKernel {
    /// One record after another, through the crate crc32c.
    Portable,
    /// Two thirds of each record by carry-less multiplication of 64 bytes at once, a third by
    /// SSE4.2 instructions.
    #[cfg(target_arch = "x86_64")]
    Wide(wide::Wide, x86_64::Sse42),
    /// Half of each record by carry-less multiplication, half by SSE4.2 instructions.
    #[cfg(target_arch = "x86_64")]
    Fold(fold::Fold, x86_64::Sse42),
    /// Several records interleaved, SSE4.2 instructions.
    #[cfg(target_arch = "x86_64")]
    Sse42(x86_64::Sse42),
    /// Several records interleaved, instructions of the CRC extension.
    #[cfg(target_arch = "aarch64")]
    Crc(aarch64::ArmCrc),
}

/// Asks for the cache line at `place`, which is needed soon; it need not exist. Nothing
/// happens where the processor has no stable instruction for it.
#[inline(always)]
pub fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::_MM_HINT_T0;
        use core::arch::x86_64::_mm_prefetch;
        // SAFETY: SSE is part of x86-64, and a prefetch of any address reads nothing that a
        // program sees, and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Bytes from which on records are taken to come from memory and not from a core's own cache,
/// half a common one. Asking for memory ahead costs a tenth where it is there already.
const NEAR_LEN: usize = 256 << 10;

/// The records of a batch. Holders promise that all of them may be read.
trait Records: Copy {
    /// Where some of them begin.
    type Places<const N: usize>: Places;
    /// Takes the first `N` off: where they begin, and how many bytes each has. One of no
    /// bytes may lie anywhere.
    fn take<const N: usize>(&mut self) -> (Self::Places<N>, [usize; N]);
}

/// How memory is asked for ahead of records. It is known when the code is compiled, so that
/// no loop asks.
#[derive(Clone, Copy)]
enum Ahead {
    /// Not at all: they are few.
    Nothing,
    /// Line by line: there is nothing between them.
    InOrder,
    /// The lines of each.
    ByRecord,
}

/// Where records begin that are computed side by side.
trait Places: Copy {
    /// How memory is asked for ahead of them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // The version that folds asks.
    fn ahead(self) -> Ahead;
    /// Where record `i` of them begins.
    fn at(self, i: usize) -> *const u8;
    /// The same places, so many bytes on.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // As above.
    fn behind(self, len: usize) -> Self;
}

/// Records as far apart as each other: record `i` begins `i * stride` bytes behind `first`
/// and is `lens[i]` bytes long.
#[derive(Clone, Copy)]
struct Strided<'a, const AHEAD: u8> {
    area: Evenly<AHEAD>,
    lens: &'a [u32],
}

/// Places as far apart as each other: few numbers, which stay in registers.
#[derive(Clone, Copy)]
struct Evenly<const AHEAD: u8> {
    first: *const u8,
    stride: usize,
}

impl<const AHEAD: u8> Records for Strided<'_, AHEAD> {
    type Places<const N: usize> = Evenly<AHEAD>;

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> (Evenly<AHEAD>, [usize; N]) {
        let (lens, rest) = self.lens.split_first_chunk::<N>().expect("as many as are taken");
        let area = self.area;
        self.lens = rest;
        self.area.first = area.at(N);
        (area, lens.map(|len| len as usize))
    }
}

impl<const AHEAD: u8> Places for Evenly<AHEAD> {
    #[inline(always)]
    fn ahead(self) -> Ahead {
        match AHEAD {
            NOTHING => Ahead::Nothing,
            IN_ORDER => Ahead::InOrder,
            _ => Ahead::ByRecord,
        }
    }

    #[inline(always)]
    fn at(self, i: usize) -> *const u8 {
        self.first.wrapping_add(i.wrapping_mul(self.stride))
    }

    #[inline(always)]
    fn behind(self, len: usize) -> Evenly<AHEAD> {
        Evenly { first: self.first.wrapping_add(len), ..self }
    }
}

/// Records anywhere.
#[derive(Clone, Copy)]
struct Scattered<'a>(&'a [&'a [u8]]);

impl Records for Scattered<'_> {
    type Places<const N: usize> = [*const u8; N];

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> ([*const u8; N], [usize; N]) {
        let (all, rest) = self.0.split_first_chunk::<N>().expect("as many as are taken");
        self.0 = rest;
        (all.map(<[u8]>::as_ptr), all.map(<[u8]>::len))
    }
}

impl<const N: usize> Places for [*const u8; N] {
    #[inline(always)]
    fn ahead(self) -> Ahead {
        Ahead::Nothing
    }

    #[inline(always)]
    fn at(self, i: usize) -> *const u8 {
        self[i]
    }

    #[inline(always)]
    fn behind(self, len: usize) -> [*const u8; N] {
        self.map(|at| at.wrapping_add(len))
    }
}

/// What [`Ahead`] is to the compiler.
const NOTHING: u8 = 0;
const IN_ORDER: u8 = 1;
const BY_RECORD: u8 = 2;

/// Longest records that are asked for in order: longer ones are computed in parts.
const IN_ORDER_LEN: usize = 2048;

/// How memory is best asked for ahead of these.
fn way_ahead(stride: usize, lens: &[u32]) -> Ahead {
    let gap = |len: u32| stride.saturating_sub(len as usize);
    if lens.len().saturating_mul(stride) < NEAR_LEN {
        Ahead::Nothing
    } else if stride <= IN_ORDER_LEN && lens.first().is_some_and(|len| gap(*len) < 64) {
        // Of the first: whatever is asked for, the results are the same.
        Ahead::InOrder
    } else {
        Ahead::ByRecord
    }
}

impl ChecksumKernel {
    /// The fastest version for this processor.
    pub fn detect() -> ChecksumKernel {
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = x86_64::Sse42::detect() {
            let Some(fold) = fold::Fold::detect() else { return ChecksumKernel::Sse42(token) };
            return match wide::Wide::beyond(fold) {
                Some(wide) => ChecksumKernel::Wide(wide, token),
                None => ChecksumKernel::Fold(fold, token),
            };
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(token) = aarch64::ArmCrc::detect() {
            return ChecksumKernel::Crc(token);
        }
        ChecksumKernel::Portable
    }

    /// Every version that this processor can run, the fastest first.
    pub fn available() -> Vec<ChecksumKernel> {
        let mut all = vec![ChecksumKernel::Portable];
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = x86_64::Sse42::detect() {
            all.push(ChecksumKernel::Sse42(token));
            all.extend(fold::Fold::detect().map(|fold| ChecksumKernel::Fold(fold, token)));
            all.extend(wide::Wide::detect().map(|wide| ChecksumKernel::Wide(wide, token)));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(aarch64::ArmCrc::detect().map(ChecksumKernel::Crc));
        all.reverse();
        all
    }

    /// CRC32C of the bytes that gave `crc` followed by `bytes`.
    #[inline]
    pub fn append(self, crc: u32, bytes: &[u8]) -> u32 {
        match self {
            #[cfg(target_arch = "x86_64")]
            ChecksumKernel::Wide(wide, _) => wide.append(crc, bytes),
            #[cfg(target_arch = "x86_64")]
            ChecksumKernel::Fold(fold, _) if bytes.len() <= RUN_MAX => fold.append(crc, bytes),
            _ => crc32c::crc32c_append(crc, bytes),
        }
    }

    /// CRC32C of `front` followed by `bytes`.
    #[inline]
    pub fn behind<const N: usize>(self, front: &[u8; N], bytes: &[u8]) -> u32 {
        match self {
            #[cfg(target_arch = "x86_64")]
            ChecksumKernel::Wide(wide, _) => wide.behind(front, bytes),
            #[cfg(target_arch = "x86_64")]
            ChecksumKernel::Fold(fold, _) if bytes.len() <= RUN_MAX => fold.behind(front, bytes),
            _ => crc32c::crc32c_append(crc32c::crc32c(front), bytes),
        }
    }

    /// Name for logs and tables.
    pub const fn name(self) -> &'static str {
        match self {
            ChecksumKernel::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            ChecksumKernel::Wide(..) => "avx512",
            #[cfg(target_arch = "x86_64")]
            ChecksumKernel::Fold(..) => "vpclmulqdq",
            #[cfg(target_arch = "x86_64")]
            ChecksumKernel::Sse42(_) => "sse4.2",
            #[cfg(target_arch = "aarch64")]
            ChecksumKernel::Crc(_) => "crc",
        }
    }

    /// Writes CRC32C of record `i`, the `lens[i]` bytes of `area` from
    /// `i * stride` on, to `out[i]`.
    ///
    /// # Errors
    /// [`BatchError`] if a record does not lie in `area`; `out` is untouched.
    ///
    /// # Panics
    /// If `out` and `lens` are not of one length.
    pub fn batch(
        self,
        area: &[u8],
        stride: usize,
        lens: &[u32],
        out: &mut [u32],
    ) -> Result<(), BatchError> {
        check_batch(area.len(), stride, lens)?;
        assert_eq!(lens.len(), out.len(), "one checksum for each length");
        let first = area.as_ptr();
        match way_ahead(stride, lens) {
            Ahead::Nothing => {
                let records = Strided { area: Evenly::<NOTHING> { first, stride }, lens };
                // SAFETY: check_batch found every record inside `area`, which nobody
                // writes as long as it is borrowed; there are as many as results.
                unsafe { self.run::<Plain>(records, out) };
            }
            Ahead::InOrder => {
                let records = Strided { area: Evenly::<IN_ORDER> { first, stride }, lens };
                // SAFETY: as above.
                unsafe { self.run::<Plain>(records, out) };
            }
            Ahead::ByRecord => {
                let records = Strided { area: Evenly::<BY_RECORD> { first, stride }, lens };
                // SAFETY: as above.
                unsafe { self.run::<Plain>(records, out) };
            }
        }
        Ok(())
    }

    /// Writes CRC32C of each record to its place in `out`. They may lie anywhere and be of
    /// any lengths; those of one length that stand beside each other are fastest.
    ///
    /// # Panics
    /// If `out` and `records` are not of one length.
    pub fn each(self, records: &[&[u8]], out: &mut [u32]) {
        assert_eq!(records.len(), out.len(), "one checksum for each record");
        // SAFETY: nobody writes what is borrowed; there are as many records as results.
        unsafe { self.run::<Plain>(Scattered(records), out) };
    }

    /// Like [`batch`](Self::batch), for records in memory that others may write
    /// meanwhile, such as a mapped file.
    ///
    /// The memory is read by relaxed atomic loads of aligned words and never
    /// borrowed. The checksum of a record that is written meanwhile is of no
    /// use, as with a seqlock, but nothing else happens.
    ///
    /// # Panics
    /// If `out` and `lens` are not of one length.
    ///
    /// # Safety
    /// For each `i` the `lens[i]` bytes from `first + i * stride` on lie in one
    /// allocation or mapping with `first` and stay readable during the call.
    /// Other threads write them by atomic operations alone, if at all, and by
    /// such as this reads: aligned words of eight bytes, but aligned words of
    /// four, two or one where a record begins or ends within one of eight.
    pub unsafe fn batch_raw(self, first: *const u8, stride: usize, lens: &[u32], out: &mut [u32]) {
        assert_eq!(lens.len(), out.len(), "one checksum for each length");
        let records = Strided { area: Evenly::<BY_RECORD> { first, stride }, lens };
        // SAFETY: the caller promises the records; there are as many as results.
        unsafe { self.run::<Shared>(records, out) };
    }

    /// # Safety
    /// There is a record for each place of `out`, and all may be read through `L`.
    unsafe fn run<L: Load>(self, records: impl Records, out: &mut [u32]) {
        match self {
            // SAFETY: the caller promises readable records.
            ChecksumKernel::Portable => unsafe { portable::checksums::<L>(records, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above; nobody writes records that are read plainly.
            ChecksumKernel::Wide(wide, _) if L::WORD_ALIGN == 1 => unsafe {
                wide.checksums(records, out)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            ChecksumKernel::Fold(fold, _) if L::WORD_ALIGN == 1 => unsafe {
                fold.checksums(records, out)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            ChecksumKernel::Wide(_, token) | ChecksumKernel::Fold(_, token) => unsafe {
                token.checksums::<L>(records, out)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            ChecksumKernel::Sse42(token) => unsafe { token.checksums::<L>(records, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            ChecksumKernel::Crc(token) => unsafe { token.checksums::<L>(records, out) },
        }
    }
}

/// A way to find where two columns differ.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum DiffKernel {
    /// Blocks are compared whole, and item by item where they differ.
    Portable,
    /// Sixteen items a step, and a list for sixty-four: AVX-512 with VBMI2.
    #[cfg(target_arch = "x86_64")]
    Avx512Bytes(x86_64::Avx512Bytes),
    /// Sixteen items a step, AVX-512 instructions.
    #[cfg(target_arch = "x86_64")]
    Avx512(x86_64::Avx512),
    /// Eight items a step, AVX2 instructions.
    #[cfg(target_arch = "x86_64")]
    Avx2(x86_64::Avx2),
}

impl DiffKernel {
    /// The fastest version for this processor.
    pub fn detect() -> DiffKernel {
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = x86_64::Avx512Bytes::detect() {
            return DiffKernel::Avx512Bytes(token);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = x86_64::Avx512::detect() {
            return DiffKernel::Avx512(token);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = x86_64::Avx2::detect() {
            return DiffKernel::Avx2(token);
        }
        DiffKernel::Portable
    }

    /// Every version that this processor can run, the fastest first.
    pub fn available() -> Vec<DiffKernel> {
        let mut all = vec![DiffKernel::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(x86_64::Avx2::detect().map(DiffKernel::Avx2));
            all.extend(x86_64::Avx512::detect().map(DiffKernel::Avx512));
            all.extend(x86_64::Avx512Bytes::detect().map(DiffKernel::Avx512Bytes));
        }
        all.reverse();
        all
    }

    /// Name for logs and tables.
    pub const fn name(self) -> &'static str {
        match self {
            DiffKernel::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            DiffKernel::Avx512Bytes(_) => "avx512-vbmi2",
            #[cfg(target_arch = "x86_64")]
            DiffKernel::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            DiffKernel::Avx2(_) => "avx2",
        }
    }

    /// Appends `base + i` for each `i` at which the columns differ, ascending.
    /// See [`differing`](crate::kernel::differing).
    pub fn differing(self, ours: &[u32], theirs: &[u32], base: u32, out: &mut Vec<u32>) {
        match self {
            DiffKernel::Portable => portable::differing(ours, theirs, base, out),
            #[cfg(target_arch = "x86_64")]
            DiffKernel::Avx512Bytes(token) => token.differing(ours, theirs, base, out),
            #[cfg(target_arch = "x86_64")]
            DiffKernel::Avx512(token) => token.differing(ours, theirs, base, out),
            #[cfg(target_arch = "x86_64")]
            DiffKernel::Avx2(token) => token.differing(ours, theirs, base, out),
        }
    }

    /// The same for a column of little-endian bytes.
    /// See [`differing_le`](crate::kernel::differing_le).
    pub fn differing_le(self, ours: &[u32], theirs: &[u8], base: u32, out: &mut Vec<u32>) {
        let (theirs, _) = theirs.as_chunks::<4>();
        match self {
            DiffKernel::Portable => portable::differing(ours, theirs, base, out),
            #[cfg(target_arch = "x86_64")]
            DiffKernel::Avx512Bytes(token) => token.differing(ours, theirs, base, out),
            #[cfg(target_arch = "x86_64")]
            DiffKernel::Avx512(token) => token.differing(ours, theirs, base, out),
            #[cfg(target_arch = "x86_64")]
            DiffKernel::Avx2(token) => token.differing(ours, theirs, base, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicBool;
    use core::sync::atomic::AtomicU64;
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;

    const RECORDS: usize = 9;

    /// Words that any version may read while they are written.
    fn area(len: usize) -> Vec<AtomicU64> {
        let word = |i: u64| AtomicU64::new((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (0..len.div_ceil(8) as u64).map(word).collect()
    }

    fn bytes(area: &[AtomicU64]) -> Vec<u8> {
        area.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect()
    }

    #[test]
    fn shared_memory_gives_the_same_checksums_for_every_length_and_alignment() {
        let area = area(8 + RECORDS * 601);
        let bytes = bytes(&area);
        for len in 0..=600 {
            for skip in 0..8 {
                let part = &bytes[skip..skip + RECORDS * len];
                let expected: Vec<u32> = match len {
                    0 => vec![0; RECORDS],
                    _ => part.chunks(len).map(crc32c::crc32c).collect(),
                };
                for kernel in ChecksumKernel::available() {
                    let (lens, mut out) = ([len as u32; RECORDS], [0; RECORDS]);
                    let first = area.as_ptr().cast::<u8>().wrapping_add(skip);
                    // SAFETY: the records lie in `area`, which lives on.
                    unsafe { kernel.batch_raw(first, len, &lens, &mut out) };
                    assert_eq!(out[..], expected, "{}: {len} bytes at {skip}", kernel.name());
                }
            }
        }
    }

    #[test]
    fn records_that_are_written_meanwhile_do_not_spoil_their_neighbours() {
        let (area, stop) = (area(RECORDS * 64), AtomicBool::new(false));
        let expected: Vec<u32> = bytes(&area).chunks(64).map(crc32c::crc32c).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Bounded, so that a failure below ends the test too.
                for _ in 0..10_000_000 {
                    if stop.load(Relaxed) {
                        break;
                    }
                    area[8..16].iter().for_each(|word| {
                        word.fetch_add(1, Relaxed);
                    });
                }
            });
            for kernel in ChecksumKernel::available() {
                for _ in 0..1000 {
                    let mut out = [0; RECORDS];
                    // SAFETY: the records lie in `area`; the other thread writes
                    // them by atomic operations.
                    unsafe { kernel.batch_raw(area.as_ptr().cast(), 64, &[64; RECORDS], &mut out) };
                    assert_eq!(out[0], expected[0], "{}", kernel.name());
                    assert_eq!(out[2..], expected[2..], "{}", kernel.name());
                }
            }
            stop.store(true, Relaxed);
        });
    }
}
