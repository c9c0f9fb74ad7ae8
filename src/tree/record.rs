//! One leaf record as bytes: made, and verified.

use core::fmt;
use core::mem::offset_of;

use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::kernel::crc32c;
use crate::kernel::crc32c_append;
use crate::kernel::crc32c_batch;
use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::RecordHead;
use crate::layout::Revision;

/// Length of the checksum field, which the checksum does not cover.
const CHECKSUM_LEN: usize = size_of::<U32>();

/// Offset of ChangeFlag in a record.
pub(crate) const CHANGE_FLAG_AT: usize = offset_of!(RecordHead, change_flag);

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordFault {
    /// The record is shorter than its head, or than the head says.
    Short {
        /// Bytes there are.
        found: usize,
    },
    /// Another leaf's record, or none.
    Place {
        /// DataLocID in the record.
        found: u32,
    },
    /// DataSize exceeds the capacity.
    DataSize {
        /// DataSize in the record.
        found: u32,
        /// Most bytes of Data.
        capacity: u32,
    },
    /// The checksum is not that of the leaf.
    Checksum {
        /// Computed from the leaf.
        expected: u32,
        /// In the record.
        found: u32,
    },
    /// ChangeFlag is neither 0 nor 1.
    ChangeFlag {
        /// ChangeFlag in the record.
        found: u32,
    },
    /// Reserved bytes of the leaf are not zero.
    Reserved {
        /// What they hold.
        found: u32,
    },
    /// A byte behind DataSize is not zero.
    NotZero,
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordFault::Short { found } => write!(f, "the record is cut off at {found} bytes"),
            RecordFault::Place { found } => write!(f, "its record names leaf {found}"),
            RecordFault::DataSize { found, capacity } => {
                write!(f, "data_size {found} exceeds the capacity of {capacity}")
            }
            RecordFault::Checksum { expected, found } => {
                write!(f, "checksum {found:#010x}, expected {expected:#010x}")
            }
            RecordFault::ChangeFlag { found } => {
                write!(f, "change_flag {found}, expected 0 or 1")
            }
            RecordFault::Reserved { found } => write!(f, "reserved {found}, expected 0"),
            RecordFault::NotZero => write!(f, "bytes behind data_size are not zero"),
        }
    }
}

impl std::error::Error for RecordFault {}

/// CRC32C of a leaf: over everything behind the checksum, to the end of Data.
pub fn leaf_checksum(head: &LeafHead, data: &[u8]) -> u32 {
    let (_, covered) = head.as_bytes().split_at(CHECKSUM_LEN);
    crc32c_append(crc32c(covered), data)
}

/// The head of a leaf with this Data, its checksum computed.
pub fn leaf_head(leaf: DataLocId, revision: Revision, data: &[u8]) -> LeafHead {
    let mut head = LeafHead {
        checksum: U32::new(0),
        // Data is no longer than a capacity, which is far below a u32.
        data_size: U32::new(data.len() as u32),
        data_loc_id: U32::new(leaf.0),
        reserved: U32::new(0),
        revision: U64::new(revision.0),
    };
    head.checksum = U32::new(leaf_checksum(&head, data));
    head
}

/// The head of a leaf that was never written.
pub(crate) fn empty_head(leaf: DataLocId) -> LeafHead {
    leaf_head(leaf, Revision::ZERO, &[])
}

/// Records that are verified together: of 256 B they are half of a small L1, and their
/// heads are looked at twice.
const TOGETHER: usize = 64;

/// Verifies the bytes of a record, the filling behind Data included, and gives
/// its head. Any bytes may be fed to it; it neither panics nor allocates.
///
/// # Errors
///
/// The first rule of docs/FORMAT.md, section 9, that the record breaks.
pub fn verify_record(
    record: &[u8],
    leaf: DataLocId,
    capacity: u32,
) -> Result<RecordHead, RecordFault> {
    verify_lent(record, leaf, capacity).copied()
}

/// [`verify_record`], with the head where it lies.
pub(crate) fn verify_lent(
    record: &[u8],
    leaf: DataLocId,
    capacity: u32,
) -> Result<&RecordHead, RecordFault> {
    verify_by(record, leaf, capacity, leaf_checksum)
}

