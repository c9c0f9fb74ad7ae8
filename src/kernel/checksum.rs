//! CRC32C, of one run of bytes and of many records.
//!
//! One long run goes to the crate crc32c. A run of some hundred bytes is too short for
//! it: an instruction that takes three cycles waits for the one before. So half of it is
//! folded beside the instruction where the processor can (`arch::fold`), and the batch
//! kernels compute several records at once.

use core::error::Error;
use core::fmt;

use crate::kernel::ChecksumKernel;

/// Why a batch was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchError {
    /// A record does not lie in the area.
    Outside {
        /// Which record of the batch.
        record: usize,
        /// Bytes from the start of the area to the end of the record,
        /// `usize::MAX` if that is no number of this machine.
        end: usize,
        /// Length of the area in bytes.
        area_len: usize,
    },
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchError::Outside { record, end, area_len } => {
                write!(f, "record {record} ends at byte {end} of an area of {area_len} bytes")
            }
        }
    }
}

impl Error for BatchError {}

/// CRC32C (Castagnoli) of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_append(0, bytes)
}

/// CRC32C of the bytes that gave `crc` followed by `bytes`.
#[inline]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    ChecksumKernel::detect().append(crc, bytes)
}

/// CRC32C of `front` followed by `bytes`: of a short head and what lies elsewhere.
#[inline]
pub fn crc32c_behind<const N: usize>(front: &[u8; N], bytes: &[u8]) -> u32 {
    ChecksumKernel::detect().behind(front, bytes)
}

/// Writes CRC32C of record `i`, the `lens[i]` bytes of `area` from `i * stride`
/// on, to `out[i]`, by the fastest version for this processor.
///
/// For memory that others may write see [`ChecksumKernel::batch_raw`].
///
/// # Errors
/// [`BatchError`] if a record does not lie in `area`; `out` is untouched.
///
/// # Panics
/// If `out` and `lens` are not of one length.
pub fn crc32c_batch(
    area: &[u8],
    stride: usize,
    lens: &[u32],
    out: &mut [u32],
) -> Result<(), BatchError> {
    ChecksumKernel::detect().batch(area, stride, lens, out)
}

/// Writes CRC32C of each record to its place in `out`, by the fastest version for this
/// processor: see [`ChecksumKernel::each`].
///
/// # Panics
/// If `out` and `records` are not of one length.
#[inline]
pub fn crc32c_each(records: &[&[u8]], out: &mut [u32]) {
    ChecksumKernel::detect().each(records, out);
}

