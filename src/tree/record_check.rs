//! One record as bytes: what makes it whole, and what is wrong when it is not.

use core::fmt;

use zerocopy::FromBytes;

use crate::layout::DataLocId;
use crate::layout::RecordHead;
use crate::layout::Revision;
use crate::tree::record::leaf_checksum;

/// A leaf as it was read, borrowed from the reader's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafView<'a> {
    /// Location of the leaf.
    pub data_loc_id: DataLocId,
    /// 1 if the leaf changed since it was last sent, otherwise 0.
    pub change_flag: u32,
    /// Number of the change that brought this Data, 0 if there was none.
    pub revision: Revision,
    /// CRC32C over the part of the leaf that travels, behind this field.
    pub checksum: u32,
    /// DataSize bytes.
    pub data: &'a [u8],
    /// Where it was found.
    pub origin: Origin,
}

/// Where a leaf was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In its record.
    Record,
    /// In the undo slot: its record is one that a crash left half written.
    Undo,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeafDamage {
    /// The seqlock is odd and stays so: a write was begun and never ended.
    Torn {
        /// The seqlock.
        seq: u32,
    },
    /// DataSize is larger than the capacity.
    DataSize {
        /// The capacity.
        max: u32,
        /// DataSize.
        found: u32,
    },
    /// The checksum is not that of the leaf.
    Checksum {
        /// CRC32C of what is there.
        wanted: u32,
        /// The checksum field.
        found: u32,
    },
    /// The record says that it is another leaf's.
    DataLocId {
        /// Its DataLocID field.
        found: u32,
    },
    /// The ChangeFlag is neither 0 nor 1.
    ChangeFlag {
        /// The ChangeFlag.
        found: u32,
    },
    /// Reserved bytes are not zero.
    Reserved {
        /// What they hold.
        found: u32,
    },
    /// A byte behind DataSize is not zero.
    Tail {
        /// Its offset in Data.
        offset: u32,
        /// DataSize.
        data_size: u32,
    },
}

impl fmt::Display for LeafDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeafDamage::Torn { seq } => write!(f, "seq: wanted an even number, found {seq}"),
            LeafDamage::DataSize { max, found } => {
                write!(f, "data_size: wanted at most {max}, found {found}")
            }
            LeafDamage::Checksum { wanted, found } => {
                write!(f, "checksum: wanted {wanted:08x}, found {found:08x}")
            }
            LeafDamage::DataLocId { found } => {
                write!(f, "data_loc_id: wanted that of the place, found {found}")
            }
            LeafDamage::ChangeFlag { found } => {
                write!(f, "change_flag: wanted 0 or 1, found {found}")
            }
            LeafDamage::Reserved { found } => write!(f, "reserved: wanted 0, found {found}"),
            LeafDamage::Tail { offset, data_size } => {
                write!(f, "data: wanted zeros from {data_size} on, found another byte at {offset}")
            }
        }
    }
}

/// Reads a record, and all of it: `record` ends where the next one begins.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub(super) fn check_record(
    record: &[u8],
    leaf: DataLocId,
    capacity: u32,
) -> Result<LeafView<'_>, LeafDamage> {
    let Ok((head, room)) = RecordHead::ref_from_prefix(record) else {
        // Strides are larger than a head; an undo slot may hold less.
        return Err(LeafDamage::DataSize { max: 0, found: capacity });
    };
    let (seq, data_size) = (head.seq.get(), head.leaf.data_size.get());
    if seq % 2 == 1 {
        return Err(LeafDamage::Torn { seq });
    }
    let max = capacity.min(room.len().try_into().unwrap_or(u32::MAX));
    let outside = LeafDamage::DataSize { max, found: data_size };
    if data_size > max {
        return Err(outside);
    }
    let (data, tail) = room.split_at_checked(data_size as usize).ok_or(outside)?;
    let (wanted, found) = (leaf_checksum(&head.leaf, data), head.leaf.checksum.get());
    if wanted != found {
        return Err(LeafDamage::Checksum { wanted, found });
    }
    check_rest(head, leaf, tail)?;
    Ok(LeafView {
        data_loc_id: leaf,
        change_flag: head.change_flag.get(),
        revision: Revision(head.leaf.revision.get()),
        checksum: found,
        data,
        origin: Origin::Record,
    })
}