/// Verifies records of one parent that lie one behind the other, `first` in front, as
/// [`verify_record`] does, and hands on what it says of each, in order.
///
/// `records` is a multiple of `stride` long, which is what the capacity takes at least.
pub(crate) fn verify_records(
    records: &[u8],
    stride: usize,
    first: DataLocId,
    capacity: u32,
    mut take: impl FnMut(usize, Result<&RecordHead, RecordFault>),
) {
    let mut sums = [0; TOGETHER];
    for (group, records) in records.chunks(stride * TOGETHER).enumerate() {
        let sums = sums_of(records, stride, capacity, &mut sums);
        for (i, (record, sum)) in records.chunks_exact(stride).zip(sums).enumerate() {
            let index = group * TOGETHER + i;
            // No more records than there are leaves.
            let leaf = DataLocId(first.0.wrapping_add(index as u32));
            take(index, verify_summed(record, leaf, capacity, *sum));
        }
    }
}

/// Computes the checksums of records that lie one behind the other, for
/// [`verify_summed`].
pub(crate) fn sum_records(records: &[u8], stride: usize, capacity: u32, out: &mut Vec<u32>) {
    out.clear();
    let mut sums = [0; TOGETHER];
    for records in records.chunks(stride * TOGETHER) {
        out.extend_from_slice(sums_of(records, stride, capacity, &mut sums));
    }
}

/// [`verify_record`] of a record whose checksum was computed.
#[inline]
pub(crate) fn verify_summed(
    record: &[u8],
    leaf: DataLocId,
    capacity: u32,
    sum: u32,
) -> Result<&RecordHead, RecordFault> {
    verify_by(record, leaf, capacity, |_, _| sum)
}

/// Checksums of up to [`TOGETHER`] records as long as their heads say, which is not believed
/// before it is compared with the capacity: 0 for one that says more.
fn sums_of<'s>(
    records: &[u8],
    stride: usize,
    capacity: u32,
    sums: &'s mut [u32; TOGETHER],
) -> &'s [u32] {
    let most = (capacity as usize).min(stride - RecordHead::DATA_OFFSET);
    let mut lens = [0; TOGETHER];
    let mut count = 0;
    for (len, record) in lens.iter_mut().zip(records.chunks_exact(stride)) {
        *len = match RecordHead::ref_from_prefix(record) {
            Ok((head, _)) if head.leaf.data_size.get() as usize <= most => {
                (RecordHead::DATA_OFFSET - RecordHead::CHECKED_OFFSET) as u32
                    + head.leaf.data_size.get()
            }
            _ => 0,
        };
        count += 1;
    }
    let covered = records.get(RecordHead::CHECKED_OFFSET..).unwrap_or_default();
    crc32c_batch(covered, stride, &lens[..count], &mut sums[..count])
        .expect("what a head may say lies in its record");
    &sums[..count]
}

