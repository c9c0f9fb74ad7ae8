//! The leaf record: its head, and the part of it that travels.
//!
//! ```text
//! record   0      4          8         12        16         20        24        32
//!          | seq  | Change-  | checksum| DataSize| DataLocID| reserved| revision| Data ...
//!          |      | Flag     |         |         |          |         |         |
//! wire                       0         4         8          12        16        24
//! ```

use core::mem::size_of;

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::limits::LEAF_ALIGN;
use crate::layout::limits::STRIDE_ALIGN;

/// Head of a leaf as it travels and as it lies in its record, byte for byte.
/// Data follows it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LeafHead {
    /// CRC32C over everything behind this field to the end of Data.
    pub checksum: U32,
    /// Bytes of Data (claim 2).
    pub data_size: U32,
    /// Location of the leaf (claim 2).
    pub data_loc_id: U32,
    /// Zero.
    pub reserved: U32,
    /// Number of the change that brought this Data, 0 if there was none.
    pub revision: U64,
}

/// Head of a leaf record in the file. Data follows it; bytes behind DataSize are
/// zero up to the stride.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RecordHead {
    /// Seqlock: odd while the record is written. Wraps safely: a reader compares
    /// for equality over the microseconds of one read.
    pub seq: U32,
    /// 1 if the leaf changed since it was last sent, otherwise 0 (claim 2). It
    /// never travels (claim 1).
    pub change_flag: U32,
    /// The part that travels.
    pub leaf: LeafHead,
}

impl RecordHead {
    /// Offset of the part that travels.
    pub const WIRE_OFFSET: usize = 8;
    /// Offset of the part that the checksum covers.
    pub const CHECKED_OFFSET: usize = 12;
    /// Offset of Data.
    pub const DATA_OFFSET: usize = size_of::<RecordHead>();
}

/// Bytes that a leaf with `data_size` bytes of Data takes in a datagram, its
/// filling to the next multiple of 8 included.
pub const fn leaf_wire_len(data_size: usize) -> usize {
    (size_of::<LeafHead>() + data_size).next_multiple_of(LEAF_ALIGN)
}

/// Stride of records that hold up to `capacity` bytes of Data.
pub const fn stride_for(capacity: usize) -> usize {
    (size_of::<RecordHead>() + capacity).next_multiple_of(STRIDE_ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_of_200_bytes_takes_256_in_the_file_and_224_on_the_wire() {
        assert_eq!(stride_for(200), 256);
        assert_eq!(leaf_wire_len(200), 224);
        assert_eq!(leaf_wire_len(0), 24);
        assert_eq!(leaf_wire_len(1), 32);
    }
}