fn check_rest(head: &RecordHead, leaf: DataLocId, tail: &[u8]) -> Result<(), LeafDamage> {
    if head.leaf.data_loc_id.get() != leaf.0 {
        return Err(LeafDamage::DataLocId { found: head.leaf.data_loc_id.get() });
    }
    if head.change_flag.get() > 1 {
        return Err(LeafDamage::ChangeFlag { found: head.change_flag.get() });
    }
    if head.leaf.reserved.get() != 0 {
        return Err(LeafDamage::Reserved { found: head.leaf.reserved.get() });
    }
    let data_size = head.leaf.data_size.get();
    match first_nonzero(tail) {
        Some(place) => Err(LeafDamage::Tail { offset: data_size + place as u32, data_size }),
        None => Ok(()),
    }
}

/// Position of the first byte that is not zero.
pub(super) fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    // Sixteen bytes at a time: a search byte by byte took longer than the CRC.
    let (chunks, rest) = bytes.as_chunks::<16>();
    let zeros = chunks.iter().take_while(|chunk| u128::from_ne_bytes(**chunk) == 0).count();
    let behind = chunks.get(zeros).map_or(rest, |chunk| chunk);
    behind.iter().position(|byte| *byte != 0).map(|place| zeros * 16 + place)
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::tree::record::leaf_head;

    fn record(data: &[u8], stride: usize) -> Vec<u8> {
        let mut record = vec![0; stride];
        record[32..32 + data.len()].copy_from_slice(data);
        let leaf = leaf_head(DataLocId(5), Revision(9), data);
        record[8..32].copy_from_slice(leaf.as_bytes());
        record
    }

    fn seal(record: &mut [u8], data_size: usize) {
        let checksum = crc32c::crc32c(&record[12..32 + data_size]);
        record[8..12].copy_from_slice(&checksum.to_le_bytes());
    }

    #[test]
    fn a_whole_record_is_read() {
        let bytes = record(b"abc", 64);
        let view = check_record(&bytes, DataLocId(5), 20).unwrap();
        assert_eq!(view.checksum, leaf_head(DataLocId(5), Revision(9), b"abc").checksum.get());
        assert_eq!((view.data, view.revision, view.change_flag), (&b"abc"[..], Revision(9), 0));
    }

    #[test]
    fn each_damage_is_told_apart() {
        let whole = record(b"abc", 64);
        let check = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = whole.clone();
            change(&mut bytes);
            check_record(&bytes, DataLocId(5), 20).unwrap_err()
        };
        assert_eq!(check(&|b| b[0] = 3), LeafDamage::Torn { seq: 3 });
        assert_eq!(check(&|b| b[12] = 21), LeafDamage::DataSize { max: 20, found: 21 });
        assert!(matches!(check(&|b| b[33] ^= 1), LeafDamage::Checksum { .. }));
        assert_eq!(check(&|b| b[4] = 2), LeafDamage::ChangeFlag { found: 2 });
        assert_eq!(check(&|b| b[63] = 1), LeafDamage::Tail { offset: 31, data_size: 3 });
        let other = |b: &mut Vec<u8>| {
            b[16] = 6;
            seal(b, 3);
        };
        assert_eq!(check(&other), LeafDamage::DataLocId { found: 6 });
        let reserved = |b: &mut Vec<u8>| {
            b[20] = 1;
            seal(b, 3);
        };
        assert_eq!(check(&reserved), LeafDamage::Reserved { found: 1 });
        assert!(matches!(check(&|b| b.truncate(31)), LeafDamage::DataSize { .. }));
    }

    #[test]
    fn the_first_byte_that_is_not_zero_is_found_at_every_place() {
        for len in 0..70 {
            assert_eq!(first_nonzero(&vec![0; len]), None);
            for place in 0..len {
                let mut bytes = vec![0; len];
                bytes[place..].fill(7);
                assert_eq!(first_nonzero(&bytes), Some(place));
            }
        }
    }
}