/// Verifies a record, its checksum by `checksum`.
///
/// The head is lent: copies of it in a `Result` have no alignment, and took a third of the
/// time of an opening.
#[inline]
fn verify_by(
    record: &[u8],
    leaf: DataLocId,
    capacity: u32,
    checksum: impl FnOnce(&LeafHead, &[u8]) -> u32,
) -> Result<&RecordHead, RecordFault> {
    let short = RecordFault::Short { found: record.len() };
    let (head, behind) = RecordHead::ref_from_prefix(record).map_err(|_| short)?;
    if head.leaf.data_loc_id.get() != leaf.0 {
        return Err(RecordFault::Place { found: head.leaf.data_loc_id.get() });
    }
    let data_size = head.leaf.data_size.get();
    if data_size > capacity {
        return Err(RecordFault::DataSize { found: data_size, capacity });
    }
    let (data, filling) = behind.split_at_checked(data_size as usize).ok_or(short)?;
    let expected = checksum(&head.leaf, data);
    if expected != head.leaf.checksum.get() {
        return Err(RecordFault::Checksum { expected, found: head.leaf.checksum.get() });
    }
    if head.change_flag.get() > 1 {
        return Err(RecordFault::ChangeFlag { found: head.change_flag.get() });
    }
    if head.leaf.reserved.get() != 0 {
        return Err(RecordFault::Reserved { found: head.leaf.reserved.get() });
    }
    if filling.iter().fold(0, |any, byte| any | byte) != 0 {
        return Err(RecordFault::NotZero);
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(data: &[u8], stride: usize) -> Vec<u8> {
        let leaf = leaf_head(DataLocId(7), Revision(9), data);
        let head = RecordHead { seq: U32::new(4), change_flag: U32::new(1), leaf };
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(stride, 0);
        bytes
    }

    #[test]
    fn every_flipped_bit_that_matters_is_found() {
        let good = record(b"hello leaf", 64);
        assert_eq!(verify_record(&good, DataLocId(7), 32).unwrap().leaf.revision.get(), 9);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let result = verify_record(&bad, DataLocId(7), 32);
            // seq may be anything; the lowest bit of ChangeFlag is its value.
            let free = bit <= 32;
            assert_eq!(result.is_ok(), free, "bit {bit}: {result:?}");
        }
    }

    #[test]
    fn the_fault_is_named() {
        let good = record(&[1; 32], 64);
        assert_eq!(verify_record(&good, DataLocId(8), 32), Err(RecordFault::Place { found: 7 }));
        assert_eq!(
            verify_record(&good, DataLocId(7), 31),
            Err(RecordFault::DataSize { found: 32, capacity: 31 })
        );
        for len in 0..64 {
            let result = verify_record(&good[..len], DataLocId(7), 32);
            assert_eq!(result, Err(RecordFault::Short { found: len }));
        }
        let zeros = [0; 64];
        assert!(matches!(
            verify_record(&zeros, DataLocId(0), 32),
            Err(RecordFault::Checksum { found: 0, .. })
        ));
    }

    /// One of every fault, none, and many.
    #[test]
    fn records_verified_together_are_judged_as_each_alone() {
        let (stride, capacity) = (128, 90);
        let mut state = 1_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 33) % below
        };
        for count in (0..6).chain(60..70).chain([200]) {
            let mut records = Vec::new();
            for leaf in 0..count {
                // Of one length mostly, so that groups of equal and of unequal ones come.
                let len = if leaf % 32 < 16 { 90 } else { random(91) };
                let data = vec![leaf as u8; len as usize];
                let head = leaf_head(DataLocId(leaf as u32 + 5), Revision(9), &data);
                records.extend([0; 8]);
                records.extend(head.as_bytes());
                records.extend(data);
                records.resize((leaf as usize + 1) * stride, 0);
            }
            for round in 0..50 {
                if round > 0 && count > 0 {
                    // In the head for the most part.
                    let at =
                        random(count) * 128 + if round % 4 == 0 { random(128) } else { random(32) };
                    records[at as usize] ^= 1 << random(8);
                }
                let alone: Vec<_> = (records.chunks(stride).zip(5..))
                    .map(|(record, leaf)| verify_record(record, DataLocId(leaf), capacity))
                    .collect();
                let mut together = Vec::new();
                verify_records(&records, stride, DataLocId(5), capacity, |index, outcome| {
                    assert_eq!(index, together.len());
                    together.push(outcome.copied());
                });
                assert_eq!(together, alone, "{count} records");
                let mut sums = vec![7; 3];
                sum_records(&records, stride, capacity, &mut sums);
                let summed: Vec<_> = (records.chunks(stride).zip(5..).zip(&sums))
                    .map(|((record, leaf), sum)| {
                        verify_summed(record, DataLocId(leaf), capacity, *sum)
                    })
                    .map(|outcome| outcome.copied())
                    .collect();
                assert_eq!((summed, sums.len()), (alone, count as usize), "{count} records");
                assert!(round > 0 || together.iter().all(Result::is_ok));
            }
        }
    }

    #[test]
    fn an_empty_leaf_has_the_checksum_of_twenty_bytes() {
        let mut covered = [0; 20];
        covered[4..8].copy_from_slice(&5u32.to_le_bytes());
        assert_eq!(empty_head(DataLocId(5)).checksum.get(), crc32c(&covered));
    }
}
