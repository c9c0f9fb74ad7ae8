//! A record as an inspector reads it: whole, or damaged and how.

use core::fmt;

use crate::layout::DataLocId;
use crate::layout::RecordHead;
use crate::layout::Revision;
use crate::tree::record::RecordFault;
use crate::tree::record::verify_lent;
use crate::tree::record::verify_summed;

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

impl LeafView<'_> {
    /// Whether the leaf is as a new tree has it: never written, no ChangeFlag.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.change_flag == 0 && self.revision == Revision::ZERO
    }
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
    /// The record breaks a rule of the format.
    Record(RecordFault),
}

impl fmt::Display for LeafDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeafDamage::Torn { seq } => write!(f, "seq {seq}, expected an even number"),
            LeafDamage::Record(fault) => fault.fmt(f),
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
    check_by(record, leaf, || verify_lent(record, leaf, capacity))
}

/// [`check_record`] of a record whose checksum was computed by `sum_records`.
pub(super) fn check_summed(
    record: &[u8],
    leaf: DataLocId,
    capacity: u32,
    sum: u32,
) -> Result<LeafView<'_>, LeafDamage> {
    check_by(record, leaf, || verify_summed(record, leaf, capacity, sum))
}

#[inline]
fn check_by<'r>(
    record: &'r [u8],
    leaf: DataLocId,
    verify: impl FnOnce() -> Result<&'r RecordHead, RecordFault>,
) -> Result<LeafView<'r>, LeafDamage> {
    // Too short a record has no seq; verifying it says so.
    let seq = record.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if seq % 2 == 1 {
        return Err(LeafDamage::Torn { seq });
    }
    let head = verify().map_err(LeafDamage::Record)?;
    let end = RecordHead::DATA_OFFSET + head.leaf.data_size.get() as usize;
    Ok(LeafView {
        data_loc_id: leaf,
        change_flag: head.change_flag.get(),
        revision: Revision(head.leaf.revision.get()),
        checksum: head.leaf.checksum.get(),
        // Verified: the record is as long as its head says.
        data: record.get(RecordHead::DATA_OFFSET..end).unwrap_or_default(),
        origin: Origin::Record,
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::tree::record::leaf_head;

    fn record() -> Vec<u8> {
        let mut record = vec![0; 64];
        record[8..32].copy_from_slice(leaf_head(DataLocId(5), Revision(9), b"abc").as_bytes());
        record[32..35].copy_from_slice(b"abc");
        record
    }

    #[test]
    fn a_whole_record_is_read() {
        let bytes = record();
        let view = check_record(&bytes, DataLocId(5), 20).unwrap();
        assert_eq!((view.data, view.revision, view.change_flag), (&b"abc"[..], Revision(9), 0));
    }

    #[test]
    fn each_damage_is_told_apart() {
        let check = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = record();
            change(&mut bytes);
            check_record(&bytes, DataLocId(5), 20).unwrap_err()
        };
        assert_eq!(check(&|b| b[0] = 3), LeafDamage::Torn { seq: 3 });
        let fault = RecordFault::DataSize { found: 21, capacity: 20 };
        assert_eq!(check(&|b| b[12] = 21), LeafDamage::Record(fault));
        let fault = RecordFault::Short { found: 3 };
        assert_eq!(check(&|b| b.truncate(3)), LeafDamage::Record(fault));
        let reserved = |b: &mut Vec<u8>| {
            b[20] = 1;
            let checksum = crate::kernel::crc32c(&b[12..35]);
            b[8..12].copy_from_slice(&checksum.to_le_bytes());
        };
        let fault = RecordFault::Reserved { found: 1 };
        assert_eq!(check(&reserved), LeafDamage::Record(fault));
    }
}