/// Finds the first record that does not lie in an area of `area_len` bytes.
pub(super) fn check_batch(area_len: usize, stride: usize, lens: &[u32]) -> Result<(), BatchError> {
    // Nearly always the longest would fit even at the end, which vectors find out.
    let longest = lens.iter().fold(0, |longest: u32, len| longest.max(*len)) as usize;
    let last = lens.len().saturating_sub(1).saturating_mul(stride);
    if last.saturating_add(longest) <= area_len {
        return Ok(());
    }
    for (record, len) in lens.iter().enumerate() {
        let end = record.saturating_mul(stride).saturating_add(*len as usize);
        if end > area_len {
            return Err(BatchError::Outside { record, end, area_len });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plain definition, bit by bit.
    fn reference(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
    }

    /// Bytes without a pattern that a mistake could hide behind.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// Runs every version over the records that begin at `skip`.
    fn check(area: &[u8], skip: usize, stride: usize, lens: &[u32]) {
        let area = &area[skip..];
        let expected: Vec<u32> = (0..lens.len())
            .map(|i| reference(&area[i * stride..i * stride + lens[i] as usize]))
            .collect();
        for kernel in ChecksumKernel::available() {
            let mut out = vec![0; lens.len()];
            kernel.batch(area, stride, lens, &mut out).expect("the records lie in the area");
            assert_eq!(out, expected, "{} at {skip}, {stride} apart", kernel.name());
            let each: Vec<&[u8]> = lens
                .iter()
                .enumerate()
                .map(|(i, len)| &area[i * stride..][..*len as usize])
                .collect();
            let mut out = vec![7; lens.len()];
            kernel.each(&each, &mut out);
            assert_eq!(out, expected, "{} each, at {skip}", kernel.name());
        }
    }

    #[test]
    fn the_reference_gives_the_published_check_values() {
        assert_eq!(reference(b"123456789"), 0xe306_9283);
        // RFC 3720, B.4: 32 bytes of zeros, of ones, and ascending.
        assert_eq!(reference(&[0; 32]), 0x8a91_36aa);
        assert_eq!(reference(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(reference(&core::array::from_fn::<u8, 32, _>(|i| i as u8)), 0x46dd_794e);
    }

    #[test]
    fn one_run_equals_the_reference_whole_and_in_two_parts() {
        let bytes = noise(1_300);
        for kernel in ChecksumKernel::available() {
            for len in (0..=600).chain(990..=1_300) {
                let expected = reference(&bytes[..len]);
                let (a, b) = bytes[..len].split_at(len / 3);
                let of_parts = kernel.append(kernel.append(0, a), b);
                assert_eq!(kernel.append(0, &bytes[..len]), expected, "{}: {len}", kernel.name());
                assert_eq!(of_parts, expected, "{}: {len} in two parts", kernel.name());
            }
        }
        assert_eq!(crc32c_append(crc32c(b"1234"), b"56789"), 0xe306_9283);
    }

    #[test]
    fn a_long_run_equals_the_reference() {
        let bytes = noise(6_300);
        for len in (2_000..2_200).chain(4_090..4_180).chain(6_140..6_220) {
            let expected = reference(&bytes[..len]);
            for kernel in ChecksumKernel::available() {
                assert_eq!(kernel.append(0, &bytes[..len]), expected, "{}: {len}", kernel.name());
            }
        }
    }

    #[test]
    fn a_run_behind_a_head_equals_the_reference() {
        fn check<const N: usize>(bytes: &[u8]) {
            let (front, _) = bytes.split_first_chunk::<N>().unwrap();
            for kernel in ChecksumKernel::available() {
                for len in (0..=300).chain(1_020..=1_030) {
                    for skip in 0..8 {
                        let (first, last) = (N + skip, N + skip + len);
                        let expected = reference(&[front, &bytes[first..last]].concat());
                        let found = kernel.behind(front, &bytes[first..last]);
                        assert_eq!(found, expected, "{}: {len} behind {N}", kernel.name());
                    }
                }
            }
            assert_eq!(crc32c_behind(front, &bytes[N..N + 9]), reference(&bytes[..N + 9]));
        }
        let bytes = noise(1_100);
        check::<0>(&bytes);
        check::<3>(&bytes);
        check::<8>(&bytes);
        check::<20>(&bytes);
        check::<23>(&bytes);
    }

    #[test]
    fn every_version_equals_the_reference_for_every_length_and_alignment() {
        let bytes = noise(8 + 9 * 601);
        for len in 0..=600 {
            for skip in 0..8 {
                // No byte behind the last record: reading one would show.
                let area = bytes[..skip + 9 * len].to_vec();
                check(&area, skip, len, &[len as u32; 9]);
            }
        }
    }

    /// The crate's result stands for the reference, which takes long for so many bytes.
    #[test]
    fn every_version_takes_long_records_in_parts() {
        let bytes = noise(8 + 9 * 6_000);
        let around = |len: usize| len - 33..=len + 65;
        for len in [1_024, 2_048, 4_096].into_iter().flat_map(around) {
            let (skip, lens) = (len % 8, [len as u32; 9]);
            let area = &bytes[skip..skip + 9 * len];
            let expected: Vec<u32> = area.chunks(len).map(crc32c).collect();
            for kernel in ChecksumKernel::available() {
                let mut out = [0; 9];
                kernel.batch(area, len, &lens, &mut out).expect("the records lie in the area");
                assert_eq!(out[..], expected, "{}: {len} bytes", kernel.name());
            }
        }
    }

    #[test]
    fn every_version_equals_the_reference_for_every_count_and_mixed_lengths() {
        let bytes = noise(8 + 40 * 320);
        for count in 0..40 {
            let lens: Vec<u32> = bytes[count..].iter().take(count).map(|b| u32::from(*b)).collect();
            for skip in 0..8 {
                check(&bytes, skip, 320, &lens);
                check(&bytes, skip, 13, &lens);
                check(&bytes, skip, 0, &lens);
            }
        }
    }

    /// So many that memory is asked for ahead, in groups of every number that is left.
    #[test]
    fn every_version_equals_the_crate_for_many_records_and_long_ones_of_any_length() {
        let bytes = noise(520 * 2_200 + 8);
        // With nothing between them, and apart; and some that are computed one by one.
        let strides = [(1_024, 1_020), (1_100, 1_020), (2_200, 2_190)];
        let counts = (500..517).chain(0..17);
        for (count, (stride, longest)) in counts.flat_map(|n| strides.map(|stride| (n, stride))) {
            for mixed in [false, true] {
                let len = |i: usize| if mixed && i % 7 > 3 { i * 131 % 1_025 } else { longest };
                let lens: Vec<u32> = (0..count).map(|i| len(i) as u32).collect();
                let area = &bytes[count % 8..];
                let record = |(i, len): (usize, &u32)| &area[i * stride..][..*len as usize];
                let each: Vec<&[u8]> = lens.iter().enumerate().map(record).collect();
                let expected: Vec<u32> = each.iter().map(|record| crc32c(record)).collect();
                for kernel in ChecksumKernel::available() {
                    let mut out = vec![0; count];
                    kernel
                        .batch(area, stride, &lens, &mut out)
                        .expect("the records lie in the area");
                    assert_eq!(out, expected, "{}: {count} records", kernel.name());
                    out.fill(0);
                    kernel.each(&each, &mut out);
                    assert_eq!(out, expected, "{} each: {count} records", kernel.name());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "one checksum for each record")]
    fn results_of_another_number_are_a_mistake_of_the_caller() {
        crc32c_each(&[&[0; 64], &[0; 32]], &mut [0]);
    }

    #[test]
    fn a_record_outside_the_area_is_refused_and_nothing_is_written() {
        let area = [0; 64];
        let mut out = [7; 2];
        let error = crc32c_batch(&area, 32, &[32, 33], &mut out);
        assert_eq!(error, Err(BatchError::Outside { record: 1, end: 65, area_len: 64 }));
        assert_eq!(out, [7; 2]);
        let error = crc32c_batch(&area, usize::MAX, &[1, 0], &mut out).map_err(|e| e.to_string());
        let end = usize::MAX;
        assert_eq!(error, Err(format!("record 1 ends at byte {end} of an area of 64 bytes")));
    }

    #[test]
    #[should_panic(expected = "one checksum for each length")]
    fn a_result_of_another_length_is_a_mistake_of_the_caller() {
        let _ = crc32c_batch(&[0; 64], 32, &[32, 32], &mut [0]);
    }
}
